//! The kinds from the outside: what is admitted, what it compiles to, and that nothing gets lost or wider.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests; the exception for tests does not reach helpers"
)]

mod admission;
mod conversion;
mod faults;
mod files;
mod refusal;
mod rules;
mod smi;

use serde_json::{Value, json};

/// A policy that uses every field there is.
fn policy() -> Value {
    json!({
        "apiVersion": "byrnie.dev/v1alpha1",
        "kind": "MeshPolicy",
        "metadata": {"name": "payments", "namespace": "shop"},
        "spec": {
            "targetRefs": [
                {"group": "", "kind": "Service", "name": "payments"},
                {"kind": "Pod", "selector": {
                    "matchLabels": {"app": "payments"},
                    "matchExpressions": [{"key": "tier", "operator": "In", "values": ["web", "api"]}],
                }},
            ],
            "mtls": {"mode": "Strict", "ports": [{"port": 9090, "mode": "Permissive"}]},
            "authorization": {
                "action": "Allow",
                "enforcement": "Enforced",
                "rules": [
                    {
                        "name": "checkout",
                        "sources": [{"serviceAccount": {"namespace": "shop", "name": "checkout"}}],
                        "ports": [8080],
                        "http": [{
                            "methods": ["POST"],
                            "path": {"type": "PathPrefix", "value": "/charge"},
                            "hosts": ["payments.shop", "*.example.org"],
                            "headers": [
                                {"name": "X-Team", "type": "Exact", "value": "blue"},
                                {"name": "traceparent", "type": "Present"},
                            ],
                        }],
                    },
                    {"sources": [{"anyone": true}], "ports": [9090]},
                ],
            },
            "traffic": {
                "timeouts": {"request": "10s", "idle": "5m"},
                "protocols": [{"port": 3306, "protocol": "Opaque"}],
            },
        },
    })
}

fn split() -> Value {
    json!({
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "service": "web",
            "backends": [{"service": "web-v1", "weight": 90}, {"service": "web-v2.shop.svc", "weight": 10}],
        },
    })
}

fn trust() -> Value {
    json!({
        "apiVersion": "byrnie.dev/v1alpha1",
        "kind": "MeshTrust",
        "metadata": {"name": "default"},
        "spec": {
            "trustDomain": "cluster.local",
            "leafLifetime": "24h",
            "rootLifetime": "8760h",
            "source": {"selfManaged": {}},
        },
    })
}

/// All problems of an object, each in a line.
fn problems(object: &Value) -> Vec<String> {
    byrnie_crds::validate(object).problems.iter().map(ToString::to_string).collect()
}

/// Puts a value at a JSON pointer (the last step may be new), or removes what is there.
fn edit(mut object: Value, pointer: &str, value: Option<Value>) -> Value {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
    match (parent, value) {
        (Value::Object(fields), Some(value)) => drop(fields.insert(last.into(), value)),
        (Value::Object(fields), None) => drop(fields.remove(last).unwrap_or_else(|| panic!("no {pointer}"))),
        (Value::Array(items), Some(value)) => {
            let at: usize = last.parse().unwrap();
            items.splice(at..items.len().min(at + 1), [value]);
        }
        (Value::Array(items), None) => drop(items.remove(last.parse().unwrap())),
        _ => panic!("{pointer} is in no object"),
    }
    object
}
