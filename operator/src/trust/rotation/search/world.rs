//! The small world of the search: its state, what its leaders do, and what must never be. What else can happen is in
//! [`events`].

mod events;

use std::time::{Duration, SystemTime};

use byrnie_crds::meshtrust::{Phase, RootState};
use rustls_pki_types::CertificateDer;

use super::super::{
    AuthorityId, Decision, Key, Restored, Root, Seen, TrustState, Wishes,
    census::{Census, Holds, Proxy},
    guard::Guards,
    guarded,
};

/// Roots that can ever be made in a world.
const ROOTS: usize = 5;
/// When everything begins. How long a phase has lasted is [`Age`], and epochs are counted by writes.
const NOW: u64 = 1_000_000;
const REQUEST: &str = "now";

/// A set of roots.
type Roots = u8;

/// How long the phase has lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Age {
    Fresh,
    Dwelt,
    /// For longer than anybody is waited for.
    Long,
}

/// MeshTrust's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Store {
    epoch: u32,
    phase: Phase,
    roots: [Option<RootState>; ROOTS],
    signer: u8,
    requested: bool,
    restored: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Bundle {
    epoch: u32,
    roots: Roots,
}

/// A certificate on its way, and the bundle that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Flight {
    bundle: Bundle,
    issuer: u8,
    /// It was signed before the phase began.
    old: bool,
}

/// What the leader remembers of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Told {
    bundle: Bundle,
    issuer: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Pod {
    Absent,
    Booting,
    Ready { bundle: Bundle, leaf: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Proxied {
    pod: Pod,
    flight: Option<Flight>,
    told: Option<Told>,
    /// The leader knows of the pod.
    listed: bool,
    /// It was not heard of when an hour had passed.
    silent: bool,
}

/// What a leader is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Intent {
    Make,
    Write(Store),
    Delete(u8),
}

/// How often what may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Faults {
    pub(super) joins: u8,
    pub(super) restarts: u8,
    pub(super) losses: u8,
    pub(super) aborts: u8,
    pub(super) compromises: u8,
    pub(super) restores: u8,
}

impl Faults {
    pub(super) const NONE: Self =
        Self { joins: 0, restarts: 0, losses: 0, aborts: 0, compromises: 0, restores: 0 };
}

/// A promise that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Broken {
    /// Issuance signs by what it remembers of MeshTrust.
    StaleIssuer,
    /// A proxy is ready with the bundle that was injected.
    ReadyAsInjected,
    /// A proxy takes every epoch.
    LowerEpochs,
}

/// The whole world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) guards: Guards,
    pub(super) broken: Option<Broken>,
    /// The leader knows the latest status that there ever was, until it restarts.
    pub(super) remembers: bool,
    store: Store,
    /// Changes with every write, also where the content comes back.
    version: u8,
    age: Age,
    keys: Roots,
    made: u8,
    lost: Roots,
    proxies: Vec<Proxied>,
    /// With the version that each of them saw.
    leaders: Vec<Option<(u8, Intent)>>,
    /// What was in MeshTrust, as far as anybody may still know of it, with the keys of that time.
    past: Vec<(Store, Roots)>,
    abort: bool,
    compromised: Roots,
    /// Since then I1 need not hold.
    emergency: bool,
    faults: Faults,
}

type Next = Result<World, String>;

fn id(root: u8) -> AuthorityId {
    AuthorityId([root; 32])
}

fn name(root: u8) -> char {
    char::from(b'A' + root)
}

fn bit(root: u8) -> Roots {
    1 << root
}

fn members(roots: Roots) -> impl Iterator<Item = u8> {
    (0..8).filter(move |root| roots & bit(*root) != 0)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn root(root: u8, state: RootState) -> Root {
    let not_after = at(NOW) + Duration::from_hours(24 * 365 * 10);
    Root { id: id(root), certificate: CertificateDer::from(vec![root]), state, not_after }
}

impl Store {
    fn bundle(&self) -> Bundle {
        let trusted = |state: &Option<RootState>| state.is_some_and(|state| state != RootState::Tainted);
        let roots = (0..ROOTS).filter(|&root| trusted(&self.roots[root]));
        Bundle { epoch: self.epoch, roots: roots.fold(0, |all, root| all | 1 << root) }
    }

    fn state(&self) -> TrustState {
        let roots = (0u8..).zip(self.roots).filter_map(|(number, state)| Some(root(number, state?)));
        TrustState {
            domain: "cluster.local".parse().unwrap(),
            epoch: self.epoch.into(),
            phase: self.phase,
            since: at(NOW),
            request: self.requested.then(|| REQUEST.to_owned()),
            restored: self.restored.map(|frozen| Restored { since: at(NOW), frozen }),
            roots: roots.collect(),
            signer: id(self.signer),
        }
    }

    fn read(state: &TrustState) -> Self {
        let mut roots = [None; ROOTS];
        for root in &state.roots {
            roots[usize::from(root.id.as_bytes()[0])] = Some(root.state);
        }
        Self {
            epoch: u32::try_from(state.epoch).unwrap(),
            phase: state.phase,
            roots,
            signer: state.signer.as_bytes()[0],
            requested: state.request.is_some(),
            restored: state.restored.map(|restored| restored.frozen),
        }
    }
}

impl World {
    /// Proxies that are ready under root A, which is to be rotated; `joins` of the faults are absent at first.
    pub(super) fn new(proxies: usize, leaders: usize, faults: Faults) -> Self {
        let mut roots = [None; ROOTS];
        roots[0] = Some(RootState::Active);
        let store =
            Store { epoch: 0, phase: Phase::Stable, roots, signer: 0, requested: false, restored: None };
        let pod = Pod::Ready { bundle: store.bundle(), leaf: 0 };
        let ready = Proxied { pod, flight: None, told: None, listed: true, silent: false };
        let absent = Proxied { pod: Pod::Absent, listed: false, ..ready };
        let mut all = vec![ready; proxies];
        all.extend(vec![absent; usize::from(faults.joins)]);
        Self {
            guards: Guards::ALL,
            broken: None,
            remembers: false,
            store,
            version: 0,
            age: Age::Dwelt,
            keys: bit(0),
            made: 1,
            lost: 0,
            proxies: all,
            leaders: vec![None; leaders],
            past: vec![(store, bit(0))],
            abort: false,
            compromised: 0,
            emergency: false,
            faults,
        }
    }

    /// A rotation has come to its end, or is not wanted any more.
    pub(super) fn is_goal(&self) -> bool {
        let bundle = self.store.bundle().roots;
        let wanted = self.abort || self.store.requested;
        let clean = bundle & self.compromised == 0 && self.keys & bundle == bundle;
        self.store.phase == Phase::Stable && self.store.restored.is_none() && wanted && clean
    }

    /// Which proxy is which makes no difference.
    pub(super) fn canonical(mut self) -> Self {
        self.proxies.sort_unstable();
        self
    }

    fn leader(&self, leader: usize, events: &mut Vec<(String, Next)>) {
        let mut next = self.clone();
        if let Some((version, intent)) = next.leaders[leader].take() {
            events.push((format!("leader {leader} ends before it acts"), Ok(next.clone())));
            let done = match intent {
                Intent::Make => {
                    next.keys |= bit(next.made);
                    next.made += 1;
                    Ok(next)
                }
                Intent::Delete(key) => {
                    next.keys &= !bit(key);
                    if key == next.store.signer {
                        // a restore came in between
                        next.lost |= bit(key);
                        next.emergency = true;
                    }
                    Ok(next)
                }
                Intent::Write(_) if version != next.version => Ok(next),
                Intent::Write(store) => next.written(store),
            };
            events.push((format!("leader {leader} does: {}", intent.words()), done));
            return;
        }
        if let Some(intent) = self.intent() {
            next.leaders[leader] = Some((self.version, intent));
            events.push((format!("leader {leader} decides"), Ok(next)));
        }
    }

    fn intent(&self) -> Option<Intent> {
        let seconds = match self.age {
            Age::Fresh => 1,
            Age::Dwelt => 120,
            Age::Long => 3600,
        };
        let state = self.store.state();
        let wishes = Wishes {
            domain: state.domain.clone(),
            leaf_lifetime: Duration::from_hours(24),
            root_lifetime: Duration::from_hours(24 * 365),
            request: Some(REQUEST.to_owned()),
            abort: self.abort,
            compromised: members(self.compromised).map(id).collect(),
        };
        let now = at(NOW + seconds);
        let key = |number| Key { root: root(number, RootState::Staged), made: now };
        let keys: Vec<Key> = members(self.keys).map(key).collect();
        let census = self.census();
        let latest = self.past.iter().map(|(store, _)| store).max_by_key(|store| store.epoch);
        let remembered = latest.filter(|_| self.remembers).map(Store::state);
        let seen = Seen {
            state: Some(&state),
            wishes: &wishes,
            keys: &keys,
            census: &census,
            remembered: remembered.as_ref(),
            dwell: super::super::DWELL,
            now,
        };
        match guarded(&seen, self.guards) {
            Decision::MakeKey if usize::from(self.made) < ROOTS => Some(Intent::Make),
            Decision::Write(state) => Some(Intent::Write(Store::read(&state))),
            Decision::Wait(_, Some(key)) => Some(Intent::Delete(key.as_bytes()[0])),
            Decision::Wait(_, None) | Decision::MakeKey => None,
        }
    }

    fn census(&self) -> Census {
        let known = |it: &&Proxied| it.listed || it.told.is_some();
        let all = self.proxies.iter().enumerate().filter(|(_, it)| known(it));
        let proxies = all.map(|(number, it)| Proxy {
            name: number.to_string(),
            connected: it.told.is_some(),
            silent: it.silent && it.told.is_none(),
            holds: it.told.map(|told| Holds {
                epoch: told.bundle.epoch.into(),
                trusts: members(told.bundle.roots).map(id).collect(),
                issuer: Some(id(told.issuer)),
                stands_on: [id(told.issuer)].into(),
            }),
        });
        let complete = self.proxies.iter().all(|it| !it.is_ready() || it.listed || it.told.is_some());
        Census { complete, proxies: proxies.collect() }
    }

    /// MeshTrust's status is this from now on.
    fn written(mut self, store: Store) -> Next {
        let (before, after) = (self.store, store);
        let (old, new) = (before.bundle(), after.bundle());
        let changed = old.roots != new.roots || before.signer != after.signer;
        if after.epoch < before.epoch || changed && after.epoch == before.epoch {
            return Err(format!("I4: epoch {} after {}", after.epoch, before.epoch));
        }
        let back = |root: usize| {
            before.roots[root] == Some(RootState::Tainted) && after.roots[root] != before.roots[root]
        };
        if let Some(root) = (0..ROOTS).find(|&root| back(root)) {
            return Err(format!("I4: root {} comes back", name(u8::try_from(root).unwrap_or(u8::MAX))));
        }
        if new.roots & bit(after.signer) == 0 {
            return Err(format!("I5: root {} signs and is in no bundle", name(after.signer)));
        }
        if before.signer != after.signer && (self.keys | self.lost) & bit(after.signer) == 0 {
            return Err(format!("I9: root {} signs and has no key", name(after.signer)));
        }
        let gone = old.roots & !new.roots;
        let shown = self.proxies.iter().fold(0, |all, it| all | it.shown());
        if gone & shown != 0 && before.restored.is_none() && !self.emergency {
            let gone = members(gone & shown).map(name).collect::<String>();
            return Err(format!("I3: root {gone} goes before its last certificate"));
        }
        self.version += 1;
        let epoch = if after.epoch > before.epoch { u32::from(self.version) } else { before.epoch };
        self.store = Store { epoch, ..after };
        self.age = Age::Fresh;
        self.past.push((self.store, self.keys));
        self.forget();
        for it in &mut self.proxies {
            it.flight = it.flight.map(|flight| Flight { old: true, ..flight });
        }
        Ok(self)
    }

    /// Where nothing will be restored, only the state before and the latest of all are ever seen again.
    fn forget(&mut self) {
        if self.faults.restores == 0 {
            let latest = self.past.iter().map(|(store, _)| store.epoch).max();
            let young = self.past.len().saturating_sub(2);
            let mut at = 0;
            self.past.retain(|(store, _)| {
                at += 1;
                at > young || Some(store.epoch) == latest
            });
        }
    }

    /// I1: whoever is ready is believed by whoever is ready.
    fn checked(self) -> Next {
        let ready = |it: &Proxied| match it.pod {
            Pod::Ready { bundle, leaf } => Some((bundle, leaf)),
            Pod::Absent | Pod::Booting => None,
        };
        for (q, (bundle, _)) in self.proxies.iter().enumerate().filter_map(|(q, it)| Some((q, ready(it)?))) {
            for (p, (_, leaf)) in self.proxies.iter().enumerate().filter_map(|(p, it)| Some((p, ready(it)?)))
            {
                if bundle.roots & bit(leaf) == 0 && !self.emergency {
                    return Err(format!(
                        "I1: pod {q} does not believe {}, whose certificate pod {p} shows",
                        name(leaf)
                    ));
                }
            }
        }
        Ok(self)
    }
}

impl Proxied {
    fn is_ready(&self) -> bool {
        matches!(self.pod, Pod::Ready { .. })
    }

    /// What it says reaches the leader within a phase, or its stream ends.
    fn heard(&self) -> bool {
        self.told.is_none_or(|Told { bundle, issuer }| self.pod == Pod::Ready { bundle, leaf: issuer })
    }

    /// Roots of certificates that it shows or is about to show.
    fn shown(&self) -> Roots {
        let leaf = match self.pod {
            Pod::Ready { leaf, .. } => bit(leaf),
            Pod::Absent | Pod::Booting => 0,
        };
        leaf | self.flight.map_or(0, |flight| bit(flight.issuer))
    }
}

impl Intent {
    fn words(&self) -> String {
        match self {
            Self::Make => "make a key".into(),
            Self::Delete(key) => format!("remove key {}", name(*key)),
            Self::Write(store) => {
                let roots: String = members(store.bundle().roots).map(name).collect();
                let marks = match store.restored {
                    Some(true) => ", frozen",
                    Some(false) => ", restored",
                    None => "",
                };
                let epoch = store.epoch;
                format!("{:?} {roots} signed by {} at {epoch}{marks}", store.phase, name(store.signer))
            }
        }
    }
}
