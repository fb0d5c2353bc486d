//! The small world of the search: its state, what can happen next, and what must never be.

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

    /// What can happen now, and what comes of it.
    pub(super) fn events(&self) -> Vec<(String, Next)> {
        let mut events = Vec::new();
        for leader in 0..self.leaders.len() {
            self.leader(leader, &mut events);
        }
        for proxy in 0..self.proxies.len() {
            self.issuance(proxy, &mut events);
            self.stream(proxy, &mut events);
            self.life(proxy, &mut events);
        }
        self.time(&mut events);
        self.misfortune(&mut events);
        events
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

    /// Asking for a certificate, and its coming.
    fn issuance(&self, proxy: usize, events: &mut Vec<(String, Next)>) {
        let it = self.proxies[proxy];
        let Some(flight) = it.flight else {
            let (epoch, leaf) = match it.pod {
                Pod::Absent => return,
                Pod::Booting => (0, None),
                Pod::Ready { bundle, leaf } => (bundle.epoch, Some(leaf)),
            };
            // Every replica remembers the latest that it has seen.
            let latest = self.past.iter().map(|(store, _)| store.epoch).max().unwrap_or(0);
            let stale = self.broken == Some(Broken::StaleIssuer);
            let stores = self.past.iter().map(|(store, _)| store).filter(|_| stale);
            for store in stores.chain([&self.store]) {
                let refused =
                    store.restored == Some(true) || epoch > store.epoch || store.epoch < latest && !stale;
                if refused || leaf == Some(store.signer) || self.keys & bit(store.signer) == 0 {
                    continue;
                }
                let mut next = self.clone();
                let (bundle, issuer) = (store.bundle(), store.signer);
                next.proxies[proxy].flight = Some(Flight { bundle, issuer, old: false });
                events.push((format!("{} signs for pod {proxy}", name(issuer)), Ok(next)));
            }
            return;
        };
        let mut next = self.clone();
        next.proxies[proxy].flight = None;
        events.push((format!("pod {proxy}'s certificate is lost"), Ok(next.clone())));
        let bundle = match it.pod {
            Pod::Ready { bundle, .. } if bundle.epoch > flight.bundle.epoch => bundle,
            Pod::Booting if self.broken == Some(Broken::ReadyAsInjected) => self.past[0].0.bundle(),
            _ => flight.bundle,
        };
        next.proxies[proxy].pod = match it.pod {
            _ if bundle.roots & bit(flight.issuer) != 0 || self.broken == Some(Broken::ReadyAsInjected) => {
                Pod::Ready { bundle, leaf: flight.issuer }
            }
            Pod::Ready { leaf, .. } => Pod::Ready { bundle, leaf },
            other => other,
        };
        let words = format!("pod {proxy}'s certificate arrives");
        events.push((words, next.checked()));
    }

    /// Pushes of bundles, early and late, and what the leader hears of a proxy.
    fn stream(&self, proxy: usize, events: &mut Vec<(String, Next)>) {
        let it = self.proxies[proxy];
        if it.told.is_some() {
            let mut next = self.clone();
            next.proxies[proxy].told = None;
            events.push((format!("the leader forgets pod {proxy}"), Ok(next)));
        }
        let Pod::Ready { bundle, leaf } = it.pod else { return };
        let told = Told { bundle, issuer: leaf };
        if it.told != Some(told) {
            let mut next = self.clone();
            (next.proxies[proxy].told, next.proxies[proxy].silent) = (Some(told), false);
            events.push((format!("the leader hears pod {proxy}"), Ok(next)));
        }
        let latest = self.past.iter().map(|(store, _)| store.epoch).max();
        for (store, _) in &self.past {
            // A replica lags for less than a phase, also behind a restore; then it tells nobody what is later than that.
            let untouched = self.past.last().is_none_or(|(last, _)| *last != self.store);
            let held = untouched && Some(store.epoch) == latest;
            let late = self.age == Age::Fresh || store.epoch == self.store.epoch || held;
            let pushed = store.bundle();
            let lower = pushed.epoch < bundle.epoch && self.broken != Some(Broken::LowerEpochs);
            if lower || !late || pushed == bundle {
                continue;
            }
            let mut next = self.clone();
            next.proxies[proxy].pod = Pod::Ready { bundle: pushed, leaf };
            events.push((format!("pod {proxy} gets epoch {}", pushed.epoch), next.checked()));
        }
    }

    fn life(&self, proxy: usize, events: &mut Vec<(String, Next)>) {
        let it = self.proxies[proxy];
        let mut next = self.clone();
        match it.pod {
            Pod::Absent if self.faults.joins > 0 => {
                next.faults.joins -= 1;
                next.proxies[proxy].pod = Pod::Booting;
                events.push((format!("pod {proxy} begins"), Ok(next)));
            }
            Pod::Booting | Pod::Ready { .. } if !it.listed => {
                next.proxies[proxy].listed = true;
                events.push((format!("the leader knows of pod {proxy}"), Ok(next)));
            }
            // the condition asks for it
            Pod::Ready { leaf, .. } if self.store.restored.is_some() && self.is_unknown(leaf) => {
                next.proxies[proxy] = Proxied { pod: Pod::Booting, flight: None, told: None, ..it };
                events.push((format!("somebody restarts pod {proxy}"), Ok(next)));
            }
            Pod::Ready { .. } if self.faults.restarts > 0 => {
                next.faults.restarts -= 1;
                next.proxies[proxy] = Proxied { pod: Pod::Booting, flight: None, ..it };
                events.push((format!("pod {proxy}'s proxy restarts"), Ok(next)));
            }
            _ => {}
        }
    }

    fn is_unknown(&self, root: u8) -> bool {
        self.keys & bit(root) == 0 && self.store.roots[usize::from(root)].is_none()
    }

    fn time(&self, events: &mut Vec<(String, Next)>) {
        let mut next = self.clone();
        match self.age {
            Age::Fresh => {
                let old = |it: &Proxied| it.flight.is_some_and(|flight| flight.old) || !it.heard();
                if !self.proxies.iter().any(old) {
                    next.age = Age::Dwelt;
                    events.push(("a minute passes".into(), Ok(next)));
                }
            }
            // whoever is ready has a stream to tell it by
            Age::Dwelt | Age::Long if self.proxies.iter().all(|it| !it.is_ready() || it.told.is_some()) => {
                next.age = Age::Long;
                for it in &mut next.proxies {
                    it.silent = it.told.is_none();
                }
                events.push(("an hour passes".into(), Ok(next)));
            }
            Age::Dwelt | Age::Long => {}
        }
    }

    fn misfortune(&self, events: &mut Vec<(String, Next)>) {
        if self.remembers
            && self.store.epoch < self.past.iter().map(|(store, _)| store.epoch).max().unwrap_or(0)
        {
            events.push(("the leader restarts".into(), Ok(Self { remembers: false, ..self.clone() })));
        }
        let mut next = self.clone();
        if self.faults.aborts > 0 {
            next.faults.aborts -= 1;
            next.abort = true;
            events.push(("abort".into(), Ok(next)));
        }
        if self.faults.losses > 0 {
            for key in members(self.keys & self.store.bundle().roots) {
                let mut next = self.clone();
                next.faults.losses -= 1;
                next.keys &= !bit(key);
                next.lost |= bit(key);
                // without a key nobody is waited for in the end
                next.emergency = true;
                events.push((format!("the key of {} is lost", name(key)), Ok(next)));
            }
        }
        if self.faults.compromises > 0 {
            for key in members(self.store.bundle().roots & !self.compromised) {
                let mut next = self.clone();
                next.faults.compromises -= 1;
                next.compromised |= bit(key);
                next.emergency = true;
                events.push((format!("{} is compromised", name(key)), Ok(next)));
            }
        }
        if self.faults.restores > 0 {
            for (store, keys) in self.past.iter().filter(|(store, _)| *store != self.store) {
                for keys in [*keys, self.keys] {
                    let mut next = self.clone();
                    next.faults.restores -= 1;
                    if self.remembers {
                        // as where they are lost otherwise
                        next.lost |= self.keys & !keys;
                        next.emergency |= self.keys & !keys & self.store.bundle().roots != 0;
                    }
                    (next.store, next.keys) = (*store, keys);
                    next.version += 1;
                    next.age = Age::Dwelt;
                    let keys: String = members(keys).map(name).collect();
                    let words = format!("epoch {} and keys {keys} are restored", store.epoch);
                    events.push((words, Ok(next)));
                }
            }
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
