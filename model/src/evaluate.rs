//! The one evaluator: policy and request in, verdict out.
//!
//! 1. Plaintext to a Strict port is refused.
//! 2. A port with HTTP rules refuses what is not HTTP, and a port with path rules refuses ambiguous paths.
//! 3. A Deny rule that matches refuses. A Deny predicate that cannot be evaluated matches.
//! 4. Where an Allow policy governs the port, what no Allow rule matches is refused. An Allow predicate that
//!    cannot be evaluated does not match.
//! 5. Where none governs it, mesh peers pass, but not those of another trust domain: a rule must let them in.
//!
//! Policies under audit are decided the same way, on top of the enforced ones, and only recorded.

use http::HeaderMap;

use crate::{
    authorization::{
        Action, Enforcement, HeaderMatch, HttpMatch, InboundPolicy, MtlsMode, PathMatch, Policy, Rule,
        Source, ValueMatch,
    },
    names::ObjectName,
    path::{self, PathFault},
    spiffe::{SpiffeId, TrustDomain},
};

/// What asks to be let in: a request, or a connection that carries no HTTP.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The container port that was dialled.
    pub port: u16,
    /// Who asks.
    pub peer: Peer<'a>,
    /// The request; `None` on an opaque connection.
    pub http: Option<HttpRequest<'a>>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub enum Peer<'a> {
    /// A mesh peer, from its verified certificate.
    Mesh(&'a SpiffeId),
    /// A peer of another trust domain, from its verified certificate.
    Foreign(&'a SpiffeId),
    /// Somebody without an identity.
    Plaintext,
}

impl<'a> Peer<'a> {
    /// Whoever has shown this identity, or none, to a member of the trust domain `home`.
    pub fn of(identity: Option<&'a SpiffeId>, home: &TrustDomain) -> Self {
        match identity {
            None => Self::Plaintext,
            Some(id) if id.trust_domain() == home.as_str() => Self::Mesh(id),
            Some(id) => Self::Foreign(id),
        }
    }
}

/// The parts of an HTTP request that rules can see.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// Method, as sent.
    pub method: &'a str,
    /// Path without query, as sent.
    pub path: &'a str,
    /// Host header or `:authority`, as sent.
    pub host: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
}

/// What happens to the request, and what would have happened under audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// What is enforced.
    pub decision: Decision<'a>,
    /// Why the policies under audit would have refused what is let pass.
    pub audit: Option<Denial<'a>>,
}

/// Whether a request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// It does.
    Allow(Grant<'a>),
    /// It does not.
    Deny(Denial<'a>),
}

/// Why a request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant<'a> {
    /// No Allow policy governs the port, and nothing denies.
    NoPolicy,
    /// A rule of an Allow policy matched.
    Rule(RuleName<'a>),
}

/// Why a request does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial<'a> {
    /// Plaintext, and the port is Strict.
    Plaintext,
    /// Not HTTP, and this rule of the port needs to see HTTP.
    NotHttp(RuleName<'a>),
    /// The path is ambiguous, and this rule of the port looks at paths. Answered with 400.
    Path(RuleName<'a>, PathFault),
    /// A rule of a Deny policy matched.
    Rule(RuleName<'a>),
    /// Allow policies govern the port (the first is named) and none of their rules matched.
    NoRule(&'a ObjectName),
    /// No Allow policy governs the port, and the peer is of another trust domain.
    Foreign,
}

/// A rule by its policy and its place in `rules`, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleName<'a> {
    /// The MeshPolicy.
    pub policy: &'a ObjectName,
    /// The index.
    pub rule: usize,
}

/// Decides.
pub fn evaluate<'a>(policy: &'a InboundPolicy, request: &Request<'_>) -> Verdict<'a> {
    if matches!(request.peer, Peer::Plaintext) && policy.mtls.mode(request.port) == MtlsMode::Strict {
        return Verdict { decision: Decision::Deny(Denial::Plaintext), audit: None };
    }
    let decision = decide(policy, request, |p| p.enforcement == Enforcement::Enforced);
    let audited = policy.policies.iter().any(|p| p.enforcement == Enforcement::Audit);
    let audit = match decision {
        Decision::Allow(_) if audited => match decide(policy, request, |_| true) {
            Decision::Deny(denial) => Some(denial),
            Decision::Allow(_) => None,
        },
        _ => None,
    };
    Verdict { decision, audit }
}

impl Verdict<'_> {
    /// Whether the request passes.
    pub fn allowed(&self) -> bool {
        matches!(self.decision, Decision::Allow(_))
    }
}

impl Denial<'_> {
    /// A short kebab-case reason, for the `byrnie-reason` header, metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext-refused",
            Self::NotHttp(_) => "not-http",
            Self::Path(..) => "ambiguous-path",
            Self::Rule(_) => "denied-by-rule",
            Self::NoRule(_) => "no-rule-allows",
            Self::Foreign => "foreign-peer",
        }
    }

    /// The policy that refuses, where there is one.
    pub fn policy(&self) -> Option<&ObjectName> {
        match self {
            Self::Plaintext | Self::Foreign => None,
            Self::NotHttp(r) | Self::Path(r, _) | Self::Rule(r) => Some(r.policy),
            Self::NoRule(policy) => Some(policy),
        }
    }

    /// The index of the rule that refuses, where there is one.
    pub fn rule(&self) -> Option<usize> {
        match self {
            Self::Plaintext | Self::NoRule(_) | Self::Foreign => None,
            Self::NotHttp(r) | Self::Path(r, _) | Self::Rule(r) => Some(r.rule),
        }
    }
}

/// Whether a route's match accepts a request; every predicate is read as an Allow would read it.
pub fn matches_http(wanted: &HttpMatch, http: &HttpRequest<'_>) -> bool {
    http_matches(wanted, http, Action::Allow)
}

fn decide<'a>(
    policy: &'a InboundPolicy,
    request: &Request<'_>,
    counts: impl Fn(&Policy) -> bool,
) -> Decision<'a> {
    let governing = || policy.policies.iter().filter(|p| p.ports.contains(request.port) && counts(p));
    let rules = |p: &'a Policy| {
        let here = p.rules.iter().enumerate().filter(|(_, rule)| rule.ports.contains(request.port));
        here.map(|(index, rule)| (RuleName { policy: &p.name, rule: index }, rule))
    };
    // what can be read clearly is clear to every rule: they are not asked one by one
    let fault = request.http.and_then(|http| path::fault(http.path));
    if request.http.is_none() || fault.is_some() {
        let denial = |(name, rule): (RuleName<'a>, &Rule)| unreadable(rule, name, fault);
        if let Some(denial) = governing().flat_map(rules).find_map(denial) {
            return Decision::Deny(denial);
        }
    }
    let matching = |action| {
        let mut candidates = governing().filter(|p| p.action == action).flat_map(rules);
        candidates.find(|(_, rule)| rule_matches(rule, request, action)).map(|(name, _)| name)
    };
    if let Some(name) = matching(Action::Deny) {
        return Decision::Deny(Denial::Rule(name));
    }
    match governing().find(|p| p.action == Action::Allow) {
        None if matches!(request.peer, Peer::Foreign(_)) => Decision::Deny(Denial::Foreign),
        None => Decision::Allow(Grant::NoPolicy),
        Some(first) => match matching(Action::Allow) {
            Some(name) => Decision::Allow(Grant::Rule(name)),
            None => Decision::Deny(Denial::NoRule(&first.name)),
        },
    }
}

/// Why a rule is not clear about a request that is no HTTP, or whose path has this fault.
fn unreadable<'a>(rule: &Rule, name: RuleName<'a>, fault: Option<PathFault>) -> Option<Denial<'a>> {
    match fault {
        None => (!rule.http.is_empty()).then_some(Denial::NotHttp(name)),
        Some(fault) => rule.http.iter().any(|m| m.path.is_some()).then_some(Denial::Path(name, fault)),
    }
}

fn rule_matches(rule: &Rule, request: &Request<'_>, action: Action) -> bool {
    rule.sources.iter().any(|s| source_matches(s, request.peer, action))
        && (rule.http.is_empty()
            || match &request.http {
                Some(http) => rule.http.iter().any(|m| http_matches(m, http, action)),
                None => action == Action::Deny,
            })
}

fn source_matches(source: &Source, peer: Peer<'_>, action: Action) -> bool {
    match (source, peer) {
        (Source::Anyone, _) => true,
        (Source::Workload { .. }, Peer::Plaintext) => action == Action::Deny,
        (
            Source::Workload { trust_domain, namespace, service_account },
            Peer::Mesh(id) | Peer::Foreign(id),
        ) => {
            id.trust_domain() == trust_domain.as_str()
                && id.namespace() == namespace
                && service_account.as_ref().is_none_or(|name| id.service_account() == name)
        }
    }
}

fn http_matches(wanted: &HttpMatch, http: &HttpRequest<'_>, action: Action) -> bool {
    (wanted.methods.is_empty() || wanted.methods.iter().any(|m| m == http.method))
        && wanted.path.as_ref().is_none_or(|p| path_matches(p, http.path, action))
        && (wanted.hosts.is_empty() || wanted.hosts.iter().any(|h| host_matches(h, http.host)))
        && wanted.headers.iter().all(|h| header_matches(h, http.headers, action))
}

fn path_matches(wanted: &PathMatch, path: &str, action: Action) -> bool {
    match (wanted, action) {
        (PathMatch::Exact(exact), Action::Allow) => path == exact,
        (PathMatch::Prefix(prefix), Action::Allow) => path::has_prefix(path, prefix),
        (PathMatch::Exact(exact), Action::Deny) => path::reads_as(path, exact, true),
        (PathMatch::Prefix(prefix), Action::Deny) => path::reads_as(path, prefix, false),
    }
}

fn host_matches(wanted: &str, host: &str) -> bool {
    let host = bare_host(host);
    match wanted.strip_prefix('*') {
        Some(suffix) => {
            host.len() > suffix.len()
                && host.is_char_boundary(host.len() - suffix.len())
                && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
        }
        None => host.eq_ignore_ascii_case(wanted),
    }
}

/// A host without port and trailing dot; IPv6 literals keep their brackets.
fn bare_host(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// An Allow needs every value to match, a Deny needs one: a repeated header never helps the sender.
fn header_matches(wanted: &HeaderMatch, headers: &HeaderMap, action: Action) -> bool {
    let mut values = headers.get_all(&wanted.name).iter().map(http::HeaderValue::as_bytes).peekable();
    let fits = |value: &[u8]| match &wanted.value {
        ValueMatch::Present => true,
        ValueMatch::Exact(exact) => value == exact.as_bytes(),
        ValueMatch::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
    };
    match action {
        Action::Allow => values.peek().is_some() && values.all(fits),
        Action::Deny => values.any(fits),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::authorization::{Mtls, Ports};

    fn id(text: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/{}", text.replace('/', "/sa/")).parse().unwrap()
    }

    fn from(namespace: &str, account: Option<&str>) -> Vec<Source> {
        vec![Source::Workload {
            trust_domain: "cluster.local".parse().unwrap(),
            namespace: namespace.into(),
            service_account: account.map(Into::into),
        }]
    }

    fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
        let name = ObjectName::new("shop", name);
        Policy { name, action, enforcement: Enforcement::Enforced, ports: Ports::All, rules }
    }

    fn only(policies: Vec<Policy>) -> InboundPolicy {
        InboundPolicy { mtls: Mtls::default(), policies }
    }

    fn get<'a>(path: &'a str, headers: &'a HeaderMap) -> HttpRequest<'a> {
        HttpRequest { method: "GET", path, host: "Payments.shop.:80", headers }
    }

    fn under(path: &str) -> HttpMatch {
        HttpMatch { path: Some(PathMatch::Prefix(path.into())), ..HttpMatch::default() }
    }

    /// The reason of the enforced decision, or "" where it passes.
    fn reason(policy: &InboundPolicy, peer: Peer<'_>, http: Option<HttpRequest<'_>>) -> &'static str {
        match evaluate(policy, &Request { port: 8080, peer, http }).decision {
            Decision::Allow(_) => "",
            Decision::Deny(denial) => denial.reason(),
        }
    }

    #[test]
    fn without_a_policy_the_mesh_passes_and_plaintext_does_not() {
        let (headers, web) = (HeaderMap::new(), id("shop/web"));
        let open = InboundPolicy::default();
        assert_eq!(reason(&open, Peer::Mesh(&web), Some(get("/", &headers))), "");
        assert_eq!(reason(&open, Peer::Mesh(&web), None), "");
        assert_eq!(reason(&open, Peer::Plaintext, None), "plaintext-refused");
        let foreign: SpiffeId = "spiffe://other.org/ns/shop/sa/web".parse().unwrap();
        let home: TrustDomain = "cluster.local".parse().unwrap();
        assert!(matches!(Peer::of(Some(&foreign), &home), Peer::Foreign(_)));
        assert!(matches!(
            (Peer::of(Some(&web), &home), Peer::of(None, &home)),
            (Peer::Mesh(_), Peer::Plaintext)
        ));
        assert_eq!(reason(&open, Peer::Foreign(&foreign), Some(get("/", &headers))), "foreign-peer");
        let mtls = Mtls { default: MtlsMode::Strict, ports: vec![(8080, MtlsMode::Permissive)] };
        assert_eq!(reason(&InboundPolicy { mtls, policies: vec![] }, Peer::Plaintext, None), "");
    }

    #[test]
    fn what_no_rule_allows_is_refused() {
        let (headers, web, other) = (HeaderMap::new(), id("shop/web"), id("shop/web2"));
        let rule =
            Rule { sources: from("shop", Some("web")), http: vec![under("/charge")], ..Rule::default() };
        let p = only(vec![policy("a", Action::Allow, vec![rule])]);
        assert_eq!(reason(&p, Peer::Mesh(&web), Some(get("/charge/1", &headers))), "");
        assert_eq!(reason(&p, Peer::Mesh(&web), Some(get("/charges", &headers))), "no-rule-allows");
        assert_eq!(reason(&p, Peer::Mesh(&other), Some(get("/charge", &headers))), "no-rule-allows");
        assert_eq!(reason(&p, Peer::Mesh(&web), Some(get("/charge/../admin", &headers))), "ambiguous-path");
        assert_eq!(reason(&p, Peer::Mesh(&web), None), "not-http");
        let nobody = only(vec![policy("n", Action::Allow, vec![Rule::default()])]);
        assert_eq!(reason(&nobody, Peer::Mesh(&web), Some(get("/", &headers))), "no-rule-allows");
    }

    #[test]
    fn deny_wins_and_matches_what_it_cannot_see() {
        let (headers, web) = (HeaderMap::new(), id("shop/web"));
        let anyone = Rule { sources: vec![Source::Anyone], ..Rule::default() };
        let admin = Rule { sources: from("lab", None), http: vec![under("/admin")], ..Rule::default() };
        let mut p =
            only(vec![policy("all", Action::Allow, vec![anyone]), policy("d", Action::Deny, vec![admin])]);
        p.mtls.default = MtlsMode::Permissive;
        let lab = id("lab/x");
        assert_eq!(reason(&p, Peer::Mesh(&web), Some(get("/admin", &headers))), "");
        assert_eq!(reason(&p, Peer::Mesh(&lab), Some(get("/Admin;v=1/x", &headers))), "denied-by-rule");
        assert_eq!(reason(&p, Peer::Plaintext, Some(get("/admin", &headers))), "denied-by-rule");
        assert_eq!(reason(&p, Peer::Plaintext, Some(get("/shop", &headers))), "");
        let elsewhere = "spiffe://other.domain/ns/lab/sa/x".parse().unwrap();
        assert_eq!(reason(&p, Peer::Mesh(&elsewhere), Some(get("/admin", &headers))), "");
    }

    #[test]
    fn audit_records_and_lets_pass() {
        let (headers, web) = (HeaderMap::new(), id("shop/web"));
        let mut audited = policy("later", Action::Allow, vec![]);
        audited.enforcement = Enforcement::Audit;
        let p = only(vec![audited]);
        let verdict =
            evaluate(&p, &Request { port: 1, peer: Peer::Mesh(&web), http: Some(get("/", &headers)) });
        assert!(verdict.allowed());
        assert_eq!(verdict.audit.map(|d| d.reason()), Some("no-rule-allows"));
    }

    #[test]
    fn hosts_and_headers() {
        let mut headers = HeaderMap::new();
        headers.append("x-team", "blue".parse().unwrap());
        let http = get("/", &headers);
        let host =
            |h: &str| matches_http(&HttpMatch { hosts: vec![h.into()], ..HttpMatch::default() }, &http);
        assert!(host("payments.shop") && host("*.shop") && !host("payments") && !host("*.payments.shop"));
        let wants = |value, action| {
            let header = HeaderMatch { name: HeaderName::from_static("x-team"), value };
            http_matches(&HttpMatch { headers: vec![header], ..HttpMatch::default() }, &http, action)
        };
        assert!(wants(ValueMatch::Exact("blue".into()), Action::Allow));
        assert!(
            wants(ValueMatch::Present, Action::Allow)
                && !wants(ValueMatch::Prefix("r".into()), Action::Allow)
        );
        let mut twice = headers.clone();
        twice.append("x-team", "red".parse().unwrap());
        let http = get("/", &twice);
        let blue =
            HeaderMatch { name: HeaderName::from_static("x-team"), value: ValueMatch::Exact("blue".into()) };
        let wanted = HttpMatch { headers: vec![blue], ..HttpMatch::default() };
        assert!(!http_matches(&wanted, &http, Action::Allow) && http_matches(&wanted, &http, Action::Deny));
        assert_eq!(bare_host("[::1]:80"), "[::1]");
        assert_eq!(bare_host("[::1]"), "[::1]");
    }
}
