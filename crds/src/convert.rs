//! TrafficSplit from any of its versions to any other, as raw JSON: fields that nobody knows travel along.
//!
//! Weights are relative. v1alpha2, v1alpha3 and v1alpha4 have whole numbers, which stay as they are. v1alpha1
//! has Quantities, which become whole thousandths (`1` is 1000, `500m` is 500): ratios are kept, also between
//! mixed units. Back in v1alpha1 a weight is `1` or `500m`; where that is not how it was written (`weight: 1`,
//! `1000m`, `0.5`), an annotation of the stored object remembers the spelling, so that what was written as
//! v1alpha1 reads as it was written. A weight that has since been changed through another version wins.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{names, quantity, trafficsplit::MAX_WEIGHT};

/// Annotation with the weights as a v1alpha1 object spelt them, a JSON list in the order of the backends.
pub const WEIGHTS_ANNOTATION: &str = "byrnie.dev/v1alpha1-weights";

/// Why an object cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// Not a TrafficSplit of a version that is served.
    #[error("cannot convert {0}: only TrafficSplit of split.smi-spec.io/v1alpha1 to v1alpha4 is known")]
    Version(String),
    /// Not a weight of its version.
    #[error(
        "spec.backends[{index}].weight: {written} is no weight: write a whole number or a Quantity, 0 to 1M"
    )]
    Weight {
        /// Which backend.
        index: usize,
        /// What stands there.
        written: String,
    },
}

/// Converts an object to `api_version`, as in `split.smi-spec.io/v1alpha4`.
pub fn convert(mut object: Value, api_version: &str) -> Result<Value, ConvertError> {
    let written = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    if object.get("kind").and_then(Value::as_str) != Some("TrafficSplit") {
        return Err(ConvertError::Version(object.get("kind").map_or_else(String::new, ToString::to_string)));
    }
    match (has_quantities(&written)?, has_quantities(api_version)?) {
        (true, false) => to_numbers(&mut object)?,
        (false, true) => to_quantities(&mut object)?,
        _ => {}
    }
    object["apiVersion"] = api_version.into();
    Ok(object)
}

fn has_quantities(api_version: &str) -> Result<bool, ConvertError> {
    match api_version.strip_prefix(names::SPLIT_GROUP).and_then(|v| v.strip_prefix('/')) {
        Some("v1alpha1") => Ok(true),
        Some("v1alpha2" | "v1alpha3" | "v1alpha4") => Ok(false),
        _ => Err(ConvertError::Version(api_version.to_owned())),
    }
}

fn to_numbers(object: &mut Value) -> Result<(), ConvertError> {
    let mut spellings = Vec::new();
    let mut plain = true;
    for (index, weight) in weights(object) {
        let thousandths = thousandths(weight).ok_or_else(|| no_weight(index, weight))?;
        plain &= *weight == plain_quantity(thousandths);
        spellings.push(std::mem::replace(weight, thousandths.into()));
    }
    remember(object, (!plain).then(|| Value::Array(spellings).to_string()));
    Ok(())
}

fn to_quantities(object: &mut Value) -> Result<(), ConvertError> {
    let remembered = remember(object, None).and_then(|text| serde_json::from_str(&text).ok());
    let spellings: Vec<Value> = remembered.unwrap_or_default();
    for (place, (index, weight)) in weights(object).enumerate() {
        let number = weight.as_u64().and_then(|w| u32::try_from(w).ok()).filter(|w| *w <= MAX_WEIGHT);
        let number = number.ok_or_else(|| no_weight(index, weight))?;
        *weight = match spellings.get(place) {
            Some(spelling) if thousandths(spelling) == Some(number) => spelling.clone(),
            _ => plain_quantity(number),
        };
    }
    Ok(())
}

/// The weights that are there, with the index of their backend.
fn weights(object: &mut Value) -> impl Iterator<Item = (usize, &mut Value)> {
    let backends = object.pointer_mut("/spec/backends").and_then(Value::as_array_mut);
    let backends = backends.into_iter().flatten().enumerate();
    backends.filter_map(|(index, backend)| Some((index, backend.get_mut("weight")?)))
}

fn thousandths(weight: &Value) -> Option<u32> {
    let milli = match weight {
        Value::String(text) => quantity::milli(text)?,
        Value::Number(number) => number.as_u64()?.checked_mul(1000)?,
        _ => return None,
    };
    u32::try_from(milli).ok().filter(|milli| *milli <= MAX_WEIGHT)
}

fn plain_quantity(thousandths: u32) -> Value {
    match (thousandths / 1000, thousandths % 1000) {
        (whole, 0) => whole.to_string().into(),
        _ => format!("{thousandths}m").into(),
    }
}

fn no_weight(index: usize, written: &Value) -> ConvertError {
    ConvertError::Weight { index, written: written.to_string() }
}

/// Replaces the annotation; returns what it was.
fn remember(object: &mut Value, spellings: Option<String>) -> Option<String> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut)?;
    if let Some(spellings) = spellings {
        let annotations = metadata.entry("annotations").or_insert_with(|| Map::new().into());
        if annotations.is_null() {
            *annotations = Map::new().into();
        }
        annotations.as_object_mut()?.insert(WEIGHTS_ANNOTATION.into(), spellings.into());
        return None;
    }
    let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut)?;
    let was = annotations.remove(WEIGHTS_ANNOTATION);
    if was.is_some() && annotations.is_empty() {
        metadata.remove("annotations");
    }
    was.and_then(|was| was.as_str().map(Into::into))
}
