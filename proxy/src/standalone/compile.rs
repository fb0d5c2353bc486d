//! From the file to what the data path knows: the same values that an operator would send. Who may call is in [`super::policy`].
//!
//! Pure. Every mistake says where in the file it is, and all are said; one refuses the whole file.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use byrnie_model::{self as model, Destination, ObjectName, ServicePort, Workload, spiffe::is_dns_label};

use super::{
    file::{EndpointsFrom, File, Listener, Mirror, Protocol, Service, Timeouts, Unknown},
    policy::{http_match, workload},
    traffic,
};
use crate::{hosts, listener, metrics::Direction, original_destination};

/// Every one of them has as many requests as what it mirrors.
const MAX_MIRRORS: usize = 4;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) at: String,
    pub(super) problem: String,
    /// It is about two parts of the file, either of which may be the wrong one.
    pub(super) between: bool,
}

/// Everything that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mistakes(pub(super) Vec<Mistake>);

/// The file, understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Compiled {
    pub(super) listeners: Vec<listener::Listener>,
    pub(super) workload: Workload,
    /// By the address of the service, or of the listener that names it.
    pub(super) destinations: HashMap<SocketAddr, Arc<Destination>>,
    /// What a forward proxy may be asked for.
    pub(super) hosts: hosts::Table,
}

pub(super) type Result<T> = std::result::Result<T, Mistakes>;

impl Mistakes {
    /// What was understood; what is wrong with it is said later, together with the rest.
    pub(super) fn keep<T>(&mut self, read: Result<T>) -> Option<T> {
        read.map_err(|mut mistakes| self.0.append(&mut mistakes.0)).ok()
    }

    pub(super) fn or<T>(self, read: T) -> Result<T> {
        if self.0.is_empty() { Ok(read) } else { Err(self) }
    }
}

pub(super) fn compile(file: &File) -> Result<Compiled> {
    let mut mistakes = Mistakes::default();
    let mut services = HashMap::new();
    let mut destinations = HashMap::new();
    let mut hosts = hosts::Table::new();
    for (index, service) in file.services.iter().enumerate() {
        let at = format!("services[{index}]");
        let compiled = mistakes.keep(self::service(service, &file.services, &at));
        let name = compiled.as_ref().map(|compiled| compiled.name.clone());
        // what is mistaken is there nevertheless, for those who name it
        let compiled = compiled.map(|compiled| Arc::new(Destination::Service(compiled)));
        for (index, address) in service.addresses.iter().enumerate() {
            let at = format!("{at}.addresses[{index}]");
            if destinations.insert(*address, compiled.clone()).is_some() {
                mistakes.keep::<()>(clash(&at, format!("{address} belongs to two services")));
            }
        }
        if services.insert(service.name.as_str(), compiled.clone()).is_some() {
            let said = format!("two services are called {}; give one another name", service.name);
            mistakes.keep::<()>(clash(&format!("{at}.name"), said));
        } else if let Some(name) = name {
            destinations.insert(hosts::of_service(&name), compiled);
            for host in names(&name, service, &file.pod.namespace) {
                if hosts.insert(host.clone(), hosts::of_service(&name)).is_some() {
                    let said = format!("{host} belongs to two services");
                    mistakes.keep::<()>(clash(&format!("{at}.hosts"), said));
                }
            }
            hosts.extend(service.addresses.iter().map(|address| (address.to_string(), *address)));
        }
    }
    let mut listeners: Vec<listener::Listener> = Vec::new();
    for (index, listener) in file.listeners.iter().enumerate() {
        let at = format!("listeners[{index}]");
        if let Some(name) = &listener.service {
            match services.get(name.as_str()) {
                Some(service) => {
                    destinations.insert(listener.listen, service.clone());
                }
                None => {
                    mistakes.keep::<()>(no_service(&format!("{at}.service"), name));
                }
            }
        }
        let Some(listener) = mistakes.keep(self::listener(listener, &at)) else { continue };
        if listeners.iter().any(|l| l.address == listener.address) || file.admin == Some(listener.address) {
            let said = format!("something else listens on {} already", listener.address);
            mistakes.keep::<()>(clash(&format!("{at}.listen"), said));
        }
        listeners.push(listener);
    }
    let workload = mistakes.keep(workload(file)).unwrap_or_default();
    let destinations = destinations.into_iter().filter_map(|(address, it)| Some((address, it?)));
    let destinations = destinations.collect();
    mistakes.or(Compiled { listeners, workload, destinations, hosts })
}

fn listener(spec: &Listener, at: &str) -> Result<listener::Listener> {
    let Listener { direction, listen, .. } = *spec;
    if let Some(asked) = &spec.forward_proxy {
        let alone = spec.service.is_none() && spec.application.is_none() && !spec.redirected;
        if direction != Direction::Outbound || !alone {
            return wrong(at, "a forwardProxy is outbound, and nothing else says where its connections go");
        }
        if !listen.ip().is_loopback() {
            let said = "a forwardProxy listens on loopback only: on any other address everybody could use it";
            return wrong(&format!("{at}.listen"), said);
        }
        let source = original_destination::Source::Asked { pass: asked.unknown == Unknown::Pass };
        return Ok(listener::Listener { direction, address: listen, source });
    }
    let source = match (direction, &spec.service, spec.application, spec.redirected) {
        (Direction::Outbound, Some(_), None, false) => original_destination::Source::Fixed(listen),
        (Direction::Inbound, None, Some(application), false) => {
            original_destination::Source::Fixed(application)
        }
        (_, None, None, true) => original_destination::Source::Redirected,
        (Direction::Outbound, ..) => {
            return wrong(
                at,
                "an outbound listener has one of service, forwardProxy and redirected: true, and no application",
            );
        }
        (Direction::Inbound, ..) => {
            return wrong(
                at,
                "an inbound listener has either application or redirected: true, and no service",
            );
        }
    };
    Ok(listener::Listener { direction, address: listen, source })
}

fn service(spec: &Service, all: &[Service], at: &str) -> Result<model::Service> {
    let mut mistakes = Mistakes::default();
    let own = mistakes.keep(backend(spec, &format!("{at}.name")));
    let limits = mistakes.keep(timeouts(&spec.timeouts, &format!("{at}.timeouts"))).unwrap_or_default();
    let is_host = |host: &String| host.split('.').all(is_dns_label);
    if let Some(bad) = spec.hosts.iter().find(|host| !is_host(host)) {
        let said = format!("'{bad}' is no DNS name in lower case, without port");
        mistakes.keep::<()>(wrong(&format!("{at}.hosts"), said));
    }
    mistakes.keep(each(&spec.endpoints_from, &format!("{at}.endpointsFrom"), endpoints_from));
    let mut backends: Vec<_> = own.into_iter().collect();
    // `None`: its name is none, which is said where it is given
    let mut other = |name: &str, at: &str| -> Result<Option<usize>> {
        let Some(target) = all.iter().find(|s| s.name == name) else { return no_service(at, name) };
        let Ok(target) = backend(target, at) else { return Ok(None) };
        Ok(Some(backends.iter().position(|b: &model::Backend| b.name == target.name).unwrap_or_else(|| {
            backends.push(target);
            backends.len() - 1
        })))
    };
    let mirror = |mirror: &Mirror, at: &str| -> Result<Option<model::Mirror>> {
        let percent = mirror.percent.unwrap_or(100);
        if !(1..=100).contains(&percent) {
            return wrong(&format!("{at}.percent"), format!("{percent} is not one of 1 to 100"));
        }
        let at = format!("{at}.service");
        if mirror.service == spec.name {
            return wrong(&at, "a service is no mirror of itself");
        }
        Ok(other(&mirror.service, &at)?.map(|backend| model::Mirror { backend, percent }))
    };
    let mirrors = mistakes.keep(each(&spec.mirrors, &format!("{at}.mirrors"), mirror));
    if spec.mirrors.len() > MAX_MIRRORS {
        let said = format!("has {} mirrors, at most {MAX_MIRRORS} possible", spec.mirrors.len());
        mistakes.keep::<()>(wrong(&format!("{at}.mirrors"), said));
    }
    let mut others = |names: &[String], at: &str, mistakes: &mut Mistakes| -> Vec<usize> {
        let indices = mistakes.keep(each(names, at, |name, at| other(name, at)));
        indices.unwrap_or_default().into_iter().flatten().collect()
    };
    let common = model::Route {
        failover: others(&spec.failover, &format!("{at}.failover"), &mut mistakes),
        overrides: others(&spec.overrides, &format!("{at}.overrides"), &mut mistakes),
        mirrors: mirrors.unwrap_or_default().into_iter().flatten().collect(),
        faults: mistakes.keep(traffic::faults(&spec.faults, &format!("{at}.faults"))).unwrap_or_default(),
        ..model::Route::default()
    };
    let mut routes = Vec::new();
    for (index, route) in spec.routes.iter().enumerate() {
        let at = format!("{at}.routes[{index}]");
        let mut shares = Vec::new();
        for (index, share) in route.split.iter().enumerate() {
            let at = format!("{at}.split[{index}].service");
            let backend = mistakes.keep(other(&share.service, &at)).flatten();
            shares.extend(backend.map(|backend| model::WeightedBackend { backend, weight: share.weight }));
        }
        let matches = mistakes.keep(each(&route.http, &format!("{at}.http"), http_match)).unwrap_or_default();
        let own = mistakes.keep(timeouts(&route.timeouts, &format!("{at}.timeouts"))).unwrap_or_default();
        let timeouts = model::Timeouts {
            request: own.request.or(limits.request),
            backend_request: own.backend_request.or(limits.backend_request),
            idle: own.idle.or(limits.idle),
        };
        routes.push(model::Route { matches, backends: shares, timeouts, ..common.clone() });
    }
    if routes.last().is_none_or(|last| !last.matches.is_empty()) {
        let whole = vec![model::WeightedBackend { backend: 0, weight: 1 }];
        routes.push(model::Route { backends: whole, timeouts: limits, ..common });
    }
    let traffic =
        mistakes.keep(traffic::compile(&spec.traffic, &format!("{at}.traffic"))).unwrap_or_default();
    let Some(name) = backends.first().map(|own| own.name.clone()) else { return Err(mistakes) };
    mistakes.or(model::Service { name, protocol: protocol(spec.protocol), routes, backends, traffic })
}

/// What a forward proxy may be asked for to mean a service, with its port.
fn names(name: &ServicePort, spec: &Service, own_namespace: &str) -> Vec<String> {
    let ServicePort { service: ObjectName { namespace, name }, port } = name;
    let mut names = vec![format!("{name}.{namespace}:{port}")];
    if namespace == own_namespace {
        names.push(format!("{name}:{port}"));
    }
    names.extend(spec.hosts.iter().map(|host| format!("{host}:{port}")));
    names.sort();
    names.dedup();
    names
}

fn endpoints_from(spec: &EndpointsFrom, at: &str) -> Result<()> {
    match spec {
        EndpointsFrom { file: Some(_), dns: None, srv: None, identity: Some(_) } => {
            wrong(&format!("{at}.identity"), "endpoints in a file have identities of their own; say it there")
        }
        EndpointsFrom { file: Some(_), dns: None, srv: None, .. }
        | EndpointsFrom { file: None, dns: None, srv: Some(_), .. } => Ok(()),
        EndpointsFrom { file: None, dns: Some(name), srv: None, .. } => match name_and_port(name) {
            Some(_) => Ok(()),
            None => wrong(&format!("{at}.dns"), format!("'{name}' is not NAME:PORT")),
        },
        _ => wrong(at, "must be exactly one of file, dns and srv"),
    }
}

/// `NAME:PORT`.
pub(super) fn name_and_port(text: &str) -> Option<(&str, u16)> {
    let (name, port) = text.rsplit_once(':')?;
    Some((name, port.parse().ok().filter(|port| *port > 0 && !name.is_empty() && !name.contains(':'))?))
}

fn backend(spec: &Service, at: &str) -> Result<model::Backend> {
    let endpoints = spec.endpoints.iter().map(|e| model::Endpoint {
        address: e.address,
        identity: e.identity.clone(),
        pod_uid: e.uid.clone(),
        pod_name: e.pod.clone(),
        zone: e.zone.clone(),
        weight: e.weight,
    });
    Ok(model::Backend { name: service_port(&spec.name, at)?, endpoints: endpoints.collect() })
}

/// All of a list, or all that is wrong in it.
pub(super) fn each<S, T>(
    specs: &[S],
    at: &str,
    mut compile: impl FnMut(&S, &str) -> Result<T>,
) -> Result<Vec<T>> {
    let mut mistakes = Mistakes::default();
    let compiled = specs.iter().enumerate().map(|(i, spec)| compile(spec, &format!("{at}[{i}]")));
    let compiled = compiled.filter_map(|read| mistakes.keep(read)).collect();
    mistakes.or(compiled)
}

/// `namespace/name:port`.
fn service_port(text: &str, at: &str) -> Result<ServicePort> {
    let parts = text.split_once('/').and_then(|(namespace, rest)| {
        let (name, port) = rest.rsplit_once(':')?;
        Some(ServicePort::new(namespace, name, port.parse().ok().filter(|p| *p > 0)?))
    });
    match parts {
        Some(name) if is_dns_label(&name.service.namespace) && is_dns_label(&name.service.name) => Ok(name),
        _ => wrong(at, format!("'{text}' is not namespace/name:port")),
    }
}

pub(super) fn protocol(spec: Option<Protocol>) -> model::Protocol {
    match spec {
        None => model::Protocol::Detect,
        Some(Protocol::Http1) => model::Protocol::Http1,
        Some(Protocol::Http2 | Protocol::Grpc) => model::Protocol::Http2,
        Some(Protocol::Tls) => model::Protocol::Tls,
        Some(Protocol::Opaque) => model::Protocol::Opaque,
    }
}

fn timeouts(spec: &Timeouts, at: &str) -> Result<model::Timeouts> {
    let limit = |text: &Option<String>, field: &str| match text.as_deref().map(duration) {
        None | Some(Some(Duration::ZERO)) => Ok(None),
        Some(Some(limit)) => Ok(Some(limit)),
        Some(None) => wrong(&format!("{at}.{field}"), "is no duration: write 10s, 250ms, 1h30m"),
    };
    let mut mistakes = Mistakes::default();
    let request = mistakes.keep(limit(&spec.request, "request")).flatten();
    let backend_request = mistakes.keep(limit(&spec.backend_request, "backendRequest")).flatten();
    let idle = mistakes.keep(limit(&spec.idle, "idle")).flatten();
    mistakes.or(model::Timeouts { request, backend_request, idle })
}

/// GEP-2257: up to four numbers with unit h, m, s or ms.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|d| (1..=5).contains(d))?;
        let units =
            rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).map_or(rest.len(), |u| digits + u);
        let millis = match &rest[digits..units] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        total += Duration::from_millis(rest[..digits].parse::<u64>().ok()? * millis);
        rest = &rest[units..];
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

fn no_service<T>(at: &str, name: &str) -> Result<T> {
    clash(at, format!("there is no service {name}; services are called namespace/name:port in this file"))
}

pub(super) fn wrong<T>(at: &str, problem: impl Into<String>) -> Result<T> {
    Err(Mistakes(vec![Mistake { at: at.to_owned(), problem: problem.into(), between: false }]))
}

fn clash<T>(at: &str, problem: impl Into<String>) -> Result<T> {
    Err(Mistakes(vec![Mistake { at: at.to_owned(), problem: problem.into(), between: true }]))
}

#[cfg(test)]
mod tests {
    use super::{super::yaml, *};

    const EXAMPLE: &str = include_str!("../../examples/standalone.yaml");

    fn read(text: &str) -> std::result::Result<Compiled, String> {
        let node = yaml::parse(text).map_err(|no| no.problem)?;
        let (file, misfits) = node.read::<File>();
        if let Some(misfit) = misfits.first() {
            return Err(format!("{}: {}", misfit.at, misfit.problem));
        }
        let file = file.unwrap();
        compile(&file).map_err(|Mistakes(all)| {
            let lines: Vec<_> = all.iter().map(|m| format!("{}: {}", m.at, m.problem)).collect();
            lines.join("\n")
        })
    }

    #[test]
    fn the_example_is_understood() {
        let compiled = read(EXAMPLE).unwrap();
        assert_eq!(compiled.listeners.len(), 4);
        assert_eq!(compiled.listeners[3].source, original_destination::Source::Asked { pass: false });
        let by_host = compiled.hosts["pay.example.com:80"];
        assert_eq!(compiled.hosts["payments.shop:80"], by_host);
        assert_eq!(compiled.hosts["payments:80"], by_host);
        assert!(compiled.destinations.contains_key(&by_host) && !compiled.hosts.contains_key("payments:81"));
        assert_eq!(compiled.listeners[2].source, original_destination::Source::Redirected);
        let by_listener = &compiled.destinations[&"127.0.0.1:8001".parse().unwrap()];
        assert_eq!(by_listener, &compiled.destinations[&"10.96.0.7:80".parse().unwrap()]);
        let Destination::Service(service) = &**by_listener else { unreachable!("a service") };
        assert_eq!((service.routes.len(), service.backends.len()), (2, 2));
        assert_eq!(service.routes[0].backends[1], model::WeightedBackend { backend: 1, weight: 10 });
        let mirrors = [model::Mirror { backend: 1, percent: 10 }];
        assert!(service.routes.iter().all(|route| route.mirrors == mirrors));
        assert_eq!(service.routes[0].timeouts.request, Some(Duration::from_secs(2)));
        assert_eq!(service.routes[0].timeouts.idle, Some(Duration::from_mins(5)));
        assert_eq!(compiled.workload.inbound.policies[0].rules.len(), 2);
        assert_eq!(compiled.workload.inbound.mtls.mode(9090), model::MtlsMode::Permissive);
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        for (from, to, said) in [
            ("methods: [POST]", "mehtods: [POST]", "mehtods"),
            (
                "value: /charge",
                "value: /a/../b",
                "policies[0].rules[0].http[0].path.value: no request can match it",
            ),
            (
                "{anyone: true}",
                "{anyone: false}",
                "policies[0].rules[1].sources[0]: a source is exactly one of",
            ),
            (
                "name: checkout}",
                "name: Check_out}",
                "policies[0].rules[0].sources[0].serviceAccount: service account",
            ),
            ("ports: [8080]\n  action", "ports: []\n  action", "policies[0].ports: must be ports"),
            ("service: \"shop/payments-next:80\"", "service: \"shop/x:80\"", "there is no service shop/x:80"),
            (
                "application: \"127.0.0.1:8080\"",
                "redirected: false",
                "listeners[1]: an inbound listener has either",
            ),
            ("request: 10s", "request: soon", "services[0].timeouts.request: is no duration"),
            (
                "mirrors: [{service: \"shop/payments-next:80\", percent: 10}]",
                "mirrors: [{service: \"shop/payments-next:80\", percent: 0}]",
                "services[0].mirrors[0].percent: 0 is not one of 1 to 100",
            ),
            (
                "mirrors: [{service: \"shop/payments-next:80\", percent: 10}]",
                "mirrors: [{service: \"shop/payments:80\"}]",
                "services[0].mirrors[0].service: a service is no mirror of itself",
            ),
            (
                "mirrors: [{service: \"shop/payments-next:80\", percent: 10}]",
                "mirrors: [{service: \"shop/nobody:80\"}]",
                "services[0].mirrors[0].service: there is no service shop/nobody:80",
            ),
            ("- name: shop/payments:80", "- name: payments", "'payments' is not namespace/name:port"),
            ("trustDomain: cluster.local", "trustDomain: Cluster", "trust domain must be"),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            let error = read(&EXAMPLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(said), "{to}: {error}");
        }
    }

    #[test]
    fn durations_add_up() {
        assert_eq!(duration("1h30m"), Some(Duration::from_mins(90)));
        assert_eq!(duration("1s500ms"), Some(Duration::from_millis(1500)));
        for bad in ["", "10", "s", "1d", "-1s", "1.5s", "123456s", "1s1s1s1s1s", "1s ", "1\u{b5}s"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }
}
