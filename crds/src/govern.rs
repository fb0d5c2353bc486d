//! Which policies govern a pod, and what they come to there. Pure: the operator feeds it from its watches, the
//! CLI from the API server, so that `byrnie explain` and the proxies cannot disagree.
//!
//! Authorization of all policies unites. `traffic` comes whole from one policy: the one with the most specific target
//! (a Service or Pod before the namespace), then the oldest, then the first by name. `mtls` is decided so for each port
//! by the policies that select it; among equally specific ones, one that names the port comes first.

use std::{cmp::Reverse, collections::BTreeMap};

use byrnie_model::{InboundPolicy, Mtls, MtlsMode, ObjectName, Ports, Protocol, Workload};
use k8s_openapi::jiff::Timestamp;

use crate::compile::{Compiled, Target, Targets, Traffic};

/// A policy with what decides between policies.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What it says.
    pub compiled: Compiled,
    /// When it was made.
    pub created: Timestamp,
}

/// A pod, as far as policies look at it.
#[derive(Clone, Copy, Debug)]
pub struct PodFacts<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its containers' named ports.
    pub named_ports: &'a [(String, u16)],
}

/// A Service of the pod's namespace.
#[derive(Clone, Copy, Debug)]
pub struct ServiceFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it selects; empty selects nothing.
    pub selector: &'a BTreeMap<String, String>,
    /// Its ports.
    pub ports: &'a [ServicePort],
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The Service's own number.
    pub port: u16,
    /// The container port behind it.
    pub target: TargetPort,
    /// What is declared to be spoken on it.
    pub protocol: Protocol,
}

/// A container port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name that the pod gives it.
    Name(String),
}

/// What policies come to on one pod.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Governed {
    /// For its proxy.
    pub workload: Workload,
    /// The policies that select the pod.
    pub policies: Vec<ObjectName>,
    /// Policies whose `mtls` or `traffic` is not in force here, and the policy that is.
    pub overridden: Vec<Overridden>,
}

/// A section that another policy's takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Overridden {
    /// Whose.
    pub policy: ObjectName,
    /// `mtls` or `traffic`.
    pub section: &'static str,
    /// By whom.
    pub by: ObjectName,
}

impl ServiceFacts<'_> {
    /// Whether it selects the pod.
    pub fn selects(&self, pod: &PodFacts<'_>) -> bool {
        !self.selector.is_empty()
            && self.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

impl PodFacts<'_> {
    /// The number of a container port; `None`: the pod has no port of that name.
    pub fn port(&self, target: &TargetPort) -> Option<u16> {
        match target {
            TargetPort::Number(port) => Some(*port),
            TargetPort::Name(name) => self.named_ports.iter().find(|(n, _)| n == name).map(|(_, port)| *port),
        }
    }
}

/// What the policies of a pod's namespace come to on the pod. `default` is the namespace's own mTLS mode.
pub fn govern<'a>(
    pod: &PodFacts<'_>,
    default: MtlsMode,
    policies: impl IntoIterator<Item = &'a Candidate>,
    services: &[ServiceFacts<'_>],
) -> Governed {
    let mut selected: Vec<Selected<'_>> =
        policies.into_iter().filter_map(|candidate| select(candidate, pod, services)).collect();
    selected.sort_by(|one, other| one.precedence().cmp(&other.precedence()));
    let mut overridden = Vec::new();
    let mtls = mtls(&selected, default, &mut overridden);
    let traffic = in_charge(&selected, "traffic", |s| s.policy().traffic.as_ref(), &mut overridden);
    let declared = services.iter().filter(|service| service.selects(pod)).flat_map(|s| s.ports);
    Governed {
        workload: Workload {
            inbound: InboundPolicy {
                mtls,
                policies: selected.iter().filter_map(|s| s.policy().policy(s.ports.clone())).collect(),
            },
            protocols: protocols(pod, traffic.map(|(_, traffic)| traffic), declared),
            limits: traffic.map(|(_, traffic)| traffic.limits).unwrap_or_default(),
            zone: String::new(),
        },
        policies: selected.iter().map(|s| s.policy().name.clone()).collect(),
        overridden,
    }
}

/// Policies whose `traffic` is about calls to these Services or to pods with these labels, each with what it came with.
/// The first is in charge.
pub fn of_calls<'a, T>(
    policies: impl IntoIterator<Item = (T, &'a Candidate)>,
    labels: &BTreeMap<String, String>,
    services: &[&str],
) -> Vec<(T, &'a ObjectName, &'a Traffic)> {
    let about = |target: &Target| match target {
        Target::Service(target) => services.contains(&target.as_str()),
        Target::Pods(selector) => !labels.is_empty() && selector.selects(labels),
    };
    let mut found: Vec<_> = policies
        .into_iter()
        .filter_map(|(with, candidate)| {
            let compiled = &candidate.compiled;
            let specific = match &compiled.targets {
                Targets::Namespace => false,
                Targets::Only(targets) if targets.iter().any(about) => true,
                Targets::Only(_) => return None,
            };
            Some((precedence(specific, candidate), with, compiled.traffic.as_ref()?))
        })
        .collect();
    found.sort_by_key(|(precedence, ..)| *precedence);
    found.into_iter().map(|((.., name), with, traffic)| (with, name, traffic)).collect()
}

struct Selected<'a> {
    candidate: &'a Candidate,
    ports: Ports,
    specific: bool,
}

impl Selected<'_> {
    fn policy(&self) -> &Compiled {
        &self.candidate.compiled
    }

    fn precedence(&self) -> (Reverse<bool>, Timestamp, &ObjectName) {
        precedence(self.specific, self.candidate)
    }
}

/// The one in charge first.
fn precedence(specific: bool, candidate: &Candidate) -> (Reverse<bool>, Timestamp, &ObjectName) {
    (Reverse(specific), candidate.created, &candidate.compiled.name)
}

fn select<'a>(
    candidate: &'a Candidate,
    pod: &PodFacts<'_>,
    services: &[ServiceFacts<'_>],
) -> Option<Selected<'a>> {
    let compiled = &candidate.compiled;
    if compiled.name.namespace != pod.namespace {
        return None;
    }
    let Targets::Only(targets) = &compiled.targets else {
        return Some(Selected { candidate, ports: Ports::All, specific: false });
    };
    let mut ports: Option<Ports> = None;
    for target in targets {
        let more = match target {
            Target::Pods(selector) => selector.selects(pod.labels).then_some(Ports::All),
            Target::Service(name) => {
                services.iter().find(|service| service.name == name && service.selects(pod)).map(|service| {
                    Ports::Only(service.ports.iter().filter_map(|p| pod.port(&p.target)).collect())
                })
            }
        };
        ports = match (ports, more) {
            (Some(Ports::Only(mut have)), Some(Ports::Only(more))) => {
                have.extend(more);
                have.sort_unstable();
                have.dedup();
                Some(Ports::Only(have))
            }
            (Some(Ports::All), _) | (_, Some(Ports::All)) => Some(Ports::All),
            (have, more) => have.or(more),
        };
    }
    ports.map(|ports| Selected { candidate, ports, specific: true })
}

/// The section of the first policy that has it; the others are noted as overridden.
fn in_charge<'a, T>(
    selected: &'a [Selected<'_>],
    section: &'static str,
    read: impl Fn(&'a Selected<'_>) -> Option<&'a T>,
    overridden: &mut Vec<Overridden>,
) -> Option<(&'a Selected<'a>, &'a T)> {
    let mut with = selected.iter().filter_map(|s| Some((s, read(s)?)));
    let first = with.next()?;
    overridden.extend(with.map(|(other, _)| Overridden {
        policy: other.policy().name.clone(),
        section,
        by: first.0.policy().name.clone(),
    }));
    Some(first)
}

/// Port by port, because a policy for a Service speaks of the Service's ports alone: on all others, what governs them
/// holds on. `default` holds where no policy speaks.
fn mtls(selected: &[Selected<'_>], default: MtlsMode, overridden: &mut Vec<Overridden>) -> Mtls {
    let speaking: Vec<(&Selected<'_>, &Mtls)> =
        selected.iter().filter_map(|s| Some((s, s.policy().mtls.as_ref()?))).collect();
    let names = |mtls: &Mtls, port| mtls.ports.iter().any(|(named, _)| Some(*named) == port);
    let selects = |ports: &Ports, port: Option<u16>| match port {
        Some(port) => ports.contains(port),
        None => *ports == Ports::All,
    };
    // `None` is every port that nobody names. They are in the order of precedence already.
    let decides = |port: Option<u16>| {
        let here = speaking.iter().enumerate().filter(|(_, (s, _))| selects(&s.ports, port));
        here.min_by_key(|(at, (s, mtls))| (!s.specific, !names(mtls, port), *at)).map(|(at, _)| at)
    };
    let mode = |port: Option<u16>| {
        decides(port).map_or(default, |at| {
            let mtls = speaking[at].1;
            port.map_or(mtls.default, |port| mtls.mode(port))
        })
    };
    let mut ports: Vec<u16> = speaking
        .iter()
        .flat_map(|(s, mtls)| {
            let selected = match &s.ports {
                Ports::All => &[],
                Ports::Only(ports) => ports.as_slice(),
            };
            selected.iter().copied().chain(mtls.ports.iter().map(|(port, _)| *port))
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    for (at, (loser, _)) in speaking.iter().enumerate() {
        let every = ports.iter().copied().map(Some).chain([None]);
        let deciding: Vec<usize> =
            every.filter(|port| selects(&loser.ports, *port)).filter_map(decides).collect();
        if let Some(first) = deciding.first().filter(|_| !deciding.contains(&at)) {
            overridden.push(Overridden {
                policy: loser.policy().name.clone(),
                section: "mtls",
                by: speaking[*first].0.policy().name.clone(),
            });
        }
    }
    let general = mode(None);
    let exceptions = ports.into_iter().map(|port| (port, mode(Some(port))));
    Mtls { default: general, ports: exceptions.filter(|(_, mode)| *mode != general).collect() }
}

/// By policy first, then as the Services that select the pod declare it; two Services that disagree declare nothing.
fn protocols<'a>(
    pod: &PodFacts<'_>,
    traffic: Option<&Traffic>,
    declared: impl Iterator<Item = &'a ServicePort>,
) -> Vec<(u16, Protocol)> {
    let mut found: BTreeMap<u16, Protocol> = BTreeMap::new();
    for port in declared.filter(|port| port.protocol != Protocol::Detect) {
        let Some(number) = pod.port(&port.target) else { continue };
        found
            .entry(number)
            .and_modify(|known| {
                if *known != port.protocol {
                    *known = Protocol::Detect;
                }
            })
            .or_insert(port.protocol);
    }
    for (port, protocol) in traffic.map(|t| t.protocols.as_slice()).unwrap_or_default() {
        found.insert(*port, *protocol);
    }
    found.into_iter().filter(|(_, protocol)| *protocol != Protocol::Detect).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MeshPolicy, compile};

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn candidate(yaml: &str, created: i64) -> Candidate {
        let policy: MeshPolicy = serde_saphyr::from_str(yaml).unwrap();
        let compiled = compile::mesh_policy(&policy, &"cluster.local".parse().unwrap());
        assert!(compiled.accepted(), "{:?}", compiled.findings);
        Candidate { compiled, created: Timestamp::from_second(created).unwrap() }
    }

    fn policy(name: &str, spec: &str, created: i64) -> Candidate {
        candidate(
            &format!(
                "{{apiVersion: byrnie.dev/v1alpha1, kind: MeshPolicy, metadata: {{namespace: shop, name: {name}}}, spec: {spec}}}"
            ),
            created,
        )
    }

    fn on_pod(policies: &[Candidate]) -> Governed {
        let pod_labels = labels(&[("app", "pay")]);
        let ports = [("http".to_owned(), 8080)];
        let pod = PodFacts { namespace: "shop", labels: &pod_labels, named_ports: &ports };
        let selector = labels(&[("app", "pay")]);
        let service_ports = [
            ServicePort { port: 80, target: TargetPort::Name("http".into()), protocol: Protocol::Http1 },
            ServicePort { port: 90, target: TargetPort::Number(9090), protocol: Protocol::Detect },
            ServicePort { port: 91, target: TargetPort::Name("missing".into()), protocol: Protocol::Opaque },
        ];
        let pay = ServiceFacts { name: "pay", selector: &selector, ports: &service_ports };
        let nothing = BTreeMap::new();
        let bare = ServiceFacts { name: "bare", selector: &nothing, ports: &service_ports };
        govern(&pod, MtlsMode::Strict, policies, &[pay, bare])
    }

    const NOBODY: &str = "authorization: {rules: [{sources: []}]}";

    #[test]
    fn a_service_governs_its_target_ports_and_pods_and_namespaces_all() {
        let governed = on_pod(&[
            policy("service", &format!("{{targetRefs: [{{kind: Service, name: pay}}], {NOBODY}}}"), 1),
            policy(
                "pods",
                &format!(
                    "{{targetRefs: [{{kind: Pod, selector: {{matchLabels: {{app: pay}}}}}}], {NOBODY}}}"
                ),
                2,
            ),
            policy(
                "other",
                &format!(
                    "{{targetRefs: [{{kind: Pod, selector: {{matchLabels: {{app: web}}}}}}], {NOBODY}}}"
                ),
                3,
            ),
            policy("absent", &format!("{{targetRefs: [{{kind: Service, name: bare}}], {NOBODY}}}"), 4),
            policy("all", &format!("{{{NOBODY}}}"), 0),
        ]);
        let found: Vec<_> = governed
            .workload
            .inbound
            .policies
            .iter()
            .map(|p| (p.name.name.as_str(), p.ports.clone()))
            .collect();
        assert_eq!(
            found,
            [("service", Ports::Only(vec![8080, 9090])), ("pods", Ports::All), ("all", Ports::All)]
        );
        assert_eq!(governed.workload.protocols, [(8080, Protocol::Http1)]);
    }

    #[test]
    fn the_most_specific_then_the_oldest_decides_about_mtls() {
        let governed = on_pod(&[
            policy("namespace", "{mtls: {mode: Permissive}}", 0),
            policy("younger", "{targetRefs: [{kind: Service, name: pay}], mtls: {mode: Strict}}", 2),
            policy(
                "older",
                "{targetRefs: [{kind: Service, name: pay}], mtls: {mode: Permissive, ports: [{port: 9090, mode: Strict}]}}",
                1,
            ),
        ]);
        let mtls = &governed.workload.inbound.mtls;
        assert_eq!(
            (mtls.mode(8080), mtls.mode(9090), mtls.mode(1)),
            (MtlsMode::Permissive, MtlsMode::Strict, MtlsMode::Permissive)
        );
        let losers: Vec<_> =
            governed.overridden.iter().map(|o| (o.policy.name.as_str(), o.by.name.as_str())).collect();
        assert_eq!(losers, [("younger", "older")], "the namespace's still holds on other ports");
    }

    #[test]
    fn a_policy_for_a_service_says_nothing_of_other_ports() {
        let pod_labels = labels(&[("app", "pay")]);
        let pod = PodFacts { namespace: "shop", labels: &pod_labels, named_ports: &[] };
        let ports = [ServicePort { port: 80, target: TargetPort::Number(8080), protocol: Protocol::Detect }];
        let pay = ServiceFacts { name: "pay", selector: &pod_labels, ports: &ports };
        let policies = [
            policy("namespace", "{mtls: {mode: Strict}}", 0),
            policy("service", "{targetRefs: [{kind: Service, name: pay}], mtls: {mode: Strict}}", 1),
        ];
        let governed = govern(&pod, MtlsMode::Permissive, &policies, &[pay]);
        assert_eq!(governed.workload.inbound.mtls, Mtls::default());
        assert!(governed.overridden.is_empty());
    }

    #[test]
    fn a_policy_that_names_a_port_decides_about_it() {
        let governed = on_pod(&[
            policy("general", "{targetRefs: [{kind: Service, name: pay}], mtls: {mode: Strict}}", 0),
            policy(
                "port",
                "{targetRefs: [{kind: Service, name: pay}], mtls: {mode: Strict, ports: [{port: 9090, mode: Permissive}]}}",
                1,
            ),
            policy("all", "{mtls: {mode: Strict, ports: [{port: 8080, mode: Permissive}]}}", 0),
        ]);
        let mtls = &governed.workload.inbound.mtls;
        assert_eq!(
            (mtls.default, mtls.ports.as_slice()),
            (MtlsMode::Strict, &[(9090, MtlsMode::Permissive)][..])
        );
        assert!(governed.overridden.is_empty());
    }

    #[test]
    fn a_policy_declares_protocols_over_services() {
        let governed = on_pod(&[policy("p", "{traffic: {protocols: [{port: 8080, protocol: Opaque}]}}", 0)]);
        assert_eq!(governed.workload.protocols, [(8080, Protocol::Opaque)]);
    }
}
