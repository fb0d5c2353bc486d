//! A part of an object that is read whole or not at all.
//!
//! One object that cannot be read must not stop a watch of all others, and must not be read as less than it
//! says. So reading never fails: a section with anything unknown in it is kept as it was written, with what is
//! wrong.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::Value;

use crate::{problem::Problem, shape};

/// Part of a spec, understood or not.
#[derive(Clone, Debug, PartialEq)]
pub enum Section<T> {
    /// Every field is known and has a value of its type, within its bounds.
    Read(T),
    /// Something is not; nothing of it is in force.
    Unread(Unread),
}

/// A section that was not understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// As it was written.
    pub written: Value,
    /// Why; at least one.
    pub problems: Vec<Problem>,
}

/// A type that a section can hold.
pub trait Shape: DeserializeOwned {
    /// Where in the object it stands, as in `spec.authorization`.
    const PATH: &'static str;
    /// What the CRD says about it.
    fn schema() -> &'static JSONSchemaProps;
}

impl<T> Section<T> {
    /// The content, where it was understood.
    pub fn as_ref(&self) -> Result<&T, &Unread> {
        match self {
            Self::Read(content) => Ok(content),
            Self::Unread(unread) => Err(unread),
        }
    }
}

impl<T> From<T> for Section<T> {
    fn from(content: T) -> Self {
        Self::Read(content)
    }
}

impl<'de, T: Shape> Deserialize<'de> for Section<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Value::deserialize(deserializer)?;
        let problems = shape::check(&written, T::schema(), T::PATH);
        if !problems.is_empty() {
            return Ok(Self::Unread(Unread { written, problems }));
        }
        Ok(match T::deserialize(&written) {
            Ok(content) => Self::Read(content),
            Err(error) => {
                Self::Unread(Unread { written, problems: vec![Problem::new(T::PATH, error.to_string())] })
            }
        })
    }
}

/// Reads a field that is there: `null` is not the same as nothing.
pub(crate) fn present<'de, T: Shape, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Section<T>>, D::Error> {
    Section::deserialize(deserializer).map(Some)
}

impl<T: Serialize> Serialize for Section<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Read(content) => content.serialize(serializer),
            Self::Unread(unread) => unread.written.serialize(serializer),
        }
    }
}

impl<T: JsonSchema> JsonSchema for Section<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
