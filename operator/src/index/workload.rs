//! The snapshot of one pod: who may call it, and what its ports speak.

use byrnie_api::v1::PolicyGeneration;
use byrnie_crds::govern::{ServiceFacts, govern};
use byrnie_model::{ObjectName, Workload};

use super::{
    facts::{Policy, Split},
    world::{Dependency, Space, World},
};

/// What a pod's proxy must know of its own pod, and which policies went into it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// For the proxy.
    pub workload: Workload,
    /// Every MeshPolicy that selects the pod, whatever it says.
    pub generations: Vec<PolicyGeneration>,
}

/// What the snapshot of a pod is made from.
pub fn dependencies(pod: &ObjectName) -> Vec<Dependency> {
    vec![Dependency::Governance(pod.namespace.clone()), Dependency::Pod(pod.clone()), Dependency::Zones]
}

/// The snapshot of a pod; `None`: there is no such pod.
pub fn workload(world: &World, pod: &ObjectName) -> Option<Snapshot> {
    let space = world.space(&pod.namespace)?;
    let pod_facts = space.pods.get(&pod.name)?;
    let facts = pod_facts.facts(&pod.namespace);
    let policies = space.policies.values().map(|policy| &policy.candidate);
    let governed = govern(&facts, space.mode, policies, &services(space));
    let generation = |name: &ObjectName| Some(generation(name, space.policies.get(&name.name)?));
    Some(Snapshot {
        generations: governed.policies.iter().filter_map(generation).collect(),
        workload: Workload { zone: world.zone(&pod_facts.node).to_owned(), ..governed.workload },
    })
}

/// A namespace's Services as policies look at them.
pub(super) fn services(space: &Space) -> Vec<ServiceFacts<'_>> {
    space.services.iter().map(|(name, service)| service.facts(name)).collect()
}

/// What an acknowledgement of a policy proves.
pub(super) fn generation(name: &ObjectName, policy: &Policy) -> PolicyGeneration {
    PolicyGeneration {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        generation: policy.generation,
        uid: policy.uid.clone(),
    }
}

/// What an acknowledgement of a split proves.
pub(super) fn split_generation(namespace: &str, name: &str, split: &Split) -> PolicyGeneration {
    PolicyGeneration {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        generation: split.generation,
        uid: split.uid.clone(),
    }
}
