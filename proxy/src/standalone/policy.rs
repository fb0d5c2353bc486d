//! Who may call the application, and what it takes: from the file to what an operator would send.

use byrnie_model::{
    self as model, InboundPolicy, ObjectName, Ports, SpiffeId, TrustDomain, Workload, path,
    spiffe::is_dns_label,
};
use http::{HeaderName, Method};

use super::{
    compile::{Mistakes, Result, each, protocol, wrong},
    file::{File, HeaderMatch, HeaderType, HttpMatch, PathMatch, PathType, Policy, Rule, Source},
    traffic,
};

/// All that the proxy knows of its own application.
pub(super) fn workload(file: &File) -> Result<Workload> {
    let mtls = &file.inbound.mtls;
    let policies = each(&file.policies, "policies", |policy, at| policy_of(policy, &file.trust_domain, at))?;
    Ok(Workload {
        inbound: InboundPolicy {
            mtls: model::Mtls {
                default: mtls.mode,
                ports: mtls.ports.iter().map(|p| (p.port, p.mode)).collect(),
            },
            policies,
        },
        protocols: file.inbound.protocols.iter().map(|p| (p.port, protocol(Some(p.protocol)))).collect(),
        limits: traffic::limits(&file.inbound.limits, "inbound.limits")?,
        zone: file.pod.zone.clone(),
    })
}

fn policy_of(spec: &Policy, trust_domain: &TrustDomain, at: &str) -> Result<model::Policy> {
    let mut mistakes = Mistakes::default();
    let name = match spec.name.split_once('/') {
        Some((namespace, name)) => Some(ObjectName::new(namespace, name)),
        None => mistakes.keep(wrong(&format!("{at}.name"), "must be namespace/name")),
    };
    let rules = each(&spec.rules, &format!("{at}.rules"), |rule, at| self::rule(rule, trust_domain, at));
    let rules = mistakes.keep(rules);
    if spec.action == model::Action::Deny && spec.rules.is_empty() {
        mistakes.keep::<()>(wrong(&format!("{at}.rules"), "a Deny without rules denies nothing"));
    }
    let ports = mistakes.keep(ports(spec.ports.as_ref(), at));
    let (Some(name), Some(rules), Some(ports)) = (name, rules, ports) else { return Err(mistakes) };
    let (action, enforcement) = (spec.action, spec.enforcement);
    mistakes.or(model::Policy { name, action, enforcement, ports, rules })
}

fn rule(spec: &Rule, trust_domain: &TrustDomain, at: &str) -> Result<model::Rule> {
    let mut mistakes = Mistakes::default();
    let sources =
        each(&spec.sources, &format!("{at}.sources"), |source, at| self::source(source, trust_domain, at));
    let sources = mistakes.keep(sources);
    let http = mistakes.keep(match &spec.http {
        Some(matches) if matches.is_empty() => {
            wrong(&format!("{at}.http"), "leave it out to match every request")
        }
        matches => each(matches.as_deref().unwrap_or_default(), &format!("{at}.http"), http_match),
    });
    let ports = mistakes.keep(ports(spec.ports.as_ref(), at));
    let (Some(sources), Some(http), Some(ports)) = (sources, http, ports) else { return Err(mistakes) };
    mistakes.or(model::Rule { sources, ports, http })
}

fn source(spec: &Source, own: &TrustDomain, at: &str) -> Result<model::Source> {
    let account = match (&spec.service_account, spec.anyone) {
        (None, Some(true)) => return Ok(model::Source::Anyone),
        (Some(account), None) => account,
        _ => return wrong(at, "a source is exactly one of serviceAccount and anyone: true"),
    };
    let everyone = account.name == "*";
    let trust_domain = account.trust_domain.clone().unwrap_or_else(|| own.clone());
    let example = if everyone { "any" } else { account.name.as_str() };
    if let Err(error) = SpiffeId::new(&trust_domain, &account.namespace, example) {
        return wrong(&format!("{at}.serviceAccount"), error.to_string());
    }
    let service_account = (!everyone).then(|| account.name.clone());
    Ok(model::Source::Workload { trust_domain, namespace: account.namespace.clone(), service_account })
}

/// What a rule or a route looks at.
pub(super) fn http_match(spec: &HttpMatch, at: &str) -> Result<model::HttpMatch> {
    let mut mistakes = Mistakes::default();
    if let Some(bad) = spec.methods.iter().find(|m| Method::from_bytes(m.as_bytes()).is_err()) {
        mistakes.keep::<()>(wrong(&format!("{at}.methods"), format!("'{bad}' is no method")));
    }
    let path = mistakes.keep(spec.path.as_ref().map(|path| path_match(path, at)).transpose()).flatten();
    let is_host = |host: &String| host.strip_prefix("*.").unwrap_or(host).split('.').all(is_dns_label);
    if let Some(bad) = spec.hosts.iter().find(|host| !is_host(host)) {
        let said = format!("'{bad}' is no DNS name in lower case, without port");
        mistakes.keep::<()>(wrong(&format!("{at}.hosts"), said));
    }
    let headers = mistakes.keep(each(&spec.headers, &format!("{at}.headers"), header)).unwrap_or_default();
    let (methods, hosts) = (spec.methods.clone(), spec.hosts.clone());
    mistakes.or(model::HttpMatch { methods, path, hosts, headers })
}

fn path_match(spec: &PathMatch, at: &str) -> Result<model::PathMatch> {
    if let Some(fault) = path::fault(&spec.value) {
        return wrong(&format!("{at}.path.value"), format!("no request can match it: {fault}"));
    }
    if spec.value.contains('?') {
        return wrong(&format!("{at}.path.value"), "queries are not looked at; leave '?' and the rest out");
    }
    let value = spec.value.clone();
    Ok(match spec.kind {
        PathType::Exact => model::PathMatch::Exact(value),
        PathType::PathPrefix => model::PathMatch::Prefix(value),
    })
}

fn header(spec: &HeaderMatch, at: &str) -> Result<model::HeaderMatch> {
    let Ok(name) = HeaderName::from_bytes(spec.name.as_bytes()) else {
        return wrong(&format!("{at}.name"), format!("'{}' is no header name", spec.name));
    };
    let value = match (spec.kind, &spec.value) {
        (HeaderType::Present, None) => model::ValueMatch::Present,
        (HeaderType::Exact, Some(value)) => model::ValueMatch::Exact(value.clone()),
        (HeaderType::Prefix, Some(value)) if !value.is_empty() => model::ValueMatch::Prefix(value.clone()),
        _ => return wrong(at, "Exact and Prefix need a value; Present has none"),
    };
    Ok(model::HeaderMatch { name, value })
}

fn ports(spec: Option<&Vec<u16>>, at: &str) -> Result<Ports> {
    match spec {
        None => Ok(Ports::All),
        Some(ports) if ports.is_empty() || ports.contains(&0) => {
            wrong(&format!("{at}.ports"), "must be ports (1 to 65535), or left out for every port")
        }
        Some(ports) => Ok(Ports::Only(ports.clone())),
    }
}
