//! The proxies as a rotation sees them: which there are, what each believes and shows, and who holds things up.

use std::{collections::BTreeSet, fmt};

use super::AuthorityId;

/// Every proxy that takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// No watch is behind: a pod that has had a certificate for a while is among these.
    pub complete: bool,
    /// Live pods, and whoever else is connected.
    pub proxies: Vec<Proxy>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its pod, `namespace/name`.
    pub name: String,
    /// It has a stream to one of the replicas.
    pub connected: bool,
    /// It has had none for five minutes.
    pub silent: bool,
    /// What it says of itself; `None`: nothing.
    pub holds: Option<Holds>,
}

/// What a proxy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// The highest epoch that it has seen.
    pub epoch: u64,
    /// The roots that it believes.
    pub trusts: BTreeSet<AuthorityId>,
    /// Whose certificate it shows.
    pub issuer: Option<AuthorityId>,
    /// The roots that its open connections stand on.
    pub stands_on: BTreeSet<AuthorityId>,
}

/// A proxy that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Laggard {
    /// Its pod.
    pub name: String,
    /// What is missing.
    pub lacks: Lacks,
}

/// What a proxy lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lacks {
    /// A stream to the operator.
    Connection,
    /// A (credible) word about what it has.
    Report,
    /// The current bundle.
    Epoch,
    /// The root that is to sign.
    Root,
    /// A certificate of the root that signs.
    Certificate,
    /// An end of connections that stand on the other root.
    Move,
}

impl Census {
    /// All that lack something. A live pod that is not connected lacks everything.
    pub(super) fn laggards(&self, lacking: impl Fn(&Holds) -> Option<Lacks>) -> Vec<Laggard> {
        self.proxies.iter().filter_map(|proxy| proxy.laggard(&lacking)).collect()
    }

    /// The same without those that have been silent for long.
    pub(super) fn laggards_heard(&self, lacking: impl Fn(&Holds) -> Option<Lacks>) -> Vec<Laggard> {
        let heard = self.proxies.iter().filter(|proxy| proxy.connected || !proxy.silent);
        heard.filter_map(|proxy| proxy.laggard(&lacking)).collect()
    }

    /// What the connected ones say.
    pub(super) fn told(&self) -> impl Iterator<Item = &Holds> {
        self.proxies.iter().filter(|proxy| proxy.connected).filter_map(|proxy| proxy.holds.as_ref())
    }
}

impl Proxy {
    fn laggard(&self, lacking: impl Fn(&Holds) -> Option<Lacks>) -> Option<Laggard> {
        let lacks = match &self.holds {
            _ if !self.connected => Some(Lacks::Connection),
            None => Some(Lacks::Report),
            Some(holds) => lacking(holds),
        };
        Some(Laggard { name: self.name.clone(), lacks: lacks? })
    }
}

impl fmt::Display for Laggard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lacks = match self.lacks {
            Lacks::Connection => "not connected",
            Lacks::Report => "its proxy does not say what it trusts",
            Lacks::Epoch => "without the current bundle",
            Lacks::Root => "without the new root",
            Lacks::Certificate => "still with a certificate of the other root",
            Lacks::Move => "still with connections that stand on the other root",
        };
        write!(f, "{} ({lacks})", self.name)
    }
}
