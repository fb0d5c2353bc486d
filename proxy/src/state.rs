//! What all threads of a proxy share: identity, policy, destinations and the places that record.
//!
//! Readers load immutable snapshots and never wait. Only the control stream (or the configuration file) writes.
//! Must not know where a snapshot comes from, nor what a worker makes of it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use byrnie_identity::Identity;
use byrnie_model::{Destination, Workload};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

use crate::{access_log::AccessLog, drain::Drain, hosts::Hosts, metrics::Metrics, standing::Standings};

/// Everything, once per process, behind one [`Arc`].
#[derive(Debug)]
pub struct Shared {
    /// Who this proxy is and whom it trusts.
    pub identity: Identity,
    /// What governs the pod's inbound side; `None` until it is known, and then nobody is let in.
    pub workload: ArcSwapOption<Workload>,
    /// Where the pod's calls go.
    pub destinations: Destinations,
    /// Names that applications ask a forward proxy for.
    pub hosts: Hosts,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// One line per request, where wanted.
    pub log: AccessLog,
    /// What connections between peers stand on.
    pub standings: Arc<Standings>,
    /// When a call of the pod's was last given up after others had been tried.
    pub given_up: LastTime,
    /// The end.
    pub drain: Drain,
    /// Whose proxy this is.
    pub pod: PodInfo,
}

/// When something last happened, for all threads.
#[derive(Debug)]
pub struct LastTime {
    base: Instant,
    millis: AtomicU64,
}

/// The pod beside which this proxy runs.
#[derive(Clone, Debug, Default)]
pub struct PodInfo {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Its addresses, IPv4 and IPv6.
    pub ips: Vec<IpAddr>,
    /// Ports of the proxy itself, which it never forwards to. Listeners may come and go.
    pub own_ports: Arc<ArcSwap<Vec<u16>>>,
}

/// What the pod talks to: one slot per original destination, subscribed to at its first use.
#[derive(Debug, Default)]
pub struct Destinations {
    slots: Mutex<HashMap<SocketAddr, Arc<Slot>>>,
    changed: Notify,
}

/// The latest known meaning of one address and port. Workers keep the [`Arc`].
#[derive(Debug)]
pub struct Slot {
    address: SocketAddr,
    value: ArcSwapOption<Destination>,
    version: AtomicU64,
    filled: Notify,
    created: Instant,
    used: AtomicU64,
}

/// Slots that one pod may hold; beyond it the longest unused one makes room.
pub const MAX_SLOTS: usize = 4096;

/// Unused for this long, a destination is unsubscribed.
pub const IDLE: Duration = Duration::from_mins(10);

impl Shared {
    /// What is still missing before traffic can flow; empty: ready.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        match self.identity.leaf() {
            Some(_) if self.identity.ready() => {}
            Some(_) => missing.push("certificate: it has expired and no new one was issued"),
            None => missing.push("certificate: none has been issued yet"),
        }
        if self.workload.load().is_none() {
            missing.push("policy: the operator has not sent this pod's policy yet");
        }
        missing
    }
}

impl Shared {
    /// Puts what governs the pod in force.
    pub fn store_workload(&self, workload: Workload) {
        let before = self.workload.swap(Some(Arc::new(workload)));
        let zone = |workload: &Option<Arc<Workload>>| workload.as_ref().map(|it| it.zone.clone());
        if zone(&before) != zone(&self.workload.load_full()) {
            // what is near is another matter now
            self.destinations.renew();
        }
    }
}

impl Default for LastTime {
    fn default() -> Self {
        Self { base: Instant::now(), millis: AtomicU64::new(0) }
    }
}

impl LastTime {
    /// It happens now.
    pub fn note(&self) {
        self.millis.store(self.millis() + 1, Ordering::Relaxed);
    }

    /// Whether it has happened within this time, give or take a millisecond.
    pub fn is_within(&self, time: Duration) -> bool {
        let last = self.millis.load(Ordering::Relaxed);
        last > 0 && self.millis().saturating_sub(last) <= u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl PodInfo {
    /// Whether an address and port is this proxy itself.
    pub fn is_own_listener(&self, address: SocketAddr) -> bool {
        self.own_ports.load().contains(&address.port()) && self.is_own_address(address.ip())
    }

    /// Whether an address is this pod's.
    pub fn is_own_address(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.ips.contains(&ip)
    }
}

impl Destinations {
    /// The slot of an address; the first call subscribes to it.
    pub fn slot(&self, address: SocketAddr) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&address) {
            slot.touch();
            return slot.clone();
        }
        if slots.len() >= MAX_SLOTS {
            let oldest = slots.values().filter(|s| Arc::strong_count(s) == 1).max_by_key(|s| s.idle());
            if let Some(address) = oldest.map(|s| s.address) {
                slots.remove(&address);
            }
        }
        let slot = Arc::new(Slot::new(address));
        if slots.len() < MAX_SLOTS {
            slots.insert(address, slot.clone());
        }
        drop(slots);
        self.changed.notify_one();
        slot
    }

    /// The slot of an address if somebody uses it.
    pub fn get(&self, address: SocketAddr) -> Option<Arc<Slot>> {
        self.slots.lock().get(&address).cloned()
    }

    /// Has all workers look at what is known once more.
    fn renew(&self) {
        for slot in self.slots.lock().values() {
            slot.version.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// All addresses in use.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.slots.lock().keys().copied().collect()
    }

    /// Forgets slots that nobody holds and nobody has used for [`IDLE`].
    pub fn sweep(&self) {
        self.slots.lock().retain(|_, slot| Arc::strong_count(slot) > 1 || slot.idle() < IDLE);
        self.changed.notify_one();
    }

    /// Returns when slots were added or removed since the last call (one waiter).
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Slot {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            value: ArcSwapOption::empty(),
            version: AtomicU64::new(0),
            filled: Notify::new(),
            created: Instant::now(),
            used: AtomicU64::new(0),
        }
    }

    /// The original destination that this slot is about.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is known now.
    pub fn load(&self) -> Option<Arc<Destination>> {
        self.value.load_full()
    }

    /// Changes whenever the value does: a worker that has seen this number need not load again. One load.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What is known, waiting up to a limit for the first answer.
    pub async fn wait(&self, limit: Duration) -> Option<Arc<Destination>> {
        let first = async {
            loop {
                let filled = self.filled.notified();
                if let Some(value) = self.load() {
                    return value;
                }
                filled.await;
            }
        };
        timeout(limit, first).await.ok()
    }

    /// Puts a new value in force.
    pub fn store(&self, destination: Arc<Destination>) {
        self.value.store(Some(destination));
        self.version.fetch_add(1, Ordering::AcqRel);
        self.filled.notify_waiters();
    }

    /// Notes that the slot was used just now.
    pub fn touch(&self) {
        let now = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(now, Ordering::Relaxed);
    }

    /// How long nobody has used the slot.
    pub fn idle(&self) -> Duration {
        self.created.elapsed().saturating_sub(Duration::from_millis(self.used.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    #[tokio::test]
    async fn a_slot_is_filled_once_for_everybody() {
        let destinations = Destinations::default();
        let slot = destinations.slot(address(80));
        assert!(slot.wait(Duration::from_millis(5)).await.is_none());
        let before = slot.version();
        let waiting = tokio::spawn({
            let slot = destinations.slot(address(80));
            async move { slot.wait(Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        destinations.get(address(80)).unwrap().store(Arc::new(Destination::Passthrough));
        assert_eq!(waiting.await.unwrap().as_deref(), Some(&Destination::Passthrough));
        assert_ne!(slot.version(), before);
    }

    #[tokio::test]
    async fn a_full_table_makes_room_only_from_what_nobody_holds() {
        let destinations = Destinations::default();
        let held = destinations.slot(address(0));
        for port in 1..=u16::try_from(MAX_SLOTS).unwrap() {
            destinations.slot(address(port));
        }
        assert_eq!(destinations.addresses().len(), MAX_SLOTS);
        assert!(Arc::ptr_eq(&held, &destinations.slot(address(0))));
        destinations.sweep();
        assert_eq!(destinations.addresses().len(), MAX_SLOTS);
        destinations.changed().await;
    }
}
