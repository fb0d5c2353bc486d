//! Pieces of schema for types that are not ours.

use schemars::{Schema, SchemaGenerator, json_schema};

pub(crate) fn mtls_mode(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Strict", "Permissive"]})
}

pub(crate) fn action(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Allow", "Deny"]})
}

pub(crate) fn enforcement(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Enforced", "Audit"]})
}

pub(crate) fn zone(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Prefer", "Ignore"]})
}

pub(crate) fn only_true(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "boolean", "enum": [true]})
}

/// Labels and their values.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 63}})
}

/// Names of gRPC's status codes.
pub(crate) fn grpc_codes(_: &mut SchemaGenerator) -> Schema {
    let code = json_schema!({"type": "string", "enum": byrnie_model::traffic::GRPC_CODES});
    json_schema!({"type": "array", "maxItems": 16, "items": code})
}
