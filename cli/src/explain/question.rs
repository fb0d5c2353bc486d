//! What is asked, as it is written on the command line. Knows nothing of a cluster.

use std::{fmt, str::FromStr};

use byrnie_model::{
    ObjectName,
    spiffe::{is_dns_label, is_dns_subdomain},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A pod in the mesh that runs as this ServiceAccount.
    Account(ObjectName),
    /// Somebody without an identity.
    Plaintext,
}

/// What is called: `NAMESPACE/SERVICE[:PORT]` or `NAMESPACE/pod/NAME[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct To {
    pub(super) kind: Kind,
    pub(super) name: ObjectName,
    pub(super) port: Option<PortRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Service,
    Pod,
}

/// A port by number or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortRef {
    Number(u16),
    Name(String),
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// A request.
    Http(HttpCall),
    /// Bytes that are no HTTP.
    Tcp,
}

/// A request. The path is without query; the host, where it is not told, is the Service's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpCall {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) host: Option<String>,
    pub(super) headers: HeaderMap,
}

/// The whole question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) from: Caller,
    pub(super) to: To,
    pub(super) call: Call,
}

/// `NAMESPACE/SERVICEACCOUNT`.
pub(super) fn account(text: &str) -> Result<ObjectName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_dns_label(namespace) && is_dns_subdomain(name, 253) => {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err("write NAMESPACE/SERVICEACCOUNT, as in shop/web".into()),
    }
}

/// `NAME=VALUE`, as in `x-tenant=blue`.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, as in x-tenant=blue")?;
    let name = HeaderName::from_str(name.trim()).map_err(|_| format!("{name:?} is no header name"))?;
    if name == http::header::HOST {
        return Err("the host has a flag of its own: --host".into());
    }
    let value = HeaderValue::from_str(value).map_err(|_| format!("{value:?} is no header value"))?;
    Ok((name, value))
}

/// A path, from which a query is cut: rules do not see it.
pub(super) fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.split('?').next().unwrap_or_default().to_owned())
    } else {
        Err("a path starts with '/'".into())
    }
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "write NAMESPACE/SERVICE[:PORT], or NAMESPACE/pod/NAME[:PORT]".to_owned();
        let (object, port) = text.split_once(':').map_or((text, None), |(object, port)| (object, Some(port)));
        let port = port.map(PortRef::from_str).transpose()?;
        let parts: Vec<&str> = object.split('/').collect();
        let (kind, namespace, name) = match parts[..] {
            [namespace, name] => (Kind::Service, namespace, name),
            [namespace, "pod", name] => (Kind::Pod, namespace, name),
            _ => return Err(wanted()),
        };
        if !is_dns_label(namespace) || !is_dns_subdomain(name, 253) {
            return Err(wanted());
        }
        Ok(Self { kind, name: ObjectName::new(namespace, name), port })
    }
}

impl FromStr for PortRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u16>() {
            Ok(number) if number > 0 => Ok(Self::Number(number)),
            Err(_) if is_dns_label(text) && !text.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Self::Name(text.to_owned()))
            }
            _ => Err(format!("{text:?} is no port: write a number from 1 to 65535, or a port's name")),
        }
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_services_or_pods_with_or_without_port() {
        let to = |text: &str| text.parse::<To>();
        let name = |name| ObjectName::new("shop", name);
        let service = To { kind: Kind::Service, name: name("pay"), port: None };
        assert_eq!(to("shop/pay"), Ok(service.clone()));
        assert_eq!(to("shop/pay:80"), Ok(To { port: Some(PortRef::Number(80)), ..service.clone() }));
        assert_eq!(to("shop/pay:http"), Ok(To { port: Some(PortRef::Name("http".into())), ..service }));
        assert_eq!(to("shop/pod/pay-0"), Ok(To { kind: Kind::Pod, name: name("pay-0"), port: None }));
        for wrong in [
            "pay",
            "shop/",
            "/pay",
            "shop/pay:",
            "shop/pay:0",
            "shop/pay:70000",
            "shop/job/x",
            "S/p",
            "a/pod/b/c",
        ] {
            assert!(to(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn accounts_headers_and_paths() {
        assert_eq!(account("shop/web"), Ok(ObjectName::new("shop", "web")));
        assert!(account("web").is_err() && account("shop/*").is_err() && account("a/b/c").is_err());
        assert_eq!(header("X-Team=a=b").unwrap().0, "x-team");
        assert_eq!(header("x=a=b").unwrap().1, "a=b");
        assert!(header("x").is_err() && header("a b=c").is_err() && header("Host=x").is_err());
        assert_eq!(path("/a?b=/c").as_deref(), Ok("/a"));
        assert!(path("a").is_err());
    }
}
