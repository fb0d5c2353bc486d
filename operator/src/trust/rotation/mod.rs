//! The rotation of the root as a pure function: what MeshTrust says, what its spec asks for, which keys exist, what the
//! proxies have and what time it is, to the one next thing to do.
//!
//! Knows no API server, no clock and no randomness: [`step`] is searched exhaustively (search.rs), and whoever carries
//! its decisions out may end between any two of them, or be two. Every change of the state is a compare-and-swap.
//! docs/trust.md says the same for people.

mod begin;
pub mod census;
mod emergency;
mod guard;
pub mod outlook;
mod recovery;
#[cfg(test)]
mod search;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use byrnie_crds::meshtrust::{Phase, RootState};
use byrnie_model::TrustDomain;

use self::{
    census::{Census, Holds, Lacks, Laggard},
    guard::{Guard, Guards},
};
use super::{AuthorityId, Restored, Root, TrustState};

pub use self::{
    begin::epoch_at,
    outlook::{Outlook, Why},
};

/// A phase lasts at least this long where nothing else is said.
pub const DWELL: Duration = Duration::from_mins(1);
/// No phase may be shorter: longer than any answer that was signed before it can be on its way (a proxy waits 10 s), and
/// than anything the leader believes to know may be old.
pub const SHORTEST_DWELL: Duration = Duration::from_secs(15);
/// Connections that stand on a root which is to go are waited for no longer than this, and then cut.
const DRAIN: Duration = Duration::from_mins(10);
/// A key that lies unused for less is a process's that ended before its next write, and is taken.
const ADOPTED: Duration = Duration::from_mins(30);
/// One that lies unused for longer is removed. The distance to [`ADOPTED`] is what a leader may be late.
const ORPHANED: Duration = Duration::from_hours(1);
/// When the key that signs is lost, nobody gets a certificate: who is connected is waited for no longer than this.
const KEYLESS: Duration = Duration::from_mins(10);
/// Roots that MeshTrust lists; the oldest of those that are gone make room.
const LISTED: usize = 24;

/// All that a step depends on.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// What MeshTrust's status says; `None` before anything was established, or after it was lost.
    pub state: Option<&'a TrustState>,
    /// What its spec says.
    pub wishes: &'a Wishes,
    /// Roots whose key is in a Secret of ours.
    pub keys: &'a [Key],
    /// The proxies.
    pub census: &'a Census,
    /// The latest status that this replica has read itself, which is later than `state` where an older one was restored.
    pub remembered: Option<&'a TrustState>,
    /// How long a phase lasts at least.
    pub dwell: Duration,
    /// The time.
    pub now: SystemTime,
}

/// What MeshTrust's spec says of a root that is made here.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The trust domain.
    pub domain: TrustDomain,
    /// How long a workload's certificate lives.
    pub leaf_lifetime: Duration,
    /// How long a root lives; it is rotated when half of this is left.
    pub root_lifetime: Duration,
    /// Whoever changes this asks for a rotation.
    pub request: Option<String>,
    /// No rotation, and back from one that is under way.
    pub abort: bool,
    /// Roots that must go.
    pub compromised: BTreeSet<AuthorityId>,
}

/// A Secret with a root and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The root.
    pub root: Root,
    /// When the Secret was made.
    pub made: SystemTime,
}

/// The one next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make a new root and keep it in a Secret. MeshTrust does not know of it before the next step.
    MakeKey,
    /// Make this MeshTrust's status, if nobody has changed that since it was seen.
    Write(TrustState),
    /// Nothing but to wait, and meanwhile to remove the Secret of a key that nobody needs any more.
    Wait(Outlook, Option<AuthorityId>),
}

/// What is to be done now.
pub fn step(seen: &Seen<'_>) -> Decision {
    guarded(seen, Guards::ALL)
}

fn guarded(seen: &Seen<'_>, guards: Guards) -> Decision {
    let Some(state) = seen.state else { return begin::begin(seen) };
    let rotation = Rotation { seen, state, guards };
    let decision = rotation
        .recover_most()
        .or_else(|| rotation.emergency())
        .or_else(|| rotation.recover())
        .or_else(|| rotation.without_key())
        .or_else(|| rotation.abort())
        .unwrap_or_else(|| rotation.advance());
    match decision {
        Decision::Wait(outlook, None) if rotation.is_together() => {
            Decision::Wait(outlook, rotation.unneeded_key())
        }
        other => other,
    }
}

/// A step with a state to begin from.
struct Rotation<'a> {
    seen: &'a Seen<'a>,
    state: &'a TrustState,
    guards: Guards,
}

impl Rotation<'_> {
    /// The way that a rotation takes when nothing is wrong.
    fn advance(&self) -> Decision {
        match (self.state.phase, self.state.staged()) {
            (Phase::Stable, _) | (Phase::Staged, None) => match self.reason() {
                Some(why) => self.begin_rotation(why),
                None => Decision::Wait(Outlook::Stable { next: self.half_life() }, None),
            },
            (Phase::Staged, Some(next)) => {
                let lacking = |it: &Holds| (!it.trusts.contains(&next.id)).then_some(Lacks::Root);
                self.when(Guard::BundlesAcked, lacking, || self.signing(next.id))
            }
            (Phase::Signing, _) => {
                self.when(
                    Guard::LeavesAcked,
                    |it| self.shows_another(it),
                    || {
                        // Nothing changes for proxies: the epoch stays.
                        TrustState { phase: Phase::Draining, since: self.seen.now, ..self.state.clone() }
                    },
                )
            }
            (Phase::Draining, _) => {
                let patient = self.age(self.state.since) < DRAIN;
                let moving = |it: &Holds| (patient && self.stands_on_another(it)).then_some(Lacks::Move);
                let lacking = |it: &Holds| self.shows_another(it).or_else(|| moving(it));
                self.when(Guard::LeavesAcked, lacking, || {
                    self.without(|root| root.state == RootState::Draining)
                })
            }
        }
    }

    /// Why it is time for another root.
    fn reason(&self) -> Option<Why> {
        let wishes = self.seen.wishes;
        if wishes.request.is_some() && wishes.request != self.state.request {
            Some(Why::Requested)
        } else if self.seen.now >= self.half_life() {
            Some(Why::HalfLife)
        } else {
            None
        }
    }

    fn half_life(&self) -> SystemTime {
        let end = self.state.root(self.state.signer).map_or(self.seen.now, |root| root.not_after);
        end - self.seen.wishes.root_lifetime / 2
    }

    /// A rotation that is not urgent begins when every proxy stands where the last one ended: laggards would stop it
    /// half-way, and one that knows of a later state than this would show only then.
    fn begin_rotation(&self, why: Why) -> Decision {
        if self.seen.wishes.abort {
            return Decision::Wait(Outlook::Suspended(why), None);
        }
        let behind = |it: &Holds| (it.epoch < self.state.epoch).then_some(Lacks::Epoch);
        let laggards = self.laggards(behind);
        if self.guards.has(Guard::Together) && (!laggards.is_empty() || !self.seen.census.complete) {
            return Decision::Wait(self.waiting(None, laggards), None);
        }
        self.stage()
    }

    /// Everybody has this very state: it was not restored, and what is unknown to it is unknown to all.
    fn is_together(&self) -> bool {
        let other = |it: &Holds| (it.epoch != self.state.epoch).then_some(Lacks::Epoch);
        self.seen.census.complete && self.state.restored.is_none() && self.laggards(other).is_empty()
    }

    /// Puts another root into the bundle, whose key exists by then.
    fn stage(&self) -> Decision {
        let Some(next) = self.spare_key() else { return Decision::MakeKey };
        let mut state = self.changed();
        if !self.guards.has(Guard::Stage) {
            state.roots.push(next.root.clone());
            return Decision::Write(sign_with(state, next.root.id));
        }
        state.phase = Phase::Staged;
        state.roots.push(Root { state: RootState::Staged, ..next.root.clone() });
        Decision::Write(state)
    }

    /// A key of ours that was made for a rotation and not used yet.
    fn spare_key(&self) -> Option<&Key> {
        let spare = |key: &&Key| {
            let unknown = self.state.root(key.root.id).is_none();
            let fresh = self.age(key.made) < ADOPTED;
            unknown && fresh && self.usable(key) && !self.seen.wishes.compromised.contains(&key.root.id)
        };
        self.seen.keys.iter().filter(spare).min_by_key(|key| (key.made, key.root.id))
    }

    /// Lives for as long as the certificates that it would sign now.
    fn usable(&self, key: &Key) -> bool {
        key.root.not_after > self.seen.now + self.seen.wishes.leaf_lifetime
    }

    /// From now on another root signs; the one before stays in the bundle.
    fn signing(&self, next: AuthorityId) -> TrustState {
        sign_with(TrustState { request: self.seen.wishes.request.clone(), ..self.changed() }, next)
    }

    /// Back to a root that signed before and is still in every bundle.
    fn abort(&self) -> Option<Decision> {
        if !self.seen.wishes.abort {
            return None;
        }
        if let Some(next) = self.state.staged() {
            // not where the key that signs is lost: the next one is all there is
            let back = self.can_sign(self.state.signer);
            return back.then(|| Decision::Write(self.without(|root| root.id == next.id)));
        }
        let first = self.state.roots.iter().find(|root| root.state != RootState::Tainted)?;
        let back = first.id != self.state.signer && self.can_sign(first.id);
        back.then(|| Decision::Write(self.signing_again(first.id)))
    }

    /// As [`Self::signing`], without counting as an answer to a request.
    fn signing_again(&self, root: AuthorityId) -> TrustState {
        TrustState { request: self.state.request.clone(), ..self.signing(root) }
    }

    /// Where the key is lost that signs, or the one that is to sign.
    fn without_key(&self) -> Option<Decision> {
        if !self.guards.has(Guard::Keys) {
            return None;
        }
        if let Some(next) = self.state.staged().filter(|next| !self.has_key(next.id)) {
            return Some(Decision::Write(self.without(|root| root.id == next.id)));
        }
        if self.has_key(self.state.signer) {
            return None;
        }
        if let Some(before) = self.state.draining().find(|root| self.can_sign(root.id)) {
            return Some(Decision::Write(self.signing_again(before.id)));
        }
        let Some(next) = self.state.staged() else { return Some(self.stage()) };
        // a pod without a certificate gets none and is not heard before: it would wait for itself
        let behind = self.connected(|it| (!it.trusts.contains(&next.id)).then_some(Lacks::Root));
        let heard = behind.is_empty() && self.seen.census.complete;
        let limit = if heard { self.seen.dwell.max(emergency::STAGED) } else { KEYLESS };
        (self.age(self.state.since) >= limit).then(|| Decision::Write(self.signing(next.id)))
    }

    fn has_key(&self, id: AuthorityId) -> bool {
        self.seen.keys.iter().any(|key| key.root.id == id)
    }

    fn can_sign(&self, id: AuthorityId) -> bool {
        let compromised = self.seen.wishes.compromised.contains(&id);
        !compromised && self.seen.keys.iter().any(|key| key.root.id == id && self.usable(key))
    }

    /// The next state, once nobody lacks anything and the time has passed.
    fn when(
        &self,
        guard: Guard,
        lacking: impl Fn(&Holds) -> Option<Lacks>,
        next: impl FnOnce() -> TrustState,
    ) -> Decision {
        let laggards = if self.guards.has(guard) { self.laggards(lacking) } else { Vec::new() };
        let dwell = if self.guards.has(Guard::Dwell) { self.seen.dwell } else { Duration::ZERO };
        let complete = self.seen.census.complete || !self.guards.has(Guard::Complete);
        if laggards.is_empty() && complete && self.age(self.state.since) >= dwell {
            return Decision::Write(next());
        }
        Decision::Wait(self.waiting(Some(self.state.since + dwell), laggards), None)
    }

    fn waiting(&self, until: Option<SystemTime>, laggards: Vec<Laggard>) -> Outlook {
        let complete = self.seen.census.complete;
        Outlook::Waiting { phase: self.state.phase, until, laggards, complete }
    }

    fn laggards(&self, lacking: impl Fn(&Holds) -> Option<Lacks>) -> Vec<Laggard> {
        self.seen.census.laggards(lacking)
    }

    fn shows_another(&self, it: &Holds) -> Option<Lacks> {
        (it.issuer != Some(self.state.signer)).then_some(Lacks::Certificate)
    }

    fn stands_on_another(&self, it: &Holds) -> bool {
        it.stands_on.iter().any(|root| *root != self.state.signer)
    }

    /// Some roots leave the bundle for ever.
    fn without(&self, gone: impl Fn(&Root) -> bool) -> TrustState {
        let mut state = self.changed();
        for root in state.roots.iter_mut().filter(|root| gone(root)) {
            root.state = RootState::Tainted;
        }
        let (staged, draining) = (state.staged().is_some(), state.draining().next().is_some());
        state.phase = match (staged, draining) {
            (true, _) => Phase::Staged,
            (false, true) => Phase::Signing,
            (false, false) => Phase::Stable,
        };
        while state.roots.len() > LISTED
            && let Some(oldest) = state.roots.iter().position(|root| root.state == RootState::Tainted)
        {
            state.roots.remove(oldest);
        }
        state
    }

    fn changed(&self) -> TrustState {
        // also after a restore no two states have the same
        let epoch = epoch_at(self.seen.now).max(self.state.epoch + 1);
        TrustState { epoch, since: self.seen.now, ..self.state.clone() }
    }

    /// A key that no MeshTrust will ever refer to again.
    fn unneeded_key(&self) -> Option<AuthorityId> {
        let unneeded = |key: &&Key| match self.state.root(key.root.id) {
            Some(root) => root.state == RootState::Tainted,
            None => self.age(key.made) > ORPHANED,
        };
        self.seen.keys.iter().find(unneeded).map(|key| key.root.id)
    }

    fn age(&self, since: SystemTime) -> Duration {
        self.seen.now.duration_since(since).unwrap_or_default()
    }
}

/// One of the roots signs, and the one before drains. They stay in the order of their age.
fn sign_with(mut state: TrustState, signer: AuthorityId) -> TrustState {
    for root in &mut state.roots {
        if root.id == signer {
            root.state = RootState::Active;
        } else if root.state == RootState::Active {
            root.state = RootState::Draining;
        }
    }
    state.signer = signer;
    state.phase = Phase::Signing;
    state
}
