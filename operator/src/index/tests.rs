//! The rules, each on a small world.

mod routing;

use std::time::Instant;

use byrnie_model::{
    Backend, Destination, InboundPolicy, Mirror, MtlsMode, ObjectName, Peer, Protocol, Request, Service,
    SpiffeId, WeightedBackend, Workload, evaluate,
};
use proptest::prelude::*;

use super::{
    World, destination,
    fixture::{apply, changes, pod, policy, service, slice, split, world},
    overridden, workload,
    world::{Change, Dependency},
};

fn at(world: &World, address: &str) -> destination::Snapshot {
    destination::destination(world, address.parse().unwrap())
}

fn called(world: &World, address: &str) -> Service {
    match at(world, address).destination {
        Destination::Service(service) => service,
        other => panic!("{address} is {other:?}"),
    }
}

fn of_pod(world: &World, name: &str) -> Workload {
    workload::workload(world, &ObjectName::new("shop", name)).unwrap().workload
}

fn shares(service: &Service) -> Vec<(&str, u32)> {
    let name = |share: &WeightedBackend| service.backends[share.backend].name.service.name.as_str();
    service.routes[0].backends.iter().map(|share| (name(share), share.weight)).collect()
}

fn addresses(backend: &Backend) -> Vec<String> {
    backend.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

/// Apex `pay` with two pods of its own, backends `v1` and `v2` with one each.
fn shop() -> String {
    [
        pod("pay-1", "pay", "10.1.0.1"),
        pod("pay-2", "pay", "10.1.0.2"),
        pod("v1-1", "v1", "10.1.1.1"),
        pod("v2-1", "v2", "10.1.2.1"),
        service("pay", "pay", "10.96.0.1"),
        service("v1", "v1", "10.96.0.2"),
        service("v2", "v2", "10.96.0.3"),
        slice("pay", &[("pay-1", "10.1.0.1", "ready"), ("pay-2", "10.1.0.2", "ready")]),
        slice("v1", &[("v1-1", "10.1.1.1", "ready")]),
        slice("v2", &[("v2-1", "10.1.2.1", "ready")]),
        "kind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}\n---\n".to_owned(),
    ]
    .concat()
}

#[test]
fn a_service_is_its_ready_endpoints_with_their_identities() {
    let service = called(&world(&shop()), "10.96.0.1:80");
    assert_eq!(service.name.to_string(), "shop/pay:80");
    assert_eq!(service.protocol, Protocol::Http1);
    assert_eq!(shares(&service), [("pay", 1)]);
    assert_eq!(addresses(&service.backends[0]), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    let endpoint = &service.backends[0].endpoints[0];
    assert_eq!(endpoint.identity.as_ref().unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/pay");
    assert_eq!((endpoint.pod_uid.as_str(), endpoint.pod_name.as_str()), ("uid-pay-1", "pay-1"));
    assert_eq!(endpoint.zone, "z1");
    assert_eq!(called(&world(&shop()), "10.96.0.1:9090").protocol, Protocol::Detect);
    assert_eq!(called(&world(&shop()), "[::ffff:10.96.0.1]:80").name.to_string(), "shop/pay:80");
}

#[test]
fn a_service_whose_nodes_were_not_heard_of_keeps_the_pods_that_were_well() {
    let say = |status: &str, gates: &str| {
        let pod = |name: &str, ip: &str| {
            let conditions = format!(
                "conditions: [{{type: Ready, status: 'False'}}, {{type: ContainersReady, status: '{status}'}}], podIPs"
            );
            pod(name, "pay", ip)
                .replace("podIPs", &conditions)
                .replace("nodeName: n1", &format!("nodeName: n1\n  readinessGates: {gates}"))
        };
        let down = slice("pay", &[("pay-1", "10.1.0.1", "down"), ("pay-2", "10.1.0.2", "down")]);
        let texts =
            [pod("pay-1", "10.1.0.1"), pod("pay-2", "10.1.0.2"), service("pay", "pay", "10.96.0.1"), down];
        addresses(&called(&world(&texts.concat()), "10.96.0.1:80").backends[0])
    };
    assert_eq!(say("True", "[]"), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert!(say("False", "[]").is_empty(), "they are not ready themselves");
    assert!(
        say("True", "[{conditionType: example.org/lb}]").is_empty(),
        "somebody else says that they are not"
    );
}

#[test]
fn who_gets_new_requests() {
    for (endpoints, expected) in [
        (&[("pay-1", "10.1.0.1", "ready"), ("pay-2", "10.1.0.2", "ending")][..], &["10.1.0.1:8080"][..]),
        (&[("pay-1", "10.1.0.1", "down"), ("pay-2", "10.1.0.2", "ending")], &["10.1.0.2:8080"]),
        (&[("pay-1", "10.1.0.1", "down")], &[]),
        // The pod is not known yet: whether it must prove who it is cannot be told.
        (&[("pay-9", "10.1.0.9", "ready"), ("pay-2", "10.1.0.2", "ready")], &["10.1.0.2:8080"]),
        // The same name, but another pod.
        (&[("pay-1", "10.1.0.1", "ready")], &["10.1.0.1:8080"]),
    ] {
        let mut world = world(&shop());
        apply(&mut world, &slice("pay", endpoints));
        assert_eq!(addresses(&called(&world, "10.96.0.1:80").backends[0]), expected, "{endpoints:?}");
    }
    let mut world = world(&shop());
    let reborn = pod("pay-1", "pay", "10.1.0.7").replace("uid: uid-pay-1", "uid: another");
    apply(&mut world, &reborn);
    assert_eq!(addresses(&called(&world, "10.96.0.1:80").backends[0]), ["10.1.0.2:8080"]);
}

#[test]
fn only_a_pod_with_our_label_and_our_container_has_an_identity() {
    let meshed = pod("pay-1", "pay", "10.1.0.1");
    for (pod, expected) in [
        (meshed.clone(), true),
        (meshed.replace(", byrnie.dev/injected: \"true\"", ""), false),
        (meshed.replace("\"true\"", "\"false\""), false),
        (meshed.replace("name: byrnie-proxy", "name: other"), false),
    ] {
        let mut world = world(&shop());
        apply(&mut world, &pod);
        let endpoint = &called(&world, "10.96.0.1:80").backends[0].endpoints[0];
        assert_eq!(endpoint.identity.is_some(), expected, "{pod}");
    }
}

#[test]
fn an_endpoint_without_a_pod_is_known_by_its_address() {
    let by_hand = slice("pay", &[("pay-1", "10.1.0.1", "ready"), ("pay-2", "192.0.2.1", "ready")])
        .replace(", targetRef: {kind: Pod, name: pay-1, uid: uid-pay-1}", "")
        .replace(", targetRef: {kind: Pod, name: pay-2, uid: uid-pay-2}", "");
    let mut world = world(&shop());
    apply(&mut world, &by_hand);
    let endpoints = called(&world, "10.96.0.1:80").backends[0].endpoints.clone();
    assert_eq!((endpoints[0].pod_name.as_str(), endpoints[0].identity.is_some()), ("pay-1", true));
    assert_eq!((endpoints[1].pod_name.as_str(), endpoints[1].identity.is_some()), ("", false));
}

#[test]
fn what_is_at_an_address() {
    let balanced = service("lb", "pay", "10.96.0.9") + "kind: x";
    let balanced = balanced.replace(
        "---\nkind: x",
        "status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 10.1.0.2}, {ip: 10.96.0.1}]}}\n---\n",
    );
    let hijack =
        service("hijack", "v1", "None").replace("spec:", "spec:\n  externalIPs: [198.51.100.1, 10.96.0.1]");
    let udp = "kind: Service\nmetadata: {namespace: shop, name: dns}\nspec: {clusterIPs: [10.96.0.53], ports: [{port: 53, protocol: UDP}]}\n---\n";
    let host = pod("host", "host", "192.0.2.9").replace("nodeName: n1", "hostNetwork: true");
    let done = pod("done", "done", "10.1.9.9").replace("phase: Running", "phase: Succeeded");
    let world = world(&[shop().as_str(), &balanced, &hijack, udp, &host, &done].concat());
    for (address, expected) in [
        ("10.96.0.1:80", "service pay"),
        ("10.96.0.1:81", "passthrough"),
        ("203.0.113.1:80", "service lb"),
        ("10.1.0.2:80", "pod pay-2"),
        ("10.1.0.1:8080", "pod pay-1"),
        ("10.1.0.1:12345", "pod pay-1"),
        ("10.1.0.1:14140", "passthrough"),
        ("10.1.0.1:14143", "passthrough"),
        ("10.1.0.1:14191", "passthrough"),
        ("198.51.100.1:80", "passthrough"),
        ("10.96.0.53:53", "passthrough"),
        ("192.0.2.9:80", "passthrough"),
        ("10.1.9.9:80", "passthrough"),
        ("8.8.8.8:53", "passthrough"),
        ("[2001:db8::1]:80", "passthrough"),
    ] {
        let found = match at(&world, address).destination {
            Destination::Service(service) => format!("service {}", service.name.service.name),
            Destination::Pod { endpoint, .. } => format!("pod {}", endpoint.pod_name),
            Destination::Passthrough => "passthrough".to_owned(),
        };
        assert_eq!(found, expected, "{address}");
    }
}

#[test]
fn the_proxys_own_ports_are_nobodys_endpoint() {
    let mut world = world(&shop());
    let change = slice("pay", &[("pay-1", "10.1.0.1", "ready")]).replace("port: 8080", "port: 14191");
    apply(&mut world, &change);
    assert_eq!(addresses(&called(&world, "10.96.0.1:80").backends[0]), [""; 0]);
}

#[test]
fn an_address_that_changes_hands_belongs_to_the_one_that_stays() {
    let leaving = pod("old", "pay", "10.1.7.7")
        .replace("  uid: uid-old", "  uid: uid-old\n  deletionTimestamp: 2026-01-02T00:00:00Z");
    let mut world = world(&leaving);
    let who = |world: &World| match at(world, "10.1.7.7:80").destination {
        Destination::Pod { endpoint, .. } => endpoint.pod_name,
        other => panic!("{other:?}"),
    };
    assert_eq!(who(&world), "old", "it still answers, and must still prove who it is");
    apply(&mut world, &pod("new", "web", "10.1.7.7"));
    assert_eq!(who(&world), "new");
    world.apply(Change::Pod(ObjectName::new("shop", "old"), None));
    assert_eq!(who(&world), "new");
    world.apply(Change::Pod(ObjectName::new("shop", "new"), None));
    assert_eq!(at(&world, "10.1.7.7:80").destination, Destination::Passthrough);
}

const NOBODY: &str = "authorization: {rules: [{sources: []}]}";

#[test]
fn a_policy_governs_the_pods_it_targets_on_their_ports() {
    let on_service = format!("{{targetRefs: [{{kind: Service, name: pay}}], {NOBODY}}}");
    let on_pods =
        format!("{{targetRefs: [{{kind: Pod, selector: {{matchLabels: {{app: v1}}}}}}], {NOBODY}}}");
    let one_port = service("pay", "pay", "10.96.0.1")
        .replace(", {name: admin, port: 9090, appProtocol: example.org/own}", "");
    let world = world(&(shop() + &one_port + &policy("s", 0, &on_service) + &policy("p", 0, &on_pods)));
    let somebody: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let passes = |pod: &str, port| {
        let inbound = of_pod(&world, pod).inbound;
        evaluate(&inbound, &Request { port, peer: Peer::Mesh(&somebody), http: None }).allowed()
    };
    assert!(!passes("pay-1", 8080), "the named target port");
    assert!(passes("pay-1", 9090), "not a port of the Service");
    assert!(!passes("v1-1", 8080) && !passes("v1-1", 1));
    assert!(passes("v2-1", 8080));
    let snapshot = workload::workload(&world, &ObjectName::new("shop", "pay-1")).unwrap();
    assert_eq!(snapshot.generations.iter().map(|g| g.uid.as_str()).collect::<Vec<_>>(), ["uid-s"]);
    assert_eq!(snapshot.workload.protocols, [(8080, Protocol::Http1)]);
    assert_eq!(workload::workload(&world, &ObjectName::new("shop", "none")), None);
}

#[test]
fn plaintext_is_refused_unless_the_nearest_word_admits_it() {
    use MtlsMode::{Permissive as P, Strict as S};
    let permissive =
        "kind: Namespace\nmetadata: {name: shop, annotations: {byrnie.dev/mtls: Permissive}}\n---\n";
    let odd = permissive.replace("Permissive", "permissive");
    let all = |mode: &str| format!("{{mtls: {{mode: {mode}}}}}");
    let on_service =
        |mode: &str| format!("{{targetRefs: [{{kind: Service, name: pay}}], mtls: {{mode: {mode}}}}}");
    let on_port = "{targetRefs: [{kind: Service, name: pay}], mtls: {mode: Strict, ports: [{port: 9090, mode: Permissive}]}}";
    for (name, yaml, expected) in [
        // Modes of the target ports 8080 and 9090 and of another port.
        ("nothing is said", String::new(), [S, S, S]),
        ("by the namespace", permissive.to_owned(), [P, P, P]),
        ("not in these words", odd, [S, S, S]),
        ("by a policy", policy("a", 0, &all("Permissive")), [P, P, P]),
        (
            "a policy is nearer than an annotation",
            permissive.to_owned() + &policy("a", 0, &all("Strict")),
            [S, S, S],
        ),
        (
            "a Service is nearer",
            policy("a", 0, &all("Strict")) + &policy("b", 1, &on_service("Permissive")),
            [P, P, S],
        ),
        (
            "and says nothing of other ports",
            permissive.to_owned() + &policy("a", 0, &all("Strict")) + &policy("b", 1, &on_service("Strict")),
            [S, S, S],
        ),
        ("a port is nearest", policy("a", 0, &on_service("Strict")) + &policy("b", 1, on_port), [S, P, S]),
        ("the oldest", policy("b", 1, &all("Strict")) + &policy("a", 2, &all("Permissive")), [S, S, S]),
        (
            "the first by name",
            policy("b", 1, &all("Strict")) + &policy("a", 1, &all("Permissive")),
            [P, P, P],
        ),
        ("traffic says nothing of it", policy("a", 1, "{traffic: {timeouts: {request: 1s}}}"), [S, S, S]),
    ] {
        let world = world(&(shop() + &yaml));
        let mtls = of_pod(&world, "pay-1").inbound.mtls;
        assert_eq!([mtls.mode(8080), mtls.mode(9090), mtls.mode(1)], expected, "{name}");
    }
}

#[test]
fn the_loser_is_told_by_whom_and_why() {
    let service = "{targetRefs: [{kind: Service, name: pay}], mtls: {mode: Strict}}";
    let yaml = shop()
        + &policy("all", 0, "{mtls: {mode: Permissive}}")
        + &policy("first", 1, service)
        + &policy("second", 2, service)
        + &policy("pods", 3, "{targetRefs: [{kind: Pod, selector: {}}], mtls: {mode: Strict}}");
    let found = overridden(&world(&yaml), "shop");
    let told = |name: &str| {
        let list = found.get(name).into_iter().flatten();
        list.map(|o| (o.section, o.by.name.as_str(), o.conflicted)).collect::<Vec<_>>()
    };
    assert_eq!(told("second"), [("mtls", "first", true)]);
    assert_eq!(told("all"), [("mtls", "first", false), ("mtls", "pods", false)], "on one pod and on another");
    assert_eq!(told("first"), []);
}

#[test]
fn a_change_touches_only_what_depends_on_it() {
    let mut world = world(&shop());
    let name = |name: &str| ObjectName::new("shop", name);
    let before = changes(&slice("pay", &[("pay-1", "10.1.0.1", "ready"), ("pay-2", "10.1.0.2", "ready")]));
    assert!(before.into_iter().all(|change| world.apply(change).is_empty()), "nothing new");
    let mut apply =
        |yaml: &str| changes(yaml).into_iter().flat_map(|change| world.apply(change)).collect::<Vec<_>>();
    let endpoints = apply(&slice("pay", &[("pay-1", "10.1.0.1", "ready")]));
    assert_eq!(endpoints, [Dependency::Endpoints(name("pay"))]);
    let labelled = apply(&pod("v1-1", "v1", "10.1.1.1").replace("app: v1", "more: x, app: v1"));
    assert_eq!(
        labelled,
        [
            Dependency::Endpoints(name("v1")),
            Dependency::Address("10.1.1.1".parse().unwrap()),
            Dependency::Address("10.1.1.1".parse().unwrap()),
            Dependency::Pod(name("v1-1"))
        ]
    );
    assert_eq!(apply(&policy("p", 0, "{mtls: {mode: Strict}}")), [Dependency::Governance("shop".into())]);
    let traffic = apply(&policy("t", 0, "{traffic: {timeouts: {idle: 1s}}}"));
    assert_eq!(traffic, [Dependency::Governance("shop".into()), Dependency::Routing("shop".into())]);
    assert_eq!(world.apply(Change::Policy(name("p"), None)), [Dependency::Governance("shop".into())]);
    assert_eq!(world.apply(Change::Policy(name("p"), None)), []);
    assert_eq!(world.apply(Change::Slice(name("v2-abc"), None)), [Dependency::Endpoints(name("v2"))]);
}

/// Sources, rules and targets that a policy may have, some of them not understood.
fn any_policy() -> impl Strategy<Value = String> {
    let source = prop_oneof![
        Just("{anyone: true}"),
        Just("{serviceAccount: {namespace: shop, name: web}}"),
        Just("{serviceAccount: {namespace: shop, name: '*'}}"),
        Just("{serviceAccount: {namespace: other, name: web}}"),
        Just("{serviceAcount: {namespace: shop, name: web}}"),
        Just("{anyone: false}"),
        Just("{serviceAccount: {namespace: '*', name: web}}"),
    ];
    let ports =
        prop_oneof![Just(""), Just(", ports: [8080]"), Just(", ports: [9090, 1]"), Just(", ports: [x]")];
    let rule = (prop::collection::vec(source, 0..3), ports)
        .prop_map(|(sources, ports)| format!("{{sources: [{}]{ports}}}", sources.join(", ")));
    let target = prop_oneof![
        Just(""),
        Just("targetRefs: [{kind: Service, name: pay}], "),
        Just("targetRefs: [{kind: Pod, selector: {matchLabels: {app: pay}}}], "),
        Just("targetRefs: [{kind: Pod, selector: {matchLabels: {app: web}}}], "),
        Just("targetRefs: [{kind: Gateway, name: x}], "),
        Just("unknown: 1, "),
    ];
    let action = prop_oneof![Just("Allow"), Just("Deny"), Just("Perhaps")];
    (target, action, prop::collection::vec(rule, 0..3)).prop_map(|(target, action, rules)| {
        format!("{{{target}authorization: {{action: {action}, rules: [{}]}}}}", rules.join(", "))
    })
}

fn allowed(inbound: &InboundPolicy, port: u16, who: &SpiffeId) -> bool {
    evaluate(inbound, &Request { port, peer: Peer::Mesh(who), http: None }).allowed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is there: one policy more allows nothing that no rule of its own allows; and where it is not
    /// understood, nothing at all.
    #[test]
    fn a_policy_more_never_widens_beyond_its_own_rules(
        before in prop::collection::vec(any_policy(), 0..3),
        more in any_policy(),
    ) {
        let yaml: String = before.iter().enumerate().map(|(i, spec)| policy(&format!("p{i}"), 0, spec)).collect();
        let added = policy("more", 1, &more);
        let base = pod("pay-1", "pay", "10.1.0.1") + &service("pay", "pay", "10.96.0.1");
        let (without, with) = (world(&(base.clone() + &yaml)), world(&(base.clone() + &yaml + &added)));
        let alone = world(&(base + &added));
        let understood = with.space("shop").unwrap().policies["more"].candidate.compiled.accepted();
        let (without, with, alone) =
            (of_pod(&without, "pay-1").inbound, of_pod(&with, "pay-1").inbound, of_pod(&alone, "pay-1").inbound);
        for who in ["shop/sa/web", "shop/sa/x", "other/sa/web", "other/sa/x"] {
            let who: SpiffeId = format!("spiffe://cluster.local/ns/{who}").parse().unwrap();
            for port in [8080, 9090, 1] {
                let now = allowed(&with, port, &who);
                if now && !allowed(&without, port, &who) {
                    prop_assert!(understood, "a policy that is not understood let {who} in at {port}");
                    prop_assert!(allowed(&alone, port, &who), "no rule of it allows {who} at {port}");
                    prop_assert!(more.contains("Allow"), "a Deny let {who} in at {port}");
                }
            }
        }
    }
}

#[test]
fn how_long_it_takes_in_a_large_cluster() {
    let mut world = world("");
    let Change::Pod(_, Some(one)) = changes(&pod("x", "x", "10.0.0.1")).remove(0) else { panic!("no pod") };
    for s in 0..1000_u32 {
        let (app, net) = (format!("a{s}"), format!("{}.{}", s / 250, s % 250 + 1));
        let mut endpoints = Vec::new();
        for i in 0..10 {
            let (name, ip) = (format!("{app}-{i}"), format!("10.{net}.{i}"));
            let mut pod = super::facts::Pod { uid: format!("uid-{name}"), ..one.clone() };
            pod.labels.insert("app".into(), app.clone());
            pod.addresses = vec![ip.parse().unwrap()];
            world.apply(Change::Pod(ObjectName::new("shop", &name), Some(pod)));
            endpoints.push((name, ip));
        }
        let endpoints: Vec<_> =
            endpoints.iter().map(|(pod, ip)| (pod.as_str(), ip.as_str(), "ready")).collect();
        let yaml = service(&app, &app, &format!("172.16.{net}")) + &slice(&app, &endpoints);
        apply(&mut world, &yaml);
    }
    let mut apply = |yaml: &str| apply(&mut world, yaml);
    for p in 0..100 {
        let spec = format!("{{targetRefs: [{{kind: Service, name: a{p}}}], {NOBODY}}}");
        apply(&policy(&format!("p{p}"), 0, &spec));
    }
    let (pod, rounds) = (ObjectName::new("shop", "a50-0"), 20);
    let began = Instant::now();
    (0..rounds).for_each(|_| assert!(workload::workload(&world, &pod).is_some()));
    println!(
        "1,000 Services, 10,000 endpoints, 100 policies in one namespace: one workload: {:?}",
        began.elapsed() / rounds
    );
    let began = Instant::now();
    (0..rounds).for_each(|_| assert_eq!(called(&world, "172.16.0.51:80").backends[0].endpoints.len(), 10));
    println!("the same: one destination: {:?}", began.elapsed() / rounds);
    let [up, down] = ["ready", "down"].map(|how| slice("a50", &[("a50-0", "10.0.51.0", how)]));
    let began = Instant::now();
    for yaml in [&down, &up, &down, &up] {
        let change = changes(yaml).remove(0);
        assert_eq!(world.apply(change).len(), 1);
    }
    println!("the same: one endpoint change, reading YAML included: {:?}", began.elapsed() / 4);
}
