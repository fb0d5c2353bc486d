//! What is decided and said in single cases; that nothing goes wrong in any order is searched (search.rs).

use std::time::{Duration, SystemTime};

use byrnie_crds::meshtrust::{Phase, RootState};
use rustls_pki_types::CertificateDer;

use super::{
    AuthorityId, DWELL, Decision, Key, Root, Seen, TrustState, Wishes,
    census::{Census, Holds, Proxy},
    step,
};

const DAY: Duration = Duration::from_hours(24);
const A: AuthorityId = AuthorityId([1; 32]);
const B: AuthorityId = AuthorityId([2; 32]);

/// A mesh of two proxies in some phase; what a test is about it changes.
struct Case {
    state: TrustState,
    wishes: Wishes,
    keys: Vec<Key>,
    census: Census,
    remembered: Option<TrustState>,
    now: SystemTime,
}

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * 20_000
}

fn root(id: AuthorityId, state: RootState) -> Root {
    Root { id, certificate: CertificateDer::from(vec![id.0[0]]), state, not_after: noon() + 300 * DAY }
}

/// The phase has lasted for so many seconds.
fn case(phase: Phase, roots: &[(AuthorityId, RootState)], signer: AuthorityId, seconds: u64) -> Case {
    let roots: Vec<Root> = roots.iter().map(|&(id, state)| root(id, state)).collect();
    let holds = Holds {
        epoch: 7,
        trusts: roots.iter().map(|root| root.id).collect(),
        issuer: Some(signer),
        stands_on: [].into(),
    };
    let proxy = |name: &str| Proxy {
        name: format!("shop/{name}"),
        connected: true,
        silent: false,
        holds: Some(holds.clone()),
    };
    let domain: byrnie_model::TrustDomain = "cluster.local".parse().unwrap();
    Case {
        keys: roots.iter().map(|root| Key { root: root.clone(), made: noon() }).collect(),
        census: Census { complete: true, proxies: vec![proxy("web"), proxy("pay")] },
        wishes: Wishes {
            domain: domain.clone(),
            leaf_lifetime: DAY,
            root_lifetime: 365 * DAY,
            request: None,
            abort: false,
            compromised: [].into(),
        },
        state: TrustState {
            domain,
            epoch: 7,
            phase,
            since: noon(),
            request: None,
            restored: None,
            roots,
            signer,
        },
        remembered: None,
        now: noon() + Duration::from_secs(seconds),
    }
}

impl Case {
    fn web(&mut self) -> &mut Holds {
        self.census.proxies[0].holds.as_mut().unwrap()
    }

    fn step(&self) -> Decision {
        let Self { state, wishes, keys, census, remembered, now } = self;
        step(&Seen {
            state: Some(state),
            wishes,
            keys,
            census,
            remembered: remembered.as_ref(),
            dwell: DWELL,
            now: *now,
        })
    }

    /// Phase, signer and what is still trusted of the state that is written.
    fn writes(&self) -> (Phase, AuthorityId, Vec<AuthorityId>) {
        match self.step() {
            Decision::Write(next) => {
                assert!(next.epoch > 7 || next.phase == Phase::Draining);
                let trusted = next.roots.iter().filter(|root| root.state != RootState::Tainted);
                (next.phase, next.signer, trusted.map(|root| root.id).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Reason and message of what is waited for.
    fn waits(&self) -> (&'static str, String) {
        match self.step() {
            Decision::Wait(outlook, _) => {
                let words = outlook.words(self.now);
                (words.reason, words.message)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn stable() -> Case {
    case(Phase::Stable, &[(A, RootState::Active)], A, 3600)
}

fn staged(seconds: u64) -> Case {
    case(Phase::Staged, &[(A, RootState::Active), (B, RootState::Staged)], A, seconds)
}

fn signing(seconds: u64) -> Case {
    case(Phase::Signing, &[(A, RootState::Draining), (B, RootState::Active)], B, seconds)
}

fn draining(seconds: u64) -> Case {
    Case { state: TrustState { phase: Phase::Draining, ..signing(0).state }, ..signing(seconds) }
}

#[test]
fn nothing_is_done_before_half_of_a_roots_life_is_over() {
    let mut case = stable();
    let (reason, message) = case.waits();
    assert_eq!(reason, "Stable");
    assert!(message.starts_with("the next rotation begins by itself on 20"), "{message}");
    case.now = noon() + 118 * DAY;
    assert_eq!(case.step(), Decision::MakeKey);
    case.wishes.abort = true;
    assert_eq!(case.waits().0, "Suspended");
}

#[test]
fn a_request_is_answered_once() {
    let mut case = stable();
    case.wishes.request = Some("x".into());
    assert_eq!(case.step(), Decision::MakeKey);
    case.keys.push(Key { root: root(B, RootState::Staged), made: case.now });
    assert_eq!(case.writes(), (Phase::Staged, A, vec![A, B]));
    case.state.request = Some("x".into());
    case.keys.pop();
    assert_eq!(case.waits().0, "Stable");
}

#[test]
fn each_phase_waits_for_every_proxy_and_names_who_lags() {
    assert_eq!(staged(61).writes(), (Phase::Signing, B, vec![A, B]));
    let (reason, message) = staged(59).waits();
    assert_eq!(reason, "WaitingForTime");
    assert!(message.contains("not before"), "{message}");
    let mut lags = staged(600);
    lags.web().trusts.remove(&B);
    let message = "the new root signs when every proxy trusts it: shop/web (without the new root)";
    assert_eq!(lags.waits(), ("WaitingForProxies", message.to_owned()));
    lags.census.proxies[0].connected = false;
    assert!(lags.waits().1.ends_with("shop/web (not connected)"));
    lags.census.proxies.remove(0);
    lags.census.complete = false;
    assert_eq!(lags.waits().0, "WaitingForPods");

    assert_eq!(signing(61).writes(), (Phase::Draining, B, vec![A, B]));
    let mut lags = signing(600);
    lags.web().issuer = Some(A);
    assert!(lags.waits().1.ends_with("shop/web (still with a certificate of the other root)"));
}

#[test]
fn the_old_root_goes_when_no_connection_stands_on_it() {
    assert_eq!(draining(61).writes(), (Phase::Stable, B, vec![B]));
    let mut lags = draining(599);
    lags.web().stands_on.insert(A);
    assert!(lags.waits().1.ends_with("shop/web (still with connections that stand on the other root)"));
    lags.now = noon() + Duration::from_secs(601);
    assert_eq!(lags.writes(), (Phase::Stable, B, vec![B]), "nobody is waited for in vain");
    lags.web().issuer = Some(A);
    assert_eq!(lags.waits().0, "WaitingForProxies", "but a certificate is");
}

#[test]
fn a_rotation_is_taken_back_by_the_way_it_came() {
    let mut case = staged(1);
    case.wishes.abort = true;
    assert_eq!(case.writes(), (Phase::Stable, A, vec![A]));
    let mut case = signing(1);
    case.wishes.abort = true;
    assert_eq!(case.writes(), (Phase::Signing, A, vec![A, B]));
    let mut lost = staged(1);
    lost.wishes.abort = true;
    lost.keys.remove(0);
    assert_eq!(lost.waits().0, "WaitingForTime", "there is no way back to a root without a key");
    lost.now = noon() + Duration::from_secs(61);
    assert_eq!(lost.writes(), (Phase::Signing, B, vec![A, B]));
    lost.census.proxies.push(Proxy { connected: false, holds: None, ..lost.census.proxies[0].clone() });
    assert_eq!(
        lost.writes(),
        (Phase::Signing, B, vec![A, B]),
        "who can have no certificate is not waited for"
    );
    lost.web().trusts.remove(&B);
    assert_eq!(lost.waits().0, "WaitingForProxies");
}

#[test]
fn a_compromised_root_waits_for_nobody_who_is_away_and_for_nobody_for_long() {
    let mut case = stable();
    case.wishes.compromised.insert(A);
    assert_eq!(case.step(), Decision::MakeKey);
    let mut case = staged(1);
    case.wishes.compromised.insert(A);
    assert_eq!(case.writes(), (Phase::Signing, B, vec![A, B]), "all have it: no dwelling");
    case.web().trusts.remove(&B);
    let (reason, message) = case.waits();
    assert_eq!(reason, "Emergency");
    assert!(message.contains("29 s") && message.contains("shop/web"), "{message}");
    case.now = noon() + Duration::from_secs(31);
    assert_eq!(case.writes().1, B);
    let mut case = signing(1);
    case.wishes.compromised.insert(A);
    case.web().issuer = Some(A);
    assert_eq!(case.waits().0, "Emergency");
    case.census.proxies[0].connected = false;
    assert_eq!(case.writes(), (Phase::Stable, B, vec![B]));
}

#[test]
fn a_restored_state_is_brought_in_line_and_no_key_goes_meanwhile() {
    let mut case = stable();
    case.keys.push(Key { root: root(B, RootState::Staged), made: noon() - 2 * DAY });
    for proxy in &mut case.census.proxies {
        let holds = proxy.holds.as_mut().unwrap();
        (holds.epoch, holds.issuer, holds.trusts) = (9, Some(B), [A, B].into());
    }
    let Decision::Write(frozen) = case.step() else { panic!("it is noticed") };
    assert!(frozen.restored.is_some_and(|restored| restored.frozen));
    case.state = frozen;
    let (reason, message) = case.waits();
    assert_eq!(reason, "Restored");
    assert!(
        message.contains("no certificate is issued") && message.contains("proxies know of 9"),
        "{message}"
    );
    assert!(matches!(case.step(), Decision::Wait(_, None)), "the key of B is needed");
    case.now += Duration::from_secs(61);
    let Decision::Write(next) = case.step() else { panic!("it is brought in line") };
    assert!(next.epoch > 9 && next.restored.is_none());
    assert_eq!((next.phase, next.roots.len()), (Phase::Signing, 2));
    case.keys.pop();
    let (_, message) = case.waits();
    assert!(message.contains("restart shop/web, shop/pay: they show certificates"), "{message}");
}

#[test]
fn a_root_whose_key_was_lost_with_a_restore_gives_way_to_another() {
    let mut case = stable();
    let gone = case.state.clone();
    let now = [root(A, RootState::Tainted), root(B, RootState::Active)].to_vec();
    case.remembered = Some(TrustState { epoch: 9, signer: B, roots: now, ..gone });
    for proxy in &mut case.census.proxies {
        let holds = proxy.holds.as_mut().unwrap();
        (holds.epoch, holds.issuer, holds.trusts) = (9, Some(B), [B].into());
    }
    let Decision::Write(frozen) = case.step() else { panic!("it is noticed") };
    assert!(frozen.restored.is_some_and(|restored| restored.frozen));
    case.state = frozen;
    case.now += Duration::from_secs(61);
    assert_eq!(case.writes(), (Phase::Stable, B, vec![B]));
    let Decision::Write(proven) = case.step() else { unreachable!() };
    assert_eq!(proven.root(A).map(|root| root.state), Some(RootState::Tainted), "it does not come back");
    (case.state, case.remembered) = (proven, None);
    for proxy in &mut case.census.proxies {
        proxy.holds.as_mut().unwrap().epoch = case.state.epoch;
    }
    assert_eq!(case.step(), Decision::MakeKey);
    let c = AuthorityId([3; 32]);
    case.keys.push(Key { root: root(c, RootState::Staged), made: case.now });
    assert_eq!(case.writes(), (Phase::Staged, B, vec![B, c]));
}

#[test]
fn a_restore_is_noticed_also_where_only_this_replica_knows_better() {
    let mut case = stable();
    case.census.proxies.clear();
    case.remembered = Some(TrustState {
        epoch: 9,
        roots: vec![root(B, RootState::Active)],
        signer: B,
        ..case.state.clone()
    });
    let Decision::Write(frozen) = case.step() else { panic!("it is noticed") };
    assert!(frozen.restored.is_some_and(|restored| restored.frozen));
}

#[test]
fn a_key_that_nobody_needs_goes_when_all_agree() {
    let mut case = stable();
    case.keys.push(Key { root: root(B, RootState::Staged), made: noon() - 2 * DAY });
    assert!(matches!(case.step(), Decision::Wait(_, Some(key)) if key == B));
    case.web().epoch = 6;
    assert!(matches!(case.step(), Decision::Wait(_, None)), "one has another state");
    case.web().epoch = 7;
    case.census.proxies[1].connected = false;
    assert!(matches!(case.step(), Decision::Wait(_, None)), "one is not heard of");
}
