//! TrafficSplit to weighted Services. Whether they exist, and on which ports, is not known here.

use byrnie_model::spiffe::is_dns_label;
use kube::ResourceExt;

use super::{all, problem, unique};
use crate::{
    TrafficSplit,
    problem::{Findings, Problem},
    trafficsplit::Split,
};

/// Shares of the calls to one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The Service that is called, in the split's namespace.
    pub service: String,
    /// Services of the same namespace and their weights. The called one may be among them; it then stands for
    /// its own endpoints.
    pub backends: Vec<(String, u32)>,
    /// What is unwise about it.
    pub warnings: Vec<Problem>,
}

/// Compiles a split.
///
/// # Errors
/// Everything that is wrong with it; the Service is then called as if there were no split.
pub fn traffic_split(split: &TrafficSplit) -> Result<Shares, Vec<Problem>> {
    let written = split.spec.read().map_err(|unread| unread.problems.clone())?;
    let mut findings = Findings::default();
    let compiled = compile(written, &split.namespace().unwrap_or_default(), &mut findings);
    let (service, backends) = compiled.ok_or(findings.problems)?;
    Ok(Shares { service, backends, warnings: findings.warnings })
}

fn compile(split: &Split, namespace: &str, findings: &mut Findings) -> Option<(String, Vec<(String, u32)>)> {
    let service = own_service(&split.service, namespace, "spec.service", findings);
    let names = split.backends.iter().enumerate();
    let names = all(names.map(|(i, backend)| {
        own_service(&backend.service, namespace, &format!("spec.backends[{i}].service"), findings)
    }));
    if !split.matches.is_empty() {
        let message = "is not supported yet: all requests would be split; an HTTPRoute can match requests";
        return problem("spec.matches", message, findings);
    }
    let names = names?;
    unique(&names, "spec.backends", "Service", findings)?;
    if split.backends.iter().all(|b| b.weight == 0) {
        findings.warning("spec.backends", "all weights are 0: every call is refused with 503");
    }
    Some((service?, names.into_iter().zip(split.backends.iter().map(|b| b.weight)).collect()))
}

/// `name`, `name.namespace`, `name.namespace.svc` or `name.namespace.svc.cluster.local`, of the split's own
/// namespace: nobody may direct the calls to another namespace's Service.
fn own_service(text: &str, namespace: &str, path: &str, findings: &mut Findings) -> Option<String> {
    let (name, rest) = text.split_once('.').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let bare = |rest: &str| {
        rest.strip_suffix(".svc.cluster.local").or(rest.strip_suffix(".svc")).unwrap_or(rest).to_owned()
    };
    let of = rest.map(bare);
    if !is_dns_label(name) || of.as_deref().is_some_and(|namespace| !is_dns_label(namespace)) {
        let message = format!("{text:?} is no Service: write its name, or NAME.NAMESPACE.svc.cluster.local");
        return problem(path, message, findings);
    }
    match of {
        // An object that is not in a cluster yet may be without namespace.
        Some(of) if of != namespace && !namespace.is_empty() => problem(
            path,
            format!("{of} is another namespace: a split is about Services of its own"),
            findings,
        ),
        _ => Some(name.to_owned()),
    }
}
