//! What is wrong with an object as it was written: for the webhook and for `byrnie check`.
//!
//! The same code as the operator's ([`crate::compile`]), so that what is admitted is what will be understood.

use byrnie_model::TrustDomain;
use kube::core::Resource;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    MeshPolicy, MeshTrust, TrafficSplit, compile, convert, names,
    problem::{Findings, Problem},
    shape,
};

const ROOT: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// All that can be said against a MeshPolicy, TrafficSplit (of any version) or MeshTrust.
///
/// Where a TrafficSplit has no `metadata.namespace` yet, its names may carry any.
pub fn validate(object: &Value) -> Findings {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or_default();
    let mut findings = match (group, text("kind")) {
        (names::GROUP, "MeshPolicy") => read(object, version, mesh_policy),
        (names::SPLIT_GROUP, "TrafficSplit") => traffic_split(object),
        (names::GROUP, "MeshTrust") => read(object, version, mesh_trust),
        (_, kind) => {
            let mut findings = Findings::default();
            let of = text("apiVersion");
            findings.problem(
                "",
                format!("{of} {kind:?} is not MeshPolicy, TrafficSplit or MeshTrust of a known group"),
            );
            return findings;
        }
    };
    let fields = object.as_object().into_iter().flat_map(|o| o.keys());
    for field in fields.filter(|f| !ROOT.contains(&f.as_str())).take(shape::ENOUGH) {
        findings.problem(field, shape::unknown_field(field, ROOT.into_iter()));
    }
    findings
}

fn mesh_policy(policy: &MeshPolicy) -> Findings {
    compile::mesh_policy(policy, &any_domain()).findings
}

fn mesh_trust(trust: &MeshTrust) -> Findings {
    Findings { problems: compile::mesh_trust(trust).err().unwrap_or_default(), warnings: Vec::new() }
}

fn traffic_split(object: &Value) -> Findings {
    match convert::convert(object.clone(), &format!("{}/v1alpha4", names::SPLIT_GROUP)) {
        Ok(object) => read(&object, "v1alpha4", |split: &TrafficSplit| match compile::traffic_split(split) {
            Ok(shares) => Findings { problems: Vec::new(), warnings: shares.warnings },
            Err(problems) => Findings { problems, warnings: Vec::new() },
        }),
        Err(error) => Findings { problems: vec![Problem::new("", error.to_string())], warnings: Vec::new() },
    }
}

fn read<K: DeserializeOwned + Resource<DynamicType = ()>>(
    object: &Value,
    version: &str,
    check: impl FnOnce(&K) -> Findings,
) -> Findings {
    let mut findings = Findings::default();
    if version != K::version(&()) {
        let message = format!("{version:?} is not served; {} is", K::version(&()));
        findings.problem("apiVersion", message);
        return findings;
    }
    if !object.get("spec").is_some_and(Value::is_object) {
        findings.problem("spec", "is required");
        return findings;
    }
    match K::deserialize(object) {
        Ok(object) => check(&object),
        Err(error) => {
            findings.problem("", error.to_string());
            findings
        }
    }
}

/// Whether a policy is well-formed does not depend on the trust domain.
fn any_domain() -> TrustDomain {
    names::DEFAULT_TRUST_DOMAIN.parse().expect("the default is a trust domain")
}
