//! What users read back: the leader writes the status of each MeshPolicy, TrafficSplit and MeshTrust when, and only
//! when, it has changed. Decoupled from the push to proxies: many changes in a row are one write.
//!
//! RBAC: `meshpolicies/status`, `meshtrusts/status` (byrnie.dev) and `trafficsplits/status` (split.smi-spec.io) patch;
//! the objects themselves as the stores need them.

pub mod digest;
pub mod held;
pub mod meshpolicy;
pub mod meshtrust;
pub mod trafficsplit;
mod write;

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use byrnie_crds::{MeshTrust, meshpolicy::ProxyCount, names};
use kube::{
    Api, Client, ResourceExt,
    runtime::reflector::{self, Store},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::warn;

use digest::Digest;
use held::Held;
use write::Writer;

use crate::{
    discovery::Discovery,
    lease::Fence,
    metrics::Metrics,
    store::Stores,
    trust::{current::Trusted, rotation::Outlook},
    watch::{Heard, Selection, follow},
};

/// Changes within this time are answered together.
const COALESCE: Duration = Duration::from_millis(100);
/// A round is followed by a pause of so many times its own length: statuses take a tenth of a core at most.
const SHARE: u32 = 9;
/// A new leader knows only the proxies that have come back to it or that other replicas have told of: for so long a
/// number does not go down.
const SETTLE: Duration = Duration::from_secs(15);
/// Even when nothing happens, everything is compared this often: certificates come nearer to their end.
const RESYNC: Duration = Duration::from_mins(5);

/// See the module.
pub struct Statuses {
    client: Client,
    stores: Stores,
    discovery: Discovery,
    trust: watch::Receiver<Option<Arc<Trusted>>>,
    outlook: watch::Receiver<Option<Outlook>>,
    fence: Fence,
    metrics: Metrics,
}

impl Statuses {
    /// Needs what is watched, what the proxies hold, the trust, and the permission to write.
    pub fn new(
        client: Client,
        stores: Stores,
        discovery: Discovery,
        trust: watch::Receiver<Option<Arc<Trusted>>>,
        outlook: watch::Receiver<Option<Outlook>>,
        fence: Fence,
        metrics: Metrics,
    ) -> Self {
        Self { client, stores, discovery, trust, outlook, fence, metrics }
    }

    /// Works for as long as this replica leads.
    pub async fn run(&self) -> Infallible {
        let (trusts, mut writer) = reflector::store::<MeshTrust>();
        let seen = watch::Sender::new(());
        let hear = |heard: Heard<MeshTrust>| match heard {
            Heard::Event(event) => {
                writer.apply_watcher_event(&event);
                seen.send_replace(());
            }
            Heard::Trouble(problem) => {
                warn!(problem, "cannot watch MeshTrust");
                self.metrics.failed("Watch");
            }
            Heard::Alive | Heard::StillTrouble => {}
        };
        let all = Api::all(self.client.clone());
        tokio::select! {
            never = follow(all, Selection::default(), hear) => never,
            never = self.keep(&trusts, seen.subscribe()) => never,
        }
    }

    async fn keep(&self, trusts: &Store<MeshTrust>, mut seen: watch::Receiver<()>) -> Infallible {
        self.discovery.ready().await;
        if trusts.wait_until_ready().await.is_err() {
            return std::future::pending().await;
        }
        let mut writer = Writer::new(self.client.clone(), self.fence.clone(), self.metrics.clone());
        let settled = Instant::now() + SETTLE;
        let (mut changes, mut held) = (self.stores.changes(), self.discovery.holdings().changes());
        let (mut trust, mut outlook) = (self.trust.clone(), self.outlook.clone());
        loop {
            let begun = Instant::now();
            let mut next = self.round(trusts, &mut writer, settled).await;
            if begun < settled {
                next = Some(next.map_or(settled, |next| next.min(settled)));
            }
            let pause = COALESCE.max(Instant::now().saturating_duration_since(begun) * SHARE);
            tokio::select! {
                _ = changes.changed() => {}
                _ = held.changed() => {}
                _ = trust.changed() => {}
                _ = outlook.changed() => {}
                _ = seen.changed() => {}
                () = sleep_until(next.unwrap_or_else(|| Instant::now() + RESYNC)) => {}
            }
            sleep(pause).await;
            changes.borrow_and_update();
            held.borrow_and_update();
            trust.borrow_and_update();
            outlook.borrow_and_update();
            seen.borrow_and_update();
        }
    }

    /// Compares every object with what its status should be; when to come again for what failed.
    async fn round(
        &self,
        trusts: &Store<MeshTrust>,
        writer: &mut Writer,
        settled: Instant,
    ) -> Option<Instant> {
        let trusted = self.trust.borrow().clone()?;
        self.plan(&trusted, &trusts.state(), writer, Instant::now() < settled);
        writer.carry_out().await
    }

    fn plan(&self, trusted: &Trusted, trusts: &[Arc<MeshTrust>], writer: &mut Writer, settling: bool) {
        let held = Held::new(&self.discovery.holdings().all());
        let now = crate::trust::time(std::time::SystemTime::now());
        let policies = by_namespace(self.stores.policies.state());
        let splits = by_namespace(self.stores.splits.state());
        writer.keep_only(
            policies.values().map(Vec::len).sum::<usize>() + splits.values().map(Vec::len).sum::<usize>(),
        );
        let mut live = Vec::new();
        let namespaces: Vec<String> =
            self.discovery.world(|world| world.spaces().map(|(name, _)| name.clone()).collect());
        for namespace in namespaces {
            // One at a time, so that nobody waits long for the world.
            let pods = self.discovery.world(|world| {
                let space = world.space(&namespace)?;
                let digest = Digest::new(world, &namespace, space);
                for policy in policies.get(&namespace).into_iter().flatten() {
                    let status =
                        meshpolicy::status(policy, &trusted.state.domain, space, &digest, &held, &now);
                    if settling && fewer(policy.status.as_ref().and_then(|s| s.proxies), status.proxies) {
                        continue;
                    }
                    writer.plan("MeshPolicy", policy.as_ref(), &json!(policy.status), json!(status));
                }
                for split in splits.get(&namespace).into_iter().flatten() {
                    let status = trafficsplit::status(split, space, &held, &now);
                    if settling && fewer(split.status.as_ref().and_then(|s| s.proxies), status.proxies) {
                        continue;
                    }
                    writer.plan("TrafficSplit", split.as_ref(), &json!(split.status), json!(status));
                }
                Some(digest.live)
            });
            live.extend(pods.unwrap_or_default());
        }
        let bundle = held.bundle(trusted.state.epoch, &live);
        for object in trusts.iter().filter(|object| object.name_any() == names::MESH_TRUST) {
            let outlook = self.outlook.borrow().clone();
            let status = meshtrust::status(object, trusted, &bundle, outlook.as_ref(), &now);
            let current = object.status.as_ref().map(meshtrust::owned);
            let before = object.status.as_ref().and_then(|status| status.proxies);
            if settling && before.is_some_and(|before| before.current > bundle.count.programmed) {
                continue;
            }
            writer.plan("MeshTrust", object.as_ref(), &json!(current), meshtrust::owned(&status));
        }
    }
}

/// Whether fewer proxies have it in force than the status says.
fn fewer(before: Option<ProxyCount>, now: Option<ProxyCount>) -> bool {
    before.map_or(0, |count| count.programmed) > now.map_or(0, |count| count.programmed)
}

fn by_namespace<K: ResourceExt>(objects: Vec<Arc<K>>) -> HashMap<String, Vec<Arc<K>>> {
    let mut sorted: HashMap<String, Vec<Arc<K>>> = HashMap::new();
    for object in objects {
        sorted.entry(object.namespace().unwrap_or_default()).or_default().push(object);
    }
    sorted
}

#[cfg(test)]
mod tests;
