//! Reads YAML into values with their places.
//!
//! Plain scalars mean what the core schema of YAML 1.2 says, except that infinity and NaN are texts: no field is either.
//! Anchors, aliases and merge keys (`<<`) are followed; tags say what no field needs to be told, and are refused.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::node::{Node, Place, Value};

/// Values that aliases may add to a document: a few lines of them can stand for more than memory holds.
const MAX_ALIASED: usize = 100_000;

/// Why a text cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoYaml {
    pub(super) place: Place,
    pub(super) problem: String,
}

/// Reads the one document of a text.
pub(super) fn parse(text: &str) -> Result<Node, NoYaml> {
    let options = granit_parser::options! { emit_comments: false };
    let events = Parser::new_from_str_with_options(text, options);
    Reader { events, anchored: HashMap::new(), aliased: 0 }.document()
}

type Map = Vec<(String, Place, Node)>;

struct Reader<'t> {
    events: Parser<'t, StrInput<'t>>,
    /// Values that have names and are complete.
    anchored: HashMap<usize, Node>,
    /// How many values aliases have added.
    aliased: usize,
}

impl<'t> Reader<'t> {
    fn document(mut self) -> Result<Node, NoYaml> {
        let mut node = Node { place: (1, 1), value: Value::Null, spelt: String::new() };
        let mut documents = 0;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(node),
                (Event::DocumentStart(..), span) if documents == 1 => {
                    return Err(no_yaml(&span, "a second document begins here; a file holds one"));
                }
                (Event::StreamStart | Event::DocumentEnd, _) => {}
                (Event::DocumentStart(..), _) => {
                    documents += 1;
                    let (event, span) = self.next()?;
                    node = self.value(event, &span)?;
                }
                (_, span) => return Err(no_yaml(&span, "there is no document")),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), NoYaml> {
        match self.events.next_event() {
            Some(event) => event
                .map_err(|error: ScanError| NoYaml { place: place(error.marker()), problem: error.info() }),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn value(&mut self, event: Event<'t>, span: &Span) -> Result<Node, NoYaml> {
        let (value, spelt, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag.as_deref().and_then(Tag::core_suffix) == Some("str");
                if !is_text {
                    refuse(tag.as_deref(), span)?;
                }
                let value = if is_text || style != ScalarStyle::Plain { None } else { plain(&text) };
                match value {
                    Some(value) => (value, text.into_owned(), anchor),
                    None => (Value::Text(text.into_owned()), String::new(), anchor),
                }
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse(tag.as_deref(), span)?;
                (Value::List(self.list()?), String::new(), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse(tag.as_deref(), span)?;
                (Value::Map(self.map()?), String::new(), anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchored.get(&anchor) else {
                    return Err(no_yaml(span, "this alias stands for a value that it is part of"));
                };
                self.aliased += size(node);
                if self.aliased > MAX_ALIASED {
                    return Err(no_yaml(span, "aliases make too large a document of this"));
                }
                return Ok(Node { place: place(&span.start), ..node.clone() });
            }
            _ => return Err(no_yaml(span, "a value is expected here")),
        };
        let node = Node { place: place(&span.start), value, spelt };
        // 0: it has no name
        if anchor > 0 {
            self.anchored.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Vec<Node>, NoYaml> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.value(event, &span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Map, NoYaml> {
        let (mut entries, mut merged, mut seen) = (Map::new(), Map::new(), HashSet::new());
        loop {
            let (key, style, at) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (Event::Scalar(key, style, ..), span) => (key.into_owned(), style, span),
                (_, span) => return Err(no_yaml(&span, "a key must be a text")),
            };
            if !seen.insert(key.clone()) {
                return Err(no_yaml(&at, format!("'{key}' is there twice")));
            }
            let (event, span) = self.next()?;
            let node = self.value(event, &span)?;
            if key == "<<" && style == ScalarStyle::Plain {
                merge(node, &mut merged).map_err(|problem| no_yaml(&span, problem))?;
            } else {
                entries.push((key, place(&at.start), node));
            }
        }
        // what is written here counts, and then what was named first
        entries.extend(merged.into_iter().filter(|(key, ..)| seen.insert(key.clone())));
        Ok(entries)
    }
}

/// Adds the entries that a merge key brings.
fn merge(node: Node, merged: &mut Map) -> Result<(), &'static str> {
    match node.value {
        Value::Map(entries) => merged.extend(entries),
        Value::List(maps) if maps.iter().all(|map| matches!(map.value, Value::Map(_))) => {
            maps.into_iter().try_for_each(|map| merge(map, merged))?;
        }
        _ => return Err("'<<' takes a map, or a list of maps"),
    }
    Ok(())
}

/// What an unquoted scalar is, unless it is a text.
fn plain(text: &str) -> Option<Value> {
    let whole = || {
        if let Some(digits) = text.strip_prefix("0x") {
            return i128::from_str_radix(digits, 16).ok();
        }
        if let Some(digits) = text.strip_prefix("0o") {
            return i128::from_str_radix(digits, 8).ok();
        }
        text.parse().ok()
    };
    let real = || {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        text.parse().ok().filter(|_| is_number)
    };
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        _ => whole().map(Value::Whole).or_else(|| real().map(Value::Real)),
    }
}

fn refuse(tag: Option<&Tag>, span: &Span) -> Result<(), NoYaml> {
    match tag {
        None => Ok(()),
        Some(tag) => {
            Err(no_yaml(span, format!("the tag '{}' is not known here; leave it out", tag.original())))
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|(.., node)| size(node)).sum(),
        _ => 0,
    }
}

fn no_yaml(span: &Span, problem: impl Into<String>) -> NoYaml {
    NoYaml { place: place(&span.start), problem: problem.into() }
}

fn place(marker: &Marker) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (number(marker.line()), number(marker.col() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document as JSON would have it, with the places of its values.
    fn read(text: &str) -> String {
        fn write(node: &Node) -> String {
            let list = |all: Vec<String>| all.join(", ");
            let written = match &node.value {
                Value::Null => "null".to_owned(),
                Value::Bool(value) => value.to_string(),
                Value::Whole(value) => value.to_string(),
                Value::Real(value) => format!("{value:?}"),
                Value::Text(text) => format!("{text:?}"),
                Value::List(items) => format!("[{}]", list(items.iter().map(write).collect())),
                Value::Map(entries) => {
                    let entry = |(key, at, node): &(String, Place, Node)| {
                        format!("{key}@{}:{} {}", at.0, at.1, write(node))
                    };
                    format!("{{{}}}", list(entries.iter().map(entry).collect()))
                }
                Value::Filler(_) => unreachable!("nothing that was read is a filler"),
            };
            format!("{written}@{}:{}", node.place.0, node.place.1)
        }
        match parse(text) {
            Ok(node) => write(&node),
            Err(NoYaml { place: (line, column), problem }) => format!("{line}:{column}: {problem}"),
        }
    }

    #[test]
    fn values_have_their_places() {
        assert_eq!(
            read("# first\na: 1\nb:\n  - x\n  - {c: 'y', \"d\": [~]}\n"),
            "{a@2:1 1@2:4, b@3:1 [\"x\"@4:5, {c@5:6 \"y\"@5:9, d@5:14 [null@5:20]@5:19}@5:5]@4:3}@2:1"
        );
        assert_eq!(read("\u{e9}: |\n  x\n  y\n"), "{\u{e9}@1:1 \"x\\ny\\n\"@2:3}@1:1");
    }

    #[test]
    fn plain_scalars_are_of_the_core_schema() {
        for (text, value) in [
            ("", "null"),
            ("Null", "null"),
            ("TRUE", "true"),
            ("False", "false"),
            ("yes", "\"yes\""),
            ("007", "7"),
            ("-12", "-12"),
            ("0x1F", "31"),
            ("0o17", "15"),
            ("1e3", "1000.0"),
            ("+.5", "0.5"),
            ("170141183460469231731687303715884105728", "1.7014118346046923e38"),
            ("1.2.3", "\"1.2.3\""),
            ("10s", "\"10s\""),
            ("inf", "\"inf\""),
            (".nan", "\".nan\""),
            ("'1'", "\"1\""),
            ("!!str 1", "\"1\""),
        ] {
            let read = read(text);
            assert_eq!(read.split_once("@1:").map(|(value, _)| value), Some(value), "{text}: {read}");
        }
    }

    #[test]
    fn aliases_and_merges_are_followed() {
        assert_eq!(
            read("- &a {x: 1}\n- *a\n- {<<: *a, y: 2}\n- {x: 3, <<: [*a, {x: 4, z: 5}]}\n"),
            "[{x@1:7 1@1:10}@1:6, {x@1:7 1@1:10}@2:3, {y@3:12 2@3:15, x@1:7 1@1:10}@3:3, \
             {x@4:4 3@4:7, z@4:26 5@4:29}@4:3]@1:1"
        );
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        let doubled: Vec<_> = (1..20).map(|n| format!("- &a{n} [*a{m}, *a{m}]\n", m = n - 1)).collect();
        for (text, expected) in [
            ("a: [1\n", "1:4: unclosed"),
            ("a: 1\n---\nb: 2\n", "2:1: a second document begins here; a file holds one"),
            ("name: a\nname: b\n", "2:1: 'name' is there twice"),
            ("[a]: 1\n", "1:1: a key must be a text"),
            ("a: !secret b\n", "1:12: the tag '!secret' is not known here; leave it out"),
            ("a: *b\n", "1:4: "),
            ("a: &a [*a]\n", "1:8: this alias stands for a value that it is part of"),
            ("<<: 1\n", "1:5: '<<' takes a map, or a list of maps"),
            (&format!("- &a0 x\n{}", doubled.concat()), "16:15: aliases make too large a document of this"),
            (&"[".repeat(100_000), "1:"),
        ] {
            let read = read(text);
            assert!(read.starts_with(expected), "{text}: {read}");
        }
    }
}
