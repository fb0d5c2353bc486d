//! Which endpoint of a backend: power of two choices on peak-EWMA latency, or what a policy asks for instead.
//!
//! Owns what was learned about each endpoint, and keeps it when the set of endpoints changes; decides who may be out of
//! rotation at a time. Whom a request goes to is in [`choose`]. Knows nothing of requests; one per worker, so plain cells
//! suffice.

mod choose;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::{Rc, Weak},
    time::Duration,
};

use byrnie_model::{CircuitBreaker, Endpoint, LoadBalancing, SpiffeId, Traffic};
use tokio::time::Instant;

use crate::{
    breaker::{Breaker, Fault, PROBATION},
    hash,
    load::Load,
    pool::Pool,
    worker::Worker,
};
use choose::Among;

/// A new endpoint, or one that is back, gets its full share after this; before, a part that grows with time.
const SLOW_START: Duration = PROBATION;
/// The least part.
const COLD: f64 = 0.1;
/// Without a good answer of anybody for this long, requests are not kept waiting for news of other endpoints.
const PATIENCE: Duration = Duration::from_secs(3);

/// The endpoints of one backend, as one worker sees them.
#[derive(Debug)]
pub struct Balancer {
    // those of the own zone first, where it is preferred
    members: RefCell<Vec<Rc<Member>>>,
    near: Cell<usize>,
    weighted: Cell<bool>,
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
    weight: Cell<u16>,
    near: Cell<bool>,
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
            near: Cell::default(),
            weighted: Cell::default(),
            algorithm: RefCell::default(),
            breaker: Cell::new(CircuitBreaker::default()),
            out: Cell::default(),
            answered: Cell::new(Instant::now()),
            turn: Cell::default(),
        }
    }
}

impl Balancer {
    /// Takes over a new set of endpoints as a caller in `zone` sees them; known ones keep their connections and what was
    /// learned about them.
    pub fn update(
        self: &Rc<Self>,
        endpoints: &[Endpoint],
        traffic: &Traffic,
        zone: &str,
        new: impl Fn(&Endpoint) -> Rc<Pool>,
    ) {
        self.breaker.set(traffic.circuit_breaker);
        self.algorithm.borrow_mut().clone_from(&traffic.load_balancing);
        let now = Instant::now();
        let mut members = self.members.borrow_mut();
        // where all are new, none is newer than the others
        let warm_at = (!members.is_empty()).then(|| now + SLOW_START);
        let mut known: HashMap<Key, Rc<Member>> =
            members.drain(..).map(|member| (key(member.pool.endpoint()), member)).collect();
        let fresh = |endpoint: &Endpoint| {
            Rc::new(Member {
                pool: new(endpoint),
                load: Load::new(now),
                breaker: Breaker::new(now),
                warm_at: Cell::new(warm_at),
                weight: Cell::new(1),
                near: Cell::new(false),
                hash: hash::of(endpoint.address.to_string().as_bytes()),
                of: Rc::downgrade(self),
            })
        };
        members.extend(endpoints.iter().map(|endpoint| {
            let member = known.remove(&key(endpoint)).unwrap_or_else(|| fresh(endpoint));
            member.weight.set(endpoint.weight.max(1));
            member.near.set(traffic.prefer_zone && !zone.is_empty() && endpoint.zone == zone);
            member
        }));
        members.sort_by_key(|member| !member.near.get());
        self.near.set(members.iter().filter(|member| member.near.get()).count());
        self.weighted.set(members.windows(2).any(|two| two[0].weight.get() != two[1].weight.get()));
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
            return self.begin(members.len(), self.near.get(), |at| &members[at], choice.key, now);
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
        let near = among.iter().filter(|member| member.near.get()).count();
        self.begin(among.len(), near, |at| among[at], choice.key, now)
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

    fn begin<'a>(
        &self,
        count: usize,
        near: usize,
        at: impl Fn(usize) -> &'a Rc<Member>,
        key: Option<u64>,
        now: Instant,
    ) -> Option<Pending> {
        Among { count, near, at, key, now }.choose(self).map(|member| Pending::new(member, now))
    }
}

/// What tells one endpoint from all others, also over time.
type Key = (SocketAddr, Option<SpiffeId>, String);

fn key(endpoint: &Endpoint) -> Key {
    (endpoint.address, endpoint.identity.clone(), endpoint.pod_uid.clone())
}

impl Member {
    fn weight(&self) -> f64 {
        self.weight.get().into()
    }

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
mod tests;
