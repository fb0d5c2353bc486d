//! What statuses need of a namespace: which pods each policy governs, and where another takes its place. Pure.

use std::collections::{BTreeMap, HashMap};

use byrnie_crds::govern::{ServiceFacts, govern};

use super::held::LivePod;
use crate::index::{Overridden, World, overridden, world::Space};

/// One namespace's answer.
#[derive(Default)]
pub struct Digest {
    /// Pods with a proxy that should be connected.
    pub live: Vec<LivePod>,
    governed: HashMap<String, Vec<LivePod>>,
    overridden: BTreeMap<String, Vec<Overridden>>,
}

/// Labels and named ports: pods that have the same are governed alike.
type Alike<'a> = (&'a BTreeMap<String, String>, &'a [(String, u16)]);

impl Digest {
    /// Of one namespace.
    pub fn new(world: &World, namespace: &str, space: &Space) -> Self {
        let mut digest = Self { overridden: overridden(world, namespace), ..Self::default() };
        let services: Vec<ServiceFacts<'_>> =
            space.services.iter().map(|(name, service)| service.facts(name)).collect();
        let mut known: HashMap<Alike<'_>, Vec<String>> = HashMap::new();
        // A pod without address has not started: nobody waits for it.
        let meshed = space.pods.iter().filter(|(_, pod)| pod.live && pod.identity.is_some());
        for (name, pod) in meshed.filter(|(_, pod)| !pod.addresses.is_empty()) {
            let live = LivePod { uid: pod.uid.clone(), name: format!("{namespace}/{name}") };
            let policies = known.entry((&pod.labels, pod.named_ports.as_slice())).or_insert_with(|| {
                let policies = space.policies.values().map(|policy| &policy.candidate);
                let governed = govern(&pod.facts(namespace), space.mode, policies, &services);
                governed.policies.into_iter().map(|policy| policy.name).collect()
            });
            for policy in policies {
                digest.governed.entry(policy.clone()).or_default().push(live.clone());
            }
            digest.live.push(live);
        }
        digest
    }

    /// The pods that a policy governs.
    pub fn governed(&self, policy: &str) -> &[LivePod] {
        self.governed.get(policy).map_or(&[], Vec::as_slice)
    }

    /// Sections of a policy that another policy takes the place of, on some pod at least.
    pub fn overridden(&self, policy: &str) -> &[Overridden] {
        self.overridden.get(policy).map_or(&[], Vec::as_slice)
    }
}
