//! Pods of meshed namespaces that run without a proxy, because they are older than the namespace's label: counted, told
//! in an Event of each, and, where that is wished, evicted, so that whoever owns them makes them anew.
//!
//! Which may go is [`turn`]'s business. RBAC: `events.events.k8s.io` create, patch; `pods/eviction` create where evicting.

mod turn;

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use byrnie_crds::{cluster, names};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, EvictParams, Preconditions},
    runtime::{
        events::{Event, EventType, Recorder},
        reflector::ObjectRef,
    },
};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    api_call::{ApiError, call},
    lease::Fence,
    metrics::{Metrics, NamespaceLabels},
    store::Stores,
};
use turn::Turns;

/// Time between two looks; at each of them a few pods are told of, or evicted.
const ROUND: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 10;

/// See the module.
pub struct Uninjected {
    client: Client,
    stores: Stores,
    recorder: Recorder,
    fence: Fence,
    metrics: Metrics,
    evict: bool,
}

impl Uninjected {
    /// Needs what is watched, and the permission to write.
    pub fn new(
        client: Client,
        stores: Stores,
        recorder: Recorder,
        fence: Fence,
        metrics: Metrics,
        evict: bool,
    ) -> Self {
        Self { client, stores, recorder, fence, metrics, evict }
    }

    /// Works for as long as this replica leads.
    pub async fn run(&self) -> Infallible {
        let mut count = Count { metrics: &self.metrics, namespaces: BTreeMap::new() };
        self.stores.synced().await;
        let mut told = HashSet::new();
        let mut turns = Turns::default();
        loop {
            let pods = self.stores.pods.state();
            let outside = self.outside(&pods);
            count.set(&outside);
            let all: HashSet<String> = outside.iter().filter_map(|pod| pod.uid()).collect();
            told.retain(|uid| all.contains(uid));
            let news = outside.iter().filter(|pod| !told.contains(&pod.uid().unwrap_or_default()));
            let news: Vec<&Arc<Pod>> = news.take(AT_ONCE).collect();
            for pod in news {
                told.insert(pod.uid().unwrap_or_default());
                self.tell(pod, &not_injected(self.evict)).await;
            }
            if self.evict {
                let mut next = turns.next(&outside, &pods);
                // some may be held back by a PodDisruptionBudget, and must not hold back the others
                fastrand::shuffle(&mut next);
                for pod in next.into_iter().take(AT_ONCE) {
                    if self.evict(pod).await {
                        turns.took(pod);
                    }
                }
            }
            sleep(ROUND).await;
        }
    }

    fn outside(&self, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let of = |name: &str| self.stores.namespaces.get(&ObjectRef::new(name));
        let mut namespaces = BTreeMap::new();
        let lacks = |pod: &&Arc<Pod>| {
            let name = pod.namespace().unwrap_or_default();
            let namespace = namespaces.entry(name.clone()).or_insert_with(|| of(&name));
            namespace.as_ref().is_some_and(|namespace| {
                cluster::is_meshed_namespace(namespace) && cluster::lacks_proxy(pod, namespace)
            })
        };
        pods.iter().filter(|pod| cluster::is_live(pod)).filter(lacks).cloned().collect()
    }

    /// Whether it is on its way out.
    async fn evict(&self, pod: &Pod) -> bool {
        if !self.fence.open() {
            return false;
        }
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
        let params = EvictParams {
            delete_options: Some(DeleteParams { preconditions, ..DeleteParams::default() }),
            ..EvictParams::default()
        };
        match call(api.evict(&name, &params)).await {
            Ok(_) => {
                info!(namespace, pod = name, "evicted: it had no proxy");
                self.metrics.wrote("Eviction");
                self.tell(pod, &evicted()).await;
                true
            }
            // a PodDisruptionBudget says: not now
            Err(ApiError::Refused(kube::Error::Api(status))) if status.code == 429 => false,
            Err(ApiError::NotFound | ApiError::Conflict) => false,
            Err(error) => {
                warn!(namespace, pod = name, %error, "cannot evict a pod without a proxy");
                self.metrics.failed("Eviction");
                false
            }
        }
    }

    async fn tell(&self, pod: &Pod, event: &Event) {
        // that an Event is lost changes nothing
        let _ = call(async {
            self.recorder.publish(event, &pod.object_ref(&())).await?;
            Ok(())
        })
        .await;
    }
}

/// What is counted now; forgotten when this replica leads no more.
struct Count<'a> {
    metrics: &'a Metrics,
    namespaces: BTreeMap<String, i64>,
}

impl Count<'_> {
    fn set(&mut self, outside: &[Arc<Pod>]) {
        let mut counted = BTreeMap::new();
        for pod in outside {
            *counted.entry(pod.namespace().unwrap_or_default()).or_insert(0) += 1;
        }
        for (namespace, count) in &counted {
            self.metrics.uninjected.get_or_create(&labels(namespace)).set(*count);
        }
        let before = std::mem::replace(&mut self.namespaces, counted);
        for namespace in before.keys().filter(|namespace| !self.namespaces.contains_key(*namespace)) {
            self.metrics.uninjected.remove(&labels(namespace));
        }
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.set(&[]);
    }
}

fn labels(namespace: &str) -> NamespaceLabels {
    NamespaceLabels { namespace: namespace.to_owned() }
}

fn not_injected(evicts: bool) -> Event {
    let then =
        if evicts { "it is evicted when it is its turn" } else { "make it anew to put it into the mesh" };
    Event {
        type_: EventType::Warning,
        reason: "NotInjected".into(),
        note: Some(format!(
            "the namespace is labelled {}, but the pod has no proxy: it is older than the label; {then}",
            names::INJECT_LABEL
        )),
        action: "Inject".into(),
        secondary: None,
    }
}

fn evicted() -> Event {
    Event {
        type_: EventType::Normal,
        reason: "EvictedForInjection".into(),
        note: Some("evicted, so that its owner makes it anew, with a proxy".into()),
        action: "Evict".into(),
        secondary: None,
    }
}
