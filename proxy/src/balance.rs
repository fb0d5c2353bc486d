//! Which endpoint of a backend: power of two choices on peak-EWMA latency, or what a policy asks for instead.
//!
//! Owns what was learned about each endpoint, and keeps it when the set of endpoints changes; decides who may be out of
//! rotation at a time. Knows nothing of requests; one per worker, so plain cells suffice.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    time::Duration,
};

use byrnie_model::{CircuitBreaker, Endpoint, LoadBalancing, Traffic};
use tokio::time::Instant;

use crate::{
    breaker::{Breaker, Fault, PROBATION},
    hash,
    load::Load,
    pool::Pool,
    worker::Worker,
};

/// A new endpoint, or one that is back, gets its full share after this; before, a part that grows with time.
const SLOW_START: Duration = PROBATION;
/// The least part.
const COLD: f64 = 0.1;
/// Without a good answer of anybody for this long, requests are not kept waiting for news of other endpoints.
const PATIENCE: Duration = Duration::from_secs(3);

/// The endpoints of one backend, as one worker sees them.
#[derive(Debug)]
pub struct Balancer {
    members: RefCell<Vec<Rc<Member>>>,
    algorithm: RefCell<LoadBalancing>,
    breaker: Cell<CircuitBreaker>,
    out: Cell<usize>,
    answered: Cell<Instant>,
    turn: Cell<usize>,
}

/// An endpoint with its connections, its load and its faults.
#[derive(Debug)]
pub struct Member {
    /// Connections to it.
    pub pool: Rc<Pool>,
    load: Load,
    breaker: Breaker,
    warm_at: Cell<Option<Instant>>,
    hash: u64,
    of: Weak<Balancer>,
}

/// A request on its way to an endpoint; counts as load until dropped.
#[derive(Debug)]
pub struct Pending {
    member: Rc<Member>,
    sent: Instant,
    settled: Cell<bool>,
    /// It is sent to learn whether the endpoint is back.
    pub probe: bool,
}

/// What the choice of an endpoint may depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// Endpoints that had the request already.
    pub tried: &'a [Rc<Member>],
    /// For consistent hashing.
    pub key: Option<u64>,
    /// Whether the request would be sent again after a bad answer.
    pub repeatable: bool,
}

impl Default for Balancer {
    fn default() -> Self {
        Self {
            members: RefCell::default(),
            algorithm: RefCell::default(),
            breaker: Cell::new(CircuitBreaker::default()),
            out: Cell::default(),
            answered: Cell::new(Instant::now()),
            turn: Cell::default(),
        }
    }
}

impl Balancer {
    /// Takes over a new set of endpoints; known ones keep their connections and what was learned about them.
    pub fn update(
        self: &Rc<Self>,
        endpoints: &[Endpoint],
        traffic: &Traffic,
        new: impl Fn(&Endpoint) -> Rc<Pool>,
    ) {
        self.breaker.set(traffic.circuit_breaker);
        self.algorithm.borrow_mut().clone_from(&traffic.load_balancing);
        let now = Instant::now();
        let mut members = self.members.borrow_mut();
        // where all are new, none is newer than the others
        let warm_at = (!members.is_empty()).then(|| now + SLOW_START);
        let mut known: HashMap<Endpoint, Rc<Member>> =
            members.drain(..).map(|member| (member.pool.endpoint().clone(), member)).collect();
        let fresh = |endpoint: &Endpoint| {
            Rc::new(Member {
                pool: new(endpoint),
                load: Load::new(now),
                breaker: Breaker::new(now),
                warm_at: Cell::new(warm_at),
                hash: hash::of(endpoint.address.to_string().as_bytes()),
                of: Rc::downgrade(self),
            })
        };
        members.extend(endpoints.iter().map(|e| known.remove(e).unwrap_or_else(|| fresh(e))));
        drop(members);
        self.recount();
    }

    /// Whether there is nobody to choose.
    pub fn is_empty(&self) -> bool {
        self.members.borrow().is_empty()
    }

    /// Whether somebody would serve a request, or should be asked whether they are back.
    pub fn can_serve(&self) -> bool {
        let members = self.members.borrow();
        let now = Instant::now();
        let good = |m: &Rc<Member>| m.breaker.fault().is_none() || m.breaker.is_due(now, false);
        self.out.get() < members.len() || members.iter().any(good)
    }

    /// Begins a request at an endpoint that has not been tried. `None`: there is no other one, or all of them have
    /// failed for so long that trying again is left to probes.
    pub fn pick(&self, choice: Choice<'_>) -> Option<Pending> {
        let members = self.members.borrow();
        let now = Instant::now();
        if choice.tried.is_empty() && self.out.get() == 0 {
            return self.choose(members.len(), |at| &members[at], choice.key, now);
        }
        let untried = |m: &&Rc<Member>| !choice.tried.iter().any(|tried| Rc::ptr_eq(tried, m));
        let untried: Vec<&Rc<Member>> = members.iter().filter(untried).collect();
        if let Some(due) = untried.iter().find(|m| m.breaker.is_due(now, choice.repeatable)) {
            due.breaker.probe();
            let mut pending = Pending::new(due, now);
            pending.probe = true;
            return Some(pending);
        }
        let well: Vec<&Rc<Member>> =
            untried.iter().copied().filter(|m| m.breaker.fault().is_none()).collect();
        let given_up = now.saturating_duration_since(self.answered.get()) >= PATIENCE;
        let among = if well.is_empty() && !given_up { untried } else { well };
        self.choose(among.len(), |at| among[at], choice.key, now)
    }

    /// Ends idle connections; whether there are any left.
    pub fn sweep(&self, worker: &Worker) -> bool {
        let mut any = false;
        for member in self.members.borrow().iter() {
            any |= member.pool.sweep(worker);
        }
        any
    }

    /// Endpoints that answer badly are better than none, and a few cannot carry what all did.
    fn may_eject(&self, fault: Fault) -> bool {
        let members = self.members.borrow();
        let failing = members.iter().filter(|m| m.breaker.fault() == Some(Fault::Failing)).count() + 1;
        let percent = usize::try_from(self.breaker.get().max_ejection_percent).unwrap_or(usize::MAX);
        let others = self.out.get() + 1 < members.len();
        fault == Fault::Unreachable || others && failing * 100 <= members.len().saturating_mul(percent)
    }

    fn recount(&self) {
        let members = self.members.borrow();
        self.out.set(members.iter().filter(|member| member.breaker.fault().is_some()).count());
    }

    fn choose<'a>(
        &self,
        count: usize,
        at: impl Fn(usize) -> &'a Rc<Member>,
        key: Option<u64>,
        now: Instant,
    ) -> Option<Pending> {
        if count <= 1 {
            return (count == 1).then(|| Pending::new(at(0), now));
        }
        let better = |cost: fn(&Load, Instant) -> f64| {
            let (first, second) = two(count);
            let (first, second) = (warm(first, count, &at, now), warm(second, count, &at, now));
            if cost(&second.load, now) < cost(&first.load, now) { second } else { first }
        };
        let chosen = match (&*self.algorithm.borrow(), key) {
            (LoadBalancing::ConsistentHash(_), Some(key)) => {
                (0..count).map(&at).max_by_key(|member| hash::mix(key, member.hash))?
            }
            (LoadBalancing::RoundRobin, _) => {
                self.turn.set(self.turn.get().wrapping_add(1));
                warm(self.turn.get() % count, count, &at, now)
            }
            (LoadBalancing::LeastRequest, _) => better(Load::in_flight),
            (LoadBalancing::PeakEwma | LoadBalancing::ConsistentHash(_), _) => better(Load::cost),
        };
        Some(Pending::new(chosen, now))
    }
}

/// Two different random numbers.
fn two(count: usize) -> (usize, usize) {
    let first = fastrand::usize(..count);
    (first, (first + fastrand::usize(1..count)) % count)
}

/// The member at this place, or another one if it is still warming up and this request is not of its part.
fn warm<'a>(
    first: usize,
    count: usize,
    at: impl Fn(usize) -> &'a Rc<Member>,
    now: Instant,
) -> &'a Rc<Member> {
    let mut member = at(first);
    for _ in 0..3 {
        let warmth = member.warmth(now);
        if warmth >= 1.0 || fastrand::f64() < warmth {
            break;
        }
        member = at(fastrand::usize(..count));
    }
    member
}

impl Member {
    fn warmth(&self, now: Instant) -> f64 {
        let Some(warm_at) = self.warm_at.get() else { return 1.0 };
        let left = warm_at.saturating_duration_since(now).as_secs_f64() / SLOW_START.as_secs_f64();
        if left <= 0.0 {
            self.warm_at.set(None);
        }
        (1.0 - left).max(COLD)
    }

    fn succeeded(&self, now: Instant) {
        let Some(of) = self.of.upgrade() else { return };
        of.answered.set(now);
        if self.breaker.succeeded(now) {
            self.warm_at.set(Some(now + SLOW_START));
            of.recount();
        }
    }

    /// Notes that no connection or no good answer came. Whether the endpoint is out of rotation by that.
    pub fn failed(&self, fault: Fault) -> bool {
        let now = Instant::now();
        self.load.failed(now);
        let Some(of) = self.of.upgrade() else { return false };
        let out = self.breaker.failed(fault, &of.breaker.get(), || of.may_eject(fault), now);
        if out {
            of.recount();
        }
        out
    }
}

impl Pending {
    fn new(member: &Rc<Member>, now: Instant) -> Self {
        member.load.begin();
        Self { member: member.clone(), sent: now, settled: Cell::new(false), probe: false }
    }

    /// Where the request went.
    pub fn member(&self) -> &Rc<Member> {
        &self.member
    }

    /// Notes the first byte of a good response.
    pub fn answered(&self) {
        let now = Instant::now();
        self.settled.set(true);
        self.member.load.observe(now.saturating_duration_since(self.sent), now);
        self.member.succeeded(now);
    }

    /// Notes a bad response, or none. Whether the endpoint is out of rotation by that.
    pub fn failed(&self, fault: Fault) -> bool {
        self.settled.set(true);
        self.member.failed(fault)
    }

    /// Notes an answer that speaks of too much to do, not of bad health.
    pub fn refused(&self) {
        self.settled.set(true);
        self.member.load.failed(Instant::now());
    }

    /// Notes that nothing can be learned from what became of the request.
    pub fn settle(&self) {
        self.settled.set(true);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.member.load.end();
        if !self.settled.get() {
            let now = Instant::now();
            // it would have taken at least that long
            self.member.load.abandoned(now.saturating_duration_since(self.sent), now);
            self.member.breaker.abandon(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use byrnie_model::HashKey;

    use super::*;

    fn endpoint(last: u8) -> Endpoint {
        let (pod_uid, pod_name, zone) = (String::new(), String::new(), String::new());
        Endpoint { address: ([10, 0, 0, last], 80).into(), identity: None, pod_uid, pod_name, zone }
    }

    fn by(load_balancing: LoadBalancing, count: u8) -> Rc<Balancer> {
        let balancer = Rc::new(Balancer::default());
        let endpoints: Vec<_> = (0..count).map(endpoint).collect();
        balancer.update(&endpoints, &Traffic { load_balancing, ..Traffic::default() }, Pool::new);
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
        assert!(members[2].load.in_flight(Instant::now()) == 0.0);
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
        balancer.update(&all, &Traffic::default(), Pool::new);
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
            let pending =
                balancer.pick(Choice { key: Some(hash::mix(key, 1)), ..Choice::default() }).unwrap();
            pending.settle();
            pending.member().pool.endpoint().address
        };
        let before: Vec<_> = (0..1000).map(of).collect();
        assert_eq!((0..1000).map(of).collect::<Vec<_>>(), before);
        let fewer: Vec<_> = (1..10).map(endpoint).collect();
        let load_balancing = LoadBalancing::ConsistentHash(header);
        balancer.update(&fewer, &Traffic { load_balancing, ..Traffic::default() }, Pool::new);
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
        balancer.update(&[endpoint(1), endpoint(7)], &Traffic::default(), Pool::new);
        let costs: Vec<_> = members(&balancer).iter().map(|m| m.load.cost(Instant::now())).collect();
        assert!(costs[0] > 0.9 && costs[1] < 0.1, "{costs:?}");
        balancer.update(&[], &Traffic::default(), Pool::new);
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
}
