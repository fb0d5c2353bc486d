//! Compares a written value with the CRD's schema: unknown fields, missing fields, types, choices and bounds.
//!
//! The API server does the same, except that it says nothing of unknown fields (they are preserved so that we
//! can refuse them here). Knows OpenAPI, nothing of meshes.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Map, Value};

use crate::problem::Problem;

/// So many problems are enough: an object with a hundred thousand odd fields must not keep the webhook busy.
pub(crate) const ENOUGH: usize = 64;

/// What in `value` is not as `schema` demands; empty when all is well. Patterns and CEL are not evaluated, and null
/// is never a value, also where the schema lets it through.
pub fn check(value: &Value, schema: &JSONSchemaProps, path: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk(value, schema, path, &mut problems);
    problems
}

fn walk(value: &Value, schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    if let Some(wanted) = wrong_type(value, schema) {
        problems.push(Problem::new(path, format!("must be {wanted}, is {}", type_of(value))));
        return;
    }
    match value {
        Value::Object(fields) => object(fields, schema, path, problems),
        Value::Array(items) => array(items, schema, path, problems),
        Value::String(text) => string(text, schema, path, problems),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            if schema.minimum.is_some_and(|min| number < min)
                || schema.maximum.is_some_and(|max| number > max)
            {
                problems.push(Problem::new(path, bounds("must be", schema.minimum, schema.maximum)));
            }
        }
        Value::Bool(_) | Value::Null => {}
    }
    if let Some(choices) = &schema.enum_
        && !choices.iter().any(|choice| choice.0 == *value)
    {
        let known: Vec<String> =
            choices.iter().map(|c| c.0.as_str().map_or_else(|| c.0.to_string(), Into::into)).collect();
        let hint = value.as_str().and_then(|text| nearest(text, known.iter().map(String::as_str)));
        let choices = known.join(", ");
        problems.push(Problem::new(
            path,
            match hint {
                Some(hint) => format!("{value} is not one of {choices}; did you mean {hint}?"),
                None if known.len() == 1 => format!("must be {choices}"),
                None => format!("{value} is not one of {choices}"),
            },
        ));
    }
}

fn object(fields: &Map<String, Value>, schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    let known = schema.properties.as_ref();
    for (name, value) in fields {
        if problems.len() >= ENOUGH {
            return;
        }
        let at = format!("{path}.{name}");
        match (known.and_then(|known| known.get(name)), &schema.additional_properties) {
            (Some(schema), _) => walk(value, schema, &at, problems),
            (None, Some(JSONSchemaPropsOrBool::Schema(schema))) => walk(value, schema, &at, problems),
            (None, Some(JSONSchemaPropsOrBool::Bool(true))) => {}
            (None, _) => {
                let known = known.into_iter().flatten().map(|(name, _)| name.as_str());
                problems.push(Problem::new(at, unknown_field(name, known)));
            }
        }
    }
    for name in schema.required.iter().flatten() {
        if !fields.contains_key(name) {
            problems.push(Problem::new(format!("{path}.{name}"), "is required"));
        }
    }
    count("fields", fields.len(), schema.min_properties, schema.max_properties, path, problems);
}

fn array(items: &[Value], schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    count("items", items.len(), schema.min_items, schema.max_items, path, problems);
    if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
        for (index, item) in items.iter().enumerate() {
            if problems.len() >= ENOUGH {
                return;
            }
            walk(item, schema, &format!("{path}[{index}]"), problems);
        }
    }
}

fn string(text: &str, schema: &JSONSchemaProps, path: &str, problems: &mut Vec<Problem>) {
    count("characters", text.chars().count(), schema.min_length, schema.max_length, path, problems);
}

fn count(what: &str, is: usize, min: Option<i64>, max: Option<i64>, path: &str, problems: &mut Vec<Problem>) {
    let is = i64::try_from(is).unwrap_or(i64::MAX);
    if min.is_some_and(|min| is < min) {
        let min = min.unwrap_or_default();
        problems.push(Problem::new(path, format!("has {is} {what}, at least {min} wanted")));
    }
    if max.is_some_and(|max| is > max) {
        let max = max.unwrap_or_default();
        problems.push(Problem::new(path, format!("has {is} {what}, at most {max} possible")));
    }
}

fn bounds(verb: &str, min: Option<f64>, max: Option<f64>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("{verb} {min} to {max}"),
        (Some(min), None) => format!("{verb} at least {min}"),
        (None, Some(max)) => format!("{verb} at most {max}"),
        (None, None) => String::new(),
    }
}

/// The type that was wanted, where the value is of another.
fn wrong_type(value: &Value, schema: &JSONSchemaProps) -> Option<&'static str> {
    if schema.x_kubernetes_int_or_string == Some(true) {
        return (!value.is_string() && !is_integer(value)).then_some("a whole number or a string");
    }
    match schema.type_.as_deref() {
        Some("object") if !value.is_object() => Some("an object"),
        Some("array") if !value.is_array() => Some("a list"),
        Some("string") if !value.is_string() => Some("a string"),
        Some("boolean") if !value.is_boolean() => Some("true or false"),
        Some("integer") if !is_integer(value) => Some("a whole number"),
        Some("number") if !value.is_number() => Some("a number"),
        _ => None,
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) if is_integer(value) => "a whole number",
        Value::Number(_) => "a fraction",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The message about a field that nobody knows, with the name that was probably meant.
pub fn unknown_field<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(meant) => format!("unknown field, did you mean {meant}?"),
        None => "unknown field".into(),
    }
}

/// The known word that is at most two slips away (one in short words), where there is one.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let allowed = if word.chars().count() < 5 { 1 } else { 2 };
    known
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed || candidate.strip_suffix('s') == Some(word))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let previous = &rows[i - 1];
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (previous[j] + 1).min(row[j - 1] + 1).min(previous[j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["methods", "path", "hosts", "headers"];
        for (written, meant) in [
            ("mehtods", Some("methods")),
            ("method", Some("methods")),
            ("Hosts", Some("hosts")),
            ("paths", Some("path")),
            ("pth", Some("path")),
            ("verbs", None),
            ("h", None),
        ] {
            assert_eq!(nearest(written, known.into_iter()), meant, "{written}");
        }
    }
}
