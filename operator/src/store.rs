//! What is watched of the cluster: one reflector for each kind, cut down to what anybody here needs, and word of what
//! changed. Decides nothing.
//!
//! RBAC: namespaces, nodes, pods, services, endpointslices (discovery.k8s.io), meshpolicies (byrnie.dev) and
//! trafficsplits (split.smi-spec.io): list, watch.
//!
//! Guarantees: what is in a store was there whole at one moment (a relist swaps it in one go); a kind that cannot be
//! watched does not hold up the others; nothing is missed for longer than a watch may be silent (see `watch`).

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Debug,
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use byrnie_crds::{MeshPolicy, TrafficSplit};
use byrnie_model::ObjectName;
use futures::future::join_all;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        reflector::{self, Store, store::Writer},
        watcher::Event,
    },
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    tasks::Tasks,
    watch::{Heard, Selection, follow},
};

/// A watch that neither ended, nor failed, nor was opened anew for so long is stuck: only a restart helps.
const STUCK: Duration = Duration::from_mins(1);

/// The watched objects; cloning shares them.
#[derive(Clone)]
pub struct Stores {
    /// All of them.
    pub namespaces: Store<Namespace>,
    /// Names and labels.
    pub nodes: Store<PartialObjectMeta<Node>>,
    /// Cut down to labels, our own annotations, ServiceAccount, node, containers' names and ports, addresses, phase and
    /// conditions.
    pub pods: Store<Pod>,
    /// All of them.
    pub services: Store<Service>,
    /// All of them.
    pub slices: Store<EndpointSlice>,
    /// All of them.
    pub policies: Store<MeshPolicy>,
    /// All of them, as v1alpha4.
    pub splits: Store<TrafficSplit>,
    shared: Arc<Shared>,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Namespaces.
    Namespace,
    /// Nodes.
    Node,
    /// Pods.
    Pod,
    /// Services.
    Service,
    /// `EndpointSlices`.
    EndpointSlice,
    /// `MeshPolicies`.
    MeshPolicy,
    /// `TrafficSplits`.
    TrafficSplit,
}

/// What changed since somebody last asked: not how. A state and no queue, so that it is never larger than the cluster.
#[derive(Debug, Default)]
pub struct Touched {
    /// Kinds that were listed anew: anything may have changed.
    pub listed: BTreeSet<Kind>,
    /// Single objects; cluster-scoped ones have no namespace.
    pub objects: HashSet<(Kind, ObjectName)>,
    /// Since when the first of them waits.
    pub since: Option<Instant>,
}

struct Shared {
    revision: watch::Sender<u64>,
    touched: Mutex<Touched>,
    wake: Notify,
    pulses: Vec<(Kind, Pulse)>,
}

/// Signs of life of one watch.
struct Pulse {
    synced: watch::Sender<bool>,
    last: Mutex<Instant>,
}

impl Stores {
    /// Starts to watch everything.
    pub fn start(client: &Client, tasks: &Tasks) -> Self {
        use Kind as K;
        let kinds =
            [K::Namespace, K::Node, K::Pod, K::Service, K::EndpointSlice, K::MeshPolicy, K::TrafficSplit];
        let shared = Arc::new(Shared {
            revision: watch::Sender::new(0),
            touched: Mutex::default(),
            wake: Notify::new(),
            pulses: kinds.into_iter().map(|kind| (kind, Pulse::new())).collect(),
        });
        let watching = Watching { client, tasks, shared: &shared };
        Self {
            namespaces: watching.watch(Kind::Namespace, |_: &mut Namespace| ()),
            nodes: watching.watch(Kind::Node, |_: &mut PartialObjectMeta<Node>| ()),
            pods: watching.watch(Kind::Pod, prune_pod),
            services: watching.watch(Kind::Service, |_: &mut Service| ()),
            slices: watching.watch(Kind::EndpointSlice, |_: &mut EndpointSlice| ()),
            policies: watching.watch(Kind::MeshPolicy, |_: &mut MeshPolicy| ()),
            splits: watching.watch(Kind::TrafficSplit, |_: &mut TrafficSplit| ()),
            shared,
        }
    }

    /// Waits until everything has been listed once.
    pub async fn synced(&self) {
        join_all(self.shared.pulses.iter().map(|(_, pulse)| async {
            // The sender lives as long as the stores.
            let _ = pulse.synced.subscribe().wait_for(|synced| *synced).await;
        }))
        .await;
    }

    /// Whether everything has been listed once.
    pub fn is_synced(&self) -> bool {
        self.shared.pulses.iter().all(|(_, pulse)| *pulse.synced.borrow())
    }

    /// The kind whose watch is stuck, and since when. An API server that is away is no reason to restart: what is
    /// known goes on being told.
    pub fn dead(&self) -> Option<String> {
        let now = Instant::now();
        self.shared.pulses.iter().find_map(|(kind, pulse)| {
            let silent = now.saturating_duration_since(*pulse.last.lock());
            (silent > STUCK).then(|| format!("the watch of {kind:?} is stuck for {} s", silent.as_secs()))
        })
    }

    /// Counts events.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    /// Waits for a change and takes what changed. For one reader: what was taken is forgotten.
    pub async fn touched(&self) -> Touched {
        loop {
            let touched = std::mem::take(&mut *self.shared.touched.lock());
            if touched.since.is_some() {
                return touched;
            }
            self.shared.wake.notified().await;
        }
    }
}

impl Shared {
    fn touch(&self, change: impl FnOnce(&mut Touched)) {
        {
            let mut touched = self.touched.lock();
            touched.since.get_or_insert_with(Instant::now);
            change(&mut touched);
        }
        self.wake.notify_one();
        self.revision.send_modify(|revision| *revision += 1);
    }

    fn pulse(&self, kind: Kind) -> Option<&Pulse> {
        self.pulses.iter().find(|(of, _)| *of == kind).map(|(_, pulse)| pulse)
    }
}

impl Pulse {
    fn new() -> Self {
        Self { synced: watch::Sender::new(false), last: Mutex::new(Instant::now()) }
    }

    fn beat(&self) {
        *self.last.lock() = Instant::now();
    }
}

struct Watching<'a> {
    client: &'a Client,
    tasks: &'a Tasks,
    shared: &'a Arc<Shared>,
}

impl Watching<'_> {
    fn watch<K>(&self, kind: Kind, prune: fn(&mut K)) -> Store<K>
    where
        K: Resource<DynamicType: Default + Eq + Hash + Clone>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (store, writer) = reflector::store::<K>();
        let api = Api::<K>::all(self.client.clone());
        let (shared, stopping) = (self.shared.clone(), self.tasks.stopping());
        self.tasks.spawn("watch", keep_watching(kind, api, writer, prune, shared, stopping));
        store
    }
}

async fn keep_watching<K>(
    kind: Kind,
    api: Api<K>,
    mut writer: Writer<K>,
    prune: fn(&mut K),
    shared: Arc<Shared>,
    stopping: CancellationToken,
) where
    K: Resource<DynamicType: Default + Eq + Hash + Clone> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let Some(pulse) = shared.pulse(kind) else { return };
    let mut troubled = false;
    let hear = |heard: Heard<K>| {
        pulse.beat();
        let mut event = match heard {
            Heard::Event(event) => event,
            Heard::Alive => {
                if std::mem::take(&mut troubled) {
                    info!(?kind, "watched again");
                }
                return;
            }
            Heard::Trouble(problem) => {
                warn!(?kind, %problem, "cannot watch; what is known stays in force");
                troubled = true;
                return;
            }
            Heard::StillTrouble => return,
        };
        if let Event::Apply(object) | Event::InitApply(object) = &mut event {
            forget_bookkeeping(object);
            prune(object);
        }
        writer.apply_watcher_event(&event);
        match event {
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => {
                shared.touch(|touched| {
                    touched.listed.insert(kind);
                });
                pulse.synced.send_replace(true);
            }
            Event::Apply(object) | Event::Delete(object) => {
                let name = ObjectName::new(object.namespace().unwrap_or_default(), object.name_any());
                shared.touch(|touched| {
                    touched.objects.insert((kind, name));
                });
            }
        }
    };
    let _ = stopping.run_until_cancelled(follow(api, Selection::default(), hear)).await;
}

/// What the API server and kubectl note for themselves is half of a small object.
fn forget_bookkeeping(object: &mut impl ResourceExt) {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
}

fn prune_pod(pod: &mut Pod) {
    pod.annotations_mut().retain(|name, _| name.starts_with("byrnie.dev/"));
    if let Some(spec) = pod.spec.take() {
        let cut_down =
            |container: k8s_openapi::api::core::v1::Container| k8s_openapi::api::core::v1::Container {
                name: container.name,
                ports: container.ports,
                restart_policy: container.restart_policy,
                ..Default::default()
            };
        pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
            containers: spec.containers.into_iter().map(cut_down).collect(),
            init_containers: spec.init_containers.map(|inits| inits.into_iter().map(cut_down).collect()),
            service_account_name: spec.service_account_name,
            node_name: spec.node_name,
            host_network: spec.host_network,
            readiness_gates: spec.readiness_gates,
            ..Default::default()
        });
    }
    if let Some(status) = pod.status.take() {
        pod.status = Some(k8s_openapi::api::core::v1::PodStatus {
            pod_ip: status.pod_ip,
            pod_ips: status.pod_ips,
            phase: status.phase,
            conditions: status.conditions,
            ..Default::default()
        });
    }
}
