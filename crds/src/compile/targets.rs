//! What a policy is about: `targetRefs`. Whether such Services or pods exist is not known here.

use std::collections::BTreeMap;

use byrnie_model::spiffe::is_dns_label;

use super::{all, problem, read, unique};
use crate::{
    meshpolicy::{LabelOperator, LabelRequirement, PodSelector, TargetRef},
    problem::Findings,
    section::Section,
};

/// What a policy is about, within its own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Every pod.
    Namespace,
    /// What any of these selects.
    Only(Vec<Target>),
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The pods that this Service selects, on its target ports.
    Service(String),
    /// The pods with these labels, on all ports.
    Pods(PodSelector),
}

impl Targets {
    pub(super) fn none() -> Self {
        Self::Only(Vec::new())
    }
}

impl PodSelector {
    /// Whether a pod with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl LabelRequirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            LabelOperator::In => value.is_some_and(|v| self.values.contains(v)),
            LabelOperator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// `None`: not understood.
pub(super) fn compile(refs: Option<&Section<Vec<TargetRef>>>, findings: &mut Findings) -> Option<Targets> {
    if refs.is_none() {
        return Some(Targets::Namespace);
    }
    let refs = read(refs, findings)?;
    let targets =
        all(refs.iter().enumerate().map(|(i, r)| target(r, &format!("spec.targetRefs[{i}]"), findings)));
    unique(refs, "spec.targetRefs", "target", findings)?;
    Some(Targets::Only(targets?))
}

fn target(target: &TargetRef, path: &str, findings: &mut Findings) -> Option<Target> {
    match (target.kind.as_str(), &target.name, &target.selector) {
        ("Service" | "Pod", _, _) if !target.group.is_empty() => {
            problem(&format!("{path}.group"), "must be empty: Service and Pod are core kinds", findings)
        }
        ("Service", Some(name), None) if is_dns_label(name) => Some(Target::Service(name.clone())),
        ("Service", Some(_), None) => problem(
            &format!("{path}.name"),
            "must be the name of a Service in this namespace: 1 to 63 of a-z, 0-9 and '-'",
            findings,
        ),
        ("Service", _, _) => problem(path, "a Service is targeted by name, without selector", findings),
        ("Pod", None, Some(selector)) => {
            check_selector(selector, &format!("{path}.selector"), findings)?;
            Some(Target::Pods(selector.clone()))
        }
        ("Pod", _, _) => problem(path, "Pods are targeted by selector, without name", findings),
        (kind, _, _) => problem(
            &format!("{path}.kind"),
            format!("{kind} is not supported yet; a policy targets Services, Pods or its whole namespace"),
            findings,
        ),
    }
}

fn check_selector(selector: &PodSelector, path: &str, findings: &mut Findings) -> Option<()> {
    let before = findings.problems.len();
    for (key, value) in &selector.match_labels {
        if !is_label_key(key) {
            findings.problem(format!("{path}.matchLabels.{key}"), "is no label key");
        }
        if !is_label_value(value) {
            findings.problem(format!("{path}.matchLabels.{key}"), format!("\"{value}\" is no label value"));
        }
    }
    for (index, requirement) in selector.match_expressions.iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        if !is_label_key(&requirement.key) {
            findings.problem(format!("{path}.key"), format!("\"{}\" is no label key", requirement.key));
        }
        let wants_values = matches!(requirement.operator, LabelOperator::In | LabelOperator::NotIn);
        if wants_values == requirement.values.is_empty() {
            findings.problem(&path, "In and NotIn need values; Exists and DoesNotExist have none");
        }
        for (index, value) in
            requirement.values.iter().enumerate().filter(|(_, value)| !is_label_value(value))
        {
            findings.problem(format!("{path}.values[{index}]"), format!("\"{value}\" is no label value"));
        }
    }
    (findings.problems.len() == before).then_some(())
}

/// An optional DNS prefix with a slash, and a name.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let fine = |prefix: &str| prefix.len() <= 253 && prefix.split('.').all(is_dns_label);
    prefix.is_none_or(fine) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select_as_kubernetes_does() {
        let selector: PodSelector = serde_json::from_value(json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["db"]},
                {"key": "track", "operator": "In", "values": ["stable", "canary"]},
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "app", "operator": "Exists"},
            ],
        }))
        .unwrap();
        let pod = |labels: &[(&str, &str)]| labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        assert!(selector.selects(&pod(&[("app", "web"), ("track", "canary")])));
        assert!(selector.selects(&pod(&[("app", "web"), ("track", "stable"), ("tier", "front")])));
        for labels in [
            &[("app", "api"), ("track", "stable")][..],
            &[("app", "web")],
            &[("app", "web"), ("track", "beta")],
            &[("app", "web"), ("track", "stable"), ("tier", "db")],
            &[("app", "web"), ("track", "stable"), ("old", "")],
            &[],
        ] {
            assert!(!selector.selects(&pod(labels)), "{labels:?}");
        }
        assert!(PodSelector::default().selects(&pod(&[])));
    }

    #[test]
    fn label_syntax() {
        for key in ["app", "app.kubernetes.io/name", "A_b.c-9"] {
            assert!(is_label_key(key), "{key}");
        }
        for key in ["", "/a", "a/", "a b", "-a", "a/b/c", "Up.io/x"] {
            assert!(!is_label_key(key), "{key}");
        }
        assert!(
            is_label_value("")
                && is_label_value("1.0-beta")
                && !is_label_value("a/b")
                && !is_label_value("x-")
        );
    }
}
