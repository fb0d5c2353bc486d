//! From messages to model values, strictly: nothing is guessed, defaulted or skipped.
//!
//! Owns the error and the checks that every message needs. Who may call is in `policy`, where calls go in `route`.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use byrnie_model::{
    Destination, ObjectName, ServicePort, TrustDomain, Workload,
    spiffe::{is_dns_label, is_dns_subdomain},
};
use thiserror::Error;

use crate::{FEATURES, Trust, parts, v1};

mod policy;
mod route;
mod traffic;

/// Why a message is refused, and where in it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{path}: {problem}")]
pub struct DecodeError {
    /// For example `policies[2].rules[0].ports`.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

/// Everything about the proxy's own pod.
pub fn workload(message: v1::Workload) -> Result<Workload, DecodeError> {
    let at = At::Root;
    understood(at, &message.required_features, message.parts, parts::workload(&message))?;
    policy::workload(at, message)
}

/// What an address means, and which address.
pub fn destination(message: v1::Destination) -> Result<(SocketAddr, Destination), DecodeError> {
    let at = At::Root;
    understood(at, &message.required_features, message.parts, parts::destination(&message))?;
    let field = at.field("address");
    let of = field.required(message.address)?;
    Ok((socket_address(field, &of.ip, of.port)?, route::destination(at, message.kind)?))
}

/// Roots and signer.
pub fn trust(message: v1::Trust) -> Result<Trust, DecodeError> {
    let at = At::Root;
    let mut roots = BTreeMap::new();
    for (list, entries) in [(at.field("roots"), message.roots), (at.field("federated"), message.federated)] {
        for (index, entry) in entries.into_iter().enumerate() {
            let at = list.index(index);
            let field = at.field("trust_domain");
            let trust_domain: TrustDomain = entry.trust_domain.parse().or_else(|error| field.fail(error))?;
            if entry.certificates.is_empty() || entry.certificates.iter().any(Vec::is_empty) {
                return at
                    .field("certificates")
                    .fail("a trust domain needs at least one root, and no empty one");
            }
            if roots.insert(trust_domain, entry.certificates).is_some() {
                return field.fail("trust domain is listed twice");
            }
        }
        if roots.is_empty() {
            return list.fail("no trust domain is left to trust");
        }
    }
    let signer = match message.signer.as_slice() {
        [] => None,
        bytes => match bytes.try_into() {
            Ok(signer) => Some(signer),
            Err(_) => return at.field("signer").fail("must be a SHA-256 of 32 bytes, or absent"),
        },
    };
    Ok(Trust { epoch: message.epoch, roots, signer })
}

/// An address; IPv4 mapped into IPv6 becomes the IPv4 address that it is.
pub fn address(message: &v1::Address) -> Result<SocketAddr, DecodeError> {
    socket_address(At::Root, &message.ip, message.port)
}

/// A place in a message. Lives on the stack and becomes text only in an error.
#[derive(Clone, Copy)]
enum At<'a> {
    Root,
    Field(&'a At<'a>, &'static str),
    Index(&'a At<'a>, usize),
}

impl<'a> At<'a> {
    fn field(&'a self, name: &'static str) -> Self {
        Self::Field(self, name)
    }

    fn index(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }

    fn fail<T>(&self, problem: impl fmt::Display) -> Result<T, DecodeError> {
        Err(DecodeError { path: self.to_string(), problem: problem.to_string() })
    }

    /// What must be there.
    fn required<T>(&self, value: Option<T>) -> Result<T, DecodeError> {
        match value {
            Some(value) => Ok(value),
            None => self.fail("is absent, or of a kind that this version does not know"),
        }
    }

    /// Every element of a list.
    fn each<M, T>(
        &self,
        list: Vec<M>,
        decode: impl Fn(At<'_>, M) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        list.into_iter().enumerate().map(|(index, element)| decode(self.index(index), element)).collect()
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("message"),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Whether this version knows all that the sender means.
fn understood(at: At<'_>, features: &[String], sent: u64, counted: u64) -> Result<(), DecodeError> {
    if let Some(unknown) = features.iter().find(|name| !FEATURES.contains(&name.as_str())) {
        return at.field("required_features").fail(format!("{unknown:?} is not known; upgrade this proxy"));
    }
    if sent != counted {
        let problem =
            format!("{sent} were sent and {counted} understood; upgrade this proxy if its operator is newer");
        return at.field("parts").fail(problem);
    }
    Ok(())
}

fn port(at: At<'_>, port: u32) -> Result<u16, DecodeError> {
    match u16::try_from(port) {
        Ok(port @ 1..) => Ok(port),
        _ => at.fail(format!("{port} is not a port (1 to 65535)")),
    }
}

fn socket_address(at: At<'_>, ip: &[u8], number: u32) -> Result<SocketAddr, DecodeError> {
    let address = if let Ok(v4) = <[u8; 4]>::try_from(ip) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(ip) {
        IpAddr::from(v6).to_canonical()
    } else {
        return at.field("ip").fail(format!("{} bytes are no address (4 or 16)", ip.len()));
    };
    Ok(SocketAddr::new(address, port(at.field("port"), number)?))
}

fn object_name(at: At<'_>, namespace: String, name: String) -> Result<ObjectName, DecodeError> {
    if !is_dns_label(&namespace) {
        return at.field("namespace").fail(format!("{namespace:?} is not a namespace"));
    }
    if !is_dns_subdomain(&name, 253) {
        return at.field("name").fail(format!("{name:?} is not an object's name"));
    }
    Ok(ObjectName { namespace, name })
}

fn service_port(at: At<'_>, message: Option<v1::ServicePort>) -> Result<ServicePort, DecodeError> {
    let v1::ServicePort { namespace, name, port: number } = at.required(message)?;
    Ok(ServicePort { service: object_name(at, namespace, name)?, port: port(at.field("port"), number)? })
}

fn protocol(at: At<'_>, number: i32) -> Result<byrnie_model::Protocol, DecodeError> {
    use byrnie_model::Protocol;
    match v1::Protocol::try_from(number) {
        Ok(v1::Protocol::Detect) => Ok(Protocol::Detect),
        Ok(v1::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(v1::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(v1::Protocol::Tls) => Ok(Protocol::Tls),
        Ok(v1::Protocol::Opaque) => Ok(Protocol::Opaque),
        Ok(v1::Protocol::Unspecified) | Err(_) => unknown(at, number),
    }
}

/// An enum's number that is unspecified or of a later version.
fn unknown<T>(at: At<'_>, number: i32) -> Result<T, DecodeError> {
    at.fail(format!("{number} is unspecified or not known to this version"))
}

/// Refuses a port that is listed twice: which entry counts would depend on the reader.
fn once<T>(at: At<'_>, list: &[(u16, T)]) -> Result<(), DecodeError> {
    let mut ports: Vec<_> = list.iter().map(|(port, _)| *port).collect();
    ports.sort_unstable();
    match ports.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => at.fail(format!("port {} is listed twice", pair[0])),
        None => Ok(()),
    }
}
