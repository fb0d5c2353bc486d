//! What a rule asks of a request: methods, path, hosts, headers. A predicate that could never match is refused:
//! in a Deny it would be a hole, in an Allow an outage.

use byrnie_model::{HeaderMatch, HttpMatch, PathMatch, ValueMatch, path, spiffe::is_dns_label};
use http::{HeaderName, HeaderValue};

use super::{all, problem};
use crate::{
    meshpolicy::{HeaderSpec, HeaderType, HttpSpec, PathSpec, PathType},
    problem::Findings,
};

/// Headers that only the proxy writes: removed from what comes from outside before rules see it.
const RESERVED: [&str; 3] = ["byrnie-", "x-byrnie-", "x-forwarded-client-cert"];

/// `None`: not understood.
pub(super) fn compile(spec: &HttpSpec, path: &str, findings: &mut Findings) -> Option<HttpMatch> {
    let methods = spec.methods.iter().enumerate();
    let methods = all(methods.map(|(i, m)| method(m, &format!("{path}.methods[{i}]"), findings)));
    let wanted_path = match &spec.path {
        None => Some(None),
        Some(wanted) => path_match(wanted, &format!("{path}.path.value"), findings).map(Some),
    };
    let hosts = spec.hosts.iter().enumerate();
    let hosts = all(hosts.map(|(i, h)| host(h, &format!("{path}.hosts[{i}]"), findings)));
    let headers = spec.headers.iter().enumerate();
    let headers = all(headers.map(|(i, h)| header(h, &format!("{path}.headers[{i}]"), findings)));
    Some(HttpMatch { methods: methods?, path: wanted_path?, hosts: hosts?, headers: headers? })
}

fn method(method: &str, path: &str, findings: &mut Findings) -> Option<String> {
    const COMMON: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let upper = method.to_ascii_uppercase();
    if upper != method && COMMON.contains(&upper.as_str()) {
        return problem(path, format!("methods are case-sensitive: write {upper}"), findings);
    }
    if http::Method::from_bytes(method.as_bytes()).is_err() {
        return problem(path, format!("{method:?} is no HTTP method"), findings);
    }
    Some(method.to_owned())
}

fn path_match(wanted: &PathSpec, at: &str, findings: &mut Findings) -> Option<PathMatch> {
    let value = &wanted.value;
    if let Some(fault) = path::fault(value) {
        return problem(at, format!("no request can match it: {fault}"), findings);
    }
    if value.contains('?') {
        return problem(
            at,
            "no request can match it: a path ends before '?', queries are not looked at",
            findings,
        );
    }
    if let Some(byte) =
        value.bytes().find(|b| matches!(b, b' ' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'}' | b'|'))
    {
        let escape = format!("%{byte:02X}");
        return problem(at, format!("clients send {:?} as {escape}: write that", char::from(byte)), findings);
    }
    Some(match wanted.type_ {
        PathType::Exact => PathMatch::Exact(value.clone()),
        PathType::PathPrefix => PathMatch::Prefix(value.clone()),
    })
}

fn host(host: &str, path: &str, findings: &mut Findings) -> Option<String> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.split('.').all(is_dns_label) {
        return Some(host.to_owned());
    }
    let hint = match name {
        "*" | "" => "leave hosts out to match every host".into(),
        _ if name.contains(':') && !name.starts_with('[') => "write the host without port".into(),
        _ if name.ends_with('.') => "write the host without the dot at its end".into(),
        _ if name.bytes().any(|b| b.is_ascii_uppercase()) => format!("write {}", host.to_ascii_lowercase()),
        _ => "a host is a DNS name, or *. and a DNS name for every name below it".into(),
    };
    problem(path, format!("{host:?} is no host: {hint}"), findings)
}

fn header(spec: &HeaderSpec, path: &str, findings: &mut Findings) -> Option<HeaderMatch> {
    let Ok(name) = HeaderName::from_bytes(spec.name.as_bytes()) else {
        return problem(&format!("{path}.name"), format!("{:?} is no header name", spec.name), findings);
    };
    if name == "host" {
        return problem(&format!("{path}.name"), "use hosts: HTTP/2 requests have no Host header", findings);
    }
    if RESERVED.iter().any(|reserved| name.as_str().starts_with(reserved)) {
        let message = "is written by the proxy alone; who calls is a matter of sources";
        return problem(&format!("{path}.name"), message, findings);
    }
    let value = match (spec.type_, &spec.value) {
        (HeaderType::Present, None) => ValueMatch::Present,
        // On the way to a proxy, an empty value could not be told from one that got lost.
        (HeaderType::Exact | HeaderType::Prefix, Some(value)) if value.is_empty() => {
            return problem(&format!("{path}.value"), "is empty: use type Present", findings);
        }
        (HeaderType::Exact, Some(value)) => ValueMatch::Exact(value.clone()),
        (HeaderType::Prefix, Some(value)) => ValueMatch::Prefix(value.clone()),
        _ => return problem(path, "Exact and Prefix need a value; Present has none", findings),
    };
    let text = spec.value.as_deref().unwrap_or_default();
    let trailing = spec.type_ == HeaderType::Exact && text.trim_end() != text;
    if HeaderValue::from_str(text).is_err() || text.trim_start() != text || trailing {
        let message = "no header has such a value: visible ASCII, without space at the ends";
        return problem(&format!("{path}.value"), message, findings);
    }
    Some(HeaderMatch { name, value })
}
