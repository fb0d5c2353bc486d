//! What can happen in the small world: to its leaders, to its proxies, by the clock, and by misfortune.

use super::{Age, Broken, Flight, Next, Pod, Proxied, Told, World, bit, members, name};

impl World {
    /// What can happen now, and what comes of it.
    pub(in super::super) fn events(&self) -> Vec<(String, Next)> {
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
}
