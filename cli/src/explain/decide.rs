//! From facts and a question to the answer: each pod's policies as its proxy has them, and the proxies' own evaluator.
//! Pure: no cluster, no terminal.

use byrnie_crds::{govern::govern, names};
use byrnie_model::{
    Decision, HttpRequest, InboundPolicy, ObjectName, Peer, Protocol, Request, SpiffeId, Workload, evaluate,
};
use http::HeaderMap;

use super::{
    answer::{self, Backend, Explanation, Group, Target, Verdict},
    ground::{self, Asked},
    question::{Call, Caller, HttpCall, Kind, Question},
    target::{self, Reached, Unreachable},
    world::{Objects, Pod, World},
};

/// What becomes of the call.
pub(super) fn explain(objects: &Objects, question: &Question) -> Result<Explanation, Unreachable> {
    let world = World::read(objects);
    let reached = target::resolve(&world, &question.from, &question.to)?;
    let asking = Asking::new(&world, question, &reached);
    let backends: Vec<Backend> = reached
        .leaves
        .iter()
        .map(|leaf| Backend {
            service: leaf.service.map(str::to_owned),
            weight: leaf.weight,
            share: leaf.share,
            groups: grouped(leaf.pods.iter().map(|(pod, port)| asking.answer(pod, *port))),
        })
        .collect();
    let mut called = backends.iter().filter(|backend| backend.share > 0.0).flat_map(|b| &b.groups);
    let refused = called.any(|group| group.verdict == Verdict::Refused);
    let mut notes = asking.notes(&backends);
    notes.splice(0..0, reached.notes);
    Ok(Explanation {
        verdict: if refused { Verdict::Refused } else { Verdict::Allowed },
        from: match &asking.identity {
            Some(id) => answer::From::Identity(id.to_string()),
            None => answer::From::Plaintext(true),
        },
        to: Target {
            kind: match question.to.kind {
                Kind::Service => "Service",
                Kind::Pod => "Pod",
            },
            namespace: question.to.name.namespace.clone(),
            name: question.to.name.name.clone(),
            port: reached.port,
        },
        request: asking.http.map(|http| answer::Request {
            method: http.method.to_string(),
            path: http.path.clone(),
            host: asking.host.clone(),
            headers: written(&http.headers),
        }),
        split: reached.split.map(|name| format!("{}/{name}", world.namespace)),
        backends,
        notes,
    })
}

struct Asking<'a> {
    world: &'a World,
    question: &'a Question,
    identity: Option<SpiffeId>,
    http: Option<&'a HttpCall>,
    host: String,
    declared: Protocol,
}

impl<'a> Asking<'a> {
    fn new(world: &'a World, question: &'a Question, reached: &Reached<'_>) -> Self {
        let identity = match &question.from {
            Caller::Account(name) => Some(
                SpiffeId::new(&world.trust_domain, &name.namespace, &name.name)
                    .expect("the names were checked when the flag was read"),
            ),
            Caller::Plaintext => None,
        };
        let http = match &question.call {
            Call::Http(http) => Some(http),
            Call::Tcp => None,
        };
        let told = http.and_then(|http| http.host.clone());
        let host = told.unwrap_or_else(|| host(world, question, reached.port));
        Self { world, question, identity, http, host, declared: reached.declared }
    }

    fn answer(&self, pod: &Pod, port: u16) -> Group {
        let unenforced = if !pod.meshed {
            Some(ground::no_proxy())
        } else if port == names::PROXY_ADMIN_PORT {
            Some(ground::admin_port(port))
        } else if pod.skipped.contains(&port) {
            Some(ground::skipped(port))
        } else {
            None
        };
        let (verdict, ground, status, audit) = match unenforced {
            Some(ground) => (Verdict::Allowed, ground, None, None),
            None => self.evaluated(pod, port),
        };
        Group { verdict, ground, status, audit, port, pods: vec![pod.name.clone()] }
    }

    fn evaluated(
        &self,
        pod: &Pod,
        port: u16,
    ) -> (Verdict, answer::Ground, Option<u16>, Option<answer::Ground>) {
        let policies = self.world.policies.iter().map(|policy| &policy.candidate);
        let facts = pod.facts(&self.world.namespace);
        let workload = govern(&facts, self.world.default, policies, &self.world.service_facts()).workload;
        let spoken = self.spoken(&workload, port);
        let opaque = matches!(spoken, Protocol::Opaque | Protocol::Tls);
        let http = self.http.filter(|_| !opaque).map(|http| HttpRequest {
            method: http.method.as_str(),
            path: &http.path,
            host: &self.host,
            headers: &http.headers,
        });
        let peer = self.identity.as_ref().map_or(Peer::Plaintext, Peer::Mesh);
        let request = Request { port, peer, http };
        let inbound: &InboundPolicy = &workload.inbound;
        let verdict = evaluate(inbound, &request);
        let declared = (opaque && self.http.is_some()).then_some(spoken);
        let asked = Asked { world: self.world, pod, inbound, request: &request, declared };
        match verdict.decision {
            Decision::Allow(grant) => {
                let audit = verdict.audit.map(|denial| asked.denial(&denial, true));
                (Verdict::Allowed, asked.grant(&grant), None, audit)
            }
            Decision::Deny(denial) => {
                let status = http.and(ground::status(&denial));
                (Verdict::Refused, asked.denial(&denial, false), status, None)
            }
        }
    }

    /// What the proxies take the port's bytes for: as the pod's side knows it, or else as the called Service declares
    /// it to the caller's proxy.
    fn spoken(&self, workload: &Workload, port: u16) -> Protocol {
        match workload.protocol(port) {
            Protocol::Detect if self.identity.is_some() => self.declared,
            known => known,
        }
    }

    fn notes(&self, backends: &[Backend]) -> Vec<String> {
        let mut notes = Vec::new();
        if let Caller::Account(name) = &self.question.from {
            notes.extend(self.about_callers(&name.name, &name.to_string()));
        }
        let grounds = || {
            let groups = backends.iter().flat_map(|backend| &backend.groups);
            groups.flat_map(|group| std::iter::once(&group.ground).chain(&group.audit))
        };
        let hosts = |ground: &answer::Ground| {
            ground.rule.as_ref().is_some_and(answer::Rule::looks_at_hosts)
                || ground.considered.iter().flat_map(|c| &c.mismatches).any(|field| field.contains("].hosts"))
        };
        if self.http.is_some_and(|http| http.host.is_none()) && grounds().any(hosts) {
            notes.push(format!("Rules here look at hosts: asked as {}; name another with --host", self.host));
        }
        for policy in &self.world.policies {
            let name = &policy.candidate.compiled.name;
            let decides = grounds().any(|ground| ground.policy.as_ref() == Some(&name.to_string()));
            if let Some(behind) = policy.behind.as_ref().filter(|_| decides) {
                notes.push(format!(
                    "MeshPolicy {name} is not in force everywhere yet ({behind}): until then its pods may answer as before"
                ));
            }
        }
        notes
    }

    /// Whether those who call have the identity that is asked about.
    fn about_callers(&self, account: &str, name: &str) -> Option<String> {
        let mut here = self.world.callers.as_ref()?.iter().filter(|pod| pod.account == account).peekable();
        if here.peek().is_none() {
            return Some(format!("No pod runs as {name} now; is the name right?"));
        }
        let outside: Vec<&str> = here.filter(|pod| !pod.meshed).map(|pod| pod.name.as_str()).collect();
        let first = outside.first()?;
        let more = if outside.len() > 1 { format!(" and {} more", outside.len() - 1) } else { String::new() };
        Some(format!(
            "Pod {first}{more} of {name} has no proxy: its calls arrive as plaintext; ask about those with --from-plaintext"
        ))
    }
}

/// What callers write who do not say otherwise.
fn host(world: &World, question: &Question, port: u16) -> String {
    let ObjectName { namespace, name } = &question.to.name;
    let address = || world.pods.get(name).and_then(|pod| pod.address.clone());
    match question.to.kind {
        Kind::Service => format!("{name}.{namespace}.svc:{port}"),
        Kind::Pod => match address() {
            Some(ipv6) if ipv6.contains(':') => format!("[{ipv6}]:{port}"),
            Some(ipv4) => format!("{ipv4}:{port}"),
            None => format!("{name}:{port}"),
        },
    }
}

/// Pods that answer alike, in the order of their first.
fn grouped(answers: impl Iterator<Item = Group>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for mut answer in answers {
        let pods = std::mem::take(&mut answer.pods);
        let alike = groups.iter_mut().find(|group| Group { pods: Vec::new(), ..(*group).clone() } == answer);
        match alike {
            Some(group) => group.pods.extend(pods),
            None => groups.push(Group { pods, ..answer }),
        }
    }
    groups
}

fn written(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
