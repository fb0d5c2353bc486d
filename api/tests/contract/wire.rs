//! Protobuf as a tree that can lose a leaf: reads and writes the wire format by a table of message types.

/// Message types that contain others, or packed numbers. What is not in [`inside`] is a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Workload,
    Destination,
    Policy,
    Rule,
    Ports,
    Source,
    WorkloadSource,
    HttpMatch,
    PathMatch,
    HeaderMatch,
    Mtls,
    Flat,
    Packed,
    ServiceDestination,
    PodDestination,
    Route,
    Backend,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
    Packed(Vec<u64>),
    Message(Vec<Field>),
}

fn inside(kind: Kind, number: u64) -> Option<Kind> {
    Some(match (kind, number) {
        (Kind::Workload, 1) => Kind::Policy,
        (Kind::Workload, 2) => Kind::Mtls,
        (Kind::Policy, 5) | (Kind::Rule, 2) => Kind::Ports,
        (Kind::Policy, 6) => Kind::Rule,
        (Kind::Ports, 2) => Kind::Packed,
        (Kind::Rule, 1) => Kind::Source,
        (Kind::Rule, 3) | (Kind::Route, 1) => Kind::HttpMatch,
        (Kind::Source, 2) => Kind::WorkloadSource,
        (Kind::HttpMatch, 2) => Kind::PathMatch,
        (Kind::HttpMatch, 4) => Kind::HeaderMatch,
        (Kind::Destination, 2) => Kind::ServiceDestination,
        (Kind::Destination, 3) => Kind::PodDestination,
        (Kind::ServiceDestination, 3) => Kind::Route,
        (Kind::ServiceDestination, 4) => Kind::Backend,
        (Kind::Workload, 3 | 4)
        | (Kind::WorkloadSource | Kind::HeaderMatch, 4)
        | (Kind::Mtls | Kind::Backend, 2)
        | (Kind::Source | Kind::ServiceDestination | Kind::Backend, 1)
        | (Kind::Destination, 1 | 4 | 5)
        | (Kind::PodDestination | Kind::Route, 2 | 3) => Kind::Flat,
        _ => return None,
    })
}

pub(crate) fn read(kind: Kind, mut bytes: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = number(&mut bytes);
        let value = match tag & 7 {
            0 => Value::Number(number(&mut bytes)),
            2 => {
                let length = usize::try_from(number(&mut bytes)).unwrap();
                let (content, rest) = bytes.split_at(length);
                bytes = rest;
                match inside(kind, tag >> 3) {
                    None => Value::Bytes(content.to_vec()),
                    Some(Kind::Packed) => {
                        let (mut content, mut list) = (content, Vec::new());
                        while !content.is_empty() {
                            list.push(number(&mut content));
                        }
                        Value::Packed(list)
                    }
                    Some(kind) => Value::Message(read(kind, content)),
                }
            }
            other => panic!("wire type {other} does not occur in the contract"),
        };
        fields.push(Field { number: tag >> 3, value });
    }
    fields
}

pub(crate) fn write(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Field { number, value } in fields {
        let content = match value {
            Value::Number(value) => {
                put(&mut bytes, number << 3);
                put(&mut bytes, *value);
                continue;
            }
            Value::Bytes(content) => content.clone(),
            Value::Packed(list) => {
                let mut content = Vec::new();
                for &n in list {
                    put(&mut content, n);
                }
                content
            }
            Value::Message(fields) => write(fields),
        };
        put(&mut bytes, number << 3 | 2);
        put(&mut bytes, content.len() as u64);
        bytes.extend(content);
    }
    bytes
}

/// Every message that differs in one field that is removed (once, or as often as it occurs) or zeroed.
pub(crate) fn mutants(fields: &[Field]) -> Vec<Vec<Field>> {
    let mut all = Vec::new();
    for at in 0..fields.len() {
        let without = |gone: &dyn Fn(usize) -> bool| {
            let kept = fields.iter().enumerate().filter(|(i, _)| !gone(*i));
            kept.map(|(_, field)| field.clone()).collect::<Vec<_>>()
        };
        all.push(without(&|i| i == at));
        all.push(without(&|i| fields[i].number == fields[at].number));
        let values = match &fields[at].value {
            Value::Number(_) => vec![Value::Number(0)],
            Value::Bytes(_) => vec![Value::Bytes(vec![])],
            Value::Packed(list) => {
                let zeroed = (0..list.len()).map(|at| {
                    let mut list = list.clone();
                    list[at] = 0;
                    list
                });
                let shorter = (0..list.len()).map(|at| {
                    let mut list = list.clone();
                    list.remove(at);
                    list
                });
                zeroed.chain(shorter).chain([vec![]]).map(Value::Packed).collect()
            }
            Value::Message(inner) => mutants(inner).into_iter().chain([vec![]]).map(Value::Message).collect(),
        };
        for value in values {
            let mut mutant = fields.to_vec();
            mutant[at].value = value;
            all.push(mutant);
        }
    }
    all
}

fn number(bytes: &mut &[u8]) -> u64 {
    let mut sum = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        sum |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return sum;
        }
    }
    panic!("a number of more than 64 bits");
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}
