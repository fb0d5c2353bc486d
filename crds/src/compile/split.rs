//! TrafficSplit to weighted Services. Whether they exist, and on which ports, is not known here.
//!
//! `matches` names SMI's HTTPRouteGroups, which are not served here. So none of them matches, and what SMI says of
//! requests that do not match holds for all: they go to the called Service itself.

use byrnie_model::spiffe::{is_dns_label, is_dns_subdomain};
use kube::ResourceExt;

use super::{all, problem, unique};
use crate::{
    TrafficSplit, names,
    problem::{Findings, Problem},
    trafficsplit::{MatchRef, Split},
};

/// Shares of the calls to one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The Service that is called, in the split's namespace.
    pub service: String,
    /// Services of the same namespace and their weights. The called one may be among them; it then stands for
    /// its own endpoints.
    pub backends: Vec<(String, u32)>,
    /// HTTPRouteGroups in `matches`, by name. They are not served: where there are some, `backends` is the called
    /// Service alone, whatever the split's weights are.
    pub unresolved_matches: Vec<String>,
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
    compile(written, &split.namespace().unwrap_or_default(), &mut findings)
        .map(|shares| Shares { warnings: findings.warnings, ..shares })
        .ok_or(findings.problems)
}

fn compile(split: &Split, namespace: &str, findings: &mut Findings) -> Option<Shares> {
    let service = own_service(&split.service, namespace, "spec.service", findings);
    let backends = split.backends.iter().enumerate();
    let backends = all(backends.map(|(i, backend)| {
        own_service(&backend.service, namespace, &format!("spec.backends[{i}].service"), findings)
    }));
    let groups = split.matches.iter().enumerate();
    let groups = all(groups.map(|(i, group)| route_group(group, &format!("spec.matches[{i}]"), findings)));
    let (service, backends, groups) = (service?, backends?, groups?);
    unique(&backends, "spec.backends", "Service", findings)?;
    let weights = split.backends.iter().map(|backend| backend.weight);
    let mut backends: Vec<(String, u32)> = backends.into_iter().zip(weights).collect();
    if !groups.is_empty() {
        let message = format!(
            "HTTPRouteGroup is not served: no request matches, all calls go to Service {service} itself"
        );
        findings.warning("spec.matches", message);
        backends = vec![(service.clone(), 1)];
    } else if backends.iter().all(|(_, weight)| *weight == 0) {
        findings.warning("spec.backends", "all weights are 0: every call is refused with 503");
    }
    Some(Shares { service, backends, unresolved_matches: groups, warnings: Vec::new() })
}

/// The name of an HTTPRouteGroup, the only kind that SMI lets a split match by.
fn route_group(group: &MatchRef, path: &str, findings: &mut Findings) -> Option<String> {
    let of = group.api_group.as_deref().unwrap_or_default();
    if !of.is_empty() && of != names::ROUTE_GROUP_GROUP {
        return problem(
            &format!("{path}.apiGroup"),
            format!("must be {}", names::ROUTE_GROUP_GROUP),
            findings,
        );
    }
    if group.kind != "HTTPRouteGroup" {
        return problem(&format!("{path}.kind"), "must be HTTPRouteGroup", findings);
    }
    if !is_dns_subdomain(&group.name, 253) {
        return problem(
            &format!("{path}.name"),
            format!("{:?} is no name of an object", group.name),
            findings,
        );
    }
    Some(group.name.clone())
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
