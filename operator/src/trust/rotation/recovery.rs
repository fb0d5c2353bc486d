//! An older state was restored: proxies, or this replica, know of a later epoch than MeshTrust does.
//!
//! Until everything that was on its way has arrived and every proxy has said what it has, nothing changes; and where
//! most proxies say so, or we know it, nothing is signed. (One alone could stop the mesh with a word that is not true.) Then MeshTrust
//! is made what the fleet proves: everybody must trust the root that signs from now on, and every root
//! whose certificate anybody shows must be one of ours. To add a root is always safe, but what proxies merely claim to
//! trust is not added: MeshTrust, now or as we remember it, and the keys in our own Secrets are the only witnesses. A
//! root whose key was lost with the restore goes on for as long as another one needs to take its place.

use std::collections::{BTreeMap, BTreeSet};

use byrnie_crds::meshtrust::{Phase, RootState};

use super::{
    AuthorityId, Decision, Guard, Outlook, Restored, Root, Rotation, TrustState,
    begin::epoch_at,
    census::{Holds, Lacks},
    outlook::listed,
};

impl Rotation<'_> {
    /// What to do about a restored state that most proxies know of.
    pub(super) fn recover_most(&self) -> Option<Decision> {
        let ahead = self.seen.census.told().filter(|it| it.epoch > self.state.epoch).count();
        let most = 2 * ahead > self.seen.census.told().count() || self.remembered().is_some();
        let frozen = self.state.restored.is_some_and(|restored| restored.frozen);
        if most || frozen { self.recovered(true) } else { None }
    }

    /// What to do about a restored state, where this is one.
    pub(super) fn recover(&self) -> Option<Decision> {
        self.recovered(false)
    }

    fn recovered(&self, frozen: bool) -> Option<Decision> {
        let told = self.seen.census.told().map(|it| it.epoch);
        let newest = told.chain(self.remembered().map(|state| state.epoch)).max().unwrap_or(0);
        if newest <= self.state.epoch && self.state.restored.is_none() || !self.guards.has(Guard::Recovery) {
            return None;
        }
        let wait = |problem| {
            let (stored, newest) = (self.state.epoch, newest.max(self.state.epoch));
            Some(Decision::Wait(Outlook::Restored { stored, newest, frozen, problem }, None))
        };
        if self.guards.has(Guard::Freeze) {
            let noticed = self.state.restored.filter(|restored| restored.frozen || !frozen);
            let Some(Restored { since, .. }) = noticed else {
                let restored = Some(Restored { since: self.seen.now, frozen });
                return Some(Decision::Write(TrustState { restored, ..self.state.clone() }));
            };
            if self.age(since) < self.seen.dwell {
                return wait("certificates that are on their way arrive first".into());
            }
        }
        // who is silent for long has no certificate, and while nothing is signed gets none; or it is cut off
        let unsaid = |it: &Holds| it.issuer.is_none().then_some(Lacks::Report);
        let missing = self.seen.census.laggards_heard(unsaid);
        if !missing.is_empty() {
            return wait(format!("every proxy must say what it has first, also {}", listed(&missing)));
        }
        if !self.seen.census.complete {
            return wait("it is not certain that all proxies are known".into());
        }
        match self.proven(newest) {
            Ok(state) => Some(Decision::Write(state)),
            Err(problem) => wait(problem),
        }
    }

    /// What this replica knows better than MeshTrust.
    fn remembered(&self) -> Option<&TrustState> {
        self.seen.remembered.filter(|state| state.epoch > self.state.epoch)
    }

    /// The state that goes with what every proxy has.
    fn proven(&self, newest: u64) -> Result<TrustState, String> {
        let all: Vec<&Holds> = self.seen.census.told().collect();
        if all.is_empty() && self.remembered().is_none() {
            // nobody shows anything any more
            return Ok(TrustState { restored: None, ..self.changed() });
        }
        let mut ours: BTreeMap<AuthorityId, &Root> =
            self.seen.keys.iter().map(|key| (key.root.id, &key.root)).collect();
        ours.extend(self.state.roots.iter().map(|root| (root.id, root)));
        // what went before the restore does not come back with it
        ours.extend(self.remembered().iter().flat_map(|state| &state.roots).map(|root| (root.id, root)));
        ours.retain(|_, root| root.state != RootState::Tainted);

        let shown: BTreeSet<AuthorityId> = all.iter().filter_map(|it| it.issuer).collect();
        let unknown = |it: &Holds| it.issuer.filter(|id| !ours.contains_key(id)).map(|_| Lacks::Certificate);
        let strangers = self.connected(unknown);
        if !strangers.is_empty() {
            let names: Vec<String> = strangers.into_iter().map(|stranger| stranger.name).collect();
            let names = names.join(", ");
            return Err(format!(
                "restart {names}: they show certificates of a root that is nowhere in this cluster any more"
            ));
        }
        let trusted_by_all = |id: &AuthorityId| all.iter().all(|it| it.trusts.contains(id));
        let candidates =
            std::iter::once(self.state.signer).chain(self.seen.keys.iter().map(|key| key.root.id));
        let signs = candidates.filter(|id| ours.contains_key(id) && self.can_sign(*id)).find(trusted_by_all);
        // without its key it signs nothing, but is what the next one can begin from
        let keyless = self.remembered().map(|state| state.signer).filter(|id| ours.contains_key(id));
        let Some(signer) = signs.or(keyless.filter(trusted_by_all)) else {
            return Err("there is no root with a key that all proxies trust".into());
        };
        let stays = |id: &AuthorityId| {
            *id == signer || shown.contains(id) || all.iter().any(|it| it.trusts.contains(id))
        };
        let mut state = TrustState { restored: None, ..self.changed() };
        for root in &mut state.roots {
            root.state = if stays(&root.id) && ours.contains_key(&root.id) {
                RootState::Draining
            } else {
                RootState::Tainted
            };
        }
        let added = ours.values().filter(|root| stays(&root.id) && self.state.root(root.id).is_none());
        state.roots.extend(added.map(|root| Root { state: RootState::Draining, ..(*root).clone() }));
        let mut state = super::sign_with(state, signer);
        if state.draining().next().is_none() {
            state.phase = Phase::Stable;
        }
        state.epoch = epoch_at(self.seen.now).max(newest.max(self.state.epoch) + 1);
        Ok(state)
    }
}
