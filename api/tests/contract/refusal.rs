//! What is refused, and how the error names the place.

use byrnie_api::{decode, encode, parts, v1};
use byrnie_model::{
    Action, Backend, Destination, Endpoint, Enforcement, Faults, HeaderMatch, HttpMatch, InboundPolicy,
    Limits, Mirror, Mtls, MtlsMode, ObjectName, PathMatch, Policy, Ports, Protocol, Route, Rule, Service,
    ServicePort, Source, Timeouts, Traffic, ValueMatch, WeightedBackend, Workload,
};

fn workload() -> v1::Workload {
    let http = HttpMatch {
        methods: vec!["GET".into()],
        path: Some(PathMatch::Prefix("/a".into())),
        hosts: vec!["payments.shop".into()],
        headers: vec![HeaderMatch {
            name: http::HeaderName::from_static("x-team"),
            value: ValueMatch::Present,
        }],
    };
    let source = Source::Workload {
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "shop".into(),
        service_account: Some("web".into()),
    };
    let policy = Policy {
        name: ObjectName::new("shop", "payments"),
        action: Action::Allow,
        enforcement: Enforcement::Enforced,
        ports: Ports::All,
        rules: vec![Rule { sources: vec![source], ports: Ports::Only(vec![80]), http: vec![http] }],
    };
    let mtls = Mtls { default: MtlsMode::Strict, ports: vec![(80, MtlsMode::Permissive)] };
    encode::workload(&Workload {
        inbound: InboundPolicy { mtls, policies: vec![policy] },
        protocols: vec![(80, Protocol::Http1)],
        limits: Limits { adaptive: true, requests_per_second: Some(9), burst: 9 },
        zone: String::new(),
    })
}

fn destination() -> v1::Destination {
    let endpoint = Endpoint {
        address: "10.0.0.7:8080".parse().unwrap(),
        identity: Some("spiffe://cluster.local/ns/shop/sa/pay".parse().unwrap()),
        pod_uid: "u".into(),
        pod_name: "p".into(),
        zone: String::new(),
        weight: 1,
    };
    let name = ServicePort::new("shop", "pay", 80);
    let route = Route {
        matches: vec![],
        backends: vec![WeightedBackend { backend: 0, weight: 1 }],
        failover: vec![0],
        overrides: vec![0],
        mirrors: vec![Mirror { backend: 0, percent: 10 }],
        faults: Faults::default(),
        timeouts: Timeouts::default(),
    };
    let backends = vec![Backend { name: name.clone(), endpoints: [endpoint].into() }];
    let traffic = Traffic::default();
    let service = Service { name, protocol: Protocol::Http1, routes: vec![route], backends, traffic };
    encode::destination("10.96.0.1:80".parse().unwrap(), &Destination::Service(service))
}

fn service(message: &mut v1::Destination) -> &mut v1::ServiceDestination {
    match message.kind.as_mut().unwrap() {
        v1::destination::Kind::Service(service) => service,
        _ => panic!("the message above is a service"),
    }
}

type Change<M> = fn(&mut M);

#[test]
fn a_workload_that_is_not_whole_is_refused() {
    assert!(decode::workload(workload()).is_ok());
    let cases: &[(&str, Change<v1::Workload>)] = &[
        ("parts", |w| w.parts += 1),
        ("required_features", |w| w.required_features.push("telepathy".into())),
        ("mtls", |w| w.mtls = None),
        ("mtls.default_mode", |w| w.mtls.as_mut().unwrap().default_mode = 0),
        ("mtls.ports[0].mode", |w| w.mtls.as_mut().unwrap().ports[0].mode = 9),
        ("mtls.ports[0].port", |w| w.mtls.as_mut().unwrap().ports[0].port = 0),
        ("mtls.ports", |w| {
            let ports = &mut w.mtls.as_mut().unwrap().ports;
            ports.push(v1::PortMtls { port: 80, mode: 1 });
        }),
        ("protocols[0].port", |w| w.protocols[0].port = 65536),
        ("protocols[0].protocol", |w| w.protocols[0].protocol = 0),
        ("protocols", |w| w.protocols.push(w.protocols[0])),
        ("limits", |w| w.limits.as_mut().unwrap().burst = 0),
        ("limits", |w| w.limits.as_mut().unwrap().requests_per_second = Some(0)),
        ("policies[0].namespace", |w| w.policies[0].namespace.clear()),
        ("policies[0].name", |w| w.policies[0].name = "A".into()),
        ("policies[0].action", |w| w.policies[0].action = 3),
        ("policies[0].enforcement", |w| w.policies[0].enforcement = 0),
        ("policies[0].ports", |w| w.policies[0].ports = None),
        ("policies[0].ports", |w| w.policies[0].ports.as_mut().unwrap().only.push(1)),
        ("policies[0].rules[0].ports", |w| w.policies[0].rules[0].ports = None),
        ("policies[0].rules[0].ports.only[0]", |w| {
            w.policies[0].rules[0].ports.as_mut().unwrap().only[0] = 70000;
        }),
        ("policies[0].rules[0].sources[0]", |w| w.policies[0].rules[0].sources[0].source = None),
        ("policies[0].rules[0].sources[0].workload.trust_domain", |w| source(w).trust_domain = "Up".into()),
        ("policies[0].rules[0].sources[0].workload", |w| source(w).namespace.clear()),
        ("policies[0].rules[0].sources[0].workload.account", |w| source(w).account = None),
        ("policies[0].rules[0].sources[0].workload.namespace", |w| {
            source(w).account = Some(v1::workload_source::Account::AnyServiceAccount(v1::Anyone {}));
            source(w).namespace = "*".into();
        }),
        ("policies[0].rules[0].sources[0].workload", |w| {
            source(w).account = Some(v1::workload_source::Account::ServiceAccount("*".into()));
        }),
        ("policies[0].rules[0].http[0].methods[0]", |w| http(w).methods[0].clear()),
        ("policies[0].rules[0].http[0].path", |w| http(w).path = Some(v1::PathMatch { path: None })),
        ("policies[0].rules[0].http[0].path", |w| {
            http(w).path = Some(v1::PathMatch { path: Some(v1::path_match::Path::Exact("a".into())) });
        }),
        ("policies[0].rules[0].http[0].hosts[0]", |w| http(w).hosts[0] = "Payments".into()),
        ("policies[0].rules[0].http[0].hosts[0]", |w| http(w).hosts[0] = "payments:80".into()),
        ("policies[0].rules[0].http[0].hosts[0]", |w| http(w).hosts[0] = "payments.".into()),
        ("policies[0].rules[0].http[0].hosts[0]", |w| http(w).hosts[0] = "*".into()),
        ("policies[0].rules[0].http[0].hosts[0]", |w| http(w).hosts[0] = "*.[::1]".into()),
        ("policies[0].rules[0].http[0].headers[0].name", |w| http(w).headers[0].name = "X-Team".into()),
        ("policies[0].rules[0].http[0].headers[0].value", |w| http(w).headers[0].value = None),
        ("policies[0].rules[0].http[0].headers[0].value", |w| {
            http(w).headers[0].value = Some(v1::header_match::Value::Prefix(String::new()));
        }),
    ];
    for (path, change) in cases {
        let mut message = workload();
        change(&mut message);
        if *path != "parts" {
            message.parts = parts::workload(&message);
        }
        assert_eq!(decode::workload(message).map_err(|e| e.path), Err((*path).to_owned()));
    }
}

fn source(message: &mut v1::Workload) -> &mut v1::WorkloadSource {
    match message.policies[0].rules[0].sources[0].source.as_mut().unwrap() {
        v1::source::Source::Workload(workload) => workload,
        v1::source::Source::Anyone(_) => panic!("the message above names a workload"),
    }
}

fn http(message: &mut v1::Workload) -> &mut v1::HttpMatch {
    &mut message.policies[0].rules[0].http[0]
}

#[test]
fn a_destination_that_is_not_whole_is_refused() {
    assert!(decode::destination(destination()).is_ok());
    let cases: &[(&str, Change<v1::Destination>)] = &[
        ("parts", |d| d.parts = 0),
        ("required_features", |d| d.required_features.push("mirror".into())),
        ("address", |d| d.address = None),
        ("address.ip", |d| d.address.as_mut().unwrap().ip.push(1)),
        ("address.port", |d| d.address.as_mut().unwrap().port = 0),
        ("kind", |d| d.kind = None),
        ("service.name", |d| service(d).name = None),
        ("service.name.port", |d| service(d).name.as_mut().unwrap().port = 0),
        ("service.protocol", |d| service(d).protocol = 6),
        ("service.routes", |d| service(d).routes.clear()),
        ("service.routes", |d| service(d).routes[0].matches.push(v1::HttpMatch::default())),
        ("service.routes[0].timeouts", |d| service(d).routes[0].timeouts = None),
        ("service.routes[0].timeouts.idle_ms", |d| {
            service(d).routes[0].timeouts.as_mut().unwrap().idle_ms = Some(0);
        }),
        ("service.routes[0].backends[0].backend", |d| service(d).routes[0].backends[0].backend = 1),
        ("service.routes[0].mirrors[0].backend", |d| service(d).routes[0].mirrors[0].backend = 1),
        ("service.routes[0].mirrors[0].percent", |d| service(d).routes[0].mirrors[0].percent = 0),
        ("service.routes[0].mirrors[0].percent", |d| service(d).routes[0].mirrors[0].percent = 101),
        ("service.backends[0].name.name", |d| {
            service(d).backends[0].name.as_mut().unwrap().name.clear();
        }),
        ("service.backends[0].endpoints[0].ip", |d| service(d).backends[0].endpoints[0].ip.clear()),
        ("service.backends[0].endpoints[0].port", |d| service(d).backends[0].endpoints[0].port = 0),
        ("service.backends[0].endpoints[0].identity", |d| {
            service(d).backends[0].endpoints[0].identity = "spiffe://cluster.local/ns/shop".into();
        }),
        ("pod.endpoint", |d| {
            let pod = v1::PodDestination { protocol: 1, ..v1::PodDestination::default() };
            d.kind = Some(v1::destination::Kind::Pod(pod));
        }),
    ];
    for (path, change) in cases {
        let mut message = destination();
        change(&mut message);
        if *path != "parts" {
            message.parts = parts::destination(&message);
        }
        assert_eq!(decode::destination(message).map_err(|e| e.path), Err((*path).to_owned()));
    }
}

#[test]
fn trust_that_is_not_whole_is_refused() {
    let roots = |trust_domain: &str, certificates: &[&[u8]]| v1::Roots {
        trust_domain: trust_domain.into(),
        certificates: certificates.iter().map(|c| c.to_vec()).collect(),
    };
    let good = || v1::Trust {
        epoch: 1,
        roots: vec![roots("cluster.local", &[b"x"])],
        signer: vec![7; 32],
        federated: vec![roots("other.org", &[b"y"])],
    };
    assert_eq!(decode::trust(good()).unwrap().roots.len(), 2);
    for (path, trust) in [
        ("roots", v1::Trust { roots: vec![], ..good() }),
        ("roots[0].trust_domain", v1::Trust { roots: vec![roots("", &[b"x"])], ..good() }),
        ("roots[0].certificates", v1::Trust { roots: vec![roots("a", &[])], ..good() }),
        ("roots[0].certificates", v1::Trust { roots: vec![roots("a", &[b"x", b""])], ..good() }),
        (
            "roots[1].trust_domain",
            v1::Trust { roots: vec![roots("a", &[b"x"]), roots("a", &[b"x"])], ..good() },
        ),
        ("federated[0].certificates", v1::Trust { federated: vec![roots("a", &[])], ..good() }),
        (
            "federated[0].trust_domain",
            v1::Trust { federated: vec![roots("cluster.local", &[b"x"])], ..good() },
        ),
        ("signer", v1::Trust { signer: vec![7; 31], ..good() }),
    ] {
        assert_eq!(decode::trust(trust).map_err(|e| e.path), Err(path.to_owned()));
    }
}

#[test]
fn an_error_reads_as_one_line() {
    let mut message = workload();
    message.policies[0].rules[0].ports = None;
    message.parts = parts::workload(&message);
    let error = decode::workload(message).unwrap_err().to_string();
    assert_eq!(error, "policies[0].rules[0].ports: is absent, or of a kind that this version does not know");
}
