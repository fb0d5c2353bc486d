//! A second, independent reading of the authorization rules. Imports nothing from the model, on purpose: it is
//! written from the documentation (design: "Who may call"), slowly and literally, on strings.

use std::collections::BTreeSet;

pub(crate) struct World {
    pub(crate) strict: bool,
    pub(crate) policies: Vec<Policy>,
}

pub(crate) struct Policy {
    pub(crate) deny: bool,
    pub(crate) audit: bool,
    pub(crate) ports: Option<Vec<u16>>,
    pub(crate) rules: Vec<Rule>,
}

pub(crate) struct Rule {
    pub(crate) sources: Vec<Source>,
    pub(crate) ports: Option<Vec<u16>>,
    pub(crate) http: Vec<Http>,
}

pub(crate) enum Source {
    Anyone,
    Account { domain: String, namespace: String, name: Option<String> },
}

pub(crate) struct Http {
    pub(crate) methods: Vec<String>,
    /// `(is prefix, value)`
    pub(crate) path: Option<(bool, String)>,
    pub(crate) hosts: Vec<String>,
    /// `(name, None = present | (is prefix, value))`
    pub(crate) headers: Vec<(String, Option<(bool, String)>)>,
}

pub(crate) struct Call {
    pub(crate) port: u16,
    /// `(domain, namespace, account)`
    pub(crate) peer: Option<(String, String, String)>,
    pub(crate) http: Option<Seen>,
}

pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) headers: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Allow,
    Deny,
    Audit,
}

pub(crate) fn judge(world: &World, call: &Call) -> Outcome {
    if world.strict && call.peer.is_none() {
        return Outcome::Deny;
    }
    let enforced: Vec<&Policy> = world.policies.iter().filter(|p| !p.audit).collect();
    let all: Vec<&Policy> = world.policies.iter().collect();
    match (passes(&enforced, call), passes(&all, call)) {
        (false, _) => Outcome::Deny,
        (true, false) => Outcome::Audit,
        (true, true) => Outcome::Allow,
    }
}

fn in_ports(ports: Option<&Vec<u16>>, port: u16) -> bool {
    ports.is_none_or(|list| list.contains(&port))
}

fn passes(policies: &[&Policy], call: &Call) -> bool {
    let mut allow_policies = 0;
    let mut allowed = false;
    for policy in policies {
        if !in_ports(policy.ports.as_ref(), call.port) {
            continue;
        }
        if !policy.deny {
            allow_policies += 1;
        }
        for rule in &policy.rules {
            if !in_ports(rule.ports.as_ref(), call.port) {
                continue;
            }
            if !rule.http.is_empty() {
                let Some(seen) = &call.http else { return false };
                if rule.http.iter().any(|h| h.path.is_some()) && strange(&seen.path) {
                    return false;
                }
            }
            if policy.deny && source_fits(rule, call, true) && http_fits(rule, call, true) {
                return false;
            }
            if !policy.deny && source_fits(rule, call, false) && http_fits(rule, call, false) {
                allowed = true;
            }
        }
    }
    allow_policies == 0 || allowed
}

fn source_fits(rule: &Rule, call: &Call, deny: bool) -> bool {
    for source in &rule.sources {
        match (source, &call.peer) {
            (Source::Anyone, _) => return true,
            (Source::Account { .. }, None) if deny => return true,
            (Source::Account { .. }, None) => {}
            (Source::Account { domain, namespace, name }, Some((d, n, a))) => {
                if domain == d && namespace == n && (name.is_none() || name.as_deref() == Some(a)) {
                    return true;
                }
            }
        }
    }
    false
}

fn http_fits(rule: &Rule, call: &Call, deny: bool) -> bool {
    if rule.http.is_empty() {
        return true;
    }
    let Some(seen) = &call.http else { return deny };
    rule.http.iter().any(|h| {
        let method = h.methods.is_empty() || h.methods.contains(&seen.method);
        let path = match &h.path {
            None => true,
            Some((prefix, value)) if deny => lenient(&seen.path, value, *prefix),
            Some((false, value)) => &seen.path == value,
            Some((true, value)) => below(&seen.path, value),
        };
        let host = h.hosts.is_empty() || h.hosts.iter().any(|want| host_fits(want, &seen.host));
        let headers = h.headers.iter().all(|(name, want)| {
            let values: Vec<&String> =
                seen.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v).collect();
            let fits = |v: &String| match want {
                None => true,
                Some((false, exact)) => v == exact,
                Some((true, start)) => v.starts_with(start.as_str()),
            };
            if deny {
                values.into_iter().any(fits)
            } else {
                !values.is_empty() && values.into_iter().all(fits)
            }
        });
        method && path && host && headers
    })
}

fn below(path: &str, prefix: &str) -> bool {
    let mut prefix = prefix.to_owned();
    if prefix.ends_with('/') {
        prefix.pop();
    }
    path == prefix || path.starts_with(&(prefix + "/"))
}

fn plain_segments(path: &str) -> Vec<String> {
    let mut segments: Vec<String> = path
        .split('/')
        .map(|s| s.chars().take_while(|c| *c != ';').collect::<String>().to_lowercase())
        .collect();
    let trailing = path.chars().rev().take_while(|c| *c == '/').count();
    segments.truncate(segments.len() - trailing);
    segments
}

fn lenient(path: &str, pattern: &str, prefix: bool) -> bool {
    let (have, want) = (plain_segments(path), plain_segments(pattern));
    if prefix { have.len() >= want.len() && have[..want.len()] == want[..] } else { have == want }
}

fn host_fits(want: &str, host: &str) -> bool {
    let mut host = host.to_lowercase();
    if let Some(colon) = host.rfind(':')
        && host[colon + 1..].chars().all(|c| c.is_ascii_digit())
    {
        host.truncate(colon);
    }
    if host.ends_with('.') {
        host.pop();
    }
    if let Some(suffix) = want.strip_prefix("*") {
        host.ends_with(suffix) && host != suffix
    } else {
        host == want
    }
}

/// Whether somebody could read another path out of this one: by decoding and re-reading, not by a byte scan.
fn strange(path: &str) -> bool {
    if !path.starts_with('/') || !path.is_ascii() || path.contains('#') || path.contains('\\') {
        return true;
    }
    let mut decoded = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let Some(digits) = rest.get(at + 1..at + 3) else { return true };
        if !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return true;
        }
        let byte = u8::from_str_radix(digits, 16).unwrap();
        let c = char::from(byte);
        let unreserved = c.is_ascii_alphanumeric() || "-._~".contains(c);
        let after = &rest[at + 3..];
        let twice = c == '%' && after.len() >= 2 && after[..2].chars().all(|d| d.is_ascii_hexdigit());
        if unreserved || twice || c == '/' || c == '\\' || c.is_ascii_control() {
            return true;
        }
        decoded.push('x');
        rest = after;
    }
    decoded.push_str(rest);
    if decoded.chars().any(|c| c.is_ascii_control()) {
        return true;
    }
    let segments: Vec<&str> = decoded.split('/').skip(1).collect();
    for (i, segment) in segments.iter().enumerate() {
        let bare: String = segment.chars().take_while(|c| *c != ';').collect();
        if bare == "." || bare == ".." {
            return true;
        }
        if bare.is_empty() && !(i + 1 == segments.len() && segment.is_empty()) {
            return true;
        }
    }
    false
}

/// For the distribution check.
pub(crate) fn kinds() -> BTreeSet<Outcome> {
    [Outcome::Allow, Outcome::Deny, Outcome::Audit].into()
}
