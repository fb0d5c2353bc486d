//! Nothing unknown ever widens access: whatever is done to a policy, what is not understood denies.

use byrnie_crds::{MeshPolicy, compile};
use byrnie_model::{
    Action, Enforcement, HttpRequest, InboundPolicy, Mtls, ObjectName, Peer, Policy, Ports, Request, Rule,
    Source, SpiffeId, evaluate,
};
use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{edit, policy};

fn compiled(policy: Value) -> compile::Compiled {
    compile::mesh_policy(&serde_json::from_value(policy).unwrap(), &"cluster.local".parse().unwrap())
}

/// Whether anybody gets in, next to a policy that lets in everybody.
fn anybody_passes(compiled: &compile::Compiled) -> bool {
    let welcome = Policy {
        name: ObjectName::new("shop", "welcome"),
        action: Action::Allow,
        enforcement: Enforcement::Enforced,
        ports: Ports::All,
        rules: vec![Rule { sources: vec![Source::Anyone], ..Rule::default() }],
    };
    let policies = compiled.policy(Ports::All).into_iter().chain([welcome]).collect();
    let inbound = InboundPolicy { mtls: Mtls::default(), policies };
    let headers = HeaderMap::new();
    let checkout: SpiffeId = "spiffe://cluster.local/ns/shop/sa/checkout".parse().unwrap();
    let post = HttpRequest { method: "POST", path: "/charge", host: "payments.shop", headers: &headers };
    [None, Some(post)].into_iter().any(|http| {
        [8080, 9090, 1]
            .into_iter()
            .any(|port| evaluate(&inbound, &Request { port, peer: Peer::Mesh(&checkout), http }).allowed())
    })
}

/// Every object below the spec.
fn objects(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(pointer.to_owned());
            fields.iter().for_each(|(name, value)| objects(value, &format!("{pointer}/{name}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| objects(value, &format!("{pointer}/{i}"), found));
        }
        _ => {}
    }
}

fn open_objects(policy: &Value) -> Vec<String> {
    let mut found = Vec::new();
    objects(&policy["spec"], "/spec", &mut found);
    // The keys of matchLabels are labels; faults of traffic concern no access.
    found.retain(|p| !p.ends_with("/matchLabels") && !p.starts_with("/spec/traffic"));
    found
}

#[test]
fn the_policy_alone_lets_somebody_in() {
    assert!(anybody_passes(&compiled(policy())));
}

#[test]
fn a_fault_in_traffic_takes_nothing_from_access() {
    let odd = compiled(edit(policy(), "/spec/traffic/retry", Some(json!({"attempts": 11}))));
    assert!(!odd.accepted() && odd.traffic.is_none() && odd.mtls.is_some());
    assert_eq!(odd.policy(Ports::All), compiled(policy()).policy(Ports::All));
}

#[test]
fn targets_that_are_not_understood_are_the_whole_namespace() {
    let odd = compiled(edit(policy(), "/spec/targetRefs/0/kind", Some(json!("HTTPRoute"))));
    assert_eq!(odd.targets, compile::Targets::Namespace);
    assert!(!anybody_passes(&odd));
    let traffic =
        json!({"targetRefs": [{"kind": "HTTPRoute", "name": "x"}], "traffic": {"timeouts": {"idle": "1s"}}});
    let odd = compiled(edit(policy(), "/spec", Some(traffic)));
    assert_eq!((odd.targets.clone(), odd.policy(Ports::All)), (compile::Targets::Only(vec![]), None));
}

proptest! {
    #[test]
    fn an_unknown_key_anywhere_denies(place in any::<prop::sample::Index>(), key in "[a-zA-Z0-9_./-]{1,12}", value in json_value()) {
        let original = policy();
        let pointers = open_objects(&original);
        let pointer = &pointers[place.index(pointers.len())];
        let schema_knows = [
            "group", "kind", "name", "selector", "matchLabels", "matchExpressions", "key", "operator", "values", "mode",
            "ports", "port", "action", "enforcement", "rules", "sources", "serviceAccount", "anyone", "namespace",
            "http", "methods", "path", "hosts", "headers", "type", "value", "targetRefs", "mtls", "authorization",
            "traffic",
        ];
        prop_assume!(!schema_knows.contains(&key.as_str()));
        let key = key.replace('/', "~");
        let odd = compiled(edit(original, &format!("{pointer}/{key}"), Some(value)));
        prop_assert!(!odd.accepted());
        prop_assert!(!anybody_passes(&odd), "{pointer}/{key}");
    }

    #[test]
    fn anything_in_place_of_anything_compiles_or_denies(place in any::<prop::sample::Index>(), value in json_value()) {
        let original = policy();
        let pointers = open_objects(&original);
        let pointer = &pointers[1..][place.index(pointers.len() - 1)];
        let odd = compiled(edit(original, pointer, Some(value)));
        prop_assert!(odd.accepted() || !anybody_passes(&odd));
    }

    /// A list of policies that contains this one can still be read.
    #[test]
    fn reading_never_fails_and_loses_nothing(spec in prop::collection::btree_map("[a-z]{1,6}|mtls|authorization|targetRefs|traffic", json_value(), 0..5)) {
        let object = edit(policy(), "/spec", Some(json!(spec)));
        let read: MeshPolicy = serde_json::from_value(object.clone()).unwrap();
        if !compiled(object.clone()).accepted() {
            let written = serde_json::to_value(&read).unwrap();
            for (name, value) in &spec {
                prop_assert!(written["spec"].get(name).is_some(), "{name}: {value}");
            }
        }
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(|f| json!(f)),
        "[ -~]{0,8}".prop_map(Value::from),
        Just(json!("Allow")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}|sources|rules|http|anyone|ports", inner, 0..4)
                .prop_map(|m| json!(m)),
        ]
    })
}
