//! Rotations against an API server, with processes that end after any write, and with two leaders at once.

use std::time::Duration;

use byrnie_crds::meshtrust::{Phase, RootState};
use proptest::prelude::*;
use serde_json::json;

use super::{
    super::{
        AuthorityId, TrustState,
        fleet::TakeCensus,
        root_secret::RootSecrets,
        rotation::{census::Census, outlook::Outlook},
    },
    server::{End, SECRETS, Server},
};

const LEASE: Duration = Duration::from_hours(1);

/// What somebody wants, or what happens, while root A is in force.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Requested,
    Compromised,
    KeyLost,
    /// When the second root is in the bundle already.
    Aborted,
}

impl Turn {
    const ALL: [Self; 4] = [Self::Requested, Self::Compromised, Self::KeyLost, Self::Aborted];

    /// A mesh under root A, in which this has just happened.
    async fn begin(self) -> (Server, AuthorityId) {
        let server = Server::default();
        server.establish_at_once().await.unwrap();
        let first = server.trust().signer;
        match self {
            Self::Requested => server.wish("rotation", json!({"request": "monday"})),
            Self::Compromised => server.wish("compromised", json!([first.to_string()])),
            Self::KeyLost => server.remove(&format!("{SECRETS}/{}", RootSecrets::name(first))),
            Self::Aborted => {
                server.wish("rotation", json!({"request": "monday"}));
                let proxies = server.obedient();
                let nobody_has_it: TakeCensus =
                    Box::new(move || Census { complete: true, proxies: proxies.clone() });
                let leader = server.leader(nobody_has_it, LEASE).with_dwell(Duration::ZERO);
                leader.once().await.unwrap();
                assert_eq!(server.trust().phase, Phase::Staged);
                server.wish("rotation", json!({"request": "monday", "abort": true}));
            }
        }
        (server, first)
    }

    /// How it must end, whatever happened in between.
    fn check(self, server: &Server, first: AuthorityId) {
        let trust = server.trust();
        let in_bundle = trust.roots.iter().filter(|root| root.state != RootState::Tainted);
        let in_bundle: Vec<_> = in_bundle.map(|root| root.id).collect();
        assert_eq!(trust.phase, Phase::Stable, "{self:?}");
        assert_eq!(in_bundle, [trust.signer], "{self:?}");
        assert_eq!(trust.signer == first, matches!(self, Self::Aborted), "{self:?}");
        let answered = matches!(self, Self::Requested).then(|| "monday".to_owned());
        assert_eq!(trust.request, answered, "{self:?}");
        assert_eq!(
            server.secrets(),
            [RootSecrets::name(trust.signer)],
            "{self:?}: no key is left over, none is missing"
        );
    }
}

/// What holds after every write: epochs grow, what is gone stays gone, and whoever signs or will has a key.
fn check_between(server: &Server, before: &TrustState, lost: Option<AuthorityId>) {
    let now = server.trust();
    assert!(now.epoch >= before.epoch, "epoch {} after {}", now.epoch, before.epoch);
    let keys = server.secrets();
    for root in &now.roots {
        let was = before.root(root.id).map(|root| root.state);
        assert!(
            was != Some(RootState::Tainted) || root.state == RootState::Tainted,
            "{:?} comes back",
            root.id
        );
        let needed = matches!(root.state, RootState::Staged | RootState::Active) && lost != Some(root.id);
        assert!(!needed || keys.contains(&RootSecrets::name(root.id)), "{:?} has no key", root.id);
    }
}

async fn settle(server: &Server) {
    for _ in 0..10 {
        let before = server.trust();
        server.establish_at_once().await.unwrap();
        if server.trust() == before {
            return;
        }
    }
    panic!("it does not come to an end: {:?}", server.trust());
}

#[tokio::test]
async fn every_turn_comes_to_its_end_although_the_process_ends_after_any_write() {
    for turn in Turn::ALL {
        let mut all_done = false;
        for after in 0..20 {
            all_done = true;
            for unheard in [false, true] {
                let (server, first) = turn.begin().await;
                let before = server.trust();
                let lost = matches!(turn, Turn::KeyLost).then_some(first);
                server.ends(Some(End { after, unheard }));
                all_done &= server.establish_at_once().await.is_ok();
                check_between(&server, &before, lost);
                server.ends(None);
                settle(&server).await;
                turn.check(&server, first);
            }
            if all_done {
                assert!(after > 1, "{turn:?} takes several writes");
                break;
            }
        }
        assert!(all_done, "{turn:?} takes more writes than it should");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_turn_comes_to_its_end_however_many_processes_end(
        turn in prop::sample::select(&Turn::ALL[..]),
        ends in prop::collection::vec((0u32..3, any::<bool>(), any::<bool>()), 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (server, first) = turn.begin().await;
            let lost = matches!(turn, Turn::KeyLost).then_some(first);
            for (after, unheard, two) in ends {
                let before = server.trust();
                server.ends(Some(End { after, unheard }));
                if two {
                    // neither knows of the other
                    let _ = tokio::join!(server.establish_at_once(), server.establish_at_once());
                } else {
                    let _ = server.establish_at_once().await;
                }
                check_between(&server, &before, lost);
            }
            server.ends(None);
            settle(&server).await;
            if server.secrets().len() > 1 {
                // both have made one
                server.age_secrets(Duration::from_hours(2));
                settle(&server).await;
            }
            turn.check(&server, first);
        });
    }
}

/// Every write of a rotation may be the last one of a process; the next one goes on from there.
#[tokio::test]
async fn a_rotation_ends_well_whichever_write_is_a_process_last() {
    let mut ended = 0;
    for writes in 0.. {
        let server = Server::default();
        server.establish().await.unwrap();
        let before = server.trust();
        server.ask(json!({"request": "now"}));
        server.ends_after(Some(writes));
        let mut phases = vec![before.phase];
        let mut whole = true;
        for _ in 0..20 {
            if server.establish().await.is_err() {
                whole = false;
                server.ends_after(None);
            }
            let now = server.trust();
            assert!(now.roots.iter().any(|root| root.id == now.signer && root.state == RootState::Active));
            let known = |name: &String| now.roots.iter().any(|root| *name == RootSecrets::name(root.id));
            let unknown = server.secrets().iter().filter(|name| !known(name)).count();
            assert!(unknown <= 1, "one key at most waits for its root to be known");
            for root in now.roots.iter().filter(|root| root.state != RootState::Tainted) {
                assert!(server.secrets().contains(&RootSecrets::name(root.id)), "a root has no key");
            }
            if phases.last() != Some(&now.phase) {
                phases.push(now.phase);
            }
            server.age();
        }
        let after = server.trust();
        assert_ne!(after.signer, before.signer);
        assert_eq!(phases, [Phase::Stable, Phase::Staged, Phase::Signing, Phase::Draining, Phase::Stable]);
        assert_eq!(server.secrets(), [RootSecrets::name(after.signer)], "nothing is left behind");
        if whole {
            break;
        }
        ended += 1;
    }
    assert!(ended >= 5, "a rotation has {ended} writes");
}

#[tokio::test]
async fn a_rotation_is_taken_back() {
    let server = Server::default();
    server.establish().await.unwrap();
    let before = server.trust();
    server.ask(json!({"request": "now"}));
    server.establish().await.unwrap();
    assert_eq!(server.trust().phase, Phase::Staged);
    server.ask(json!({"request": "now", "abort": true}));
    server.establish().await.unwrap();
    let after = server.trust();
    assert_eq!((after.phase, after.signer), (Phase::Stable, before.signer));
    assert_eq!(server.secrets(), [RootSecrets::name(before.signer)]);
    server.age();
    server.establish().await.unwrap();
    assert_eq!(server.trust().phase, Phase::Stable, "it is not begun again");
}

#[tokio::test]
async fn a_leader_whose_lease_has_ended_writes_nothing() {
    for turn in Turn::ALL {
        let (server, _) = turn.begin().await;
        let before = (server.trust(), server.secrets());
        let leader = server.leader(server.followers(), Duration::ZERO);
        let refused = leader.once().await.unwrap_err().to_string();
        assert!(refused.contains("leads no more"), "{refused}");
        assert_eq!((server.trust(), server.secrets()), before, "{turn:?}");
    }
}

#[tokio::test]
async fn it_says_what_it_waits_for() {
    let (server, _) = Turn::Requested.begin().await;
    let unknown: TakeCensus = Box::new(Census::default);
    let leader = server.leader(unknown, LEASE);
    let outlook = leader.outlook();
    leader.once().await.unwrap();
    let waiting =
        matches!(&*outlook.borrow(), Some(Outlook::Waiting { phase: Phase::Stable, complete: false, .. }));
    assert!(waiting, "{:?}", *outlook.borrow());
}
