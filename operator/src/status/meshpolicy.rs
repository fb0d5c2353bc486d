//! What has become of a MeshPolicy. Pure.

use byrnie_crds::{
    MeshPolicy,
    compile::{self, Compiled, Target, Targets},
    meshpolicy::MeshPolicyStatus,
    problem::in_one_line,
    status::{self, ACCEPTED, Observed, PROGRAMMED, RESOLVED_REFS},
    summary,
};
use byrnie_model::TrustDomain;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    digest::Digest,
    held::{Held, Progress, listed},
};
use crate::index::{Overridden, facts::Service, world::Space};

/// Whether another policy takes the place of some of it; absent where none does.
const OVERRIDDEN: &str = "Overridden";

/// The status as it should be now.
pub fn status(
    policy: &MeshPolicy,
    domain: &TrustDomain,
    space: &Space,
    digest: &Digest,
    held: &Held,
    now: &Time,
) -> MeshPolicyStatus {
    let compiled = compile::mesh_policy(policy, domain);
    let name = policy.name_any();
    let generation = policy.metadata.generation;
    let uid = policy.uid().unwrap_or_default();
    let progress = held.progress(&uid, generation.unwrap_or_default(), digest.governed(&name));
    let mut conditions = policy.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let mut set = |observed| status::set(&mut conditions, observed, generation, now.clone());
    set(accepted(&compiled));
    set(resolved(&compiled, space));
    set(programmed(&progress));
    match overridden(digest.overridden(&name)) {
        Some(observed) => status::set(&mut conditions, observed, generation, now.clone()),
        None => conditions.retain(|condition| condition.type_ != OVERRIDDEN),
    }
    MeshPolicyStatus {
        conditions,
        proxies: Some(progress.count),
        summary: Some(summary::mesh_policy(policy, &compiled, Some(progress.count))),
    }
}

fn accepted(compiled: &Compiled) -> Observed<'static> {
    let (status, reason, message) = if !compiled.accepted() {
        (false, "Invalid", in_one_line(&compiled.findings.problems))
    } else if compiled.findings.warnings.is_empty() {
        (true, "Accepted", "the policy is understood and in charge".into())
    } else {
        (true, "Accepted", format!("unwise: {}", in_one_line(&compiled.findings.warnings)))
    };
    Observed { type_: ACCEPTED, status: Some(status), reason, message }
}

fn resolved(compiled: &Compiled, space: &Space) -> Observed<'static> {
    let Targets::Only(targets) = &compiled.targets else {
        let message = "the whole namespace is the target".into();
        return Observed { type_: RESOLVED_REFS, status: Some(true), reason: "ResolvedRefs", message };
    };
    let services = || {
        targets.iter().filter_map(|target| match target {
            Target::Service(name) => Some((name, space.services.get(name))),
            Target::Pods(_) => None,
        })
    };
    let missing: Vec<String> =
        services().filter(|(_, service)| service.is_none()).map(|(name, _)| name.clone()).collect();
    let selects_nothing = |service: &Service| service.selector.is_empty();
    let unselective: Vec<String> = services()
        .filter(|(_, service)| service.is_some_and(selects_nothing))
        .map(|(name, _)| name.clone())
        .collect();
    let (status, reason, message) = if !missing.is_empty() {
        (false, "TargetNotFound", format!("there is no Service {} in this namespace", listed(&missing)))
    } else if !unselective.is_empty() {
        let message =
            format!("Service {} has no selector: there are no pods to govern", listed(&unselective));
        (false, "NoSelector", message)
    } else {
        (true, "ResolvedRefs", "all targets exist".into())
    };
    Observed { type_: RESOLVED_REFS, status: Some(status), reason, message }
}

/// "Conflicted" where an equal that is merely older is in charge, "Overridden" where a more specific one is.
fn overridden(overridden: &[Overridden]) -> Option<Observed<'static>> {
    let first = overridden.first()?;
    let reason = if overridden.iter().any(|o| o.conflicted) { "Conflicted" } else { "Overridden" };
    let who: Vec<String> = overridden.iter().map(|o| format!("{} by {}", o.section, o.by)).collect();
    let what = if overridden.len() == 1 { first.section } else { "a part of it" };
    let message = format!("on some pods another policy decides {what}: {}", listed(&who));
    Some(Observed { type_: OVERRIDDEN, status: Some(true), reason, message })
}

/// Also for splits.
pub(super) fn programmed(progress: &Progress) -> Observed<'static> {
    let Progress { count, waiting, refused } = progress;
    let (status, reason, message) = if !refused.is_empty() {
        let who: Vec<String> = refused.iter().map(|(pod, why)| format!("{pod}: {why}")).collect();
        (
            false,
            "Refused",
            format!("refused by {} of {} proxies: {}", refused.len(), count.total, listed(&who)),
        )
    } else if !waiting.is_empty() {
        let (programmed, total) = (count.programmed, count.total);
        let message = format!("in force at {programmed} of {total} proxies; not yet at {}", listed(waiting));
        (false, "Pending", message)
    } else if count.total == 0 {
        (true, "NoProxies", "no live proxy is concerned".into())
    } else {
        (true, "Programmed", format!("in force at {0} of {0} proxies", count.total))
    };
    Observed { type_: PROGRAMMED, status: Some(status), reason, message }
}
