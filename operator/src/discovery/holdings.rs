//! What every proxy has in force: this replica's own, and those of the other replicas as they tell.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use byrnie_api::v1::{Credentials, PolicyGeneration, ProxyHolding};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::subscriber::{End, Subscriber};

/// See the module; cloning shares.
#[derive(Clone, Default)]
pub struct Holdings {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By the pod's UID.
    own: Mutex<HashMap<String, Arc<Subscriber>>>,
    /// By the replica's address.
    others: Mutex<HashMap<String, Vec<ProxyHolding>>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Holdings {
    /// All live proxies, as far as is known, in a fixed order.
    pub fn all(&self) -> Vec<ProxyHolding> {
        let mut merged: BTreeMap<String, ProxyHolding> = BTreeMap::new();
        let others: Vec<ProxyHolding> = self.inner.others.lock().values().flatten().cloned().collect();
        for holding in self.own().into_iter().chain(others) {
            match merged.get_mut(&holding.pod_uid) {
                None => {
                    merged.insert(holding.pod_uid.clone(), holding);
                }
                Some(known) => merge(known, holding),
            }
        }
        merged.into_values().collect()
    }

    /// The proxies connected to this replica.
    pub fn own(&self) -> Vec<ProxyHolding> {
        let subscribers: Vec<Arc<Subscriber>> = self.inner.own.lock().values().cloned().collect();
        subscribers.iter().map(|subscriber| subscriber.holding()).collect()
    }

    /// Counts changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Where subscribers count theirs.
    pub(super) fn changed(&self) -> Arc<watch::Sender<u64>> {
        self.inner.changed.clone()
    }

    /// A proxy has connected; an older stream of its pod ends.
    pub(super) fn join(&self, subscriber: &Arc<Subscriber>) {
        let before = self.inner.own.lock().insert(subscriber.pod.uid.clone(), subscriber.clone());
        if let Some(before) = before {
            before.end(End::Over);
        }
        self.bump();
    }

    /// A proxy's stream has ended.
    pub(super) fn leave(&self, subscriber: &Subscriber) {
        let mut own = self.inner.own.lock();
        if own.get(&subscriber.pod.uid).is_some_and(|current| current.id == subscriber.id) {
            own.remove(&subscriber.pod.uid);
            drop(own);
            self.bump();
        }
    }

    /// Ends all streams.
    pub(super) fn end(&self) {
        self.inner.own.lock().values().for_each(|subscriber| subscriber.end(End::Over));
    }

    /// What another replica says; `None`: it is not connected.
    pub(super) fn told(&self, replica: &str, proxies: Option<Vec<ProxyHolding>>) {
        let mut others = self.inner.others.lock();
        let before = match proxies {
            Some(proxies) => others.insert(replica.to_owned(), proxies),
            None => others.remove(replica),
        };
        let changed = before.as_ref() != others.get(replica);
        drop(others);
        if changed {
            self.bump();
        }
    }

    fn bump(&self) {
        self.inner.changed.send_modify(|revision| *revision += 1);
    }
}

/// A proxy that moved from one replica to another is known to both for a while, and the one that it left tells of the
/// past. What it has once acknowledged it had, and generations only grow.
fn merge(known: &mut ProxyHolding, other: ProxyHolding) {
    known.trust_epoch = known.trust_epoch.max(other.trust_epoch);
    known.credentials = merge_credentials(known.credentials.take(), other.credentials);
    for generation in other.generations {
        match known.generations.iter_mut().find(|have| have.uid == generation.uid) {
            Some(have) if have.generation < generation.generation => *have = generation,
            Some(_) => {}
            None => known.generations.push(generation),
        }
    }
    known.refusals.extend(other.refusals);
    known.pending.extend(other.pending);
    let in_force = &known.generations;
    let newer = |policy: &PolicyGeneration| {
        in_force.iter().all(|have| have.uid != policy.uid || have.generation < policy.generation)
    };
    known.refusals.retain(|refusal| refusal.policy.as_ref().is_none_or(newer));
    known.pending.retain(newer);
}

/// What two streams of a pod say. The later epoch is of the present. Who signed the certificate is known only when nobody says otherwise: a rotation
/// goes on by it.
fn merge_credentials(one: Option<Credentials>, other: Option<Credentials>) -> Option<Credentials> {
    let (Some(one), Some(other)) = (&one, &other) else { return one.or(other) };
    let later = if other.trust_epoch > one.trust_epoch { other } else { one };
    let agree = one.leaf_issuer == other.leaf_issuer;
    let leaf_issuer = if agree { later.leaf_issuer.clone() } else { Vec::new() };
    let mut connection_roots = one.connection_roots.clone();
    connection_roots
        .extend(other.connection_roots.iter().filter(|root| !one.connection_roots.contains(root)).cloned());
    Some(Credentials { leaf_issuer, connection_roots, ..later.clone() })
}

#[cfg(test)]
mod tests {
    use byrnie_api::v1::Refusal;

    use super::*;

    fn generation(uid: &str, generation: i64) -> PolicyGeneration {
        PolicyGeneration { uid: uid.into(), generation, ..PolicyGeneration::default() }
    }

    fn told(
        epoch: u64,
        in_force: &[(&str, i64)],
        refused: &[(&str, i64)],
        pending: &[(&str, i64)],
    ) -> ProxyHolding {
        let list = |list: &[(&str, i64)]| list.iter().map(|(uid, g)| generation(uid, *g)).collect::<Vec<_>>();
        let refusals = list(refused).into_iter().map(|g| Refusal { policy: Some(g), error: "no".into() });
        ProxyHolding {
            pod_uid: "pod".into(),
            trust_epoch: epoch,
            generations: list(in_force),
            refusals: refusals.collect(),
            pending: list(pending),
            ..ProxyHolding::default()
        }
    }

    #[test]
    fn a_proxy_that_moved_is_one_proxy_with_what_it_acknowledged_last() {
        let holdings = Holdings::default();
        let mut changes = holdings.changes();
        holdings.told("a", Some(vec![told(3, &[("p", 1)], &[("q", 2)], &[("p", 2)])]));
        holdings.told("b", Some(vec![told(4, &[("p", 2), ("q", 2)], &[], &[("p", 3)])]));
        let all = holdings.all();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].trust_epoch, 4);
        let mut in_force = all[0].generations.clone();
        in_force.sort_by(|a, b| a.uid.cmp(&b.uid));
        assert_eq!(in_force, [generation("p", 2), generation("q", 2)]);
        assert!(all[0].refusals.is_empty());
        assert_eq!(all[0].pending, [generation("p", 3)]);
        assert!(changes.has_changed().unwrap());
        changes.borrow_and_update();
        holdings.told("b", Some(vec![told(4, &[("p", 2), ("q", 2)], &[], &[("p", 3)])]));
        assert!(!changes.has_changed().unwrap(), "nothing new was told");
        holdings.told("a", None);
        holdings.told("b", None);
        assert!(holdings.all().is_empty());
    }

    #[test]
    fn two_that_disagree_about_a_certificate_know_nothing_of_it() {
        let says = |trust_epoch, root: u8, issuer: u8| {
            Some(Credentials {
                trust_epoch,
                trusted_roots: vec![vec![root]],
                leaf_issuer: vec![issuer],
                connection_roots: vec![vec![issuer]],
            })
        };
        assert_eq!(merge_credentials(None, says(1, 1, 1)), says(1, 1, 1));
        assert_eq!(merge_credentials(says(1, 1, 1), None), says(1, 1, 1));
        assert_eq!(merge_credentials(says(1, 1, 1), says(2, 2, 1)), says(2, 2, 1));
        let unclear = merge_credentials(says(3, 3, 1), says(2, 2, 2)).unwrap();
        assert_eq!(
            (unclear.trust_epoch, unclear.trusted_roots, unclear.leaf_issuer),
            (3, vec![vec![3]], vec![])
        );
        assert_eq!(unclear.connection_roots, [[1], [2]], "connections may stand on either");
    }
}
