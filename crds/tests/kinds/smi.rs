//! Splits as people and tools have written them for other meshes (smi/*.yaml): all apply unchanged, in every version.

use byrnie_crds::{
    TrafficSplit,
    compile::{self, Shares},
    convert::convert,
    validate,
};
use serde_json::{Value, json};

use crate::edit;

const FILES: [(&str, &str); 4] = [
    ("v1alpha1", include_str!("smi/v1alpha1.yaml")),
    ("v1alpha2", include_str!("smi/v1alpha2.yaml")),
    ("v1alpha3", include_str!("smi/v1alpha3.yaml")),
    ("v1alpha4", include_str!("smi/v1alpha4.yaml")),
];

fn api_version(version: &str) -> String {
    format!("split.smi-spec.io/{version}")
}

/// Each split with its version.
fn examples() -> Vec<(&'static str, Value)> {
    let documents = |(version, text): (&'static str, &'static str)| {
        text.split("---\n").map(move |one| (version, serde_saphyr::from_str(one).unwrap()))
    };
    FILES.into_iter().flat_map(documents).collect()
}

fn stored(object: &Value) -> Value {
    convert(object.clone(), &api_version("v1alpha4")).unwrap()
}

fn shares(object: &Value) -> Shares {
    let split: TrafficSplit = serde_json::from_value(stored(object)).unwrap();
    compile::traffic_split(&split).unwrap()
}

#[test]
fn every_example_is_admitted() {
    let examples = examples();
    assert!(examples.len() >= 20, "{}", examples.len());
    for (version, object) in examples {
        assert_eq!(object["apiVersion"], json!(api_version(version)));
        let findings = validate(&object);
        assert_eq!(findings.problems, [], "{version} {}", object["metadata"]["name"]);
        let warned = usize::from(object["spec"].get("matches").is_some());
        assert_eq!(findings.warnings.len(), warned, "{version} {}", object["metadata"]["name"]);
    }
}

#[test]
fn every_example_reads_as_it_was_written() {
    for (version, object) in examples() {
        let stored = stored(&object);
        assert_eq!(validate(&stored).problems, [], "{stored}");
        assert_eq!(convert(stored, &api_version(version)).unwrap(), object);
    }
}

#[test]
fn ratios_hold_between_mixed_units() {
    let of = |name: &str| {
        let (_, object) = examples().into_iter().find(|(_, o)| o["metadata"]["name"] == name).unwrap();
        shares(&object).backends.into_iter().map(|(_, weight)| weight).collect::<Vec<_>>()
    };
    assert_eq!(of("my-weights"), [10, 100, 1500]);
    assert_eq!(of("my-trafficsplit"), [50_000, 500]);
    assert_eq!(of("podinfo"), [0, 100_000]);
}

#[test]
fn where_requests_are_to_be_matched_all_go_to_the_service_itself() {
    let with_matches: Vec<_> =
        examples().into_iter().filter(|(_, o)| o["metadata"]["name"] == "ab-test").collect();
    assert_eq!(with_matches.len(), 2);
    for (_, object) in with_matches {
        let found = shares(&object);
        assert_eq!((&found.service[..], &found.backends[..]), ("website", &[("website".to_owned(), 1)][..]));
        assert_eq!(found.unresolved_matches, ["ab-test"]);
        let warnings: Vec<String> = validate(&object).warnings.iter().map(ToString::to_string).collect();
        let all = "all calls go to Service website itself";
        assert_eq!(
            warnings,
            [format!("spec.matches: HTTPRouteGroup is not served: no request matches, {all}")]
        );
    }
}

/// They are not in force, but they must be right for the day when they are.
#[test]
fn backends_are_checked_beside_matches_too() {
    let (_, object) = examples().into_iter().find(|(_, o)| o["metadata"]["name"] == "ab-test").unwrap();
    let odd = edit(object, "/spec/backends/0/service", Some(json!("website-v2")));
    let problems: Vec<String> = validate(&odd).problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["spec.backends[1]: names the same Service as spec.backends[0]"]);
}
