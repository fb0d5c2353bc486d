//! Splits, and what a policy's `traffic` does to calls.

use super::*;

#[test]
fn a_split_divides_calls_among_backends_with_the_same_port() {
    let two = "{service: pay, backends: [{service: v1, weight: 90}, {service: v2, weight: 10}]}";
    let world = world(&(shop() + &split("canary", 1, two)));
    let snapshot = at(&world, "10.96.0.1:80");
    let service = called(&world, "10.96.0.1:80");
    assert_eq!(shares(&service), [("v1", 90), ("v2", 10)]);
    assert_eq!(addresses(&service.backends[0]), ["10.1.1.1:8080"]);
    assert_eq!((snapshot.generations.len(), snapshot.generations[0].uid.as_str()), (1, "uid-canary"));
    assert_eq!(shares(&called(&world, "10.96.0.2:80")), [("v1", 1)], "a backend called by name is not split");
}

#[test]
fn what_becomes_of_splits() {
    let all = |spec: &str| spec.to_owned();
    for (splits, expected) in [
        // Itself as a backend: its own endpoints, no recursion.
        (
            vec![(1, all("{service: pay, backends: [{service: pay, weight: 1}, {service: v1, weight: 1}]}"))],
            vec![("pay", 1), ("v1", 1)],
        ),
        // A backend that does not exist takes no part.
        (
            vec![(
                1,
                all("{service: pay, backends: [{service: gone, weight: 1}, {service: v1, weight: 3}]}"),
            )],
            vec![("v1", 3)],
        ),
        // All weights 0, or nobody left: no candidate, and so 503.
        (vec![(1, all("{service: pay, backends: [{service: v1, weight: 0}]}"))], vec![("v1", 0)]),
        (vec![(1, all("{service: pay, backends: [{service: gone, weight: 1}]}"))], vec![]),
        // Full names mean the same.
        (
            vec![(1, all("{service: pay.shop.svc.cluster.local, backends: [{service: v1, weight: 1}]}"))],
            vec![("v1", 1)],
        ),
        // Another namespace's Service is not to be had; not understood is as if it were not there.
        (vec![(1, all("{service: pay, backends: [{service: v1.other, weight: 1}]}"))], vec![("pay", 1)]),
        (
            vec![(
                1,
                all(
                    "{service: pay, backends: [{service: v1, weight: 1}], matches: [{kind: HTTPRouteGroup, name: g}]}",
                ),
            )],
            vec![("pay", 1)],
        ),
        // The oldest is in charge, whatever its name.
        (
            vec![
                (2, all("{service: pay, backends: [{service: v1, weight: 1}]}")),
                (1, all("{service: pay, backends: [{service: v2, weight: 1}]}")),
            ],
            vec![("v2", 1)],
        ),
        // Of the same age: the first by name.
        (
            vec![
                (1, all("{service: pay, backends: [{service: v1, weight: 1}]}")),
                (1, all("{service: pay, backends: [{service: v2, weight: 1}]}")),
            ],
            vec![("v1", 1)],
        ),
        // An older one that is not understood stands in nobody's way.
        (
            vec![
                (2, all("{service: pay, backends: [{service: v1, weight: 1}]}")),
                (1, all("{service: pay, backends: [{service: v2, weight: 1, wieght: 2}]}")),
            ],
            vec![("v1", 1)],
        ),
    ] {
        let yaml: String =
            splits.iter().enumerate().map(|(i, (age, spec))| split(&format!("s{i}"), *age, spec)).collect();
        let world = world(&(shop() + &yaml));
        assert_eq!(shares(&called(&world, "10.96.0.1:80")), expected, "{splits:?}");
    }
}

#[test]
fn a_backend_takes_part_by_port_number_and_resolves_its_own_target() {
    let odd = service("v1", "v1", "10.96.0.2")
        .replace("port: 80, targetPort: http", "port: 8080, targetPort: http");
    let elsewhere = slice("v2", &[("v2-1", "10.1.2.1", "ready")]).replace("port: 8080", "port: 3000");
    let two = "{service: pay, backends: [{service: v1, weight: 90}, {service: v2, weight: 10}]}";
    let world = world(&(shop() + &odd + &elsewhere + &split("canary", 1, two)));
    let service = called(&world, "10.96.0.1:80");
    assert_eq!(shares(&service), [("v2", 10)]);
    assert_eq!(addresses(&service.backends[0]), ["10.1.2.1:3000"]);
    assert_eq!(shares(&called(&world, "10.96.0.1:9090")), [("v1", 90), ("v2", 10)]);
}

#[test]
fn a_backend_without_endpoints_is_there_without_them() {
    let two = "{service: pay, backends: [{service: v1, weight: 100}, {service: v2, weight: 0}]}";
    let idle = slice("v2", &[]);
    let world = world(&(shop() + &idle + &split("canary", 1, two)));
    let service = called(&world, "10.96.0.1:80");
    assert_eq!(shares(&service), [("v1", 100), ("v2", 0)]);
    assert!(service.backends[1].endpoints.is_empty());
}

#[test]
fn traffic_of_the_policy_in_charge_goes_with_calls() {
    let slow = "{traffic: {timeouts: {request: 60s}}}";
    let fast = "{targetRefs: [{kind: Service, name: pay}], traffic: {timeouts: {request: 1s}, retry: {attempts: 3}, limits: {concurrency: Adaptive}, protocols: [{port: 8080, protocol: HTTP2}]}}";
    let faster = "{targetRefs: [{kind: Service, name: pay}], traffic: {timeouts: {request: 2s}}}";
    let other = "{targetRefs: [{kind: Service, name: v1}], traffic: {timeouts: {idle: 3s}}}";
    let yaml = shop()
        + &policy("slow", 0, slow)
        + &policy("fast", 1, fast)
        + &policy("faster", 2, faster)
        + &policy("other", 0, other);
    let world = world(&yaml);
    let service = called(&world, "10.96.0.1:80");
    assert_eq!(service.routes[0].timeouts.request.unwrap().as_secs(), 1);
    assert_eq!(service.protocol, Protocol::Http2, "by the container port, though the Service names it");
    assert_eq!(service.traffic.retry.attempts, 3);
    assert!(of_pod(&world, "pay-1").limits.adaptive, "the limits are the pod's own");
    let generations = at(&world, "10.96.0.1:80").generations;
    let mut named: Vec<_> = generations.iter().map(|g| g.name.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, ["fast", "faster", "slow"]);
    match at(&world, "10.1.0.1:8080").destination {
        Destination::Pod { protocol, timeouts, traffic, .. } => {
            assert_eq!((protocol, timeouts.request.unwrap().as_secs()), (Protocol::Http2, 1));
            assert_eq!(traffic.retry.attempts, 3);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(called(&world, "10.96.0.3:80").routes[0].timeouts.request.unwrap().as_secs(), 60);
}

#[test]
fn others_serve_where_a_policy_says_so_if_they_have_the_port() {
    let failover =
        "{targetRefs: [{kind: Service, name: pay}], traffic: {failover: [{service: nobody}, {service: v1}]}}";
    let world = world(&(shop() + &policy("spare", 0, failover)));
    let service = called(&world, "10.96.0.1:80");
    assert_eq!(shares(&service), [("pay", 1)]);
    assert_eq!(service.routes[0].failover, [1]);
    assert_eq!(service.backends[1].name.to_string(), "shop/v1:80");
    assert!(!service.backends[1].endpoints.is_empty());
}

#[test]
fn weights_are_the_pods_and_zones_their_nodes() {
    let near = |world: &World| called(world, "10.96.0.1:80").traffic.prefer_zone;
    let weighed = |text: &str| {
        let pod = pod("pay-1", "pay", "10.1.0.1")
            .replace("metadata:", &format!("metadata:\n  annotations: {{byrnie.dev/weight: '{text}'}}"));
        let world = world(&(shop() + &pod));
        called(&world, "10.96.0.1:80").backends[0].endpoints.iter().map(|e| e.weight).collect::<Vec<_>>()
    };
    assert_eq!(weighed("30"), [30, 1]);
    assert_eq!(weighed("0"), [1, 1]);
    assert_eq!(weighed("many"), [1, 1]);
    let plain = world(&shop());
    assert_eq!(of_pod(&plain, "pay-1").zone, "z1");
    assert!(!near(&plain));
    for (said, expected) in
        [("PreferSameZone", true), ("PreferClose", true), ("PreferSameNode", true), ("Elsewhere", false)]
    {
        let wished = service("pay", "pay", "10.96.0.1")
            .replace("spec:", &format!("spec:\n  trafficDistribution: {said}"));
        assert_eq!(near(&world(&(shop() + &wished))), expected, "{said}");
        let otherwise = if expected { "Ignore" } else { "Prefer" };
        let policy = policy("near", 0, &format!("{{traffic: {{loadBalancing: {{zone: {otherwise}}}}}}}"));
        assert_eq!(near(&world(&(shop() + &wished + &policy))), !expected, "a policy has the last word");
    }
}

#[test]
fn copies_go_where_a_policy_says_so_but_never_back_to_the_called() {
    let mirrors = "{traffic: {mirrors: [{service: nobody}, {service: pay}, {service: v1, percent: 10}]}}";
    let world = world(&(shop() + &policy("trial", 0, mirrors)));
    let service = called(&world, "10.96.0.1:80");
    assert_eq!(shares(&service), [("pay", 1)]);
    assert_eq!(service.routes[0].mirrors, [Mirror { backend: 1, percent: 10 }]);
    assert_eq!(service.backends[1].name.to_string(), "shop/v1:80");
    assert!(!service.backends[1].endpoints.is_empty());
}
