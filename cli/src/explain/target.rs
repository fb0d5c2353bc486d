//! From what is called to the pods that may answer: ports, selectors, splits and their shares.

use byrnie_crds::{
    compile::Shares,
    govern::{self, ServicePort},
};
use byrnie_model::Protocol;
use thiserror::Error;

use super::{
    question::{Caller, Kind, PortRef, To},
    world::{Pod, Service, World},
};

/// The pods that may answer.
#[derive(Debug)]
pub(super) struct Reached<'a> {
    /// The Service's port, or the pod's.
    pub(super) port: u16,
    /// What the called Service declares to be spoken there.
    pub(super) declared: Protocol,
    pub(super) split: Option<&'a str>,
    pub(super) leaves: Vec<Leaf<'a>>,
    pub(super) notes: Vec<String>,
}

/// One of the places where calls go.
#[derive(Debug)]
pub(super) struct Leaf<'a> {
    pub(super) service: Option<&'a str>,
    pub(super) weight: Option<u32>,
    /// 0 to 1.
    pub(super) share: f64,
    /// Pods and the container ports that are called.
    pub(super) pods: Vec<(&'a Pod, u16)>,
}

/// Why nothing can be said about a call.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Unreachable {
    #[error("namespace {namespace} has no {kind} {name}; {}", one_of(.known))]
    Absent { namespace: String, kind: &'static str, name: String, known: Vec<String> },
    #[error(
        "service {service} stands for {name}, outside the cluster: calls to it pass through, no policy governs them"
    )]
    External { service: String, name: String },
    #[error(
        "service {service} has no selector, so which pods are behind it is not known; ask about a pod: --to NAMESPACE/pod/NAME:PORT"
    )]
    NoSelector { service: String },
    #[error("{of} has no TCP port {wanted}; {}", one_of(.known))]
    NoPort { of: String, wanted: String, known: Vec<String> },
    #[error("{of} has {} ports: name one, as in --to .../{}", .known.len(), example(.of, .known))]
    WhichPort { of: String, known: Vec<String> },
    #[error(
        "no pod is behind service {service}: nobody is there to allow or refuse; check its selector and its pods"
    )]
    NoPods { service: String },
    #[error(
        "no pod behind service {service} has a port named {name}: check its targetPort and the pods' ports"
    )]
    NoNamedPort { service: String, name: String },
    #[error(
        "trafficsplit {split} leaves nobody to call: no backend has a weight above 0, port {port} and a pod; calls get 503"
    )]
    NoBackend { split: String, port: u16 },
}

/// The pods that may answer.
pub(super) fn resolve<'a>(world: &'a World, from: &Caller, to: &To) -> Result<Reached<'a>, Unreachable> {
    match to.kind {
        Kind::Service => service(world, from, to),
        Kind::Pod => pod(world, to),
    }
}

fn pod<'a>(world: &'a World, to: &To) -> Result<Reached<'a>, Unreachable> {
    let pod = world.pods.get(&to.name.name).ok_or_else(|| absent(to, "live pod", world.pods.keys()))?;
    let of = format!("pod {}", to.name);
    let port = match &to.port {
        // It need not be declared to be open.
        Some(PortRef::Number(number)) => *number,
        Some(PortRef::Name(name)) => {
            let named = pod.ports.iter().find(|(port, _)| port == name);
            named.ok_or_else(|| no_port(&of, name, &pod.ports))?.1
        }
        None => match pod.ports[..] {
            [(_, port)] => port,
            [] => return Err(no_port(&of, "that it declares", &pod.ports)),
            _ => return Err(Unreachable::WhichPort { of, known: listed(&pod.ports) }),
        },
    };
    let leaf = Leaf { service: None, weight: None, share: 1.0, pods: vec![(pod, port)] };
    Ok(Reached { port, declared: Protocol::Detect, split: None, leaves: vec![leaf], notes: Vec::new() })
}

fn service<'a>(world: &'a World, from: &Caller, to: &To) -> Result<Reached<'a>, Unreachable> {
    let (name, service) = world
        .services
        .get_key_value(&to.name.name)
        .ok_or_else(|| absent(to, "Service", world.services.keys()))?;
    let of = || to.name.to_string();
    if let Some(external) = &service.external_name {
        return Err(Unreachable::External { service: of(), name: external.clone() });
    }
    let port = service_port(service, to)?;
    let mut reached = Reached {
        port: port.port,
        declared: port.protocol,
        split: None,
        leaves: Vec::new(),
        notes: Vec::new(),
    };
    if matches!(from, Caller::Account(_)) {
        reached.note_traffic(world, name, service);
    }
    match (world.split(name), from) {
        (Some((split, shares)), Caller::Account(_)) => {
            reached.split = Some(split);
            reached.divide(world, shares);
            if reached.leaves.iter().all(|leaf| leaf.share == 0.0) {
                let split = format!("{}/{split}", world.namespace);
                return Err(Unreachable::NoBackend { split, port: port.port });
            }
        }
        (split, _) => {
            if let Some((split, _)) = split {
                reached.notes.push(format!(
                    "Splits are the caller's proxy's to follow: without one, calls go to the pods of {name} itself, past TrafficSplit {split}"
                ));
            }
            if service.selector.is_empty() {
                return Err(Unreachable::NoSelector { service: of() });
            }
            let pods = pods(world, name, service, port);
            if pods.is_empty() {
                let selected = world.pods.values().any(|pod| selects(world, name, service, pod));
                return Err(match &port.target {
                    byrnie_crds::govern::TargetPort::Name(port) if selected => {
                        Unreachable::NoNamedPort { service: of(), name: port.clone() }
                    }
                    _ => Unreachable::NoPods { service: of() },
                });
            }
            reached.note_unready(name, &pods);
            reached.leaves.push(Leaf { service: Some(name), weight: None, share: 1.0, pods });
        }
    }
    Ok(reached)
}

impl<'a> Reached<'a> {
    /// A backend takes part with a weight, the called port and a ready pod; where none is ready, with any pod.
    fn divide(&mut self, world: &'a World, shares: &'a Shares) {
        for (name, weight) in &shares.backends {
            let (pods, why_not) = match backend(world, name, self.port) {
                Ok((service, port)) => (pods(world, name, service, port), None),
                Err(why_not) => (Vec::new(), Some(why_not)),
            };
            let why_not = why_not.or_else(|| pods.is_empty().then(|| "has no pods".to_owned()));
            if let Some(why_not) = why_not.filter(|_| *weight > 0) {
                self.notes.push(format!("Backend {name} {why_not}: its share goes to the others"));
            } else if *weight > 0 {
                self.note_unready(name, &pods);
            }
            self.leaves.push(Leaf { service: Some(name), weight: Some(*weight), share: 0.0, pods });
        }
        let ready = |leaf: &Leaf<'_>| leaf.pods.iter().any(|(pod, _)| pod.ready);
        let some_ready = self.leaves.iter().any(|leaf| leaf.weight > Some(0) && ready(leaf));
        let takes_part = |leaf: &Leaf<'_>| if some_ready { ready(leaf) } else { !leaf.pods.is_empty() };
        let taking: Vec<f64> = self
            .leaves
            .iter()
            .map(|leaf| leaf.weight.filter(|_| takes_part(leaf)).map_or(0.0, f64::from))
            .collect();
        let total: f64 = taking.iter().sum();
        if total > 0.0 {
            for (leaf, weight) in self.leaves.iter_mut().zip(taking) {
                leaf.share = (weight / total * 10_000.0).round() / 10_000.0;
            }
        }
    }

    /// What the caller's proxy does beside calling the Service, by the policy in charge of calls to it.
    fn note_traffic(&mut self, world: &World, called: &str, service: &Service) {
        let policies = world.policies.iter().map(|policy| ((), &policy.candidate));
        let found = govern::of_calls(policies, &service.selector, &[called]);
        let Some(((), policy, traffic)) = found.first() else { return };
        let of_this_port = |name: &str| match backend(world, name, self.port) {
            Ok(_) => name.to_owned(),
            Err(why_not) => format!("{name} (which {why_not})"),
        };
        let listed = |names: &[String], last: &str| {
            let names: Vec<_> = names.iter().map(|name| of_this_port(name)).collect();
            match names.split_last() {
                Some((end, rest)) if !rest.is_empty() => format!("{} {last} {end}", rest.join(", ")),
                _ => names.concat(),
            }
        };
        let mut says = Vec::new();
        if !traffic.failover.is_empty() {
            let names = listed(&traffic.failover, "or else");
            says.push(format!("while no endpoint of {called} takes requests, calls go to {names}"));
        }
        if !traffic.overrides.is_empty() {
            let names = listed(&traffic.overrides, "or");
            says.push(format!("a request with 'baggage: byrnie-route=SERVICE' may go to {names} instead"));
        }
        for (mirror, percent) in traffic.mirrors.iter().filter(|(mirror, _)| mirror != called) {
            says.push(format!("{} gets copies of {percent} % of the requests", of_this_port(mirror)));
        }
        if let Some((percent, time)) = traffic.faults.delay {
            says.push(format!("{percent} % of the requests are sent {time:?} later, on purpose"));
        }
        if let Some((percent, status)) = traffic.faults.abort {
            says.push(format!(
                "{percent} % of the requests are answered {status} instead of being sent, on purpose"
            ));
        }
        self.notes.extend(says.iter().map(|says| format!("MeshPolicy {policy}: {says}")));
    }

    fn note_unready(&mut self, service: &str, pods: &[(&Pod, u16)]) {
        if !pods.iter().any(|(pod, _)| pod.ready) {
            let none = match pods.len() {
                1 => format!("The pod of {service} is not ready"),
                n => format!("None of the {n} pods of {service} is ready"),
            };
            self.notes.push(format!("{none}: no call gets there before one is"));
        }
    }
}

/// A Service that calls to another one may go to, with its port of the same number; or why they cannot go there.
fn backend<'a>(world: &'a World, name: &str, port: u16) -> Result<(&'a Service, &'a ServicePort), String> {
    let service = world.services.get(name).ok_or("does not exist")?;
    let found = service.ports.iter().find(|of_service| of_service.port == port);
    Ok((service, found.ok_or_else(|| format!("has no port {port}"))?))
}

/// The pods that a Service selects, with the container port behind one of its ports; without those that lack it.
fn pods<'a>(world: &'a World, name: &str, service: &'a Service, port: &ServicePort) -> Vec<(&'a Pod, u16)> {
    let selected = world.pods.values().filter(|pod| selects(world, name, service, pod));
    selected.filter_map(|pod| Some((pod, pod.facts(&world.namespace).port(&port.target)?))).collect()
}

fn selects(world: &World, name: &str, service: &Service, pod: &Pod) -> bool {
    service.facts(name).selects(&pod.facts(&world.namespace))
}

fn service_port<'a>(service: &'a Service, to: &To) -> Result<&'a ServicePort, Unreachable> {
    let of = format!("service {}", to.name);
    let known: Vec<(String, u16)> =
        service.port_names.iter().cloned().zip(service.ports.iter().map(|port| port.port)).collect();
    let at = match &to.port {
        Some(wanted) => known.iter().position(|(name, number)| match wanted {
            PortRef::Number(wanted) => wanted == number,
            PortRef::Name(wanted) => wanted == name,
        }),
        None if known.len() > 1 => return Err(Unreachable::WhichPort { of, known: listed(&known) }),
        None => Some(0),
    };
    let wanted = to.port.as_ref().map_or_else(|| "at all".to_owned(), ToString::to_string);
    at.and_then(|at| service.ports.get(at)).ok_or_else(|| no_port(&of, &wanted, &known))
}

fn absent<'a>(to: &To, kind: &'static str, known: impl Iterator<Item = &'a String>) -> Unreachable {
    let (namespace, name) = (to.name.namespace.clone(), to.name.name.clone());
    Unreachable::Absent { namespace, kind, name, known: known.cloned().collect() }
}

fn no_port(of: &str, wanted: &str, known: &[(String, u16)]) -> Unreachable {
    Unreachable::NoPort { of: of.to_owned(), wanted: wanted.to_owned(), known: listed(known) }
}

fn listed(ports: &[(String, u16)]) -> Vec<String> {
    let shown = |(name, number): &(String, u16)| match name.as_str() {
        "" => number.to_string(),
        name => format!("{number} ({name})"),
    };
    ports.iter().map(shown).collect()
}

fn one_of(known: &[String]) -> String {
    const SHOWN: usize = 12;
    match known.len() {
        0 => "it has none".into(),
        n if n > SHOWN => format!("it has {}, and {} more", known[..SHOWN].join(", "), n - SHOWN),
        _ => format!("it has {}", known.join(", ")),
    }
}

/// `pay:80`, for `service shop/pay` and `80 (http)`.
fn example(of: &str, known: &[String]) -> String {
    let name = of.rsplit('/').next().unwrap_or_default();
    let port = known.first().and_then(|port| port.split(' ').next()).unwrap_or_default();
    format!("{name}:{port} (it has {})", known.join(", "))
}
