//! Which endpoint of a backend: power of two choices on peak-EWMA latency, with a penalty for failures.
//!
//! Owns what was learned about each endpoint, and keeps it when the set of endpoints changes. Knows nothing of
//! requests; one per worker, so plain cells suffice.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use byrnie_model::Endpoint;
use http::HeaderMap;
use tokio::time::Instant;

use crate::{pool::Pool, worker::Worker};

/// How fast old latencies are forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// What a new endpoint is assumed to take: a zero would make it free.
const SEED: Duration = Duration::from_millis(1);
/// What a failure counts as, so that failing fast does not attract traffic.
const PENALTY: Duration = Duration::from_secs(1);

/// The endpoints of one backend, as one worker sees them.
#[derive(Debug, Default)]
pub struct Balancer {
    members: RefCell<Vec<Rc<Member>>>,
}

/// An endpoint with its connections and its load.
#[derive(Debug)]
pub struct Member {
    /// Connections to it.
    pub pool: Rc<Pool>,
    load: Load,
}

/// A request on its way to an endpoint; counts as load until dropped.
#[derive(Debug)]
pub struct Pending {
    member: Rc<Member>,
    sent: Instant,
}

/// Latency and requests in flight.
#[derive(Debug)]
struct Load {
    seconds: Cell<f64>,
    updated: Cell<Instant>,
    pending: Cell<u32>,
}

impl Balancer {
    /// Takes over a new set of endpoints; known ones keep their connections and what was learned about them.
    pub fn update(&self, endpoints: &[Endpoint], new: impl Fn(&Endpoint) -> Rc<Pool>) {
        let mut members = self.members.borrow_mut();
        let mut known: HashMap<Endpoint, Rc<Member>> =
            members.drain(..).map(|member| (member.pool.endpoint().clone(), member)).collect();
        let fresh = |endpoint| Rc::new(Member { pool: new(endpoint), load: Load::new(Instant::now()) });
        members.extend(endpoints.iter().map(|e| known.remove(e).unwrap_or_else(|| fresh(e))));
    }

    /// Whether there is nobody to choose.
    pub fn is_empty(&self) -> bool {
        self.members.borrow().is_empty()
    }

    /// The less loaded of two random endpoints that are not among `tried`.
    pub fn pick(&self, tried: &[Rc<Member>]) -> Option<Rc<Member>> {
        let members = self.members.borrow();
        if tried.is_empty() {
            return choose(members.len(), |at| &members[at]);
        }
        let untried: Vec<_> = members.iter().filter(|m| !tried.iter().any(|t| Rc::ptr_eq(t, m))).collect();
        choose(untried.len(), |at| untried[at])
    }

    /// Ends idle connections; whether there are any left.
    pub fn sweep(&self, worker: &Worker) -> bool {
        let mut any = false;
        for member in self.members.borrow().iter() {
            any |= member.pool.sweep(worker);
        }
        any
    }
}

fn choose<'a>(count: usize, at: impl Fn(usize) -> &'a Rc<Member>) -> Option<Rc<Member>> {
    match count {
        0 => None,
        1 => Some(at(0).clone()),
        _ => {
            let first = fastrand::usize(..count);
            let second = (first + fastrand::usize(1..count)) % count;
            let (first, second) = (at(first), at(second));
            let now = Instant::now();
            Some(if second.load.cost(now) < first.load.cost(now) { second.clone() } else { first.clone() })
        }
    }
}

impl Member {
    /// Counts a request in.
    pub fn begin(self: &Rc<Self>) -> Pending {
        self.load.pending.set(self.load.pending.get() + 1);
        Pending { member: self.clone(), sent: Instant::now() }
    }

    /// Notes that no connection or no answer came from here.
    pub fn failed(&self) {
        self.load.observe(PENALTY, Instant::now());
    }
}

impl Pending {
    /// Where the request went.
    pub fn member(&self) -> &Rc<Member> {
        &self.member
    }

    /// Notes the first byte of the response, and whether it is a failure.
    pub fn answered(&self, failure: bool) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.sent);
        self.member.load.observe(if failure { took.max(PENALTY) } else { took }, now);
    }

    /// Notes a failure that only shows in a gRPC status at the end.
    pub fn trailers(&self, trailers: &HeaderMap) {
        if grpc_failure(trailers) {
            self.member.failed();
        }
    }
}

/// Whether a gRPC status says that the server, not the call, was at fault: unknown, deadline exceeded, resource
/// exhausted, internal, unavailable, data loss.
pub fn grpc_failure(headers: &HeaderMap) -> bool {
    headers
        .get("grpc-status")
        .is_some_and(|s| matches!(s.as_bytes(), b"2" | b"4" | b"8" | b"13" | b"14" | b"15"))
}

impl Drop for Pending {
    fn drop(&mut self) {
        let pending = &self.member.load.pending;
        pending.set(pending.get() - 1);
    }
}

impl Load {
    fn new(now: Instant) -> Self {
        Self { seconds: Cell::new(SEED.as_secs_f64()), updated: Cell::new(now), pending: Cell::new(0) }
    }

    /// Latency with what has been forgotten since, times the requests that one more would make.
    fn cost(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.updated.get()).as_secs_f64();
        let seconds = self.seconds.get() * (-age / DECAY.as_secs_f64()).exp();
        seconds.max(SEED.as_secs_f64() / 100.0) * f64::from(self.pending.get() + 1)
    }

    /// A peak counts at once; what is lower is approached over [`DECAY`].
    fn observe(&self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let age = now.saturating_duration_since(self.updated.get()).as_secs_f64();
        let old = self.seconds.get();
        let keep = (-age / DECAY.as_secs_f64()).exp();
        self.seconds.set(if took > old { took } else { old * keep + took * (1.0 - keep) });
        self.updated.set(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(last: u8) -> Endpoint {
        let (pod_uid, pod_name, zone) = (String::new(), String::new(), String::new());
        Endpoint { address: ([10, 0, 0, last], 80).into(), identity: None, pod_uid, pod_name, zone }
    }

    fn balancer(count: u8) -> Balancer {
        let balancer = Balancer::default();
        let endpoints: Vec<_> = (0..count).map(endpoint).collect();
        balancer.update(&endpoints, Pool::new);
        balancer
    }

    fn picks(balancer: &Balancer, rounds: u32) -> Vec<u32> {
        let members = balancer.members.borrow().clone();
        let mut counts = vec![0; members.len()];
        for _ in 0..rounds {
            let picked = balancer.pick(&[]).unwrap();
            counts[members.iter().position(|m| Rc::ptr_eq(m, &picked)).unwrap()] += 1;
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn equal_endpoints_share_equally() {
        let counts = picks(&balancer(4), 40_000);
        assert!(counts.iter().all(|&c| (9_000..11_000).contains(&c)), "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_busy_and_failing_endpoints_are_avoided() {
        let balancer = balancer(5);
        let members = balancer.members.borrow().clone();
        members[0].load.observe(Duration::from_millis(100), Instant::now());
        members[1].failed();
        let busy: Vec<_> = (0..10).map(|_| members[2].begin()).collect();
        let counts = picks(&balancer, 10_000);
        // two random choices meet a worse pair only when both are bad; the failing one is never the better of two
        assert_eq!(counts[1], 0, "{counts:?}");
        assert!(counts[0] < 1_200 && counts[2] < 2_300 && counts[3] > 2_500, "{counts:?}");
        drop(busy);
        assert_eq!(members[2].load.pending.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_penalty_is_forgotten() {
        let balancer = balancer(2);
        let members = balancer.members.borrow().clone();
        members[0].failed();
        assert_eq!(picks(&balancer, 1000)[0], 0);
        tokio::time::advance(Duration::from_mins(1)).await;
        members[1].load.observe(Duration::from_millis(5), Instant::now());
        assert_eq!(picks(&balancer, 1000)[0], 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_keeps_what_was_learned() {
        let balancer = balancer(2);
        balancer.members.borrow()[1].failed();
        balancer.update(&[endpoint(1), endpoint(7)], Pool::new);
        let members = balancer.members.borrow().clone();
        assert!(members[0].load.seconds.get() > 0.9 && members[1].load.seconds.get() < 0.1);
        balancer.update(&[], Pool::new);
        assert!(balancer.is_empty() && balancer.pick(&[]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_tried_once() {
        let balancer = balancer(3);
        let mut tried = Vec::new();
        while let Some(member) = balancer.pick(&tried) {
            tried.push(member);
        }
        assert_eq!(tried.len(), 3);
    }
}
