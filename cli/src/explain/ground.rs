//! Why a pod answers as it does: the policy, the rule as it was written, and a sentence that says so.

use byrnie_crds::{compile::denied_by_fault, names, problem::in_one_line};
use byrnie_model::{
    Action, Denial, Enforcement, Grant, InboundPolicy, MtlsMode, Peer, Policy, Protocol, Request, Source,
    evaluate::RuleName,
};

use super::{
    answer::{Considered, Ground, Rule},
    mismatch::mismatches,
    mtls,
    world::{Pod, World},
};
use crate::output::count;

/// One pod, what it is asked and by which policies it decides.
pub(super) struct Asked<'a> {
    pub(super) world: &'a World,
    pub(super) pod: &'a Pod,
    pub(super) inbound: &'a InboundPolicy,
    pub(super) request: &'a Request<'a>,
    /// What the port is declared to speak, where that keeps proxies from seeing a request.
    pub(super) declared: Option<Protocol>,
}

/// Nothing is enforced: the pod has no proxy.
pub(super) fn no_proxy() -> Ground {
    plain(
        "no-proxy",
        "There is no proxy, so nothing is enforced: whoever can reach the pod is let in, and in plaintext.",
    )
}

/// Nothing is enforced: the redirect leaves the port out.
pub(super) fn skipped(port: u16) -> Ground {
    let why = format!(
        "Port {port} passes by the proxy (annotation {}), so nothing is enforced: whoever can reach it is let in, and in plaintext.",
        names::SKIP_INBOUND_PORTS_ANNOTATION
    );
    plain("port-skipped", &why)
}

/// Nothing is enforced: the kubelet and Prometheus must get there.
pub(super) fn admin_port(port: u16) -> Ground {
    plain(
        "proxy-admin-port",
        &format!("Port {port} is the proxy's own, for probes and metrics; no policy governs it."),
    )
}

/// With what a refused request is answered.
pub(super) fn status(denial: &Denial<'_>) -> Option<u16> {
    match denial {
        Denial::Plaintext => None,
        Denial::Path(..) => Some(400),
        Denial::NotHttp(_) | Denial::Rule(_) | Denial::NoRule(_) | Denial::Foreign => Some(403),
    }
}

impl Asked<'_> {
    pub(super) fn grant(&self, grant: &Grant<'_>) -> Ground {
        let port = self.request.port;
        let mut ground = match grant {
            Grant::Rule(name) => {
                let (rule, label) = self.rule(name);
                let because = format!("{label} of MeshPolicy {} allows it.", name.policy);
                let policy = Some(name.policy.to_string());
                Ground { policy, rule, ..plain("allowed-by-rule", &because) }
            }
            Grant::NoPolicy => {
                let here = |p: &&Policy| p.ports.contains(port) && p.enforcement == Enforcement::Enforced;
                let why = if self.inbound.policies.iter().any(|policy| here(&policy)) {
                    format!("No Allow policy governs port {port}, and no Deny rule matches.")
                } else {
                    format!("No policy says who may call port {port}, so everybody in the mesh may.")
                };
                plain("no-policy", &why)
            }
        };
        if matches!(self.request.peer, Peer::Plaintext) {
            ground.because = format!(
                "Port {port} takes plaintext: {}. {}",
                self.mode(MtlsMode::Permissive),
                ground.because
            );
        }
        ground
    }

    /// `audited`: policies under audit had their say too.
    pub(super) fn denial(&self, denial: &Denial<'_>, audited: bool) -> Ground {
        let port = self.request.port;
        let policy = denial.policy().map(ToString::to_string);
        let mut ground = Ground { policy, ..plain(denial.reason(), "") };
        ground.because = match denial {
            Denial::Plaintext => format!(
                "Port {port} refuses plaintext: {}. A caller without a proxy cannot prove who it is.",
                self.mode(MtlsMode::Strict)
            ),
            Denial::Foreign => format!(
                "No Allow policy governs port {port}, and a caller of another trust domain needs a rule that lets it in."
            ),
            Denial::NotHttp(name) => {
                let (rule, label) = self.rule(name);
                ground.rule = rule;
                let policy = name.policy;
                match self.declared {
                    Some(protocol) => format!(
                        "Port {port} is declared {protocol:?}, so proxies do not look into its bytes; but {} of MeshPolicy {policy} wants to see HTTP.",
                        lower(&label)
                    ),
                    None => format!(
                        "{label} of MeshPolicy {policy} looks at HTTP, so port {port} takes nothing else."
                    ),
                }
            }
            Denial::Path(name, fault) => {
                let (rule, label) = self.rule(name);
                ground.rule = rule;
                format!(
                    "The path can be read in more than one way ({fault}), and {} of MeshPolicy {} looks at paths.",
                    lower(&label),
                    name.policy
                )
            }
            Denial::Rule(name) => {
                let (rule, because) = self.denied_by(name);
                ground.rule = rule;
                because
            }
            Denial::NoRule(_) => {
                let allowing = self.allowing(audited);
                ground.considered = self.considered(&allowing);
                let names: Vec<String> = allowing.iter().map(|policy| policy.name.to_string()).collect();
                let (policy, govern) =
                    if names.len() == 1 { ("MeshPolicy", "governs") } else { ("MeshPolicies", "govern") };
                let rules = match ground.considered.len() {
                    0 => "has no rule: it allows nobody".into(),
                    1 => "its one rule does not match".into(),
                    n => format!("none of the {} matches", count(n, "rule")),
                };
                format!("No rule allows it. {policy} {} {govern} port {port}, and {rules}.", names.join(", "))
            }
        };
        ground
    }

    fn denied_by(&self, name: &RuleName<'_>) -> (Option<Rule>, String) {
        let decides = self.inbound.policies.iter().find(|policy| policy.name == *name.policy);
        let fault = decides.and_then(|policy| {
            let compiled = &self.world.policy(&name.policy.name)?.candidate.compiled;
            let stands_in = Policy { ports: policy.ports.clone(), ..denied_by_fault(policy.name.clone()) };
            (!compiled.accepted() && stands_in == *policy).then_some(&compiled.findings.problems)
        });
        if let Some(problems) = fault {
            let because = format!(
                "MeshPolicy {} is not understood, and refuses every call to its targets until it is: {}",
                name.policy,
                in_one_line(problems)
            );
            return (None, because);
        }
        let (rule, label) = self.rule(name);
        let sources =
            decides.and_then(|policy| policy.rules.get(name.rule)).map(|rule| rule.sources.as_slice());
        let unknown = matches!(self.request.peer, Peer::Plaintext)
            && !sources.unwrap_or_default().contains(&Source::Anyone);
        let why =
            if unknown { " It is about identities; a caller without one could be any of them." } else { "" };
        (
            rule,
            format!(
                "{label} of MeshPolicy {} denies it, and a Deny wins over every Allow.{why}",
                name.policy
            ),
        )
    }

    fn allowing(&self, audited: bool) -> Vec<&Policy> {
        let counts = |policy: &&Policy| {
            policy.action == Action::Allow
                && policy.ports.contains(self.request.port)
                && (audited || policy.enforcement == Enforcement::Enforced)
        };
        self.inbound.policies.iter().filter(counts).collect()
    }

    fn considered(&self, policies: &[&Policy]) -> Vec<Considered> {
        let rules =
            policies.iter().flat_map(|policy| policy.rules.iter().enumerate().map(move |r| (policy, r)));
        rules
            .filter_map(|(policy, (index, rule))| {
                Some(Considered {
                    policy: policy.name.to_string(),
                    rule: self.world.policy(&policy.name.name)?.rule(index)?,
                    mismatches: mismatches(rule, self.request),
                })
            })
            .collect()
    }

    fn rule(&self, name: &RuleName<'_>) -> (Option<Rule>, String) {
        let rule = self.world.policy(&name.policy.name).and_then(|policy| policy.rule(name.rule));
        let label = rule.as_ref().map_or_else(|| format!("Rule {}", name.rule), Rule::label);
        (rule, label)
    }

    fn mode(&self, mode: MtlsMode) -> String {
        match (mtls::decided_by(self.world, self.pod, self.request.port), mode) {
            (Some(policy), mode) => format!("MeshPolicy {policy} says {mode:?}"),
            (None, MtlsMode::Strict) => "that is the default, and nothing says otherwise".into(),
            (None, MtlsMode::Permissive) => {
                format!(
                    "annotation {} of namespace {} says Permissive",
                    names::MTLS_ANNOTATION,
                    self.world.namespace
                )
            }
        }
    }
}

impl Rule {
    /// As in `Rule 0 ("charges")`.
    pub(super) fn label(&self) -> String {
        match self.text.get("name").and_then(|name| name.as_str()) {
            Some(name) => format!("Rule {} ({name:?})", self.index),
            None => format!("Rule {}", self.index),
        }
    }

    /// Whether it wants to see hosts.
    pub(super) fn looks_at_hosts(&self) -> bool {
        let http = self.text.get("http").and_then(|http| http.as_array());
        http.is_some_and(|http| http.iter().any(|wanted| wanted.get("hosts").is_some()))
    }
}

fn plain(reason: &'static str, because: &str) -> Ground {
    Ground { reason, because: because.to_owned(), policy: None, rule: None, considered: Vec::new() }
}

fn lower(label: &str) -> String {
    label.replacen('R', "r", 1)
}
