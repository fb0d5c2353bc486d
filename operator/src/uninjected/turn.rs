//! Whose turn it is to be evicted: of each owner one pod, and the next only after one that the owner has made since is
//! in the mesh and ready. Should new pods not start, one pod of each owner is all that is lost.
//!
//! Only pods whose owner makes them anew without losing work: so no Jobs', and none of their own.

use std::{collections::HashMap, sync::Arc};

use byrnie_crds::cluster;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference, jiff::Timestamp};
use kube::ResourceExt;

/// Kinds that replace a pod that goes.
const REPLACING: [&str; 4] = ["ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"];

/// By owner, when the last pod of it was evicted, until its successor is ready.
#[derive(Default)]
pub(super) struct Turns(HashMap<String, Timestamp>);

impl Turns {
    /// The pods that may go now, at most one of each owner.
    pub(super) fn next<'a>(&mut self, outside: &'a [Arc<Pod>], all: &[Arc<Pod>]) -> Vec<&'a Pod> {
        let owners: Vec<&str> = outside.iter().filter_map(|pod| owner(pod)).map(|o| o.uid.as_str()).collect();
        self.0.retain(|owner, _| owners.contains(&owner.as_str()));
        for pod in all.iter().filter(|pod| cluster::is_meshed(pod) && is_ready(pod)) {
            let Some(owner) = owner(pod) else { continue };
            if self.0.get(&owner.uid).is_some_and(|evicted| *evicted <= created(pod)) {
                self.0.remove(&owner.uid);
            }
        }
        let mut next: HashMap<&str, &Pod> = HashMap::new();
        for pod in outside {
            let Some(owner) = owner(pod).filter(|owner| REPLACING.contains(&owner.kind.as_str())) else {
                continue;
            };
            if !self.0.contains_key(&owner.uid) {
                // the youngest: of a StatefulSet that is usually the last, which is made anew first
                let chosen = next.entry(owner.uid.as_str()).or_insert(pod);
                if (created(chosen), chosen.name_any()) < (created(pod), pod.name_any()) {
                    *chosen = pod;
                }
            }
        }
        let mut next: Vec<&Pod> = next.into_values().collect();
        next.sort_by_key(|pod| (pod.namespace(), pod.name_any()));
        next
    }

    /// One of them is on its way out.
    pub(super) fn took(&mut self, pod: &Pod) {
        let Some(owner) = owner(pod) else { return };
        // whole seconds, as creation times are
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::MAX);
        self.0.insert(owner.uid.clone(), now);
    }
}

fn owner(pod: &Pod) -> Option<&OwnerReference> {
    pod.owner_references().iter().find(|owner| owner.controller == Some(true))
}

fn created(pod: &Pod) -> Timestamp {
    pod.creation_timestamp().map_or(Timestamp::MAX, |time| time.0)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    cluster::is_live(pod) && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, owner: &str, created: Timestamp, meshed: bool, ready: bool) -> Arc<Pod> {
        let (kind, uid) = owner.split_once('/').unwrap();
        let (label, init) =
            if meshed { ("byrnie.dev/injected: 'true'", "{name: byrnie-proxy}") } else { ("a: b", "") };
        let text = format!(
            "{{metadata: {{namespace: shop, name: {name}, uid: uid-{name}, creationTimestamp: '{created}', labels: {{{label}}},
            ownerReferences: [{{apiVersion: v1, kind: {kind}, name: x, uid: {uid}, controller: true}}]}},
            spec: {{containers: [], initContainers: [{init}]}},
            status: {{phase: Running, conditions: [{{type: Ready, status: '{}'}}]}}}}",
            if ready { "True" } else { "False" }
        );
        Arc::new(serde_saphyr::from_str(&text).unwrap())
    }

    fn names(pods: &[&Pod]) -> Vec<String> {
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn one_of_each_owner_and_the_next_after_its_successor_is_ready() {
        let long_ago: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let outside = [
            pod("web-1", "ReplicaSet/web", long_ago, false, true),
            pod("web-2", "ReplicaSet/web", "2026-01-02T00:00:00Z".parse().unwrap(), false, true),
            pod("db-0", "StatefulSet/db", long_ago, false, true),
            pod("db-1", "StatefulSet/db", long_ago, false, true),
            pod("report", "Job/report", long_ago, false, true),
        ];
        let mut turns = Turns::default();
        let first = turns.next(&outside, &outside);
        assert_eq!(names(&first), ["db-1", "web-2"]);
        turns.took(&outside[1]);
        let outside = [outside[0].clone(), outside[2].clone(), outside[4].clone()];
        assert_eq!(names(&turns.next(&outside, &outside)), ["db-0"], "web's successor is not there");
        for (meshed, ready, next) in [(true, false, 1), (false, true, 1), (true, true, 2)] {
            let mut all = outside.to_vec();
            all.push(pod("web-3", "ReplicaSet/web", Timestamp::now(), meshed, ready));
            assert_eq!(turns.next(&outside, &all).len(), next, "{meshed} {ready}");
        }
    }

    #[test]
    fn a_pod_that_was_ready_before_is_no_successor() {
        let long_ago: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let outside = [
            pod("web-1", "ReplicaSet/web", long_ago, false, true),
            pod("web-2", "ReplicaSet/web", long_ago, false, true),
        ];
        let meshed = pod("web-0", "ReplicaSet/web", long_ago, true, true);
        let all = [outside[0].clone(), outside[1].clone(), meshed];
        let mut turns = Turns::default();
        assert_eq!(names(&turns.next(&outside, &all)), ["web-2"]);
        turns.took(&outside[1]);
        assert!(turns.next(&outside, &all).is_empty());
        assert!(turns.next(&[], &[]).is_empty());
        assert_eq!(names(&turns.next(&outside, &all)), ["web-2"], "an owner with none outside is forgotten");
    }
}
