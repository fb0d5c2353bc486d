//! The circuit breaker of one endpoint: what came of its requests, and whether it gets any.
//!
//! An endpoint is out after a row of failures or when too few requests succeed. It comes back by a probe, a single
//! request: soon where that can cost nobody anything because it would be sent again, else ever later. Then it is on
//! probation: while it warms up, one failure is enough. One per worker. Who may be out at the same time is the balancer's business.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use byrnie_model::CircuitBreaker;
use tokio::time::Instant;

/// Seconds that the share of successes is taken over.
const WINDOW: usize = 10;
/// A probe that costs nobody anything is sent after this and up to half as much again.
const GRATIS: Duration = Duration::from_secs(1);
/// How long an endpoint that is back must not fail once: while it warms up.
pub const PROBATION: Duration = Duration::from_secs(10);

/// One endpoint's.
#[derive(Debug)]
pub struct Breaker {
    state: Cell<State>,
    row: Cell<u32>,
    ejections: Cell<u32>,
    probation: Cell<Option<Instant>>,
    window: RefCell<Window>,
}

/// What is wrong with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No application takes a connection: no request was seen, so all can be sent again.
    Unreachable,
    /// It answers badly, or not.
    Failing,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Out { fault: Fault, gratis: Instant, due: Instant },
    Probed { fault: Fault },
}

/// Successes and failures of the last seconds.
#[derive(Debug)]
struct Window {
    born: Instant,
    second: u64,
    counts: [(u32, u32); WINDOW],
}

impl Breaker {
    /// Nothing is known against the endpoint.
    pub fn new(now: Instant) -> Self {
        Self {
            state: Cell::new(State::Closed),
            row: Cell::default(),
            ejections: Cell::default(),
            probation: Cell::default(),
            window: RefCell::new(Window { born: now, second: 0, counts: Default::default() }),
        }
    }

    /// Why it gets no requests.
    pub fn fault(&self) -> Option<Fault> {
        match self.state.get() {
            State::Closed => None,
            State::Out { fault, .. } | State::Probed { fault } => Some(fault),
        }
    }

    /// Whether the next request shall be the probe. `repeatable`: it would be sent again if the endpoint answers badly.
    pub fn is_due(&self, now: Instant, repeatable: bool) -> bool {
        match self.state.get() {
            State::Out { fault, gratis, due } => {
                now >= due || now >= gratis && (repeatable || fault == Fault::Unreachable)
            }
            State::Closed | State::Probed { .. } => false,
        }
    }

    /// A request is sent as the probe.
    pub fn probe(&self) {
        if let State::Out { fault, .. } = self.state.get() {
            self.state.set(State::Probed { fault });
        }
    }

    /// Nobody waited for what would have come of the probe.
    pub fn abandon(&self, now: Instant) {
        if let State::Probed { fault } = self.state.get() {
            self.state.set(State::Out { fault, gratis: now + GRATIS, due: now + GRATIS });
        }
    }

    /// A request came to a good end. Whether the endpoint is back in rotation by that.
    pub fn succeeded(&self, now: Instant) -> bool {
        self.row.set(0);
        if let State::Closed = self.state.get() {
            self.window.borrow_mut().at(now).0 += 1;
            if self.probation.get().is_some_and(|end| now >= end) {
                self.probation.set(None);
                self.ejections.set(0);
            }
            return false;
        }
        self.state.set(State::Closed);
        self.probation.set(Some(now + PROBATION));
        self.window.borrow_mut().counts = Default::default();
        true
    }

    /// A request came to a bad end. Whether the endpoint goes out by that, if it `may`.
    pub fn failed(
        &self,
        fault: Fault,
        limits: &CircuitBreaker,
        may: impl FnOnce() -> bool,
        now: Instant,
    ) -> bool {
        match self.state.get() {
            // sent before it went out
            State::Out { .. } => false,
            State::Probed { .. } => {
                self.eject(fault, limits, now);
                false
            }
            State::Closed => {
                self.row.set(self.row.get().saturating_add(1));
                let mut window = self.window.borrow_mut();
                window.at(now).1 += 1;
                let (good, bad) = window.sum();
                drop(window);
                let row = limits.consecutive_failures > 0 && self.row.get() >= limits.consecutive_failures;
                let share = good + bad >= u64::from(limits.min_requests)
                    && good * 100 < (good + bad) * u64::from(limits.success_percent);
                let out = (row || share || self.probation.get().is_some_and(|end| now < end)) && may();
                if out {
                    self.eject(fault, limits, now);
                }
                out
            }
        }
    }

    fn eject(&self, fault: Fault, limits: &CircuitBreaker, now: Instant) {
        let before = self.ejections.replace(self.ejections.get().saturating_add(1));
        let limit = limits.base_ejection.saturating_mul(1 << before.min(20)).min(limits.max_ejection);
        // proxies that saw it fail together shall not come back together
        let jittered = |time: Duration| now + time.mul_f64(1.0 + 0.5 * fastrand::f64());
        let (gratis, due) = (jittered(GRATIS.min(limit)), jittered(limit));
        self.row.set(0);
        self.probation.set(None);
        self.state.set(State::Out { fault, gratis, due });
    }
}

impl Window {
    /// Successes and failures of this second.
    fn at(&mut self, now: Instant) -> &mut (u32, u32) {
        let second = now.saturating_duration_since(self.born).as_secs();
        for passed in (self.second + 1..=second).take(WINDOW) {
            self.counts[slot(passed)] = (0, 0);
        }
        self.second = second;
        &mut self.counts[slot(second)]
    }

    fn sum(&self) -> (u64, u64) {
        let sum = |(good, bad): (u64, u64), (g, b): &(u32, u32)| (good + u64::from(*g), bad + u64::from(*b));
        self.counts.iter().fold((0, 0), sum)
    }
}

fn slot(second: u64) -> usize {
    usize::try_from(second).unwrap_or_default() % WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CircuitBreaker = CircuitBreaker {
        consecutive_failures: 5,
        success_percent: 80,
        min_requests: 20,
        max_ejection_percent: 50,
        base_ejection: Duration::from_secs(1),
        max_ejection: Duration::from_mins(1),
    };

    fn fail(breaker: &Breaker) -> bool {
        breaker.failed(Fault::Failing, &LIMITS, || true, Instant::now())
    }

    fn ejected() -> Breaker {
        let breaker = Breaker::new(Instant::now());
        assert_eq!((0..5).map(|_| fail(&breaker)).collect::<Vec<_>>(), [false, false, false, false, true]);
        breaker
    }

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_of_failures_ejects_unless_it_is_broken_or_may_not() {
        let breaker = Breaker::new(Instant::now());
        for _ in 0..100 {
            assert!(!fail(&breaker) && !fail(&breaker));
            for _ in 0..15 {
                breaker.succeeded(Instant::now());
            }
        }
        for _ in 0..50 {
            assert!(!breaker.failed(Fault::Failing, &LIMITS, || false, Instant::now()));
        }
        assert_eq!(breaker.fault(), None);
        assert_eq!(ejected().fault(), Some(Fault::Failing));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_share_of_ten_seconds_ejects() {
        let breaker = Breaker::new(Instant::now());
        let mut requests = 0;
        // one of three: never five in a row
        while breaker.fault().is_none() {
            breaker.succeeded(Instant::now());
            breaker.succeeded(Instant::now());
            fail(&breaker);
            requests += 3;
        }
        assert_eq!(requests, 21);
        // and what lies back does not count
        let breaker = Breaker::new(Instant::now());
        for _ in 0..19 {
            breaker.succeeded(Instant::now());
            pass(Duration::from_secs(2)).await;
            assert!(!fail(&breaker));
            pass(Duration::from_secs(2)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_may_cost_a_request_is_sent_ever_later() {
        let breaker = ejected();
        for seconds in [1u64, 2, 4, 8, 16, 32, 60, 60] {
            let soon = Duration::from_millis(seconds * 1000 - 1);
            pass(soon).await;
            assert!(!breaker.is_due(Instant::now(), false), "{seconds}");
            assert!(seconds == 1 || breaker.is_due(Instant::now(), true), "{seconds}");
            pass(Duration::from_secs(seconds)).await;
            assert!(breaker.is_due(Instant::now(), false), "{seconds}");
            breaker.probe();
            assert!(!breaker.is_due(Instant::now(), true), "one at a time");
            assert!(!fail(&breaker));
        }
        pass(Duration::from_mins(2)).await;
        breaker.probe();
        assert!(breaker.succeeded(Instant::now()) && breaker.fault().is_none());
        assert!(!breaker.succeeded(Instant::now()));
        assert!(fail(&breaker), "one failure is enough on probation");
        pass(Duration::from_secs(45)).await;
        assert!(!breaker.is_due(Instant::now(), false), "and what was before is not forgotten");
        pass(Duration::from_mins(1)).await;
        breaker.probe();
        assert!(breaker.succeeded(Instant::now()));
        pass(PROBATION).await;
        assert!(!breaker.succeeded(Instant::now()) && !fail(&breaker), "probation is over");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_no_connection_is_tried_each_second_or_so() {
        let breaker = ejected();
        pass(Duration::from_secs(2)).await;
        for _ in 0..10 {
            breaker.probe();
            breaker.failed(Fault::Unreachable, &LIMITS, || true, Instant::now());
            pass(Duration::from_millis(999)).await;
            assert!(!breaker.is_due(Instant::now(), true));
            pass(Duration::from_millis(501)).await;
            assert!(breaker.is_due(Instant::now(), false));
        }
        breaker.probe();
        breaker.abandon(Instant::now());
        pass(Duration::from_secs(1)).await;
        assert!(breaker.is_due(Instant::now(), false));
    }
}
