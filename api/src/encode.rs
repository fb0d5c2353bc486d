//! From model values to messages. What [`crate::decode`] refuses is not checked here: the proxy answers with a Nack.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use byrnie_model as model;

use crate::{Trust, parts, v1};

mod traffic;

/// Everything about a pod, complete. The caller adds `generations`.
pub fn workload(workload: &model::Workload) -> v1::Workload {
    let model::Workload { inbound: model::InboundPolicy { mtls, policies }, protocols, limits, zone } =
        workload;
    let mut message = v1::Workload {
        policies: policies.iter().map(policy).collect(),
        mtls: Some(v1::Mtls {
            default_mode: mtls_mode(mtls.default).into(),
            ports: mtls.ports.iter().copied().map(port_mtls).collect(),
        }),
        protocols: protocols.iter().copied().map(port_protocol).collect(),
        limits: traffic::limits(*limits),
        zone: zone.clone(),
        ..v1::Workload::default()
    };
    message.parts = parts::workload(&message);
    message
}

/// What an address means. The caller adds `generations`.
pub fn destination(at: SocketAddr, destination: &model::Destination) -> v1::Destination {
    use v1::destination::Kind;
    let kind = match destination {
        model::Destination::Service(service) => Kind::Service(v1::ServiceDestination {
            name: Some(service_port(&service.name)),
            protocol: protocol(service.protocol).into(),
            routes: service.routes.iter().map(route).collect(),
            backends: service.backends.iter().map(backend).collect(),
            traffic: traffic::traffic(&service.traffic),
        }),
        model::Destination::Pod { protocol: spoken, endpoint: pod, timeouts: limits, traffic } => {
            Kind::Pod(v1::PodDestination {
                protocol: protocol(*spoken).into(),
                endpoint: Some(endpoint(pod)),
                timeouts: Some(timeouts(*limits)),
                traffic: traffic::traffic(traffic),
            })
        }
        model::Destination::Passthrough => Kind::Passthrough(v1::Passthrough {}),
    };
    let mut message =
        v1::Destination { address: Some(address(at)), kind: Some(kind), ..v1::Destination::default() };
    message.parts = parts::destination(&message);
    message
}

/// Roots and signer.
pub fn trust(trust: &Trust) -> v1::Trust {
    let roots = trust.roots.iter().map(|(trust_domain, certificates)| v1::Roots {
        trust_domain: trust_domain.to_string(),
        certificates: certificates.clone(),
    });
    v1::Trust {
        epoch: trust.epoch,
        roots: roots.collect(),
        signer: trust.signer.map_or_else(Vec::new, |signer| signer.to_vec()),
        federated: Vec::new(),
    }
}

/// An address; IPv4 mapped into IPv6 is written as the IPv4 address that it is.
pub fn address(address: SocketAddr) -> v1::Address {
    v1::Address { ip: ip(address.ip()), port: address.port().into() }
}

fn ip(ip: IpAddr) -> Vec<u8> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn policy(policy: &model::Policy) -> v1::Policy {
    let model::Policy { name, action, enforcement, ports: governed, rules } = policy;
    let action = match action {
        model::Action::Allow => v1::Action::Allow,
        model::Action::Deny => v1::Action::Deny,
    };
    let enforcement = match enforcement {
        model::Enforcement::Enforced => v1::Enforcement::Enforced,
        model::Enforcement::Audit => v1::Enforcement::Audit,
    };
    v1::Policy {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        action: action.into(),
        enforcement: enforcement.into(),
        ports: Some(ports(governed)),
        rules: rules.iter().map(rule).collect(),
    }
}

fn rule(rule: &model::Rule) -> v1::Rule {
    v1::Rule {
        sources: rule.sources.iter().map(source).collect(),
        ports: Some(ports(&rule.ports)),
        http: rule.http.iter().map(http_match).collect(),
    }
}

fn ports(ports: &model::Ports) -> v1::Ports {
    match ports {
        model::Ports::All => v1::Ports { all: true, only: Vec::new() },
        model::Ports::Only(ports) => {
            v1::Ports { all: false, only: ports.iter().map(|&p| p.into()).collect() }
        }
    }
}

fn source(source: &model::Source) -> v1::Source {
    use v1::{source::Source, workload_source::Account};
    let source = match source {
        model::Source::Anyone => Source::Anyone(v1::Anyone {}),
        model::Source::Workload { trust_domain, namespace, service_account } => {
            Source::Workload(v1::WorkloadSource {
                trust_domain: trust_domain.to_string(),
                namespace: namespace.clone(),
                account: Some(match service_account {
                    Some(name) => Account::ServiceAccount(name.clone()),
                    None => Account::AnyServiceAccount(v1::Anyone {}),
                }),
            })
        }
    };
    v1::Source { source: Some(source) }
}

fn http_match(http: &model::HttpMatch) -> v1::HttpMatch {
    use v1::path_match::Path;
    let path = http.path.as_ref().map(|path| match path {
        model::PathMatch::Exact(path) => Path::Exact(path.clone()),
        model::PathMatch::Prefix(path) => Path::Prefix(path.clone()),
    });
    v1::HttpMatch {
        methods: http.methods.clone(),
        path: path.map(|path| v1::PathMatch { path: Some(path) }),
        hosts: http.hosts.clone(),
        headers: http.headers.iter().map(header_match).collect(),
    }
}

fn header_match(header: &model::HeaderMatch) -> v1::HeaderMatch {
    use v1::header_match::Value;
    let value = match &header.value {
        model::ValueMatch::Present => Value::Present(v1::Anyone {}),
        model::ValueMatch::Exact(value) => Value::Exact(value.clone()),
        model::ValueMatch::Prefix(value) => Value::Prefix(value.clone()),
    };
    v1::HeaderMatch { name: header.name.to_string(), value: Some(value) }
}

fn mtls_mode(mode: model::MtlsMode) -> v1::MtlsMode {
    match mode {
        model::MtlsMode::Strict => v1::MtlsMode::Strict,
        model::MtlsMode::Permissive => v1::MtlsMode::Permissive,
    }
}

fn port_mtls((port, mode): (u16, model::MtlsMode)) -> v1::PortMtls {
    v1::PortMtls { port: port.into(), mode: mtls_mode(mode).into() }
}

fn port_protocol((port, spoken): (u16, model::Protocol)) -> v1::PortProtocol {
    v1::PortProtocol { port: port.into(), protocol: protocol(spoken).into() }
}

fn protocol(protocol: model::Protocol) -> v1::Protocol {
    match protocol {
        model::Protocol::Detect => v1::Protocol::Detect,
        model::Protocol::Http1 => v1::Protocol::Http1,
        model::Protocol::Http2 => v1::Protocol::Http2,
        model::Protocol::Tls => v1::Protocol::Tls,
        model::Protocol::Opaque => v1::Protocol::Opaque,
    }
}

fn service_port(name: &model::ServicePort) -> v1::ServicePort {
    v1::ServicePort {
        namespace: name.service.namespace.clone(),
        name: name.service.name.clone(),
        port: name.port.into(),
    }
}

fn route(route: &model::Route) -> v1::Route {
    // what is out of range is refused
    let index = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    let indices = |list: &[usize]| list.iter().copied().map(index).collect();
    let backends = route
        .backends
        .iter()
        .map(|share| v1::WeightedBackend { backend: index(share.backend), weight: share.weight });
    let mirrors = route
        .mirrors
        .iter()
        .map(|mirror| v1::Mirror { backend: index(mirror.backend), percent: mirror.percent });
    v1::Route {
        matches: route.matches.iter().map(http_match).collect(),
        backends: backends.collect(),
        timeouts: Some(timeouts(route.timeouts)),
        failover: indices(&route.failover),
        overrides: indices(&route.overrides),
        faults: traffic::faults(route.faults),
        mirrors: mirrors.collect(),
    }
}

fn timeouts(timeouts: model::Timeouts) -> v1::Timeouts {
    v1::Timeouts {
        request_ms: timeouts.request.map(millis),
        idle_ms: timeouts.idle.map(millis),
        backend_request_ms: timeouts.backend_request.map(millis),
    }
}

/// At least one: zero would be no time at all, and the smallest limit is meant.
fn millis(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn backend(backend: &model::Backend) -> v1::Backend {
    v1::Backend {
        name: Some(service_port(&backend.name)),
        endpoints: backend.endpoints.iter().map(endpoint).collect(),
    }
}

fn endpoint(endpoint: &model::Endpoint) -> v1::Endpoint {
    v1::Endpoint {
        ip: ip(endpoint.address.ip()),
        port: endpoint.address.port().into(),
        identity: endpoint.identity.as_ref().map_or_else(String::new, ToString::to_string),
        pod_uid: endpoint.pod_uid.clone(),
        pod_name: endpoint.pod_name.clone(),
        zone: endpoint.zone.clone(),
        weight: endpoint.weight.into(),
    }
}
