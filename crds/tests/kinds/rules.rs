//! The CRDs' own rules (CEL), evaluated as the API server does: each has a case that passes and one that does not.

use byrnie_crds::manifest;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::{Validator, compile_schema};
use serde_json::{Value, json};

use crate::{edit, policy, problems, split, trust};

fn schemas(crd: CustomResourceDefinition) -> Vec<Value> {
    let versions = crd.spec.versions.into_iter();
    versions.map(|v| serde_json::to_value(v.schema.unwrap().open_api_v3_schema.unwrap()).unwrap()).collect()
}

fn broken_rules(crd: CustomResourceDefinition, object: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schemas(crd).pop().unwrap();
    let outcome = Validator::new().validate_with_defaults(&schema, object, old);
    outcome.err().map(|errors| errors.into_vec().into_iter().map(|e| e.message).collect()).unwrap_or_default()
}

#[test]
fn all_rules_compile() {
    let mut rules = 0;
    for crd in [manifest::mesh_policy(), manifest::mesh_trust(), manifest::traffic_split()] {
        for schema in schemas(crd) {
            rules += schema.to_string().matches("\"rule\"").count();
            let errors = format!("{:?}", every_error(&schema));
            assert_eq!(errors, "[]");
        }
    }
    assert!(rules >= 14, "{rules}");
}

fn every_error(schema: &Value) -> Vec<String> {
    let mut found: Vec<String> =
        compile_schema(schema).compilation_errors().iter().map(ToString::to_string).collect();
    let children = schema["properties"].as_object().into_iter().flat_map(|p| p.values());
    children.chain(schema.get("items")).for_each(|child| found.extend(every_error(child)));
    found
}

#[test]
fn good_objects_break_no_rule() {
    assert_eq!(broken_rules(manifest::mesh_policy(), &policy(), None), [""; 0]);
    assert_eq!(broken_rules(manifest::mesh_trust(), &trust(), Some(&trust())), [""; 0]);
    assert_eq!(broken_rules(manifest::traffic_split(), &split(), None), [""; 0]);
}

#[test]
fn every_rule_of_a_policy_bites() {
    let operator = "/spec/targetRefs/1/selector/matchExpressions/0";
    for (pointer, value, message) in [
        (
            "/spec",
            json!({"targetRefs": [{"kind": "Service", "name": "x"}]}),
            "at least one of mtls, authorization and traffic is needed",
        ),
        (
            "/spec/targetRefs/0/kind",
            json!("HTTPRoute"),
            "kind must be Service or Pod; HTTPRoute and other kinds are not supported yet",
        ),
        ("/spec/targetRefs/0/group", json!("apps"), "group must be empty: Service and Pod are core kinds"),
        ("/spec/targetRefs/0", json!({"kind": "Service"}), "a Service is targeted by name, without selector"),
        ("/spec/targetRefs/0/selector", json!({}), "a Service is targeted by name, without selector"),
        ("/spec/targetRefs/1", json!({"kind": "Pod"}), "Pods are targeted by selector, without name"),
        ("/spec/targetRefs/1/name", json!("x"), "Pods are targeted by selector, without name"),
        (
            operator,
            json!({"key": "a", "operator": "In"}),
            "In and NotIn need values; Exists and DoesNotExist have none",
        ),
        (
            operator,
            json!({"key": "a", "operator": "Exists", "values": ["x"]}),
            "In and NotIn need values; Exists and DoesNotExist have none",
        ),
        (
            "/spec/authorization",
            json!({"action": "Deny", "rules": []}),
            "a Deny without rules denies nothing",
        ),
        (
            "/spec/authorization/rules/0/sources/0",
            json!({}),
            "a source is exactly one of serviceAccount and anyone",
        ),
        (
            "/spec/authorization/rules/0/sources/0/anyone",
            json!(true),
            "a source is exactly one of serviceAccount and anyone",
        ),
        (
            "/spec/authorization/rules/0/http/0/headers/0",
            json!({"name": "x"}),
            "Exact and Prefix need a value; Present has none",
        ),
        (
            "/spec/authorization/rules/0/http/0/headers/1/value",
            json!("x"),
            "Exact and Prefix need a value; Present has none",
        ),
        (
            "/spec/traffic",
            json!({}),
            "at least one of timeouts, retry, retryBudget, circuitBreaker, loadBalancing, limits, failover, overrides, mirrors, faults and protocols is needed",
        ),
        ("/spec/traffic", json!({"faults": {}}), "at least one of delay and abort is needed"),
        (
            "/spec/traffic",
            json!({"loadBalancing": {"algorithm": "ConsistentHash"}}),
            "ConsistentHash has a hash, the others have none",
        ),
        (
            "/spec/traffic",
            json!({"loadBalancing": {"algorithm": "ConsistentHash", "hash": {}}}),
            "a hash is exactly one of header, cookie and source",
        ),
    ] {
        let object = edit(policy(), pointer, Some(value));
        assert_eq!(broken_rules(manifest::mesh_policy(), &object, None), [message], "{pointer}");
        assert_eq!(problems(&object).len(), 1, "the webhook agrees about {pointer}");
    }
}

#[test]
fn every_rule_of_a_trust_bites() {
    for (pointer, value, message) in [
        ("/spec/leafLifetime", json!("59s"), "leafLifetime must be 1m to 168h"),
        ("/spec/leafLifetime", json!("168h1ms"), "leafLifetime must be 1m to 168h"),
        ("/spec/rootLifetime", json!("47h59m"), "rootLifetime must be at least twice leafLifetime"),
        (
            "/spec/source",
            json!({"selfManaged": {}, "secret": {"name": "x"}}),
            "the source is exactly one of selfManaged and secret",
        ),
        ("/spec/source", json!({}), "the source is exactly one of selfManaged and secret"),
        (
            "/spec/federation",
            json!([{"trustDomain": "cluster.local", "roots": "-----BEGIN CERTIFICATE-----"}]),
            "federation is with other trust domains; this one is the mesh's own",
        ),
    ] {
        let object = edit(trust(), pointer, Some(value));
        assert_eq!(broken_rules(manifest::mesh_trust(), &object, None), [message], "{pointer}");
        assert_eq!(problems(&object).len(), 1, "the webhook agrees about {pointer}");
    }
    let external = edit(trust(), "/spec/source", Some(json!({"secret": {"name": "x"}})));
    let message = "rotation and compromised are for selfManaged roots; one from a Secret is rotated by whoever makes it";
    for (pointer, value) in
        [("/spec/rotation", json!({"request": "now"})), ("/spec/compromised", json!(["0".repeat(64)]))]
    {
        let object = edit(external.clone(), pointer, Some(value.clone()));
        assert_eq!(broken_rules(manifest::mesh_trust(), &object, None), [message], "{pointer}");
        assert_eq!(problems(&object).len(), 1, "the webhook agrees about {pointer}");
        let object = edit(trust(), pointer, Some(value));
        assert_eq!(broken_rules(manifest::mesh_trust(), &object, None), [""; 0], "{pointer}");
        assert_eq!(problems(&object), [""; 0], "{pointer}");
    }
    let moved = edit(trust(), "/spec/trustDomain", Some(json!("example.org")));
    let message = "the trust domain cannot change: every identity contains it";
    assert_eq!(broken_rules(manifest::mesh_trust(), &moved, Some(&trust())), [message]);
    assert_eq!(broken_rules(manifest::mesh_trust(), &moved, None), [""; 0]);
}

/// What the API server would do without bounds: refuse the CRD, since its rules could cost too much.
#[test]
fn every_list_and_string_of_a_spec_is_bounded() {
    fn unbounded(schema: &Value, path: &str, found: &mut Vec<String>) {
        let has = |key: &str| schema.get(key).is_some();
        match schema["type"].as_str() {
            Some("array") if !has("maxItems") => found.push(path.into()),
            Some("string") if !has("maxLength") && !has("enum") => found.push(path.into()),
            Some("object") if has("additionalProperties") && !has("maxProperties") => found.push(path.into()),
            Some("integer") if !has("maximum") => found.push(path.into()),
            _ => {}
        }
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            unbounded(child, &format!("{path}.{name}"), found);
        }
        for key in ["items", "additionalProperties"] {
            if let Some(child) = schema.get(key) {
                unbounded(child, &format!("{path}[]"), found);
            }
        }
    }
    let mut found = Vec::new();
    for crd in [manifest::mesh_policy(), manifest::mesh_trust(), manifest::traffic_split()] {
        for schema in schemas(crd) {
            unbounded(&schema["properties"]["spec"], "spec", &mut found);
        }
    }
    assert_eq!(found, [""; 0]);
}

/// The API server prunes unknown fields, and null where it is not allowed; both must reach the webhook.
#[test]
fn nothing_of_a_spec_is_pruned() {
    fn pruned(schema: &Value, path: &str, found: &mut Vec<String>) {
        let keeps = schema["x-kubernetes-preserve-unknown-fields"] == json!(true);
        if schema["type"] == "object" && !keeps && !schema["additionalProperties"].is_object() {
            found.push(path.into());
        }
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            let refused = required.contains(&json!(name)) || child.get("default").is_some();
            if !refused && child["nullable"] != json!(true) {
                found.push(format!("{path}.{name}: null"));
            }
            pruned(child, &format!("{path}.{name}"), found);
        }
        if let Some(child) = schema.get("items") {
            pruned(child, &format!("{path}[]"), found);
        }
    }
    let mut found = Vec::new();
    for crd in [manifest::mesh_policy(), manifest::mesh_trust(), manifest::traffic_split()] {
        for schema in schemas(crd) {
            pruned(&schema["properties"]["spec"], "spec", &mut found);
        }
    }
    assert_eq!(found, [""; 0]);
}
