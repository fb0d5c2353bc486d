//! Counts the fleet: every live pod with a proxy and every proxy that is connected, with what it says of itself.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use byrnie_api::v1::{Credentials, ProxyHolding};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    AuthorityId,
    rotation::census::{Census, Holds, Proxy},
};
use crate::{discovery::Discovery, index::World, store::Stores};

/// Epochs are seconds of the day they were made, and then grow by one: nobody has seen one from tomorrow.
const EARLIEST_LIE: u64 = 86_400;

/// Takes a census, whenever it is asked.
pub type TakeCensus = Box<dyn Fn() -> Census + Send + Sync>;

/// Whoever has had no stream for so long is silent.
const SILENCE: Duration = Duration::from_mins(5);

/// Of what is watched, and what all replicas' proxies say.
pub fn census(discovery: Discovery, stores: Stores) -> TakeCensus {
    let heard = Mutex::new(HashMap::new());
    Box::new(move || {
        let mut proxies = proxies(&discovery.world(live), &discovery.holdings().all(), SystemTime::now());
        mark_silent(&mut heard.lock(), &mut proxies, Instant::now());
        Census { complete: discovery.is_ready() && stores.dead().is_none(), proxies }
    })
}

/// Remembers when each was heard last, or first seen.
fn mark_silent(heard: &mut HashMap<String, Instant>, proxies: &mut [Proxy], now: Instant) {
    heard.retain(|name, _| proxies.iter().any(|proxy| proxy.name == *name));
    for proxy in proxies {
        let last = heard.entry(proxy.name.clone()).or_insert(now);
        if proxy.connected {
            *last = now;
        }
        proxy.silent = now.saturating_duration_since(*last) >= SILENCE;
    }
}

/// Names of live pods that have a proxy, by UID. One without an address has no certificate yet.
fn live(world: &World) -> BTreeMap<String, String> {
    let pods = world.spaces().flat_map(|(namespace, space)| {
        space.pods.iter().map(move |(name, pod)| (format!("{namespace}/{name}"), pod))
    });
    let meshed = pods.filter(|(_, pod)| pod.live && pod.identity.is_some() && !pod.addresses.is_empty());
    meshed.map(|(name, pod)| (pod.uid.clone(), name)).collect()
}

fn proxies(live: &BTreeMap<String, String>, connected: &[ProxyHolding], now: SystemTime) -> Vec<Proxy> {
    let absent = |name: &String| Proxy { name: name.clone(), connected: false, silent: false, holds: None };
    let mut all: BTreeMap<&str, Proxy> =
        live.iter().map(|(uid, name)| (uid.as_str(), absent(name))).collect();
    for holding in connected {
        let name = format!("{}/{}", holding.pod_namespace, holding.pod_name);
        let holds = holding.credentials.as_ref().and_then(|it| holds(it, now));
        all.insert(&holding.pod_uid, Proxy { name, connected: true, silent: false, holds });
    }
    let mut all: Vec<Proxy> = all.into_values().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// `None` where it cannot be true.
fn holds(credentials: &Credentials, now: SystemTime) -> Option<Holds> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let id = |bytes: &Vec<u8>| <[u8; 32]>::try_from(bytes.as_slice()).ok().map(AuthorityId);
    let trusts = credentials.trusted_roots.iter().map(id).collect::<Option<_>>()?;
    let issuer = id(&credentials.leaf_issuer);
    let stands_on = credentials.connection_roots.iter().map(id).collect::<Option<_>>()?;
    let epoch = credentials.trust_epoch;
    (epoch < seconds.saturating_add(EARLIEST_LIE)).then_some(Holds { epoch, trusts, issuer, stands_on })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(uid: &str, epoch: u64, root: &[u8], issuer: &[u8]) -> ProxyHolding {
        let (trusted_roots, leaf_issuer) = (vec![root.to_vec()], issuer.to_vec());
        let credentials = Some(Credentials {
            trust_epoch: epoch,
            trusted_roots,
            leaf_issuer,
            connection_roots: vec![vec![2; 32]],
        });
        ProxyHolding {
            pod_namespace: "shop".into(),
            pod_name: uid.to_uppercase(),
            pod_uid: uid.into(),
            credentials,
            ..ProxyHolding::default()
        }
    }

    #[test]
    fn everybody_who_is_live_or_connected_counts() {
        let live = [("a", "shop/A"), ("b", "shop/B")].map(|(uid, name)| (uid.to_owned(), name.to_owned()));
        let mute = ProxyHolding { credentials: None, ..says("c", 0, &[], &[]) };
        let connected = [
            says("b", 7, &[1; 32], &[2; 32]),
            mute,
            says("d", 7, &[1; 31], &[2; 32]),
            says("e", 7, &[1; 32], &[]),
            says("f", u64::MAX, &[1; 32], &[1; 32]),
        ];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let all = proxies(&live.into(), &connected, now);
        let (one, two) = (AuthorityId([1; 32]), AuthorityId([2; 32]));
        let holds = |issuer| Some(Holds { epoch: 7, trusts: [one].into(), issuer, stands_on: [two].into() });
        let expected = [
            ("shop/A", false, None),
            ("shop/B", true, holds(Some(two))),
            ("shop/C", true, None),
            ("shop/D", true, None),
            ("shop/E", true, holds(None)),
            ("shop/F", true, None),
        ];
        let found: Vec<_> = all.iter().map(|p| (p.name.as_str(), p.connected, p.holds.clone())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn who_is_not_heard_of_for_five_minutes_is_silent() {
        let mut heard = HashMap::new();
        let begin = Instant::now();
        let mut at = |seconds, connected: [bool; 2]| {
            let proxy = |(name, connected): (&str, bool)| Proxy {
                name: name.to_owned(),
                connected,
                silent: false,
                holds: None,
            };
            let mut proxies = ["a", "b"].into_iter().zip(connected).map(proxy).collect::<Vec<_>>();
            mark_silent(&mut heard, &mut proxies, begin + Duration::from_secs(seconds));
            [proxies[0].silent, proxies[1].silent]
        };
        assert_eq!(at(0, [true, false]), [false, false]);
        assert_eq!(at(200, [true, false]), [false, false]);
        assert_eq!(at(301, [false, false]), [false, true], "a was heard lately");
        assert_eq!(at(302, [false, true]), [false, false]);
        assert_eq!(at(600, [false, false]), [true, false]);
    }
}
