//! Who has what in force, from what proxies hold. Pure.

use std::collections::{BTreeMap, HashMap};

use byrnie_api::v1::ProxyHolding;
use byrnie_crds::meshpolicy::ProxyCount;

/// Names in a message before it says "and N more".
const NAMED: usize = 3;

/// What all connected proxies hold.
#[derive(Default)]
pub struct Held {
    /// By the object's UID, then the pod's.
    objects: HashMap<String, HashMap<String, Holder>>,
    /// By the pod's UID.
    connected: HashMap<String, (String, u64)>,
}

/// A pod with a proxy, `namespace/name` and UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePod {
    /// Of the pod.
    pub uid: String,
    /// For people.
    pub name: String,
}

/// How far one generation of one object (or one epoch of the trust) has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// In numbers.
    pub count: ProxyCount,
    /// Who does not have it in force.
    pub waiting: Vec<String>,
    /// Who refused it, and why.
    pub refused: Vec<(String, String)>,
}

/// What one proxy has of one object.
#[derive(Default)]
struct Holder {
    pod: String,
    in_force: Option<i64>,
    refused: Option<(i64, String)>,
}

impl Held {
    /// From the holdings of all replicas.
    pub fn new(holdings: &[ProxyHolding]) -> Self {
        let mut held = Self::default();
        for holding in holdings {
            for generation in &holding.generations {
                held.holder(&generation.uid, holding).in_force = Some(generation.generation);
            }
            for generation in &holding.pending {
                held.holder(&generation.uid, holding);
            }
            for refusal in &holding.refusals {
                if let Some(policy) = &refusal.policy {
                    let refused = Some((policy.generation, refusal.error.clone()));
                    held.holder(&policy.uid, holding).refused = refused;
                }
            }
            held.connected.insert(holding.pod_uid.clone(), (name(holding), holding.trust_epoch));
        }
        held
    }

    fn holder(&mut self, object: &str, holding: &ProxyHolding) -> &mut Holder {
        let of_object = self.objects.entry(object.to_owned()).or_default();
        let holder = of_object.entry(holding.pod_uid.clone()).or_default();
        holder.pod = name(holding);
        holder
    }

    /// Who has this generation in force, among the pods that it concerns and everybody who was ever sent the object.
    pub fn progress(&self, object: &str, generation: i64, concerned: &[LivePod]) -> Progress {
        let nobody = HashMap::new();
        let holders = self.objects.get(object).unwrap_or(&nobody);
        let mut all: BTreeMap<&str, (&str, Option<&Holder>)> =
            concerned.iter().map(|pod| (pod.uid.as_str(), (pod.name.as_str(), None))).collect();
        all.extend(holders.iter().map(|(uid, holder)| (uid.as_str(), (holder.pod.as_str(), Some(holder)))));
        let mut progress = Progress::default();
        for (uid, (name, holder)) in all {
            progress.count.total += 1;
            match holder {
                Some(Holder { in_force: Some(has), .. }) if *has == generation => {
                    progress.count.programmed += 1;
                }
                Some(Holder { refused: Some((refused, why)), .. }) if *refused == generation => {
                    progress.refused.push((name.to_owned(), why.clone()));
                }
                _ => progress.waiting.push(self.laggard(uid, name)),
            }
        }
        progress.sorted()
    }

    /// Who holds this epoch of the trust bundle, or a later one.
    pub fn bundle(&self, epoch: u64, live: &[LivePod]) -> Progress {
        let mut all: BTreeMap<&str, (&str, u64)> =
            live.iter().map(|pod| (pod.uid.as_str(), (pod.name.as_str(), 0))).collect();
        all.extend(self.connected.iter().map(|(uid, (name, epoch))| (uid.as_str(), (name.as_str(), *epoch))));
        let mut progress = Progress::default();
        for (uid, (name, has)) in all {
            progress.count.total += 1;
            if has >= epoch {
                progress.count.programmed += 1;
            } else {
                progress.waiting.push(self.laggard(uid, name));
            }
        }
        progress.sorted()
    }

    fn laggard(&self, uid: &str, name: &str) -> String {
        if self.connected.contains_key(uid) { name.to_owned() } else { format!("{name} (not connected)") }
    }
}

impl Progress {
    fn sorted(mut self) -> Self {
        self.waiting.sort();
        self.refused.sort();
        self
    }
}

/// `a, b, c and 4 more`.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    if names.len() > NAMED { format!("{shown} and {} more", names.len() - NAMED) } else { shown }
}

fn name(holding: &ProxyHolding) -> String {
    format!("{}/{}", holding.pod_namespace, holding.pod_name)
}
