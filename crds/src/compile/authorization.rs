//! Who may call: actions, rules and sources.

use byrnie_model::{
    Action, ObjectName, Policy, Ports, Rule, Source, SpiffeId, TrustDomain, spiffe::SpiffeError,
};

use super::{all, http, problem};
use crate::{
    meshpolicy::{AuthorizationSpec, RuleSpec, SourceSpec},
    problem::Findings,
};

/// `None`: not understood.
pub(super) fn compile(
    name: &ObjectName,
    spec: &AuthorizationSpec,
    trust_domain: &TrustDomain,
    findings: &mut Findings,
) -> Option<Policy> {
    if spec.action == Action::Deny && spec.rules.is_empty() {
        return problem("spec.authorization.rules", "a Deny without rules denies nothing", findings);
    }
    let rules = spec.rules.iter().enumerate();
    let rules =
        rules.map(|(i, r)| rule(r, trust_domain, &format!("spec.authorization.rules[{i}]"), findings));
    Some(Policy {
        name: name.clone(),
        action: spec.action,
        enforcement: spec.enforcement,
        ports: Ports::All,
        rules: all(rules)?,
    })
}

fn rule(rule: &RuleSpec, trust_domain: &TrustDomain, path: &str, findings: &mut Findings) -> Option<Rule> {
    let sources = rule.sources.iter().enumerate();
    let sources =
        all(sources.map(|(i, s)| source(s, trust_domain, &format!("{path}.sources[{i}]"), findings)));
    let http = rule.http.iter().flatten().enumerate();
    let http = all(http.map(|(i, h)| http::compile(h, &format!("{path}.http[{i}]"), findings)));
    let ports = rule.ports.clone().map_or(Ports::All, Ports::Only);
    Some(Rule { sources: sources?, ports, http: http? })
}

fn source(
    source: &SourceSpec,
    trust_domain: &TrustDomain,
    path: &str,
    findings: &mut Findings,
) -> Option<Source> {
    let account = match (&source.service_account, source.anyone) {
        (None, Some(true)) => return Some(Source::Anyone),
        (Some(account), None) => account,
        _ => return problem(path, "a source is exactly one of serviceAccount and anyone: true", findings),
    };
    let trust_domain = match account.trust_domain.as_deref().map(str::parse) {
        None => trust_domain.clone(),
        Some(Ok(other)) => other,
        Some(Err(error)) => {
            return problem(&format!("{path}.serviceAccount.trustDomain"), format!("{error}"), findings);
        }
    };
    let everyone = account.name == "*";
    let name = if everyone { "any" } else { &account.name };
    match SpiffeId::new(&trust_domain, &account.namespace, name) {
        Ok(_) => Some(Source::Workload {
            trust_domain,
            namespace: account.namespace.clone(),
            service_account: (!everyone).then(|| account.name.clone()),
        }),
        Err(error) => {
            let field = if error == SpiffeError::Namespace { "namespace" } else { "name" };
            let hint = match account.namespace.as_str() {
                "*" if field == "namespace" => "; `anyone: true` is everyone",
                _ if account.name.contains('*') => "; a name is whole, or * for the whole namespace",
                _ => "",
            };
            problem(&format!("{path}.serviceAccount.{field}"), format!("{error}{hint}"), findings)
        }
    }
}
