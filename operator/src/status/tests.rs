//! Statuses of one small namespace: `shop`, with Service `payments` in front of two meshed pods.

use std::collections::BTreeMap;

use byrnie_api::v1::{PolicyGeneration, ProxyHolding, Refusal};
use byrnie_crds::{
    MeshPolicy, TrafficSplit,
    govern::{ServicePort, TargetPort},
    meshpolicy::{MeshPolicyStatus, ProxyCount},
    trafficsplit::TrafficSplitStatus,
};
use byrnie_model::{ObjectName, Protocol};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

use super::{digest::Digest, held::Held, meshpolicy, trafficsplit};
use crate::index::{
    World,
    facts::{Pod, Policy, Service, Slice, SliceEndpoint, Split},
    world::{Change, Space},
};

const DOMAIN: &str = "cluster.local";

fn at(seconds: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
}

fn pod(world: &mut World, name: &str, app: &str) {
    let pod = Pod {
        uid: format!("uid-{name}"),
        labels: BTreeMap::from([("app".into(), app.into())]),
        named_ports: Vec::new(),
        addresses: vec![format!("10.0.0.{}", name.len()).parse().unwrap()],
        identity: Some("spiffe://cluster.local/ns/shop/sa/payments".parse().unwrap()),
        service_account: "payments".into(),
        created: at(1).0,
        live: true,
        containers_ready: true,
        node: String::new(),
        weight: 1,
    };
    world.apply(Change::Pod(ObjectName::new("shop", name), Some(pod)));
}

fn service(world: &mut World, name: &str, port: u16, ready: bool) {
    let facts = Service {
        selector: BTreeMap::from([("app".into(), name.into())]),
        ports: vec![ServicePort { port, target: TargetPort::Number(8080), protocol: Protocol::Detect }],
        cluster_addresses: Vec::new(),
        balancer_addresses: Vec::new(),
        port_names: BTreeMap::new(),
        prefers_zone: false,
    };
    world.apply(Change::Service(ObjectName::new("shop", name), Some(facts)));
    let endpoint = SliceEndpoint {
        addresses: vec!["10.0.0.1".parse().unwrap()],
        pod: None,
        ready,
        serving: true,
        zone: String::new(),
    };
    let slice = Slice { service: name.into(), ports: BTreeMap::new(), endpoints: vec![endpoint] };
    world.apply(Change::Slice(ObjectName::new("shop", format!("{name}-x")), Some(slice)));
}

fn shop() -> World {
    let mut world = World::new(DOMAIN.parse().unwrap());
    pod(&mut world, "payments-1", "payments");
    pod(&mut world, "payments-22", "payments");
    pod(&mut world, "web", "web");
    service(&mut world, "payments", 80, true);
    world
}

fn policy(name: &str, created: i64, spec: &serde_json::Value) -> MeshPolicy {
    serde_json::from_value(json!({
        "apiVersion": "byrnie.dev/v1alpha1", "kind": "MeshPolicy", "spec": spec,
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "generation": 3,
                     "creationTimestamp": at(created)},
    }))
    .unwrap()
}

fn split(name: &str, created: i64, backends: &[(&str, u32)]) -> TrafficSplit {
    let backends: Vec<_> = backends.iter().map(|(s, w)| json!({"service": s, "weight": w})).collect();
    serde_json::from_value(json!({
        "apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit",
        "spec": {"service": "payments", "backends": backends},
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "generation": 3,
                     "creationTimestamp": at(created)},
    }))
    .unwrap()
}

fn to_payments() -> serde_json::Value {
    json!({
        "targetRefs": [{"kind": "Service", "name": "payments"}],
        "authorization": {"rules": [{"sources": [{"anyone": true}]}]},
    })
}

/// A proxy that has `object` in force at a generation.
fn holds(pod: &str, object: &str, generation: i64) -> ProxyHolding {
    ProxyHolding {
        pod_namespace: "shop".into(),
        pod_name: pod.into(),
        pod_uid: format!("uid-{pod}"),
        generations: vec![at_generation(object, generation)],
        ..ProxyHolding::default()
    }
}

fn at_generation(object: &str, generation: i64) -> PolicyGeneration {
    PolicyGeneration {
        namespace: "shop".into(),
        name: object.into(),
        generation,
        uid: format!("uid-{object}"),
    }
}

/// The status of a policy in a world with these policies, and these holdings.
fn judged(mut world: World, policies: &[&MeshPolicy], holdings: &[ProxyHolding]) -> MeshPolicyStatus {
    for policy in policies {
        let name = ObjectName::new("shop", policy.metadata.name.clone().unwrap());
        world.apply(Change::Policy(name, Some(Policy::read(policy, &world.trust_domain))));
    }
    let space = world.space("shop").unwrap();
    let digest = Digest::new(&world, "shop", space);
    meshpolicy::status(policies[0], &world.trust_domain, space, &digest, &Held::new(holdings), &at(100))
}

fn split_judged(mut world: World, splits: &[&TrafficSplit], holdings: &[ProxyHolding]) -> TrafficSplitStatus {
    for split in splits {
        let name = ObjectName::new("shop", split.metadata.name.clone().unwrap());
        world.apply(Change::Split(name, Some(Split::read(split))));
    }
    trafficsplit::status(splits[0], world.space("shop").unwrap(), &Held::new(holdings), &at(100))
}

/// `status reason: message`.
fn said(conditions: &[Condition], type_: &str) -> String {
    let condition = conditions.iter().find(|c| c.type_ == type_);
    condition.map_or_else(String::new, |c| format!("{} {}: {}", c.status, c.reason, c.message))
}

#[test]
fn a_policy_counts_the_proxies_that_have_it_in_force() {
    let policy = policy("p", 1, &to_payments());
    let mut unconnected = judged(shop(), &[&policy], &[holds("payments-1", "p", 3)]);
    assert_eq!(unconnected.proxies, Some(ProxyCount { programmed: 1, total: 2 }));
    assert_eq!(
        said(&unconnected.conditions, "Programmed"),
        "False Pending: in force at 1 of 2 proxies; not yet at shop/payments-22 (not connected)"
    );
    assert_eq!(unconnected.summary.take().unwrap().proxies, "1/2");

    let holdings = [holds("payments-1", "p", 3), holds("payments-22", "p", 2), holds("web", "other", 1)];
    let old = judged(shop(), &[&policy], &holdings);
    assert!(said(&old.conditions, "Programmed").ends_with("not yet at shop/payments-22"));

    let holdings = [holds("payments-1", "p", 3), holds("payments-22", "p", 3)];
    let all = judged(shop(), &[&policy], &holdings);
    assert_eq!(said(&all.conditions, "Programmed"), "True Programmed: in force at 2 of 2 proxies");
    assert!(said(&all.conditions, "Accepted").starts_with("True Accepted"));
    assert!(said(&all.conditions, "ResolvedRefs").starts_with("True ResolvedRefs"));
    assert!(all.conditions.iter().all(|c| c.observed_generation == Some(3)));
}

#[test]
fn callers_that_were_sent_it_count_too() {
    let policy = policy("p", 1, &to_payments());
    let mut web = holds("web", "p", 3);
    web.pending = std::mem::take(&mut web.generations);
    let holdings = [holds("payments-1", "p", 3), holds("payments-22", "p", 3), web];
    let status = judged(shop(), &[&policy], &holdings);
    assert_eq!(status.proxies, Some(ProxyCount { programmed: 2, total: 3 }));
    assert!(said(&status.conditions, "Programmed").ends_with("not yet at shop/web"));
}

#[test]
fn a_namesake_that_is_gone_proves_nothing() {
    let policy = policy("p", 1, &to_payments());
    let mut earlier = holds("payments-1", "p", 3);
    earlier.generations[0].uid = "uid-of-a-deleted-policy".into();
    let status = judged(shop(), &[&policy], &[earlier]);
    assert_eq!(status.proxies, Some(ProxyCount { programmed: 0, total: 2 }));
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let policy = policy("p", 1, &to_payments());
    let refusal =
        |generation| Refusal { policy: Some(at_generation("p", generation)), error: "parts lost".into() };
    let mut stubborn = holds("payments-1", "p", 2);
    stubborn.refusals = vec![refusal(3)];
    let status = judged(shop(), &[&policy], &[stubborn.clone(), holds("payments-22", "p", 3)]);
    assert_eq!(
        said(&status.conditions, "Programmed"),
        "False Refused: refused by 1 of 2 proxies: shop/payments-1: parts lost"
    );
    stubborn.refusals = vec![refusal(2)];
    let status = judged(shop(), &[&policy], &[stubborn, holds("payments-22", "p", 3)]);
    assert!(said(&status.conditions, "Programmed").starts_with("False Pending"), "of an earlier generation");
}

#[test]
fn what_is_wrong_with_a_policy_is_said() {
    let typo = json!({"authorization": {"rules": [{"sources": [{"anyone": true}], "prots": [80]}]}});
    let status = judged(shop(), &[&policy("p", 1, &typo)], &[]);
    assert_eq!(
        said(&status.conditions, "Accepted"),
        "False Invalid: spec.authorization.rules[0].prots: unknown field, did you mean ports?"
    );
    assert_eq!(status.proxies.unwrap().total, 3, "it refuses everything in the whole namespace meanwhile");

    let nowhere = json!({"targetRefs": [{"kind": "Service", "name": "paymets"}], "mtls": {"mode": "Strict"}});
    let status = judged(shop(), &[&policy("p", 1, &nowhere)], &[]);
    assert_eq!(
        said(&status.conditions, "ResolvedRefs"),
        "False TargetNotFound: there is no Service paymets in this namespace"
    );
    assert!(said(&status.conditions, "Programmed").starts_with("True NoProxies"));
}

#[test]
fn the_policy_that_another_takes_the_place_of_says_so() {
    let mtls = |mode: &str| json!({"mtls": {"mode": mode}});
    let (younger, older) = (policy("p", 2, &mtls("Permissive")), policy("first", 1, &mtls("Strict")));
    let status = judged(shop(), &[&younger, &older], &[]);
    assert_eq!(
        said(&status.conditions, "Overridden"),
        "True Conflicted: on some pods another policy decides mtls: mtls by shop/first"
    );
    let mut alone = younger;
    alone.status = Some(status);
    let status = judged(shop(), &[&alone], &[]);
    assert_eq!(said(&status.conditions, "Overridden"), "");
}

#[test]
fn times_move_only_when_a_status_flips() {
    let mut policy = policy("p", 1, &to_payments());
    let before = judged(shop(), &[&policy], &[]);
    policy.status = Some(before.clone());
    let same = judged(shop(), &[&policy], &[]);
    assert_eq!(before, same, "written once, compared as equal from then on");
    policy.status.as_mut().unwrap().conditions.iter_mut().for_each(|c| c.last_transition_time = at(50));
    let holdings = [holds("payments-1", "p", 3), holds("payments-22", "p", 3)];
    let flipped = judged(shop(), &[&policy], &holdings);
    let time = |type_: &str| {
        flipped.conditions.iter().find(|c| c.type_ == type_).unwrap().last_transition_time.clone()
    };
    assert_eq!((time("Accepted"), time("Programmed")), (at(50), at(100)));
}

#[test]
fn what_is_wrong_with_a_split_is_said() {
    let both = &[("payments", 90), ("v2", 10)];
    let world = |port, ready| {
        let mut world = shop();
        service(&mut world, "v2", port, ready);
        world
    };
    let resolved =
        |world, split: &TrafficSplit| said(&split_judged(world, &[split], &[]).conditions, "ResolvedRefs");
    let canary = split("canary", 1, both);
    assert!(resolved(world(80, true), &canary).starts_with("True ResolvedRefs"));
    assert!(resolved(world(80, false), &canary).starts_with("True NoEndpoints: v2 has no ready endpoint"));
    assert!(resolved(world(8080, true), &canary).starts_with("False PortNotFound: v2 has no port 80"));
    assert!(resolved(shop(), &canary).starts_with("False BackendNotFound: there is no Service v2"));
    let mut for_some = serde_json::to_value(&canary).unwrap();
    for_some["spec"]["matches"] = json!([{"kind": "HTTPRouteGroup", "name": "testers"}]);
    let for_some = serde_json::from_value(for_some).unwrap();
    assert!(
        resolved(world(80, true), &for_some)
            .starts_with("False HTTPRouteGroupNotSupported: HTTPRouteGroup testers")
    );
    let empty = World::new(DOMAIN.parse().unwrap());
    let status = trafficsplit::status(&canary, &Space::default(), &Held::new(&[]), &at(1));
    assert!(empty.space("shop").is_none() && !status.conditions.is_empty());

    let accepted =
        |splits: &[&TrafficSplit]| said(&split_judged(world(80, true), splits, &[]).conditions, "Accepted");
    assert!(accepted(&[&canary]).starts_with("True Accepted"));
    let late = split("late", 2, both);
    let conflict = "False Conflicted: Service payments is split by canary already, which is older";
    assert_eq!(accepted(&[&late, &canary]), conflict);
    assert!(accepted(&[&canary, &late]).starts_with("True Accepted"));
    assert!(accepted(&[&split("zero", 1, &[("payments", 0)])]).starts_with("True ZeroWeights"));
    assert!(accepted(&[&split("far", 1, &[("v2.other", 1)])]).starts_with("False Invalid"));
}

#[test]
fn a_split_counts_its_callers() {
    let canary = split("canary", 1, &[("payments", 1)]);
    let holdings = [holds("web", "canary", 3), holds("payments-1", "canary", 2)];
    let status = split_judged(shop(), &[&canary], &holdings);
    assert_eq!(status.proxies, Some(ProxyCount { programmed: 1, total: 2 }));
    assert_eq!(status.summary.unwrap().proxies, "1/2");
}

#[test]
fn the_bundle_is_counted_over_all_pods() {
    let world = shop();
    let digest = Digest::new(&world, "shop", world.space("shop").unwrap());
    let mut current = holds("web", "x", 1);
    current.trust_epoch = 9;
    let mut old = holds("payments-1", "x", 1);
    old.trust_epoch = 8;
    let progress = Held::new(&[current, old]).bundle(9, &digest.live);
    assert_eq!(progress.count, ProxyCount { programmed: 1, total: 3 });
    assert_eq!(progress.waiting, ["shop/payments-1", "shop/payments-22 (not connected)"]);
}
