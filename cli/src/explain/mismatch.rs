//! Where a rule does not match a request: its fields, each asked of the evaluator alone.

use byrnie_model::{
    Action, Decision, Enforcement, HttpMatch, InboundPolicy, Mtls, MtlsMode, ObjectName, Policy, Ports,
    Request, Rule,
    evaluate::{evaluate, matches_http},
};

/// Fields of an Allow's rule that keep it from matching, as in `sources` or `http[0].methods`.
pub(super) fn mismatches(rule: &Rule, request: &Request<'_>) -> Vec<String> {
    if !rule.ports.contains(request.port) {
        return vec!["ports".into()];
    }
    let mut found = Vec::new();
    if !names_the_caller(rule, request) {
        found.push("sources".into());
    }
    if let Some(http) = request.http {
        let fits = |wanted: &HttpMatch| matches_http(wanted, &http);
        if !rule.http.is_empty() && !rule.http.iter().any(fits) {
            for (at, wanted) in rule.http.iter().enumerate() {
                let missed = parts(wanted).into_iter().filter(|(_, part)| !fits(part));
                found.extend(missed.map(|(field, _)| format!("http[{at}].{field}")));
            }
        }
    }
    found
}

/// The rule with nothing but its sources, alone.
fn names_the_caller(rule: &Rule, request: &Request<'_>) -> bool {
    let alone = Policy {
        name: ObjectName::new("", ""),
        action: Action::Allow,
        enforcement: Enforcement::Enforced,
        ports: Ports::All,
        rules: vec![Rule { sources: rule.sources.clone(), ..Rule::default() }],
    };
    let mtls = Mtls { default: MtlsMode::Permissive, ports: Vec::new() };
    let policy = InboundPolicy { mtls, policies: vec![alone] };
    matches!(evaluate(&policy, request).decision, Decision::Allow(_))
}

/// Each field of a match as a match of its own.
fn parts(wanted: &HttpMatch) -> Vec<(String, HttpMatch)> {
    let mut parts = vec![
        ("methods".to_owned(), HttpMatch { methods: wanted.methods.clone(), ..HttpMatch::default() }),
        ("path".to_owned(), HttpMatch { path: wanted.path.clone(), ..HttpMatch::default() }),
        ("hosts".to_owned(), HttpMatch { hosts: wanted.hosts.clone(), ..HttpMatch::default() }),
    ];
    parts.extend(wanted.headers.iter().enumerate().map(|(at, header)| {
        (format!("headers[{at}]"), HttpMatch { headers: vec![header.clone()], ..HttpMatch::default() })
    }));
    parts
}
