//! Who gets requests, by what is known of the endpoints: each rule with a balancer of its own.

use byrnie_model::HashKey;

use super::*;

fn endpoint(last: u8) -> Endpoint {
    Endpoint::bare(([10, 0, 0, last], 80).into())
}

fn by(load_balancing: LoadBalancing, count: u8) -> Rc<Balancer> {
    let balancer = Rc::new(Balancer::default());
    let endpoints: Vec<_> = (0..count).map(endpoint).collect();
    balancer.update(&endpoints, &Traffic { load_balancing, ..Traffic::default() }, "", Pool::new);
    balancer
}

/// Of endpoints in these zones with these weights, as a caller in zone `a` sees them.
fn zoned(load_balancing: LoadBalancing, zones: &[(&str, u16)]) -> Rc<Balancer> {
    let balancer = Rc::new(Balancer::default());
    let endpoints: Vec<_> = (0..)
        .zip(zones)
        .map(|(last, (zone, weight))| Endpoint {
            zone: (*zone).to_owned(),
            weight: *weight,
            ..endpoint(last)
        })
        .collect();
    let traffic = Traffic { load_balancing, prefer_zone: true, ..Traffic::default() };
    balancer.update(&endpoints, &traffic, "a", Pool::new);
    balancer
}

fn balancer(count: u8) -> Rc<Balancer> {
    by(LoadBalancing::PeakEwma, count)
}

fn members(balancer: &Balancer) -> Vec<Rc<Member>> {
    balancer.members.borrow().clone()
}

fn place(balancer: &Balancer, pending: &Pending) -> usize {
    members(balancer).iter().position(|m| Rc::ptr_eq(m, pending.member())).unwrap()
}

/// Requests that are over at once and teach nothing.
fn picks(balancer: &Balancer, rounds: u32) -> Vec<u32> {
    let mut counts = vec![0; members(balancer).len()];
    for _ in 0..rounds {
        let pending = balancer.pick(Choice::default()).unwrap();
        pending.settle();
        counts[place(balancer, &pending)] += 1;
    }
    counts
}

fn eject(member: &Rc<Member>, fault: Fault) -> bool {
    (0..5).any(|_| member.failed(fault))
}

#[tokio::test(start_paused = true)]
async fn equal_endpoints_share_equally() {
    let counts = picks(&balancer(4), 40_000);
    assert!(counts.iter().all(|&c| (9_000..11_000).contains(&c)), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn slow_busy_and_failing_endpoints_are_avoided() {
    let balancer = balancer(5);
    let members = members(&balancer);
    members[0].load.observe(Duration::from_millis(100), Instant::now());
    members[1].failed(Fault::Failing);
    let busy: Vec<_> = (0..10).map(|_| Pending::new(&members[2], Instant::now())).collect();
    let counts = picks(&balancer, 10_000);
    // two random choices meet a worse pair only when both are bad; the failing one is never the better of two
    assert_eq!(counts[1], 0, "{counts:?}");
    assert!(counts[0] < 1_200 && counts[2] < 2_300 && counts[3] > 2_500, "{counts:?}");
    drop(busy);
    assert!(members[2].load.in_flight(1.0, Instant::now()) == 0.0);
}

#[tokio::test(start_paused = true)]
async fn at_most_half_are_out_for_failing_and_never_the_last() {
    let balancer = balancer(5);
    let all = members(&balancer);
    assert_eq!(
        all.iter().map(|m| eject(m, Fault::Failing)).collect::<Vec<_>>(),
        [true, true, false, false, false]
    );
    let counts = picks(&balancer, 3000);
    assert!(counts[..2] == [0, 0] && counts[2..].iter().all(|&c| c > 800), "{counts:?}");
    let one = super::tests::balancer(1);
    assert!(!eject(&members(&one)[0], Fault::Failing));
    assert_eq!(picks(&one, 10), [10]);
}

#[tokio::test(start_paused = true)]
async fn what_takes_no_connection_is_left_alone_and_all_of_them_fail_fast_in_the_end() {
    let balancer = balancer(4);
    let all = members(&balancer);
    assert!(all[..3].iter().all(|m| eject(m, Fault::Unreachable)));
    assert_eq!(picks(&balancer, 100), [0, 0, 0, 100]);
    assert!(eject(&all[3], Fault::Unreachable));
    // news of others may be on its way
    assert!(balancer.pick(Choice::default()).is_some());
    tokio::time::advance(PATIENCE).await;
    for _ in 0..4 {
        let probe = balancer.pick(Choice::default()).unwrap();
        assert!(!probe.failed(Fault::Unreachable));
    }
    assert!(balancer.pick(Choice::default()).is_none());
    tokio::time::advance(Duration::from_millis(1500)).await;
    let probe = balancer.pick(Choice::default()).unwrap();
    probe.answered();
    let back = place(&balancer, &probe);
    for _ in 0..3 {
        balancer.pick(Choice::default()).unwrap().failed(Fault::Unreachable);
    }
    assert_eq!(picks(&balancer, 10)[back], 10);
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_and_one_that_is_back_warm_up() {
    let balancer = balancer(3);
    let all: Vec<_> = (0..4).map(endpoint).collect();
    balancer.update(&all, &Traffic::default(), "", Pool::new);
    let cold = picks(&balancer, 4000);
    assert!((10..400).contains(&cold[3]), "{cold:?}");
    tokio::time::advance(SLOW_START / 2).await;
    let half = picks(&balancer, 4000);
    assert!((450..800).contains(&half[3]), "{half:?}");
    tokio::time::advance(SLOW_START / 2).await;
    let warm = picks(&balancer, 4000);
    assert!((850..1150).contains(&warm[3]), "{warm:?}");
    let balancer = by(LoadBalancing::RoundRobin, 4);
    assert!(eject(&members(&balancer)[0], Fault::Failing));
    tokio::time::advance(Duration::from_secs(2)).await;
    balancer.pick(Choice::default()).unwrap().answered();
    let back = picks(&balancer, 4000);
    assert!((50..400).contains(&back[0]), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_keeps_its_endpoint_unless_that_is_gone() {
    let header = HashKey::Header(http::HeaderName::from_static("x-user"));
    let balancer = by(LoadBalancing::ConsistentHash(header.clone()), 10);
    let of = |key: u64| {
        let pending = balancer.pick(Choice { key: Some(hash::mix(key, 1)), ..Choice::default() }).unwrap();
        pending.settle();
        pending.member().pool.endpoint().address
    };
    let before: Vec<_> = (0..1000).map(of).collect();
    assert_eq!((0..1000).map(of).collect::<Vec<_>>(), before);
    let fewer: Vec<_> = (1..10).map(endpoint).collect();
    let load_balancing = LoadBalancing::ConsistentHash(header);
    balancer.update(&fewer, &Traffic { load_balancing, ..Traffic::default() }, "", Pool::new);
    let gone = endpoint(0).address;
    let after: Vec<_> = (0..1000).map(of).collect();
    assert!(before.iter().zip(&after).all(|(b, a)| b == a || *b == gone));
    let moved = before.iter().filter(|address| **address == gone).count();
    assert!((60..150).contains(&moved), "{moved}");
}

#[tokio::test(start_paused = true)]
async fn in_turn_and_by_requests_in_flight() {
    assert_eq!(picks(&by(LoadBalancing::RoundRobin, 3), 300), [100, 100, 100]);
    let least = by(LoadBalancing::LeastRequest, 2);
    members(&least)[0].load.observe(Duration::from_secs(5), Instant::now());
    let _busy = Pending::new(&members(&least)[1], Instant::now());
    assert_eq!(picks(&least, 100), [100, 0]);
}

#[tokio::test(start_paused = true)]
async fn an_update_keeps_what_was_learned() {
    let balancer = balancer(2);
    let slow = Duration::from_secs(1);
    members(&balancer)[1].load.observe(slow, Instant::now());
    balancer.update(&[endpoint(1), endpoint(7)], &Traffic::default(), "", Pool::new);
    let costs: Vec<_> = members(&balancer).iter().map(|m| m.load.cost(1.0, Instant::now())).collect();
    assert!(costs[0] > 0.9 && costs[1] < 0.1, "{costs:?}");
    balancer.update(&[], &Traffic::default(), "", Pool::new);
    assert!(balancer.is_empty() && balancer.pick(Choice::default()).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_tried_once() {
    let balancer = balancer(3);
    let mut tried = Vec::new();
    while let Some(pending) = balancer.pick(Choice { tried: &tried, ..Choice::default() }) {
        pending.settle();
        tried.push(pending.member().clone());
    }
    assert_eq!(tried.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn shares_are_as_the_weights() {
    let key = LoadBalancing::ConsistentHash(HashKey::Source);
    for algorithm in [LoadBalancing::PeakEwma, LoadBalancing::LeastRequest, LoadBalancing::RoundRobin, key] {
        let balancer = zoned(algorithm.clone(), &[("a", 10), ("a", 20), ("a", 70)]);
        let mut counts = [0; 3];
        for key in 0..20_000 {
            let choice = Choice { key: Some(hash::mix(key, 1)), ..Choice::default() };
            let pending = balancer.pick(choice).unwrap();
            pending.settle();
            counts[place(&balancer, &pending)] += 1;
        }
        let near = |count: i32, percent: i32| (count - 200 * percent).abs() < 600;
        assert!(
            near(counts[0], 10) && near(counts[1], 20) && near(counts[2], 70),
            "{algorithm:?} {counts:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn another_weight_moves_only_what_it_must() {
    let key = || LoadBalancing::ConsistentHash(HashKey::Source);
    let of = |balancer: &Balancer, key: u64| {
        let pending = balancer.pick(Choice { key: Some(hash::mix(key, 1)), ..Choice::default() }).unwrap();
        pending.settle();
        pending.member().pool.endpoint().address
    };
    let (equal, heavier) =
        (zoned(key(), &[("a", 1); 4]), zoned(key(), &[("a", 1), ("a", 1), ("a", 1), ("a", 3)]));
    let last = endpoint(3).address;
    let moved: Vec<_> =
        (0..4000).map(|key| (of(&equal, key), of(&heavier, key))).filter(|(was, is)| was != is).collect();
    assert!(moved.iter().all(|(_, is)| *is == last));
    assert!((850..1150).contains(&moved.len()), "from a quarter to a half: {}", moved.len());
}

#[tokio::test(start_paused = true)]
async fn a_changed_weight_keeps_connections() {
    let balancer = zoned(LoadBalancing::PeakEwma, &[("a", 1), ("a", 1)]);
    let before = members(&balancer);
    let heavier = Endpoint { weight: 9, zone: "b".to_owned(), ..endpoint(1) };
    balancer.update(&[endpoint(0), heavier], &Traffic::default(), "a", Pool::new);
    let after = members(&balancer);
    assert!(before.iter().zip(&after).all(|(b, a)| Rc::ptr_eq(b, a)));
    assert!(picks(&balancer, 1000)[1] > 800);
}

#[tokio::test(start_paused = true)]
async fn requests_stay_in_their_zone_while_all_is_well() {
    let key = LoadBalancing::ConsistentHash(HashKey::Source);
    for algorithm in [LoadBalancing::PeakEwma, LoadBalancing::LeastRequest, LoadBalancing::RoundRobin, key] {
        let balancer = zoned(algorithm, &[("b", 1), ("a", 1), ("c", 1), ("a", 1)]);
        let counts = picks(&balancer, 1000);
        let all = members(&balancer);
        assert!(all[..2].iter().all(|m| m.pool.endpoint().zone == "a"));
        assert!(counts[0] > 300 && counts[1] > 300 && counts[2..] == [0, 0], "{counts:?}");
    }
    let elsewhere = zoned(LoadBalancing::PeakEwma, &[("b", 1), ("c", 1)]);
    assert!(picks(&elsewhere, 1000).iter().all(|&c| c > 300));
}

#[tokio::test(start_paused = true)]
async fn a_zone_gives_away_what_its_last_ones_cannot_bear() {
    let balancer =
        zoned(LoadBalancing::PeakEwma, &[("a", 1), ("a", 1), ("a", 1), ("a", 1), ("b", 1), ("b", 1)]);
    let all = members(&balancer);
    let share = || {
        let counts = picks(&balancer, 4000);
        f64::from(counts[..4].iter().sum::<u32>()) / 4000.0
    };
    assert!(eject(&all[0], Fault::Unreachable));
    assert!(share() > 0.99, "three of four bear it");
    assert!(eject(&all[1], Fault::Unreachable));
    assert!((0.65..0.75).contains(&share()), "two of four bear seven tenths of it: {}", share());
    assert!(eject(&all[2], Fault::Unreachable) && eject(&all[3], Fault::Unreachable));
    assert!(share() < 0.01, "nobody is left there");
}

#[tokio::test(start_paused = true)]
async fn requests_leave_a_zone_that_is_much_slower() {
    let balancer = zoned(LoadBalancing::PeakEwma, &[("a", 1), ("a", 1), ("b", 1)]);
    let all = members(&balancer);
    let answer = async |of: &[Rc<Member>], millis| {
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(100)).await;
            for member in of {
                member.load.observe(Duration::from_millis(millis), Instant::now());
            }
        }
    };
    answer(&all[..2], 100).await;
    let explored = picks(&balancer, 10_000)[2];
    assert!((50..150).contains(&explored), "nothing is known of elsewhere, and some find out: {explored}");
    answer(&all[2..], 5).await;
    assert_eq!(picks(&balancer, 1000), [0, 0, 1000]);
    answer(&all[..2], 5).await;
    assert_eq!(picks(&balancer, 1000)[2], 0, "well again");
    for near in &all[..2] {
        near.load.observe(Duration::from_millis(500), Instant::now());
    }
    assert_eq!(picks(&balancer, 1000)[2], 0, "one peak is no trend");
    let busy: Vec<_> = (0..50).map(|_| Pending::new(&all[0], Instant::now())).collect();
    assert_eq!(picks(&balancer, 1000)[2], 0, "nor are many requests at a time");
    drop(busy);
}
