//! Who may call: policies, rules and their predicates.

use byrnie_model::{
    Action, Enforcement, HeaderMatch, HttpMatch, InboundPolicy, Mtls, MtlsMode, PathMatch, Policy, Ports,
    Rule, Source, SpiffeId, ValueMatch, Workload, spiffe::is_dns_label,
};
use http::{HeaderName, Method};

use super::{At, DecodeError, object_name, once, port, protocol, traffic::limits, unknown};
use crate::v1;

pub(super) fn workload(at: At<'_>, message: v1::Workload) -> Result<Workload, DecodeError> {
    let policies = at.field("policies").each(message.policies, policy)?;
    let mtls = mtls(at.field("mtls"), message.mtls)?;
    let field = at.field("protocols");
    let protocols = field.each(message.protocols, |at, entry| {
        Ok((port(at.field("port"), entry.port)?, protocol(at.field("protocol"), entry.protocol)?))
    })?;
    once(field, &protocols)?;
    let limits = limits(at.field("limits"), message.limits)?;
    Ok(Workload { inbound: InboundPolicy { mtls, policies }, protocols, limits, zone: message.zone })
}

/// The predicates of rules, and of routes.
pub(super) fn http_match(at: At<'_>, message: v1::HttpMatch) -> Result<HttpMatch, DecodeError> {
    Ok(HttpMatch {
        methods: at.field("methods").each(message.methods, method)?,
        path: message.path.map(|path| path_match(at.field("path"), path)).transpose()?,
        hosts: at.field("hosts").each(message.hosts, host)?,
        headers: at.field("headers").each(message.headers, header_match)?,
    })
}

fn policy(at: At<'_>, message: v1::Policy) -> Result<Policy, DecodeError> {
    let action = match v1::Action::try_from(message.action) {
        Ok(v1::Action::Allow) => Action::Allow,
        Ok(v1::Action::Deny) => Action::Deny,
        Ok(v1::Action::Unspecified) | Err(_) => return unknown(at.field("action"), message.action),
    };
    let enforcement = match v1::Enforcement::try_from(message.enforcement) {
        Ok(v1::Enforcement::Enforced) => Enforcement::Enforced,
        Ok(v1::Enforcement::Audit) => Enforcement::Audit,
        Ok(v1::Enforcement::Unspecified) | Err(_) => {
            return unknown(at.field("enforcement"), message.enforcement);
        }
    };
    Ok(Policy {
        name: object_name(at, message.namespace, message.name)?,
        action,
        enforcement,
        ports: ports(at.field("ports"), message.ports)?,
        rules: at.field("rules").each(message.rules, rule)?,
    })
}

fn rule(at: At<'_>, message: v1::Rule) -> Result<Rule, DecodeError> {
    Ok(Rule {
        sources: at.field("sources").each(message.sources, source)?,
        ports: ports(at.field("ports"), message.ports)?,
        http: at.field("http").each(message.http, http_match)?,
    })
}

fn ports(at: At<'_>, message: Option<v1::Ports>) -> Result<Ports, DecodeError> {
    let v1::Ports { all, only } = at.required(message)?;
    match (all, only.is_empty()) {
        (true, true) => Ok(Ports::All),
        (true, false) => at.fail("says all ports and lists some"),
        (false, _) => Ok(Ports::Only(at.field("only").each(only, port)?)),
    }
}

fn source(at: At<'_>, message: v1::Source) -> Result<Source, DecodeError> {
    use v1::{source::Source as Wire, workload_source::Account};
    let workload = match at.required(message.source)? {
        Wire::Anyone(v1::Anyone {}) => return Ok(Source::Anyone),
        Wire::Workload(workload) => workload,
    };
    let at = at.field("workload");
    let v1::WorkloadSource { trust_domain, namespace, account } = workload;
    let trust_domain = trust_domain.parse().or_else(|error| at.field("trust_domain").fail(error))?;
    let service_account = match at.field("account").required(account)? {
        Account::ServiceAccount(name) => {
            SpiffeId::new(&trust_domain, &namespace, &name).or_else(|error| at.fail(error))?;
            Some(name)
        }
        Account::AnyServiceAccount(v1::Anyone {}) if is_dns_label(&namespace) => None,
        Account::AnyServiceAccount(v1::Anyone {}) => {
            return at.field("namespace").fail(format!("{namespace:?} is not a namespace"));
        }
    };
    Ok(Source::Workload { trust_domain, namespace, service_account })
}

fn method(at: At<'_>, method: String) -> Result<String, DecodeError> {
    match Method::from_bytes(method.as_bytes()) {
        Ok(_) => Ok(method),
        Err(_) => at.fail(format!("{method:?} is not a method")),
    }
}

fn path_match(at: At<'_>, message: v1::PathMatch) -> Result<PathMatch, DecodeError> {
    use v1::path_match::Path;
    let path = match at.required(message.path)? {
        Path::Exact(path) => PathMatch::Exact(path),
        Path::Prefix(path) => PathMatch::Prefix(path),
    };
    match &path {
        PathMatch::Exact(value) | PathMatch::Prefix(value) if !value.starts_with('/') => {
            at.fail(format!("{value:?} does not start with '/'"))
        }
        _ => Ok(path),
    }
}

/// As the evaluator compares: lower case, without port or trailing dot, a wildcard only as the whole first label.
fn host(at: At<'_>, host: String) -> Result<String, DecodeError> {
    let name = host.strip_prefix("*.").unwrap_or(&host);
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fits = match literal {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok() && host.starts_with('['),
        None => name.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        }),
    };
    if fits { Ok(host) } else { at.fail(format!("{host:?} is not a host in lower case without port")) }
}

/// An empty value is refused: a lost one would be a prefix of everything.
fn header_match(at: At<'_>, message: v1::HeaderMatch) -> Result<HeaderMatch, DecodeError> {
    use v1::header_match::Value;
    let v1::HeaderMatch { name, value } = message;
    let Ok(name) = HeaderName::from_lowercase(name.as_bytes()) else {
        return at.field("name").fail(format!("{name:?} is not a header's name in lower case"));
    };
    let value = match at.field("value").required(value)? {
        Value::Present(v1::Anyone {}) => ValueMatch::Present,
        Value::Exact(value) | Value::Prefix(value) if value.is_empty() => {
            return at.field("value").fail("is empty");
        }
        Value::Exact(value) => ValueMatch::Exact(value),
        Value::Prefix(value) => ValueMatch::Prefix(value),
    };
    Ok(HeaderMatch { name, value })
}

fn mtls(at: At<'_>, message: Option<v1::Mtls>) -> Result<Mtls, DecodeError> {
    let v1::Mtls { default_mode, ports } = at.required(message)?;
    let field = at.field("ports");
    let ports = field.each(ports, |at, entry| {
        Ok((port(at.field("port"), entry.port)?, mtls_mode(at.field("mode"), entry.mode)?))
    })?;
    once(field, &ports)?;
    Ok(Mtls { default: mtls_mode(at.field("default_mode"), default_mode)?, ports })
}

fn mtls_mode(at: At<'_>, number: i32) -> Result<MtlsMode, DecodeError> {
    match v1::MtlsMode::try_from(number) {
        Ok(v1::MtlsMode::Strict) => Ok(MtlsMode::Strict),
        Ok(v1::MtlsMode::Permissive) => Ok(MtlsMode::Permissive),
        Ok(v1::MtlsMode::Unspecified) | Err(_) => unknown(at, number),
    }
}
