//! The JSON Schema of the file: generated from file.rs, kept beside the example, printed by `byrnie-proxy schema`.
//!
//! The generator is for tests only, so that no proxy carries it. After a change of file.rs `make schema` writes it anew.

/// JSON Schema (2020-12) of the file.
pub const SCHEMA: &str = include_str!("../../examples/standalone.schema.json");

#[cfg(test)]
pub(super) use self::pieces::*;

/// Pieces for types that are not the file's own.
#[cfg(test)]
mod pieces {
    use schemars::{Schema, SchemaGenerator, json_schema};

    pub(in super::super) fn trust_domain(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[a-z0-9.-]{1,255}$"})
    }

    pub(in super::super) fn spiffe_id(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^spiffe://[a-z0-9.-]+/ns/[a-z0-9-]+/sa/[a-z0-9.-]+$"})
    }

    pub(in super::super) fn access_log(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": ["all", "denied", "off"]})
    }

    pub(in super::super) fn direction(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": ["Inbound", "Outbound"]})
    }

    pub(in super::super) fn mtls_mode(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": ["Strict", "Permissive"]})
    }

    pub(in super::super) fn action(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": ["Allow", "Deny"]})
    }

    pub(in super::super) fn enforcement(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": ["Enforced", "Audit"]})
    }

    pub(in super::super) fn only_true(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "boolean", "enum": [true]})
    }

    pub(in super::super) fn duration(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"})
    }

    pub(in super::super) fn ports(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1, "maximum": 65535}})
    }
}

#[cfg(test)]
mod tests {
    use schemars::schema_for;
    use serde_json::Value;

    use super::{super::file::File, *};

    #[test]
    fn the_schema_is_that_of_the_types() {
        let generated = serde_json::to_string_pretty(&schema_for!(File)).unwrap() + "\n";
        if std::env::var_os("BYRNIE_WRITE_SCHEMA").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/standalone.schema.json");
            return std::fs::write(path, generated).unwrap();
        }
        assert!(generated == SCHEMA, "examples/standalone.schema.json is out of date: run 'make schema'");
    }

    #[test]
    fn only_what_has_no_default_is_required() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let of = |schema: &Value| match schema["required"].as_array() {
            Some(fields) => fields.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            None => String::new(),
        };
        let mut required = vec![("File", of(&schema))];
        required
            .extend(schema["$defs"].as_object().unwrap().iter().map(|(name, it)| (name.as_str(), of(it))));
        required.retain(|(_, fields)| !fields.is_empty());
        let expected = [
            ("File", "trustDomain identity listeners"),
            ("Abort", "percent status"),
            ("Delay", "percent time"),
            ("Endpoint", "address"),
            ("HeaderMatch", "name"),
            ("IdentityFiles", "chain key roots"),
            ("Listener", "direction listen"),
            ("Mirror", "service"),
            ("PathMatch", "type value"),
            ("Policy", "name rules"),
            ("PortMtls", "port mode"),
            ("PortProtocol", "port protocol"),
            ("Route", "split"),
            ("Rule", "sources"),
            ("Service", "name"),
            ("ServiceAccount", "namespace name"),
            ("Share", "service weight"),
            ("SuccessRate", "percent"),
        ];
        assert_eq!(required, expected.map(|(name, fields)| (name, fields.to_owned())));
    }

    #[test]
    fn every_field_is_described() {
        fn look(at: &str, schema: &Value) {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                assert!(field["description"].is_string(), "{at}.{name} has no comment");
            }
        }
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        look("File", &schema);
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            look(name, definition);
        }
    }
}
