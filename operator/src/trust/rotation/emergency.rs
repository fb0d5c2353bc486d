//! A root whose key somebody else may have: out of every bundle within two minutes, whoever is left behind.
//!
//! The same way as ever, Staged and Signing, but waited for is only who is connected, and only for so long. Availability
//! is spent on purpose: who has missed it asks for everything anew.

use std::{collections::BTreeSet, time::Duration};

use byrnie_crds::meshtrust::{Phase, RootState};

use super::{
    AuthorityId, Decision, Outlook, Rotation,
    census::{Holds, Lacks, Laggard},
};

/// To get the new root to the proxies.
pub(super) const STAGED: Duration = Duration::from_secs(30);
/// To get certificates of the new root to them. With the above, and with what the leader and the way to the proxies
/// take, less than the two minutes that are promised.
pub(super) const SIGNING: Duration = Duration::from_mins(1);

impl Rotation<'_> {
    /// What to do about compromised roots, where one is in the bundle.
    pub(super) fn emergency(&self) -> Option<Decision> {
        let compromised = &self.seen.wishes.compromised;
        let bundle = self.state.roots.iter().filter(|root| root.state != RootState::Tainted);
        let bad: BTreeSet<AuthorityId> =
            bundle.map(|root| root.id).filter(|id| compromised.contains(id)).collect();
        if bad.is_empty() {
            return None;
        }
        if let Some(next) =
            self.state.staged().filter(|next| bad.contains(&next.id) || !self.has_key(next.id))
        {
            // Nobody has a certificate of it.
            return Some(Decision::Write(self.without(|root| root.id == next.id)));
        }
        if bad.contains(&self.state.signer) {
            return Some(self.another_signer());
        }
        let behind = self.connected(|it| {
            let bad = it.issuer.is_none_or(|issuer| bad.contains(&issuer));
            bad.then_some(Lacks::Certificate)
        });
        let drained = self.state.phase == Phase::Draining;
        Some(self.at_most(SIGNING, behind, drained, || {
            Decision::Write(self.without(|root| bad.contains(&root.id)))
        }))
    }

    /// One that all trust already, or a new one.
    fn another_signer(&self) -> Decision {
        if let Some(next) = self.state.staged() {
            let behind = self.connected(|it| (!it.trusts.contains(&next.id)).then_some(Lacks::Root));
            return self.at_most(STAGED, behind, false, || Decision::Write(self.signing(next.id)));
        }
        match self.state.draining().find(|root| self.can_sign(root.id)) {
            Some(before) => Decision::Write(self.signing_again(before.id)),
            None => self.stage(),
        }
    }

    pub(super) fn connected(&self, lacking: impl Fn(&Holds) -> Option<Lacks>) -> Vec<Laggard> {
        let mut behind = self.laggards(lacking);
        behind.retain(|laggard| laggard.lacks != Lacks::Connection);
        behind
    }

    fn at_most(
        &self,
        limit: Duration,
        behind: Vec<Laggard>,
        at_once: bool,
        then: impl FnOnce() -> Decision,
    ) -> Decision {
        if at_once || behind.is_empty() || self.age(self.state.since) >= limit {
            return then();
        }
        let until = self.state.since + limit;
        Decision::Wait(Outlook::Emergency { until, laggards: behind }, None)
    }
}
