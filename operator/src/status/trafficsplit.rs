//! What has become of a TrafficSplit. Pure.

use byrnie_crds::{
    TrafficSplit,
    compile::{self, Shares},
    problem::{Problem, in_one_line},
    status::{self, ACCEPTED, Observed, RESOLVED_REFS},
    summary,
    trafficsplit::TrafficSplitStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    held::{Held, listed},
    meshpolicy::programmed,
};
use crate::index::{split, world::Space};

/// The status as it should be now.
pub fn status(split: &TrafficSplit, space: &Space, held: &Held, now: &Time) -> TrafficSplitStatus {
    let generation = split.metadata.generation;
    let compiled = compile::traffic_split(split);
    let standing =
        compiled.as_ref().map(|shares| Standing::of(shares, &split.name_any(), space)).unwrap_or_default();
    let progress = held.progress(&split.uid().unwrap_or_default(), generation.unwrap_or_default(), &[]);
    let mut conditions = split.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    for observed in [
        accepted(compiled.as_ref(), &standing),
        resolved(compiled.as_ref(), &standing),
        programmed(&progress),
    ] {
        status::set(&mut conditions, observed, generation, now.clone());
    }
    TrafficSplitStatus {
        conditions,
        proxies: Some(progress.count),
        summary: Some(summary::traffic_split(split, Some(progress.count))),
    }
}

/// What there is to say about a split besides its own faults.
#[derive(Default)]
struct Standing {
    /// The older split that is in charge of the same Service.
    conflict: Option<String>,
    service_missing: bool,
    /// Of the backends with a weight:
    missing: Vec<String>,
    without_port: Vec<String>,
    without_endpoints: Vec<String>,
}

impl Standing {
    fn of(shares: &Shares, name: &str, space: &Space) -> Self {
        let apex = space.services.get(&shares.service);
        let in_charge = split::in_charge(space, &shares.service).map(|(first, _)| first);
        let conflict = in_charge.filter(|first| *first != name).cloned();
        let mut standing = Self { conflict, service_missing: apex.is_none(), ..Self::default() };
        for (backend, _) in shares.backends.iter().filter(|(_, weight)| *weight > 0) {
            let Some(service) = space.services.get(backend) else {
                standing.missing.push(backend.clone());
                continue;
            };
            let ports = apex.into_iter().flat_map(|apex| &apex.ports);
            let absent = ports.filter(|port| service.port(port.port).is_none());
            standing.without_port.extend(absent.map(|port| format!("{backend} has no port {}", port.port)));
            if !space.slices(backend).flat_map(|slice| &slice.endpoints).any(|endpoint| endpoint.ready) {
                standing.without_endpoints.push(backend.clone());
            }
        }
        standing
    }
}

fn accepted(compiled: Result<&Shares, &Vec<Problem>>, standing: &Standing) -> Observed<'static> {
    let (status, reason, message) = match (compiled, &standing.conflict) {
        (Err(problems), _) => (false, "Invalid", in_one_line(problems)),
        (Ok(shares), Some(older)) => {
            let message = format!("Service {} is split by {older} already, which is older", shares.service);
            (false, "Conflicted", message)
        }
        (Ok(shares), None) if shares.backends.iter().all(|(_, weight)| *weight == 0) => {
            (true, "ZeroWeights", "all weights are 0: every call is refused with 503".into())
        }
        (Ok(shares), None) if !shares.warnings.is_empty() => {
            (true, "Accepted", format!("unwise: {}", in_one_line(&shares.warnings)))
        }
        (Ok(_), None) => (true, "Accepted", "the split is understood and in charge".into()),
    };
    Observed { type_: ACCEPTED, status: Some(status), reason, message }
}

fn resolved(compiled: Result<&Shares, &Vec<Problem>>, standing: &Standing) -> Observed<'static> {
    let (status, reason, message) = match compiled {
        Err(_) => (None, "Invalid", "the split is not understood".to_owned()),
        Ok(shares) => references(shares, standing),
    };
    Observed { type_: RESOLVED_REFS, status, reason, message }
}

fn references(shares: &Shares, standing: &Standing) -> (Option<bool>, &'static str, String) {
    const TO_OTHERS: &str = "its share goes to the others";
    if standing.service_missing {
        let message = format!("there is no Service {} in this namespace", shares.service);
        return (Some(false), "ServiceNotFound", message);
    }
    if !shares.unresolved_matches.is_empty() {
        let groups = listed(&shares.unresolved_matches);
        let message = format!(
            "HTTPRouteGroup {groups} is not served, so no request matches: all go to Service {}",
            shares.service
        );
        return (Some(false), "HTTPRouteGroupNotSupported", message);
    }
    if !standing.missing.is_empty() {
        let message = format!("there is no Service {}; {TO_OTHERS}", listed(&standing.missing));
        return (Some(false), "BackendNotFound", message);
    }
    if !standing.without_port.is_empty() {
        let lacking = listed(&standing.without_port);
        let message = format!("{lacking}, which Service {} has; there {TO_OTHERS}", shares.service);
        return (Some(false), "PortNotFound", message);
    }
    if !standing.without_endpoints.is_empty() {
        let message = format!("{} has no ready endpoint; {TO_OTHERS}", listed(&standing.without_endpoints));
        return (Some(true), "NoEndpoints", message);
    }
    (Some(true), "ResolvedRefs", "all Services exist, with the same ports and ready endpoints".into())
}
