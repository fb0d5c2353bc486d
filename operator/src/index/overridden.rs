//! Which policies give way to others: for statuses, so that the loser says so.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use byrnie_crds::{compile::Targets, govern::govern};
use byrnie_model::ObjectName;

use super::{
    facts::Policy,
    workload::services,
    world::{Space, World},
};

/// A section of a policy that another policy's takes the place of, on one pod at least.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overridden {
    /// `mtls` or `traffic`.
    pub section: &'static str,
    /// By whom.
    pub by: ObjectName,
    /// Both have targets of the same kind, and the other is merely older. Otherwise it is more specific.
    pub conflicted: bool,
}

/// The policies of a namespace that give way, by name.
pub fn overridden(world: &World, namespace: &str) -> BTreeMap<String, Vec<Overridden>> {
    let Some(space) = world.space(namespace) else { return BTreeMap::new() };
    if !any_rivals(space) {
        return BTreeMap::new();
    }
    let services = services(space);
    let specific = |name: &ObjectName| space.policies.get(&name.name).map(|policy| is_specific(policy));
    let mut seen = HashSet::new();
    let mut found: BTreeMap<String, BTreeSet<Overridden>> = BTreeMap::new();
    for pod in space.pods.values().filter(|pod| pod.live && pod.identity.is_some()) {
        // Pods of one Deployment differ in nothing that matters here.
        if !seen.insert((&pod.labels, &pod.named_ports)) {
            continue;
        }
        let policies = space.policies.values().map(|policy| &policy.candidate);
        for loser in govern(&pod.facts(namespace), space.mode, policies, &services).overridden {
            let conflicted = specific(&loser.policy) == specific(&loser.by);
            let overridden = Overridden { section: loser.section, by: loser.by, conflicted };
            found.entry(loser.policy.name).or_default().insert(overridden);
        }
    }
    found.into_iter().map(|(name, overridden)| (name, overridden.into_iter().collect())).collect()
}

fn is_specific(policy: &Policy) -> bool {
    policy.candidate.compiled.targets != Targets::Namespace
}

fn any_rivals(space: &Space) -> bool {
    let compiled = || space.policies.values().map(|policy| &policy.candidate.compiled);
    compiled().filter(|policy| policy.mtls.is_some()).count() > 1
        || compiled().filter(|policy| policy.traffic.is_some()).count() > 1
}
