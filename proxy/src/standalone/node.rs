//! A YAML document with the place of each of its values, so that every mistake in it can be found, and found again.
//!
//! serde stops at the first mistake: here what is mistaken is cut out and the rest is read again. Knows nothing of what
//! the document means.

use std::fmt;

use serde::{
    Deserialize,
    de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_saphyr::Spanned;

/// A value and where it is.
#[derive(Clone, Debug)]
pub(super) struct Node {
    place: Place,
    value: Value,
}

/// Line and column, counted from 1.
pub(super) type Place = (u32, u32);

#[derive(Clone, Debug)]
enum Value {
    Null,
    Bool(bool),
    Whole(i128),
    Real(f64),
    Text(String),
    List(Vec<Node>),
    /// Keys with their own places.
    Map(Vec<(String, Place, Node)>),
    /// Stands in for what does not fit: whatever is wanted, text from [`FILLERS`].
    Filler(usize),
}

/// One of them fits every text that has a form.
const FILLERS: [&str; 5] = ["a", "127.0.0.1:1", "127.0.0.1", "spiffe://a/ns/a/sa/a", "1s"];

/// A value that does not fit where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    /// Its path; that of a field that is missing, too.
    pub(super) at: String,
    pub(super) problem: String,
}

impl Node {
    /// A `T`, with fillers for what does not fit or is missing, and everything that does not fit.
    pub(super) fn read<T: DeserializeOwned>(mut self) -> (Option<T>, Vec<Misfit>) {
        let mut misfits = Vec::new();
        loop {
            let Found { at, kind, problem } = match T::deserialize(Cursor(&self)) {
                Ok(read) => return (Some(read), misfits),
                Err(found) => found,
            };
            let at = match kind {
                Kind::Missing(field) if at.is_empty() => field.to_owned(),
                Kind::Missing(field) => format!("{at}.{field}"),
                _ => at,
            };
            match self.mend(&at, kind == Kind::Unknown) {
                Mended::Now => misfits.push(Misfit { at, problem }),
                Mended::Again => {}
                Mended::Not => {
                    misfits.push(Misfit { at, problem });
                    return (None, misfits);
                }
            }
        }
    }

    /// Where a path is, or the part of it that is there. A key's place is its own, not its value's.
    pub(super) fn place(&self, path: &str) -> Place {
        let (mut node, mut rest, mut place) = (self, path, self.place);
        loop {
            let step = match &node.value {
                Value::List(items) => item(rest).and_then(|(index, rest)| {
                    let item = items.get(index)?;
                    Some((item, rest, item.place))
                }),
                Value::Map(entries) => entry(entries, rest).map(|(index, rest)| {
                    let (_, key, node) = &entries[index];
                    (node, rest, *key)
                }),
                _ => None,
            };
            let Some(step) = step else { return place };
            (node, rest, place) = step;
        }
    }

    /// Puts a filler where a path leads, or the next one if the last did not fit either.
    fn mend(&mut self, path: &str, remove: bool) -> Mended {
        match &mut self.value {
            Value::Filler(which) => {
                *which += 1;
                if *which < FILLERS.len() { Mended::Again } else { Mended::Not }
            }
            _ if path.is_empty() => {
                self.value = Value::Filler(0);
                Mended::Now
            }
            Value::List(items) => match item(path) {
                Some((index, rest)) if index < items.len() => items[index].mend(rest, remove),
                _ => Mended::Not,
            },
            Value::Map(entries) => match entry(entries, path) {
                Some((index, "")) if remove => {
                    entries.remove(index);
                    Mended::Now
                }
                Some((index, rest)) => entries[index].2.mend(rest, remove),
                None if remove => Mended::Not,
                None => {
                    let name = path.strip_prefix('.').unwrap_or(path).to_owned();
                    entries.push((name, self.place, Self { place: self.place, value: Value::Filler(0) }));
                    Mended::Now
                }
            },
            _ => Mended::Not,
        }
    }
}

enum Mended {
    Now,
    Again,
    Not,
}

fn item(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

/// Which entry a path begins with, and the rest of it. Keys may have dots in them: the longest one counts.
fn entry<'a>(entries: &[(String, Place, Node)], path: &'a str) -> Option<(usize, &'a str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    let (index, (key, ..)) =
        entries.iter().enumerate().filter(|(_, (key, ..))| is_step(path, key)).max_by_key(|e| e.1.0.len())?;
    Some((index, &path[key.len()..]))
}

fn is_step(path: &str, key: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let at = spanned.referenced;
        Ok(Self { place: place(&at), value: spanned.value })
    }
}

fn place(location: &serde_saphyr::Location) -> Place {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    (number(location.line()), number(location.column()))
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Whole(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Real(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, node)) = entries.next_entry::<Spanned<String>, Node>()? {
            map.push((key.value, place(&key.referenced), node));
        }
        Ok(Value::Map(map))
    }
}

/// An error with the path at which it happened.
#[derive(Debug)]
struct Found {
    at: String,
    kind: Kind,
    problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
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
struct Cursor<'a>(&'a Node);

impl<'de> de::Deserializer<'de> for Cursor<'_> {
    type Error = Found;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::Null | Value::Filler(_) => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Whole(value) => match u64::try_from(*value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(i64::try_from(*value).unwrap_or(i64::MIN)),
            },
            Value::Real(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items { items, index: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries, index: 0 }),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            // YAML has no quotes around most texts, so that some look like numbers
            Value::Bool(value) => visitor.visit_string(value.to_string()),
            Value::Whole(value) => visitor.visit_string(value.to_string()),
            Value::Real(value) => visitor.visit_string(value.to_string()),
            Value::Filler(which) => visitor.visit_str(FILLERS[*which]),
            _ => self.deserialize_any(visitor),
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
            Value::Filler(_) => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::Filler(_) => visitor.visit_u64(1),
            _ => self.deserialize_any(visitor),
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
            Value::Filler(_) => visitor.visit_seq(Items { items: &[], index: 0 }),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Found> {
        match &self.0.value {
            Value::Filler(_) => visitor.visit_map(Entries { entries: &[], index: 0 }),
            Value::List(_) => Err(de::Error::custom("must be a map, not a list")),
            _ => self.deserialize_any(visitor),
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
        ignored_any
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

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use std::net::SocketAddr;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Whole {
        name: String,
        list: Vec<Part>,
        part: Part,
        number: u16,
        #[serde(default)]
        optional: Option<SocketAddr>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Part {
        address: SocketAddr,
        kind: Letter,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    enum Letter {
        A,
        B,
    }

    fn read(text: &str) -> (Option<Whole>, Vec<(String, Place)>) {
        let node: Node = serde_saphyr::from_str(text).unwrap();
        let (whole, misfits) = node.clone().read::<Whole>();
        (whole, misfits.into_iter().map(|m| (m.at.clone(), node.place(&m.at))).collect())
    }

    #[test]
    fn all_misfits_are_found_where_they_are() {
        let text = "name: 7\n\
                    nmae: x\n\
                    list:\n\
                    - {address: nowhere, kind: A}\n\
                    - {address: \"10.0.0.1:1\", kind: C}\n\
                    - {kind: B, adress: 1}\n\
                    - [1]\n\
                    number: 70000\n\
                    optional: 1.2.3.4\n";
        let (whole, found) = read(text);
        let expected = [
            ("nmae", (2, 1)),
            ("list[0].address", (4, 4)),
            ("list[1].kind", (5, 27)),
            ("list[2].adress", (6, 13)),
            ("list[2].address", (6, 3)),
            ("list[3]", (7, 3)),
            ("number", (8, 1)),
            ("optional", (9, 1)),
            ("part", (1, 1)),
        ];
        let found: Vec<_> = found.iter().map(|(at, place)| (at.as_str(), *place)).collect();
        assert_eq!(found, expected);
        let whole = whole.unwrap();
        assert_eq!((whole.name.as_str(), whole.list.len()), ("7", 4));
        assert_eq!(whole.list[2].kind, Letter::B);
    }

    #[test]
    fn what_fits_has_no_misfits() {
        let text = "{name: a, list: [], part: {address: '[::1]:1', kind: B}, number: 1}";
        let (whole, found) = read(text);
        assert!(found.is_empty() && whole.unwrap().part.kind == Letter::B);
    }

    #[test]
    fn keys_may_have_dots() {
        let node: Node = serde_saphyr::from_str("roots:\n  a.b: 1\n  a:\n    b: 2\n").unwrap();
        assert_eq!(node.place("roots.a.b"), (2, 3));
        assert_eq!(node.place("roots.a"), (3, 3));
        assert_eq!(node.place("roots.x.y"), (1, 1));
    }
}
