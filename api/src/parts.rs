//! Counts what narrows access in a message, so that a receiver notices when something is missing.
//!
//! In protobuf a lost list is an empty list, and an empty list of methods, hosts or rules says "all of them" or "none
//! is denied". Sender and receiver therefore count with the same functions. A sender that is newer counts its new
//! kinds of predicates too, so that a receiver that does not know them refuses the message without being told.

use crate::v1;

/// For [`v1::Workload::parts`].
pub fn workload(workload: &v1::Workload) -> u64 {
    let v1::Workload {
        policies,
        mtls,
        protocols,
        generations: _,
        required_features,
        parts: _,
        limits: _,
        zone: _,
    } = workload;
    sum(policies, policy)
        + mtls.as_ref().map_or(0, |m| len(&m.ports))
        + len(protocols)
        + len(required_features)
}

/// For [`v1::Destination::parts`].
pub fn destination(destination: &v1::Destination) -> u64 {
    use v1::destination::Kind;
    let v1::Destination { address: _, kind, generations: _, required_features, parts: _ } = destination;
    let kind = match kind {
        Some(Kind::Service(service)) => sum(&service.routes, route) + sum(&service.backends, backend),
        Some(Kind::Pod(pod)) => pod.endpoint.as_ref().map_or(0, endpoint) + timeouts(pod.timeouts.as_ref()),
        Some(Kind::Passthrough(_)) | None => 0,
    };
    kind + len(required_features)
}

fn policy(policy: &v1::Policy) -> u64 {
    let v1::Policy { namespace: _, name: _, action: _, enforcement: _, ports, rules } = policy;
    1 + port_set(ports.as_ref()) + sum(rules, rule)
}

fn rule(rule: &v1::Rule) -> u64 {
    let v1::Rule { sources, ports, http } = rule;
    1 + len(sources) + port_set(ports.as_ref()) + sum(http, http_match)
}

fn port_set(ports: Option<&v1::Ports>) -> u64 {
    ports.map_or(0, |p| u64::from(p.all) + len(&p.only))
}

fn http_match(http: &v1::HttpMatch) -> u64 {
    let v1::HttpMatch { methods, path, hosts, headers } = http;
    1 + len(methods) + u64::from(path.is_some()) + len(hosts) + len(headers)
}

fn route(route: &v1::Route) -> u64 {
    let v1::Route { matches, backends, timeouts: limits, failover: _, overrides: _, faults: _, mirrors: _ } =
        route;
    1 + sum(matches, http_match) + len(backends) + timeouts(limits.as_ref())
}

fn timeouts(timeouts: Option<&v1::Timeouts>) -> u64 {
    // a limit for one try, and how calls are made, narrow no access: an older receiver must not refuse all for them
    timeouts.map_or(0, |t| u64::from(t.request_ms.is_some()) + u64::from(t.idle_ms.is_some()))
}

fn backend(backend: &v1::Backend) -> u64 {
    1 + sum(&backend.endpoints, endpoint)
}

/// An endpoint without identity is spoken to in plaintext.
fn endpoint(endpoint: &v1::Endpoint) -> u64 {
    1 + u64::from(!endpoint.identity.is_empty())
}

fn len<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}

fn sum<T>(list: &[T], count: fn(&T) -> u64) -> u64 {
    list.iter().map(count).sum()
}
