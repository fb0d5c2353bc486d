//! A YAML document with the place of each of its values, so that every mistake in it can be found, and found again.
//!
//! serde stops at the first mistake: here what is mistaken is cut out and the rest is read again. Knows nothing of what
//! the document means.

use serde::de::DeserializeOwned;

use super::cursor::{Cursor, Found, Kind};

/// A value and where it is.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
    /// How it is written, if that is not what it is: `1.10` may be wanted as a text.
    pub(super) spelt: String,
}

/// Line and column, counted from 1.
pub(super) type Place = (u32, u32);

#[derive(Clone, Debug)]
pub(super) enum Value {
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
pub(super) const FILLERS: [&str; 5] = ["a", "127.0.0.1:1", "127.0.0.1", "spiffe://a/ns/a/sa/a", "1s"];

/// A value that does not fit where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    /// Its path; that of a field that is missing, too.
    pub(super) at: String,
    pub(super) problem: String,
}

impl Node {
    fn filler(place: Place) -> Self {
        Self { place, value: Value::Filler(0), spelt: String::new() }
    }

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
                    entries.push((name, self.place, Self::filler(self.place)));
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

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use std::net::SocketAddr;

    use super::{super::yaml::parse, *};

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
        let node = parse(text).unwrap();
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
    fn a_text_is_as_it_was_written() {
        for written in ["1.10", "0x10", "007", "1e3", "True", "'1.10'", "9007199254740993"] {
            let text = format!(
                "# \u{e9}\n{{name: {written}, list: [], part: {{address: '[::1]:1', kind: B}}, number: 1}}"
            );
            let (whole, found) = read(&text);
            assert!(found.is_empty(), "{written}: {found:?}");
            assert_eq!(whole.unwrap().name, written.trim_matches('\''));
        }
        let (whole, _) =
            read("name: \u{e9}\nlist: []\npart: {address: '[::1]:1', kind: B}\nnumber: 1 # one\n");
        assert_eq!(whole.unwrap().name, "\u{e9}");
    }

    #[test]
    fn keys_may_have_dots() {
        let node = parse("roots:\n  a.b: 1\n  a:\n    b: 2\n").unwrap();
        assert_eq!(node.place("roots.a.b"), (2, 3));
        assert_eq!(node.place("roots.a"), (3, 3));
        assert_eq!(node.place("roots.x.y"), (1, 1));
    }
}
