//! Objects in a line: the strings that `kubectl get` shows, since its columns cannot compute.

use byrnie_model::MtlsMode;

use crate::{
    MeshPolicy, TrafficSplit,
    compile::{Compiled, Target, Targets},
    meshpolicy::{LabelOperator, MeshPolicySummary, PodSelector, ProxyCount},
    trafficsplit::TrafficSplitSummary,
};

const NOTHING: &str = "-";

/// A policy in a line. A section that was not understood shows as `?`.
pub fn mesh_policy(
    policy: &MeshPolicy,
    compiled: &Compiled,
    proxies: Option<ProxyCount>,
) -> MeshPolicySummary {
    let spec = &policy.spec;
    let (rules, enforcement) = match spec.authorization.as_ref().map(|a| a.as_ref()) {
        None => (NOTHING.into(), NOTHING.into()),
        Some(Err(_)) => ("?".into(), "?".into()),
        Some(Ok(a)) => (format!("{:?} {}", a.action, a.rules.len()), format!("{:?}", a.enforcement)),
    };
    let mtls = match spec.mtls.as_ref().map(|m| m.as_ref()) {
        None => NOTHING.into(),
        Some(Err(_)) => "?".into(),
        Some(Ok(mtls)) => {
            let ports =
                mtls.ports.iter().filter(|p| p.mode != mtls.mode).map(|p| format!("{} {:?}", p.port, p.mode));
            listed(std::iter::once(mode(mtls.mode)).chain(ports))
        }
    };
    MeshPolicySummary {
        targets: targets(&compiled.targets),
        mtls,
        rules,
        enforcement,
        proxies: count(proxies),
    }
}

/// A split in a line.
pub fn traffic_split(split: &TrafficSplit, proxies: Option<ProxyCount>) -> TrafficSplitSummary {
    let backends = split.spec.read().map_or_else(
        |_| "?".into(),
        |split| {
            // What was written as v1alpha1 is stored in thousandths.
            let unit = if split.backends.iter().all(|b| b.weight % 1000 == 0) { 1000 } else { 1 };
            let backends = split.backends.iter().map(|b| format!("{}:{}", b.service, b.weight / unit));
            backends.collect::<Vec<_>>().join(" ")
        },
    );
    TrafficSplitSummary { backends, proxies: count(proxies) }
}

/// Proxies as in `12/12`.
pub fn count(proxies: Option<ProxyCount>) -> String {
    proxies.map_or_else(|| NOTHING.into(), |p| format!("{}/{}", p.programmed, p.total))
}

fn mode(mode: MtlsMode) -> String {
    format!("{mode:?}")
}

fn targets(targets: &Targets) -> String {
    match targets {
        Targets::Namespace => "Namespace".into(),
        Targets::Only(targets) if targets.is_empty() => "?".into(),
        Targets::Only(targets) => listed(targets.iter().map(|target| match target {
            Target::Service(name) => format!("Service/{name}"),
            Target::Pods(selector) => format!("Pod/{}", labels(selector)),
        })),
    }
}

fn labels(selector: &PodSelector) -> String {
    let expressions = selector.match_expressions.iter().map(|r| match r.operator {
        LabelOperator::In => format!("{} in ({})", r.key, r.values.join("|")),
        LabelOperator::NotIn => format!("{} not in ({})", r.key, r.values.join("|")),
        LabelOperator::Exists => r.key.clone(),
        LabelOperator::DoesNotExist => format!("!{}", r.key),
    });
    let all: Vec<String> =
        selector.match_labels.iter().map(|(k, v)| format!("{k}={v}")).chain(expressions).collect();
    if all.is_empty() { "*".into() } else { all.join("&") }
}

/// At most three, and how many more.
fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    let shown = items[..items.len().min(3)].join(",");
    if items.len() > 3 { format!("{shown},+{}", items.len() - 3) } else { shown }
}
