//! From the file to what the data path knows: the same values that an operator would send.
//!
//! Pure. Every error says where in the file it is; one error refuses the whole file.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use byrnie_model::{
    self as model, Destination, InboundPolicy, ObjectName, Ports, ServicePort, SpiffeId, TrustDomain,
    Workload, path, spiffe::is_dns_label,
};
use http::{HeaderName, Method};
use thiserror::Error;

use super::file::{
    File, HeaderMatch, HeaderType, HttpMatch, Listener, PathType, Policy, Protocol, Rule, Service, Source,
    Timeouts,
};
use super::traffic;
use crate::{listener, metrics::Direction, original_destination};

/// What is wrong, and where.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{at}: {problem}")]
pub struct Mistake {
    at: String,
    problem: String,
}

/// The file, understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Compiled {
    pub(super) listeners: Vec<listener::Listener>,
    pub(super) workload: Workload,
    /// By the address of the service, or of the listener that names it.
    pub(super) destinations: HashMap<SocketAddr, Arc<Destination>>,
}

pub(super) type Result<T> = std::result::Result<T, Mistake>;

pub(super) fn compile(file: &File) -> Result<Compiled> {
    let mut services = HashMap::new();
    let mut destinations = HashMap::new();
    for (index, service) in file.services.iter().enumerate() {
        let at = format!("services[{index}]");
        let compiled = Arc::new(Destination::Service(self::service(service, &file.services, &at)?));
        for address in &service.addresses {
            if destinations.insert(*address, compiled.clone()).is_some() {
                return wrong(&format!("{at}.addresses"), format!("{address} belongs to two services"));
            }
        }
        if services.insert(service.name.as_str(), compiled).is_some() {
            return wrong(&format!("{at}.name"), format!("two services are called {}", service.name));
        }
    }
    let mut listeners = Vec::new();
    for (index, listener) in file.listeners.iter().enumerate() {
        let at = format!("listeners[{index}]");
        if let Some(name) = &listener.service {
            let known = services.get(name.as_str());
            let Some(service) = known else {
                return wrong(&format!("{at}.service"), format!("there is no service {name}"));
            };
            destinations.insert(listener.listen, service.clone());
        }
        listeners.push(self::listener(listener, &at)?);
    }
    Ok(Compiled { listeners, workload: workload(file)?, destinations })
}

fn listener(spec: &Listener, at: &str) -> Result<listener::Listener> {
    let Listener { direction, listen, .. } = *spec;
    let source = match (direction, &spec.service, spec.application, spec.redirected) {
        (Direction::Outbound, Some(_), None, false) => original_destination::Source::Fixed(listen),
        (Direction::Inbound, None, Some(application), false) => {
            original_destination::Source::Fixed(application)
        }
        (_, None, None, true) => original_destination::Source::Redirected,
        (Direction::Outbound, ..) => {
            return wrong(at, "an outbound listener has either service or redirected: true");
        }
        (Direction::Inbound, ..) => {
            return wrong(at, "an inbound listener has either application or redirected: true");
        }
    };
    Ok(listener::Listener { direction, address: listen, source })
}

fn service(spec: &Service, all: &[Service], at: &str) -> Result<model::Service> {
    let name = service_port(&spec.name, &format!("{at}.name"))?;
    let limits = timeouts(&spec.timeouts, &format!("{at}.timeouts"))?;
    let mut backends = vec![backend(spec, &format!("{at}.name"))?];
    let mut other = |name: &str, at: &str| {
        let Some(target) = all.iter().find(|s| s.name == name) else {
            return wrong(at, format!("there is no service {name}"));
        };
        let target = backend(target, at)?;
        Ok(backends.iter().position(|b| b.name == target.name).unwrap_or_else(|| {
            backends.push(target);
            backends.len() - 1
        }))
    };
    let common = model::Route {
        failover: each(&spec.failover, &format!("{at}.failover"), |name, at| other(name, at))?,
        overrides: each(&spec.overrides, &format!("{at}.overrides"), |name, at| other(name, at))?,
        faults: traffic::faults(&spec.faults, &format!("{at}.faults"))?,
        ..model::Route::default()
    };
    let mut routes = Vec::new();
    for (index, route) in spec.routes.iter().enumerate() {
        let at = format!("{at}.routes[{index}]");
        let mut shares = Vec::new();
        for (index, share) in route.split.iter().enumerate() {
            let at = format!("{at}.split[{index}].service");
            shares
                .push(model::WeightedBackend { backend: other(&share.service, &at)?, weight: share.weight });
        }
        let matches = each(&route.http, &format!("{at}.http"), http_match)?;
        let own = timeouts(&route.timeouts, &format!("{at}.timeouts"))?;
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
    let traffic = traffic::compile(&spec.traffic, &format!("{at}.traffic"))?;
    Ok(model::Service { name, protocol: protocol(spec.protocol), routes, backends, traffic })
}

fn backend(spec: &Service, at: &str) -> Result<model::Backend> {
    let endpoints = spec.endpoints.iter().map(|e| model::Endpoint {
        address: e.address,
        identity: e.identity.clone(),
        pod_uid: e.uid.clone(),
        pod_name: e.pod.clone(),
        zone: e.zone.clone(),
    });
    Ok(model::Backend { name: service_port(&spec.name, at)?, endpoints: endpoints.collect() })
}

fn workload(file: &File) -> Result<Workload> {
    let mtls = &file.inbound.mtls;
    let mut policies = Vec::new();
    for (index, policy) in file.policies.iter().enumerate() {
        policies.push(self::policy(policy, &file.trust_domain, &format!("policies[{index}]"))?);
    }
    Ok(Workload {
        inbound: InboundPolicy {
            mtls: model::Mtls {
                default: mtls.mode,
                ports: mtls.ports.iter().map(|p| (p.port, p.mode)).collect(),
            },
            policies,
        },
        protocols: file.inbound.protocols.iter().map(|p| (p.port, protocol(Some(p.protocol)))).collect(),
        limits: traffic::limits(&file.inbound.limits, "inbound.limits")?,
    })
}

fn policy(spec: &Policy, trust_domain: &TrustDomain, at: &str) -> Result<model::Policy> {
    let Some((namespace, name)) = spec.name.split_once('/') else {
        return wrong(&format!("{at}.name"), "must be namespace/name");
    };
    let rules = each(&spec.rules, &format!("{at}.rules"), |rule, at| self::rule(rule, trust_domain, at))?;
    if spec.action == model::Action::Deny && rules.is_empty() {
        return wrong(&format!("{at}.rules"), "a Deny without rules denies nothing");
    }
    Ok(model::Policy {
        name: ObjectName::new(namespace, name),
        action: spec.action,
        enforcement: spec.enforcement,
        ports: ports(spec.ports.as_ref(), at)?,
        rules,
    })
}

fn rule(spec: &Rule, trust_domain: &TrustDomain, at: &str) -> Result<model::Rule> {
    let sources =
        each(&spec.sources, &format!("{at}.sources"), |source, at| self::source(source, trust_domain, at))?;
    let http = match &spec.http {
        Some(matches) if matches.is_empty() => {
            return wrong(&format!("{at}.http"), "leave it out to match every request");
        }
        matches => each(matches.as_deref().unwrap_or_default(), &format!("{at}.http"), http_match)?,
    };
    Ok(model::Rule { sources, ports: ports(spec.ports.as_ref(), at)?, http })
}

fn source(spec: &Source, own: &TrustDomain, at: &str) -> Result<model::Source> {
    let account = match (&spec.service_account, spec.anyone) {
        (None, Some(true)) => return Ok(model::Source::Anyone),
        (Some(account), None) => account,
        _ => return wrong(at, "a source is exactly one of serviceAccount and anyone: true"),
    };
    let everyone = account.name == "*";
    let trust_domain = account.trust_domain.clone().unwrap_or_else(|| own.clone());
    let example = if everyone { "any" } else { account.name.as_str() };
    if let Err(error) = SpiffeId::new(&trust_domain, &account.namespace, example) {
        return wrong(&format!("{at}.serviceAccount"), error.to_string());
    }
    let service_account = (!everyone).then(|| account.name.clone());
    Ok(model::Source::Workload { trust_domain, namespace: account.namespace.clone(), service_account })
}

fn http_match(spec: &HttpMatch, at: &str) -> Result<model::HttpMatch> {
    if let Some(bad) = spec.methods.iter().find(|m| Method::from_bytes(m.as_bytes()).is_err()) {
        return wrong(&format!("{at}.methods"), format!("'{bad}' is no method"));
    }
    let path = match &spec.path {
        None => None,
        Some(wanted) => {
            if let Some(fault) = path::fault(&wanted.value) {
                return wrong(&format!("{at}.path.value"), format!("no request can match it: {fault}"));
            }
            if wanted.value.contains('?') {
                return wrong(&format!("{at}.path.value"), "queries are not looked at");
            }
            let value = wanted.value.clone();
            Some(match wanted.kind {
                PathType::Exact => model::PathMatch::Exact(value),
                PathType::PathPrefix => model::PathMatch::Prefix(value),
            })
        }
    };
    let is_host = |host: &String| host.strip_prefix("*.").unwrap_or(host).split('.').all(is_dns_label);
    if let Some(bad) = spec.hosts.iter().find(|host| !is_host(host)) {
        return wrong(&format!("{at}.hosts"), format!("'{bad}' is no DNS name in lower case, without port"));
    }
    let headers = each(&spec.headers, &format!("{at}.headers"), header)?;
    Ok(model::HttpMatch { methods: spec.methods.clone(), path, hosts: spec.hosts.clone(), headers })
}

fn header(spec: &HeaderMatch, at: &str) -> Result<model::HeaderMatch> {
    let Ok(name) = HeaderName::from_bytes(spec.name.as_bytes()) else {
        return wrong(&format!("{at}.name"), format!("'{}' is no header name", spec.name));
    };
    let value = match (spec.kind, &spec.value) {
        (HeaderType::Present, None) => model::ValueMatch::Present,
        (HeaderType::Exact, Some(value)) => model::ValueMatch::Exact(value.clone()),
        (HeaderType::Prefix, Some(value)) if !value.is_empty() => model::ValueMatch::Prefix(value.clone()),
        _ => return wrong(at, "Exact and Prefix need a value; Present has none"),
    };
    Ok(model::HeaderMatch { name, value })
}

fn each<S, T>(specs: &[S], at: &str, mut compile: impl FnMut(&S, &str) -> Result<T>) -> Result<Vec<T>> {
    specs.iter().enumerate().map(|(index, spec)| compile(spec, &format!("{at}[{index}]"))).collect()
}

fn ports(spec: Option<&Vec<u16>>, at: &str) -> Result<Ports> {
    match spec {
        None => Ok(Ports::All),
        Some(ports) if ports.is_empty() || ports.contains(&0) => {
            wrong(&format!("{at}.ports"), "must be ports (1 to 65535), or left out for every port")
        }
        Some(ports) => Ok(Ports::Only(ports.clone())),
    }
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

fn protocol(spec: Option<Protocol>) -> model::Protocol {
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
    Ok(model::Timeouts {
        request: limit(&spec.request, "request")?,
        backend_request: limit(&spec.backend_request, "backendRequest")?,
        idle: limit(&spec.idle, "idle")?,
    })
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

pub(super) fn wrong<T>(at: &str, problem: impl Into<String>) -> Result<T> {
    Err(Mistake { at: at.to_owned(), problem: problem.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../examples/standalone.yaml");

    fn read(text: &str) -> std::result::Result<Compiled, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        compile(&file).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn the_example_is_understood() {
        let compiled = read(EXAMPLE).unwrap();
        assert_eq!(compiled.listeners.len(), 3);
        assert_eq!(compiled.listeners[2].source, original_destination::Source::Redirected);
        let by_listener = &compiled.destinations[&"127.0.0.1:8001".parse().unwrap()];
        assert_eq!(by_listener, &compiled.destinations[&"10.96.0.7:80".parse().unwrap()]);
        let Destination::Service(service) = &**by_listener else { unreachable!("a service") };
        assert_eq!((service.routes.len(), service.backends.len()), (2, 2));
        assert_eq!(service.routes[0].backends[1], model::WeightedBackend { backend: 1, weight: 10 });
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
