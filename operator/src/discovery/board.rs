//! The board where snapshots hang: each is made once, however many proxies follow it, and made anew only when
//! something it depends on changed. Followers are handed the latest; whether they read it is their own affair.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use byrnie_api::v1::to_proxy::Resource;
use byrnie_model::TrustDomain;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    content::{self, Content, Topic},
    metrics::Metrics,
    subscriber::Subscriber,
};
use crate::index::{
    World,
    world::{Change, Dependency},
};

/// See the module.
pub struct Board {
    inner: Mutex<Inner>,
    metrics: Metrics,
}

struct Inner {
    world: World,
    cells: HashMap<Topic, Cell>,
    /// Who is to be made anew when this changes.
    dependents: HashMap<Dependency, HashSet<Topic>>,
}

#[derive(Default)]
struct Cell {
    content: Option<Arc<Content>>,
    dependencies: Vec<Dependency>,
    followers: HashMap<u64, Arc<Subscriber>>,
}

impl Board {
    /// With an empty world.
    pub fn new(trust_domain: TrustDomain, metrics: Metrics) -> Self {
        let world = World::new(trust_domain);
        let inner = Inner { world, cells: HashMap::new(), dependents: HashMap::new() };
        Self { inner: Mutex::new(inner), metrics }
    }

    /// Looks at the world.
    pub fn world<R>(&self, look: impl FnOnce(&World) -> R) -> R {
        look(&self.inner.lock().world)
    }

    /// Takes changes in and tells whom they concern.
    pub fn apply(&self, changes: Vec<Change>, since: Instant) {
        let topics: HashSet<Topic> = {
            let mut inner = self.inner.lock();
            let touched: BTreeSet<Dependency> =
                changes.into_iter().flat_map(|change| inner.world.apply(change)).collect();
            touched
                .iter()
                .filter_map(|dependency| inner.dependents.get(dependency))
                .flatten()
                .cloned()
                .collect()
        };
        // Who may call comes before where to call.
        let (workloads, others): (Vec<_>, Vec<_>) =
            topics.into_iter().partition(|topic| matches!(topic, Topic::Workload(_)));
        for topic in workloads.into_iter().chain(others) {
            // One at a time: whoever waits for the board waits for one snapshot, not for all.
            self.inner.lock().refresh(&topic, since);
            self.metrics.recomputed.inc();
        }
    }

    /// Trust is not of the world: it is told as it comes. `None`: nobody is told any more for now.
    pub fn pin_trust(&self, trust: Option<Resource>, since: Instant) {
        let mut inner = self.inner.lock();
        match trust {
            Some(trust) => inner.put(&Topic::Trust, trust, since),
            None => {
                if let Some(cell) = inner.cells.get_mut(&Topic::Trust) {
                    cell.content = None;
                }
            }
        }
    }

    /// From now on `follower` is handed what there is about the topic, beginning with what there is now.
    pub fn follow(&self, topic: &Topic, follower: &Arc<Subscriber>) {
        let mut inner = self.inner.lock();
        if !inner.cells.contains_key(topic) {
            let (resource, dependencies) = content::make(&inner.world, topic);
            let content = resource.map(|resource| Arc::new(Content { resource }));
            inner.cells.insert(topic.clone(), Cell { content, ..Cell::default() });
            inner.depend(topic, dependencies);
            if *topic != Topic::Trust {
                self.metrics.snapshots.inc();
            }
        }
        let Some(cell) = inner.cells.get_mut(topic) else { return };
        cell.followers.insert(follower.id, follower.clone());
        if let Some(content) = &cell.content {
            follower.hand(topic, content, None);
        }
    }

    /// `follower` is not handed anything about the topic any more.
    pub fn leave(&self, topic: &Topic, follower: &Subscriber) {
        let mut inner = self.inner.lock();
        let Some(cell) = inner.cells.get_mut(topic) else { return };
        cell.followers.remove(&follower.id);
        if cell.followers.is_empty() && *topic != Topic::Trust {
            inner.depend(topic, Vec::new());
            inner.cells.remove(topic);
            self.metrics.snapshots.dec();
        }
    }
}

impl Inner {
    fn refresh(&mut self, topic: &Topic, since: Instant) {
        if !self.cells.contains_key(topic) {
            return;
        }
        let (resource, dependencies) = content::make(&self.world, topic);
        self.depend(topic, dependencies);
        if let Some(resource) = resource {
            self.put(topic, resource, since);
            return;
        }
        for follower in self.cells.get(topic).into_iter().flat_map(|cell| cell.followers.values()) {
            follower.gone();
        }
    }

    fn put(&mut self, topic: &Topic, resource: Resource, since: Instant) {
        let cell = self.cells.entry(topic.clone()).or_default();
        if cell.content.as_ref().is_some_and(|content| content.resource == resource) {
            return;
        }
        let content = Arc::new(Content { resource });
        for follower in cell.followers.values() {
            follower.hand(topic, &content, Some(since));
        }
        cell.content = Some(content);
    }

    fn depend(&mut self, topic: &Topic, now: Vec<Dependency>) {
        let Some(cell) = self.cells.get_mut(topic) else { return };
        let before = std::mem::replace(&mut cell.dependencies, now);
        if before == cell.dependencies {
            return;
        }
        for dependency in &before {
            if let Some(topics) = self.dependents.get_mut(dependency) {
                topics.remove(topic);
                if topics.is_empty() {
                    self.dependents.remove(dependency);
                }
            }
        }
        for dependency in &cell.dependencies {
            self.dependents.entry(dependency.clone()).or_default().insert(topic.clone());
        }
    }
}
