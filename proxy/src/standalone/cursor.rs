//! Reads what is wanted from a document that has been read already. serde's errors get their paths here.

use std::fmt;

use serde::{
    de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor},
    forward_to_deserialize_any,
};

use super::node::{FILLERS, Node, Place, Value};

/// An error with the path at which it happened.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) at: String,
    pub(super) kind: Kind,
    pub(super) problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Wrong,
    Unknown,
    Missing(&'static str),
}

impl Found {
    fn below(mut self, step: &str) -> Self {
        let dot = if self.at.is_empty() || self.at.starts_with('[') { "" } else { "." };
        self.at = format!("{step}{dot}{}", self.at);
        self
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Found {}

impl de::Error for Found {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self { at: String::new(), kind: Kind::Wrong, problem: problem.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { kind: Kind::Missing(field), ..Self::custom("is missing; it has no default") }
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        let problem = format!("there is no such field; the fields here are {}", expected.join(", "));
        Self { kind: Kind::Unknown, ..Self::custom(problem) }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("'{variant}' is none of {}", expected.join(", ")))
    }
}

/// Reads a value as what is wanted.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a Node);

impl Cursor<'_> {
    fn unexpected(self, expected: &dyn de::Expected) -> Found {
        let found = match &self.0.value {
            Value::Null | Value::Filler(_) => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Whole(value) => match u64::try_from(*value) {
                Ok(value) => Unexpected::Unsigned(value),
                Err(_) => Unexpected::Signed(i64::try_from(*value).unwrap_or(i64::MIN)),
            },
            Value::Real(value) => Unexpected::Float(*value),
            Value::Text(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        };
        de::Error::invalid_type(found, expected)
    }
}

/// Each asks its visitor for what is there only if that is wanted: what cannot be is not compiled.
impl<'de> de::Deserializer<'de> for Cursor<'_> {
    type Error = Found;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        Err(self.unexpected(&visitor))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        visitor.visit_unit()
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::Text(text) => visitor.visit_str(text),
            // YAML has no quotes around most texts, so that some look like numbers
            Value::Bool(_) | Value::Whole(_) | Value::Real(_) => visitor.visit_str(&self.0.spelt),
            Value::Filler(which) => visitor.visit_str(FILLERS[*which]),
            _ => Err(self.unexpected(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::Null | Value::Filler(_) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Filler(_) => visitor.visit_bool(false),
            _ => Err(self.unexpected(&visitor)),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::Whole(value) => match u64::try_from(*value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(i64::try_from(*value).unwrap_or(i64::MIN)),
            },
            Value::Filler(_) => visitor.visit_u64(1),
            _ => Err(self.unexpected(&visitor)),
        }
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::List(items) => visitor.visit_seq(Items { items, index: 0 }),
            Value::Filler(_) => visitor.visit_seq(Items { items: &[], index: 0 }),
            _ => Err(self.unexpected(&visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::Map(entries) => visitor.visit_map(Entries { entries, index: 0 }),
            Value::Filler(_) => visitor.visit_map(Entries { entries: &[], index: 0 }),
            Value::List(_) => Err(de::Error::custom("must be a map, not a list")),
            _ => Err(self.unexpected(&visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Found> {
        let Value::Filler(_) = self.0.value else { return self.deserialize_map(visitor) };
        let entries: Vec<_> =
            fields.iter().map(|name| ((*name).to_owned(), self.0.place, self.0.clone())).collect();
        visitor.visit_map(Entries { entries: &entries, index: 0 })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Filler(_) => {
                visitor.visit_enum(variants.first().copied().unwrap_or_default().into_deserializer())
            }
            _ => Err(de::Error::custom(format!("must be one of {}", variants.join(", ")))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Found> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

struct Items<'a> {
    items: &'a [Node],
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Found;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Found> {
        let Some(item) = self.items.get(self.index) else { return Ok(None) };
        self.index += 1;
        seed.deserialize(Cursor(item)).map(Some).map_err(|f| f.below(&format!("[{}]", self.index - 1)))
    }
}

struct Entries<'a> {
    entries: &'a [(String, Place, Node)],
    index: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Found;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Found> {
        let Some((key, ..)) = self.entries.get(self.index) else { return Ok(None) };
        let deserializer: de::value::StrDeserializer<'_, Found> = key.as_str().into_deserializer();
        // a key that does not fit is no field, or no name
        let unknown = |found: Found| Found { kind: Kind::Unknown, ..found }.below(key);
        seed.deserialize(deserializer).map(Some).map_err(unknown)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Found> {
        let (key, _, node) = &self.entries[self.index];
        self.index += 1;
        seed.deserialize(Cursor(node)).map_err(|found| found.below(key))
    }
}
