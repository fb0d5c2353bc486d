//! Arbitrary model values. Names come from a small set, so that policies and requests meet often.

use std::{net::SocketAddr, time::Duration};

use byrnie_api::Trust;
use byrnie_model::{
    Action, Backend, CircuitBreaker, Destination, Endpoint, Enforcement, Faults, HashKey, HeaderMatch,
    HttpMatch, InboundPolicy, Limits, LoadBalancing, Mirror, Mtls, MtlsMode, ObjectName, PathMatch, Policy,
    Ports, Protocol, Retry, RetryBudget, Route, Rule, Service, ServicePort, Source, SpiffeId, Timeouts,
    Traffic, TrustDomain, ValueMatch, WeightedBackend, Workload,
};
use http::HeaderName;
use proptest::{collection::vec, option, prelude::*, sample::select};

pub(crate) const PORTS: [u16; 3] = [80, 8080, 65535];
pub(crate) const DOMAINS: [&str; 2] = ["cluster.local", "other.example"];
pub(crate) const NAMESPACES: [&str; 2] = ["shop", "lab"];
pub(crate) const ACCOUNTS: [&str; 2] = ["web", "pay.v1"];
pub(crate) const METHODS: [&str; 2] = ["GET", "POST"];
pub(crate) const PATHS: [&str; 3] = ["/", "/a", "/a/b"];
pub(crate) const HOSTS: [&str; 3] = ["payments", "*.shop", "[::1]"];
pub(crate) const HEADER: &str = "x-team";
pub(crate) const VALUES: [&str; 2] = ["blue", "b"];

fn text(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(of).prop_map(str::to_owned)
}

fn any_port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => select(&PORTS[..]), 1 => 1..=u16::MAX]
}

fn domain() -> impl Strategy<Value = TrustDomain> {
    select(&DOMAINS[..]).prop_map(|d| d.parse().unwrap())
}

fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![Just(Ports::All), vec(any_port(), 0..3).prop_map(Ports::Only)]
}

fn source() -> impl Strategy<Value = Source> {
    let workload = (domain(), text(&NAMESPACES), option::of(text(&ACCOUNTS)));
    prop_oneof![
        1 => Just(Source::Anyone),
        4 => workload.prop_map(|(trust_domain, namespace, service_account)| Source::Workload {
            trust_domain,
            namespace,
            service_account
        }),
    ]
}

fn header() -> impl Strategy<Value = HeaderMatch> {
    let value = prop_oneof![
        Just(ValueMatch::Present),
        text(&VALUES).prop_map(ValueMatch::Exact),
        text(&VALUES).prop_map(ValueMatch::Prefix),
    ];
    value.prop_map(|value| HeaderMatch { name: HeaderName::from_static(HEADER), value })
}

fn http() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![text(&PATHS).prop_map(PathMatch::Exact), text(&PATHS).prop_map(PathMatch::Prefix)];
    (vec(text(&METHODS), 0..2), option::of(path), vec(text(&HOSTS), 0..2), vec(header(), 0..2))
        .prop_map(|(methods, path, hosts, headers)| HttpMatch { methods, path, hosts, headers })
}

fn rule() -> impl Strategy<Value = Rule> {
    (vec(source(), 0..3), ports(), vec(http(), 0..3)).prop_map(|(sources, ports, http)| Rule {
        sources,
        ports,
        http,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let action = select(&[Action::Allow, Action::Deny][..]);
    let enforcement = prop_oneof![4 => Just(Enforcement::Enforced), 1 => Just(Enforcement::Audit)];
    (text(&NAMESPACES), text(&ACCOUNTS), action, enforcement, ports(), vec(rule(), 0..3)).prop_map(
        |(namespace, name, action, enforcement, ports, rules)| Policy {
            name: ObjectName { namespace, name },
            action,
            enforcement,
            ports,
            rules,
        },
    )
}

fn by_port<T: std::fmt::Debug + Clone>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<(u16, T)>> {
    vec((any_port(), of), 0..3).prop_map(|mut list| {
        list.sort_by_key(|(port, _)| *port);
        list.dedup_by_key(|(port, _)| *port);
        list
    })
}

fn mode() -> impl Strategy<Value = MtlsMode> {
    select(&[MtlsMode::Strict, MtlsMode::Permissive][..])
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(&[Protocol::Detect, Protocol::Http1, Protocol::Http2, Protocol::Tls, Protocol::Opaque][..])
}

pub(crate) fn workload() -> impl Strategy<Value = Workload> {
    (vec(policy(), 0..4), mode(), by_port(mode()), by_port(protocol()), limits(), ".{0,9}").prop_map(
        |(policies, default, ports, protocols, limits, zone)| Workload {
            inbound: InboundPolicy { mtls: Mtls { default, ports }, policies },
            protocols,
            limits,
            zone,
        },
    )
}

pub(crate) fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<[u8; 4]>().prop_map(std::net::IpAddr::from);
    let v6 = any::<[u8; 16]>().prop_map(|ip| std::net::IpAddr::from(ip).to_canonical());
    (prop_oneof![v4, v6], any_port()).prop_map(SocketAddr::from)
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    (text(&NAMESPACES), text(&ACCOUNTS), any_port())
        .prop_map(|(ns, name, port)| ServicePort::new(ns, name, port))
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let id = (domain(), text(&NAMESPACES), text(&ACCOUNTS))
        .prop_map(|(domain, namespace, account)| SpiffeId::new(&domain, &namespace, &account).unwrap());
    (address(), option::of(id), ".{0,9}", ".{0,9}", ".{0,9}", 1..=u16::MAX).prop_map(
        |(address, identity, pod_uid, pod_name, zone, weight)| Endpoint {
            address,
            identity,
            pod_uid,
            pod_name,
            zone,
            weight,
        },
    )
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let limit = || option::of((1..=u64::MAX).prop_map(Duration::from_millis));
    (limit(), limit(), limit()).prop_map(|(request, backend_request, idle)| Timeouts {
        request,
        backend_request,
        idle,
    })
}

fn faults() -> impl Strategy<Value = Faults> {
    let delay = option::of((0..=100u32, (1..=u64::MAX).prop_map(Duration::from_millis)));
    (delay, option::of((0..=100u32, 200..600u16))).prop_map(|(delay, abort)| Faults { delay, abort })
}

fn limits() -> impl Strategy<Value = Limits> {
    let rate = option::of(1..=u32::MAX);
    (any::<bool>(), rate, 1..=u32::MAX).prop_map(|(adaptive, requests_per_second, burst)| Limits {
        adaptive,
        requests_per_second,
        burst,
    })
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let time = || (1..=u64::MAX).prop_map(Duration::from_millis);
    let retry = (0..9u32, vec(500..600u16, 0..3), vec(1..=16u8, 0..3), time()).prop_map(
        |(attempts, statuses, grpc_codes, backoff)| Retry {
            attempts,
            statuses,
            grpc_codes,
            methods: vec![http::Method::POST],
            backoff,
        },
    );
    let budget = (0..=100u32, any::<u32>())
        .prop_map(|(percent, min_per_second)| RetryBudget { percent, min_per_second });
    let breaker = (any::<u32>(), 0..=100u32, any::<u32>(), 0..=100u32, time(), time()).prop_map(
        |(
            consecutive_failures,
            success_percent,
            min_requests,
            max_ejection_percent,
            base_ejection,
            max_ejection,
        )| {
            CircuitBreaker {
                consecutive_failures,
                success_percent,
                min_requests,
                max_ejection_percent,
                base_ejection,
                max_ejection,
            }
        },
    );
    let balancing = prop_oneof![
        Just(LoadBalancing::PeakEwma),
        Just(LoadBalancing::LeastRequest),
        Just(LoadBalancing::RoundRobin),
        Just(LoadBalancing::ConsistentHash(HashKey::Source)),
        "[a-z]{1,9}".prop_map(|name| LoadBalancing::ConsistentHash(HashKey::Header(name.parse().unwrap()))),
        "[a-z]{1,9}".prop_map(|name| LoadBalancing::ConsistentHash(HashKey::Cookie(name))),
    ];
    let written = (retry, budget, breaker, balancing, any::<bool>()).prop_map(
        |(retry, retry_budget, circuit_breaker, load_balancing, prefer_zone)| Traffic {
            retry,
            retry_budget,
            circuit_breaker,
            load_balancing,
            prefer_zone,
        },
    );
    prop_oneof![Just(Traffic::default()), written]
}

fn service() -> impl Strategy<Value = Service> {
    let backend = (service_port(), vec(endpoint(), 0..3))
        .prop_map(|(name, endpoints)| Backend { name, endpoints: endpoints.into() });
    let routed =
        (service_port(), protocol(), vec(backend, 0..3)).prop_flat_map(|(name, protocol, backends)| {
            let known = backends.len();
            let share = (0..known.max(1), any::<u32>())
                .prop_map(|(backend, weight)| WeightedBackend { backend, weight });
            let shares = vec(share, 0..if known == 0 { 1 } else { 3 });
            let others = || vec(0..known.max(1), 0..if known == 0 { 1 } else { 3 });
            let mirror =
                (0..known.max(1), 1..=100u32).prop_map(|(backend, percent)| Mirror { backend, percent });
            let mirrors = vec(mirror, 0..if known == 0 { 1 } else { 3 });
            let others = (others(), others(), mirrors);
            let routes = vec((vec(http(), 0..2), shares, others, faults(), timeouts()), 1..3);
            (Just(name), Just(protocol), Just(backends), routes).prop_map(
                |(name, protocol, backends, routes)| {
                    let routes = routes.into_iter().map(
                        |(matches, backends, (failover, overrides, mirrors), faults, timeouts)| Route {
                            matches,
                            backends,
                            failover,
                            overrides,
                            mirrors,
                            faults,
                            timeouts,
                        },
                    );
                    let mut routes: Vec<_> = routes.collect();
                    routes.last_mut().unwrap().matches.clear();
                    (name, protocol, routes, backends)
                },
            )
        });
    (routed, traffic()).prop_map(|((name, protocol, routes, backends), traffic)| Service {
        name,
        protocol,
        routes,
        backends,
        traffic,
    })
}

pub(crate) fn destination() -> impl Strategy<Value = Destination> {
    prop_oneof![
        6 => service().prop_map(Destination::Service),
        3 => (protocol(), endpoint(), timeouts(), traffic()).prop_map(|(protocol, endpoint, timeouts, traffic)| {
            Destination::Pod { protocol, endpoint, timeouts, traffic }
        }),
        1 => Just(Destination::Passthrough),
    ]
}

pub(crate) fn trust() -> impl Strategy<Value = Trust> {
    let roots = proptest::collection::btree_map(domain(), vec(vec(any::<u8>(), 1..9), 1..3), 1..3);
    (any::<u64>(), roots, option::of(any::<[u8; 32]>())).prop_map(|(epoch, roots, signer)| Trust {
        epoch,
        roots,
        signer,
    })
}
