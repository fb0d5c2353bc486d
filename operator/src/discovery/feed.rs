//! From what is watched to facts: reads the objects that changed, and hands them to the board.

use std::sync::Arc;

use byrnie_crds::cluster;
use byrnie_model::{ObjectName, TrustDomain};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{board::Board, vanished::Vanished};
use crate::{
    index::{
        facts::{self, Pod, Policy, Service, Slice, Split},
        world::{Change, Space},
    },
    store::{Kind, Stores, Touched},
};

/// Feeds the board, from the first moment at which everything is known; then `ready` is set. Does not return.
pub async fn feed(stores: Stores, board: Arc<Board>, trust_domain: TrustDomain, ready: watch::Sender<bool>) {
    stores.synced().await;
    let mut vanished = Vanished::default();
    loop {
        let touched = match vanished.until() {
            Some(until) => timeout_at(until, stores.touched()).await.unwrap_or_default(),
            None => stores.touched().await,
        };
        let now = Instant::now();
        let since = touched.since.unwrap_or(now);
        let listed = touched.listed.contains(&Kind::EndpointSlice);
        let changes = Reading { stores: &stores, trust_domain: &trust_domain }.changes(touched, &board);
        board.apply(board.world(|world| vanished.hold(changes, listed, world, now)), since);
        let released = board.world(|world| vanished.release(world, now));
        if !released.is_empty() {
            board.apply(released, since);
        }
        ready.send_replace(true);
    }
}

struct Reading<'a> {
    stores: &'a Stores,
    trust_domain: &'a TrustDomain,
}

impl Reading<'_> {
    fn changes(&self, touched: Touched, board: &Board) -> Vec<Change> {
        let mut changes = Vec::new();
        for kind in &touched.listed {
            changes.extend(self.names(*kind, board).into_iter().map(|name| self.change(*kind, name)));
        }
        let single = touched.objects.into_iter().filter(|(kind, _)| !touched.listed.contains(kind));
        changes.extend(single.map(|(kind, name)| self.change(kind, name)));
        changes
    }

    /// All that there are, and all that there were: deletions during a relist have no event of their own.
    fn names(&self, kind: Kind, board: &Board) -> Vec<ObjectName> {
        let mut names = match kind {
            Kind::Namespace => names(&self.stores.namespaces),
            Kind::Node => names(&self.stores.nodes),
            Kind::Pod => names(&self.stores.pods),
            Kind::Service => names(&self.stores.services),
            Kind::EndpointSlice => names(&self.stores.slices),
            Kind::MeshPolicy => names(&self.stores.policies),
            Kind::TrafficSplit => names(&self.stores.splits),
        };
        board.world(|world| match kind {
            Kind::Namespace => names.extend(world.spaces().map(|(name, _)| ObjectName::new("", name))),
            Kind::Node => names.extend(world.nodes().map(|name| ObjectName::new("", name))),
            Kind::Pod => names.extend(world.names(|space| space.pods.keys())),
            Kind::Service => names.extend(world.names(|space| space.services.keys())),
            Kind::EndpointSlice => names.extend(world.names(Space::slice_names)),
            Kind::MeshPolicy => names.extend(world.names(|space| space.policies.keys())),
            Kind::TrafficSplit => names.extend(world.names(|space| space.splits.keys())),
        });
        names.sort();
        names.dedup();
        names
    }

    /// An object as it is now.
    fn change(&self, kind: Kind, name: ObjectName) -> Change {
        let Self { stores, trust_domain } = self;
        match kind {
            Kind::Namespace => {
                let namespace = stores.namespaces.get(&ObjectRef::new(&name.name));
                Change::Namespace(name.name, namespace.map(|namespace| cluster::mtls_default(&namespace)))
            }
            Kind::Node => {
                let node = stores.nodes.get(&ObjectRef::new(&name.name));
                Change::Node(name.name, node.map(|node| facts::zone(&node)))
            }
            Kind::Pod => {
                let pod = get(&stores.pods, &name).map(|pod| Pod::read(&pod, trust_domain));
                Change::Pod(name, pod)
            }
            Kind::Service => {
                let service = get(&stores.services, &name).map(|service| Service::read(&service));
                Change::Service(name, service)
            }
            Kind::EndpointSlice => {
                let slice = get(&stores.slices, &name).and_then(|slice| Slice::read(&slice));
                Change::Slice(name, slice)
            }
            Kind::MeshPolicy => {
                let policy = get(&stores.policies, &name).map(|policy| Policy::read(&policy, trust_domain));
                Change::Policy(name, policy)
            }
            Kind::TrafficSplit => {
                let split = get(&stores.splits, &name).map(|split| Split::read(&split));
                Change::Split(name, split)
            }
        }
    }
}

fn get<K>(store: &Store<K>, name: &ObjectName) -> Option<Arc<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + 'static,
{
    store.get(&ObjectRef::new(&name.name).within(&name.namespace))
}

fn names<K>(store: &Store<K>) -> Vec<ObjectName>
where
    K: Resource<DynamicType: Default + Eq + std::hash::Hash + Clone> + Clone + 'static,
{
    let name = |object: &Arc<K>| ObjectName::new(object.namespace().unwrap_or_default(), object.name_any());
    store.state().iter().map(name).collect()
}
