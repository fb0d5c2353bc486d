//! TrafficSplit between its versions: nothing is lost, ratios are kept, and v1alpha1 reads as it was written.

use byrnie_crds::convert::{ConvertError, WEIGHTS_ANNOTATION, convert};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::edit;

fn of(version: &str) -> String {
    format!("split.smi-spec.io/{version}")
}

fn split(version: &str, weights: &[Value]) -> Value {
    let backends: Vec<Value> = weights
        .iter()
        .enumerate()
        .map(|(i, w)| json!({"service": format!("v{i}"), "weight": w, "note": i}))
        .collect();
    json!({
        "apiVersion": of(version),
        "kind": "TrafficSplit",
        "metadata": {"name": "web", "namespace": "shop", "annotations": {"team": "blue"}},
        "spec": {"service": "web", "backends": backends, "matches": [{"kind": "HTTPRouteGroup", "name": "x"}], "extra": {"a": [1]}},
    })
}

fn weights(object: &Value) -> Vec<Value> {
    object["spec"]["backends"].as_array().unwrap().iter().map(|b| b["weight"].clone()).collect()
}

#[test]
fn quantities_become_thousandths_and_plain_quantities_again() {
    let written = split("v1alpha1", &[json!("1"), json!("500m"), json!("0")]);
    let stored = convert(written.clone(), &of("v1alpha4")).unwrap();
    assert_eq!(weights(&stored), [json!(1000), json!(500), json!(0)]);
    assert_eq!(stored["metadata"]["annotations"], json!({"team": "blue"}));
    assert_eq!(convert(stored, &of("v1alpha1")).unwrap(), written);
}

#[test]
fn another_spelling_is_remembered() {
    let written = split("v1alpha1", &[json!(1), json!("0.5"), json!("1k"), json!("100u")]);
    let stored = convert(written.clone(), &of("v1alpha4")).unwrap();
    assert_eq!(weights(&stored), [json!(1000), json!(500), json!(1_000_000), json!(1)]);
    assert_eq!(stored["metadata"]["annotations"][WEIGHTS_ANNOTATION], json!(r#"[1,"0.5","1k","100u"]"#));
    assert_eq!(convert(stored.clone(), &of("v1alpha1")).unwrap(), written);
    let changed = edit(stored, "/spec/backends/0/weight", Some(json!(250)));
    let read = convert(changed, &of("v1alpha1")).unwrap();
    assert_eq!(weights(&read), [json!("250m"), json!("0.5"), json!("1k"), json!("100u")]);
}

#[test]
fn a_split_without_annotations_has_none_afterwards() {
    let mut written = split("v1alpha1", &[json!(1)]);
    written["metadata"] = json!({"name": "web"});
    let stored = convert(written.clone(), &of("v1alpha3")).unwrap();
    assert_eq!(convert(stored, &of("v1alpha1")).unwrap(), written);
}

#[test]
fn what_is_no_weight_and_no_split_is_refused() {
    for (weight, written) in
        [(json!("lots"), "\"lots\""), (json!("2M"), "\"2M\""), (json!(1.5), "1.5"), (json!(null), "null")]
    {
        let error = convert(split("v1alpha1", &[json!("1"), weight]), &of("v1alpha2"));
        assert_eq!(error, Err(ConvertError::Weight { index: 1, written: written.into() }));
    }
    assert!(convert(split("v1", &[]), &of("v1alpha2")).is_err());
    assert!(convert(split("v1alpha1", &[]), "example.org/v1alpha2").is_err());
    assert!(convert(edit(split("v1alpha1", &[]), "/kind", Some(json!("Split"))), &of("v1alpha2")).is_err());
    assert!(convert(json!("nothing"), &of("v1alpha2")).is_err());
}

#[test]
fn an_object_without_backends_is_left_to_the_schema() {
    for spec in [json!(null), json!({}), json!({"backends": 1}), json!({"backends": [{}, 1]})] {
        let object = edit(split("v1alpha1", &[]), "/spec", Some(spec.clone()));
        assert_eq!(convert(object, &of("v1alpha4")).unwrap()["spec"], spec);
    }
}

fn versions() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"][..])
}

fn quantities() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0u32..=1_000_000).prop_map(|n| json!(n)),
        (0u32..=1_000_000).prop_map(|n| json!(n.to_string())),
        (0u32..=1_000_000_000).prop_map(|n| json!(format!("{n}m"))),
        (0u32..=1000, 0u32..1_000_000).prop_map(|(n, f)| json!(format!("{n}.{f:06}"))),
        (0u32..=1000).prop_map(|n| json!(format!("{n}k"))),
        (0u32..=9).prop_map(|n| json!(format!("{n}e3"))),
        (0u32..=900).prop_map(|n| json!(format!("{n}Ki"))),
    ]
}

proptest! {
    #[test]
    fn there_and_back_is_the_same(
        numbers in prop::collection::vec(0u32..=1_000_000_000, 0..8),
        written in prop::collection::vec(quantities(), 0..8),
        from in versions(),
        way in prop::collection::vec(versions(), 1..5),
    ) {
        let numbers: Vec<Value> = numbers.into_iter().map(Value::from).collect();
        let original = split(from, if from == "v1alpha1" { &written } else { &numbers });
        let mut object = original.clone();
        for version in way.iter().copied().chain([from]) {
            object = convert(object, &of(version)).unwrap();
            prop_assert_eq!(&object["apiVersion"], &json!(of(version)));
        }
        prop_assert_eq!(object, original);
    }
}
