//! Every way in which a field can be wrong, and what is said about it (faults.txt).

use serde_json::{Value, json};

use crate::{edit, policy, problems, split, trust};

#[test]
fn every_fault_is_named() {
    let mut object = Value::Null;
    let mut rows = 0;
    let mut lines = include_str!("faults.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("== ") {
            object = match name {
                "policy" => policy(),
                "split" => split(),
                "v1alpha1 split" => edit(split(), "/apiVersion", Some(json!("split.smi-spec.io/v1alpha1"))),
                "trust" => trust(),
                other => panic!("no object {other}"),
            };
            continue;
        }
        let edited = match line.split_once(" = ") {
            Some((pointer, value)) => {
                edit(object.clone(), pointer, Some(serde_json::from_str(value).unwrap()))
            }
            None => edit(object.clone(), line.strip_suffix(" gone").unwrap(), None),
        };
        assert_eq!(problems(&edited), [lines.next().unwrap().trim_start()], "{line}");
        rows += 1;
    }
    assert!(rows > 100, "{rows}");
}

#[test]
fn too_much_is_refused() {
    let target = json!({"kind": "Service", "name": "a"});
    for (pointer, value, expected) in [
        ("/spec/targetRefs", json!(vec![target; 17]), "spec.targetRefs: has 17 items, at most 16 possible"),
        (
            "/spec/authorization/rules",
            json!(vec![json!({"sources": []}); 65]),
            "spec.authorization.rules: has 65 items, at most 64 possible",
        ),
        (
            "/spec/authorization/rules/0/http/0/path/value",
            json!("/".repeat(1025)),
            "spec.authorization.rules[0].http[0].path.value: has 1025 characters, at most 1024 possible",
        ),
    ] {
        assert_eq!(problems(&edit(policy(), pointer, Some(value))), [expected]);
    }
}

/// A tenant can write objects of a megabyte; none of them keeps the webhook busy.
#[test]
fn a_flood_of_faults_is_cut_short() {
    let odd: serde_json::Map<String, Value> =
        (0..100_000).map(|i| (format!("methodz{i}"), json!(i))).collect();
    for pointer in ["", "/spec", "/spec/mtls", "/spec/authorization/rules/0/http/0", "/spec/traffic"] {
        let mut object = policy();
        object.pointer_mut(pointer).unwrap().as_object_mut().unwrap().extend(odd.clone());
        let found = problems(&object).len();
        assert!((1..=65).contains(&found), "{pointer}: {found}");
    }
    let sources = json!(vec![json!({"anyone": 1}); 100_000]);
    let object = edit(policy(), "/spec/authorization/rules/0/sources", Some(sources));
    assert!(problems(&object).len() <= 65);
}

/// Every place of an object, from its spec on.
fn places(value: &Value, pointer: &str, found: &mut Vec<String>) {
    found.push(pointer.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                places(value, &format!("{pointer}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                places(value, &format!("{pointer}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// `/spec/rules/0/name` as `spec.rules[0].name`.
fn path(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |path, step| match step.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => step.into(),
        Err(_) => format!("{path}.{step}"),
    })
}

#[test]
fn a_value_of_another_type_is_named_wherever_it_stands() {
    let another = [Value::Null, json!(true), json!(1.5), json!({"odd": 1}), json!([[]]), json!("")];
    let mut checked = 0;
    for object in [policy(), split(), trust()] {
        let mut pointers = Vec::new();
        places(&object["spec"], "/spec", &mut pointers);
        for pointer in &pointers[1..] {
            let right = object.pointer(pointer).unwrap();
            for wrong in
                another.iter().filter(|w| std::mem::discriminant(*w) != std::mem::discriminant(right))
            {
                let found = problems(&edit(object.clone(), pointer, Some(wrong.clone())));
                let about = path(pointer);
                assert!(found.iter().any(|p| p.starts_with(&about)), "{about} = {wrong}: {found:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > 300, "{checked}");
}
