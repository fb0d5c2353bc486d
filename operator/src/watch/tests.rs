//! What is known, how soon, and whatever happens to the API server. The clock is simulated.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Event, Heard, Selection, fake::FakeApi, follow};
use crate::{store::Stores, tasks::Tasks};

const MAPS: &str = "/api/v1/configmaps";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

fn put(api: &FakeApi, value: u64) {
    api.put(
        MAPS,
        json!({"metadata": {"namespace": "shop", "name": "one"}, "data": {"value": value.to_string()}}),
    );
}

/// The value that is known, once somebody follows.
fn following(api: &FakeApi) -> Arc<Mutex<Option<u64>>> {
    let known = Arc::new(Mutex::new(None));
    let maps = Api::<ConfigMap>::all(api.client());
    let learn = {
        let known = known.clone();
        move |heard: Heard<ConfigMap>| match heard {
            Heard::Event(Event::Apply(map) | Event::InitApply(map)) => {
                *known.lock() = Some(map.data.unwrap()["value"].parse().unwrap());
            }
            Heard::Event(Event::Delete(_)) => *known.lock() = None,
            _ => {}
        }
    };
    tokio::spawn(follow(maps, Selection::default(), learn));
    known
}

async fn until_known(known: &Mutex<Option<u64>>, value: Option<u64>) -> Duration {
    let begun = Instant::now();
    while *known.lock() != value {
        sleep(Duration::from_millis(10)).await;
        assert!(begun + Duration::from_mins(5) > Instant::now(), "{value:?} was never known");
    }
    Instant::now() - begun
}

#[tokio::test(start_paused = true)]
async fn a_change_after_an_outage_is_known_within_seconds() {
    let (api, mut slowest) = (FakeApi::default(), Duration::ZERO);
    put(&api, 0);
    let known = following(&api);
    until_known(&known, Some(0)).await;
    for (round, seconds) in [1, 5, 15, 60, 600, 3600].into_iter().cycle().take(60).enumerate() {
        api.away(true);
        sleep(Duration::from_secs(seconds)).await;
        api.away(false);
        put(&api, round as u64);
        slowest = slowest.max(until_known(&known, Some(round as u64)).await);
    }
    println!("known at the latest {slowest:?} after the API server was back");
    assert!(slowest <= Duration::from_secs(3), "{slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_without_a_word_is_left_within_a_minute() {
    for swallowed in 0..4 {
        let api = FakeApi::default();
        put(&api, 0);
        let known = following(&api);
        until_known(&known, Some(0)).await;
        sleep(Duration::from_secs(7)).await;
        api.blackhole(swallowed);
        put(&api, 1);
        let stale = until_known(&known, Some(1)).await;
        println!("{swallowed} more connections were dead: stale for {stale:?}");
        assert!(stale <= Duration::from_mins(1), "{swallowed}: {stale:?}");
        assert_eq!(api.lists(), 1, "nothing was lost: nothing needs to be listed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_list_that_gets_no_answer_is_asked_for_again() {
    let api = FakeApi::default();
    put(&api, 1);
    api.blackhole(1);
    assert!(until_known(&following(&api), Some(1)).await < Duration::from_secs(25));
}

#[tokio::test(start_paused = true)]
async fn a_past_that_was_restored_is_taken_over() {
    let api = FakeApi::default();
    let known = following(&api);
    put(&api, 1);
    until_known(&known, Some(1)).await;
    let snapshot = api.version();
    for value in 2..50 {
        put(&api, value);
    }
    until_known(&known, Some(49)).await;
    api.restore(snapshot);
    put(&api, 7);
    assert!(until_known(&known, Some(7)).await < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_hides_no_other() {
    let api = FakeApi::default();
    let known = following(&api);
    put(&api, 1);
    until_known(&known, Some(1)).await;
    api.put(MAPS, json!({"metadata": {"namespace": "shop", "name": "odd"}, "data": 5}));
    put(&api, 2);
    assert!(until_known(&known, Some(2)).await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn nothing_looks_empty_while_the_past_is_forgotten_at_each_event() {
    let (api, tasks) = (FakeApi::default(), Tasks::default());
    let slice = |name: &str, round: u32| {
        api.put(
            SLICES,
            json!({"metadata": {"namespace": "shop", "name": name, "labels": {"round": round.to_string()}}, "addressType": "IPv4", "endpoints": []}),
        );
    };
    slice("stays", 0);
    let stores = Stores::start(&api.client(), &tasks);
    stores.synced().await;
    let round_of = |name: &str| {
        let found = stores.slices.find(|slice| slice.name_any() == name);
        found.map(|slice| slice.labels()["round"].parse::<u32>().unwrap())
    };
    for round in 1..=100 {
        slice("stays", round);
        slice("flaps", round);
        api.compact();
        let since = Instant::now();
        while round_of("flaps") != Some(round) {
            assert!(round_of("stays").is_some(), "round {round}: gone for a moment");
            assert!(since + Duration::from_secs(10) > Instant::now(), "round {round} was not heard of");
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(round_of("stays"), Some(round));
    }
    assert!(api.lists() > 100, "it was not listed anew: {}", api.lists());
    tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_is_alive_and_so_is_one_that_keeps_failing() {
    let (api, tasks) = (FakeApi::default(), Tasks::default());
    let stores = Stores::start(&api.client(), &tasks);
    stores.synced().await;
    for away in [false, true] {
        api.away(away);
        for _ in 0..720 {
            sleep(Duration::from_secs(5)).await;
            assert_eq!(stores.dead(), None, "away: {away}");
        }
    }
    // A task that does not run is what the clock shows when nobody had a turn.
    tokio::time::advance(Duration::from_secs(70)).await;
    assert!(stores.dead().is_some_and(|stuck| stuck.contains("stuck")), "{:?}", stores.dead());
    tasks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_answered_does_not_hold_up_the_others() {
    let (api, tasks) = (FakeApi::default(), Tasks::default());
    let stores = Stores::start(&api.client(), &tasks);
    stores.synced().await;
    // One kind's watch opens into nothing; the others go on.
    api.blackhole(1);
    api.put("/api/v1/services", json!({"metadata": {"namespace": "shop", "name": "web"}}));
    api.put(
        SLICES,
        json!({"metadata": {"namespace": "shop", "name": "web"}, "addressType": "IPv4", "endpoints": []}),
    );
    sleep(Duration::from_mins(1)).await;
    let found: Option<Arc<Service>> = stores.services.find(|service| service.name_any() == "web");
    assert!(found.is_some() && !stores.slices.is_empty());
    tasks.stop().await;
}
