//! What an endpoint would cost the next request: peak-EWMA latency, requests in flight, and a penalty for failures.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// How fast old latencies are forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// What was measured longer ago says nothing about today.
const OUTDATED: Duration = Duration::from_mins(1);
/// What an endpoint is assumed to take of which nothing is known: a zero would make it free.
const SEED: Duration = Duration::from_millis(1);
/// What a failure counts as at first, so that failing fast does not attract traffic.
const PENALTY: Duration = Duration::from_secs(1);
/// How fast that is forgotten: a millisecond is left of it after two seconds, and breakers see to the rest.
const FORGIVEN: Duration = Duration::from_millis(300);

/// One endpoint's.
#[derive(Debug)]
pub struct Load {
    seconds: Cell<f64>,
    updated: Cell<Instant>,
    known: Cell<bool>,
    failed: Cell<Option<Instant>>,
    pending: Cell<u32>,
}

impl Load {
    /// Of an endpoint of which nothing is known.
    pub fn new(now: Instant) -> Self {
        Self {
            seconds: Cell::new(SEED.as_secs_f64()),
            updated: Cell::new(now),
            known: Cell::new(false),
            failed: Cell::default(),
            pending: Cell::default(),
        }
    }

    /// A request is on its way.
    pub fn begin(&self) {
        self.pending.set(self.pending.get() + 1);
    }

    /// It is over.
    pub fn end(&self) {
        self.pending.set(self.pending.get() - 1);
    }

    /// Requests on their way, for an endpoint that bears `weight` times what others do.
    pub fn in_flight(&self, weight: f64, _: Instant) -> f64 {
        f64::from(self.pending.get()) / weight
    }

    /// Latency with what has been forgotten since, times the requests that one more would make.
    pub fn cost(&self, weight: f64, now: Instant) -> f64 {
        let mut seconds = (self.seconds.get() * self.kept(now)).max(SEED.as_secs_f64() / 100.0);
        if let Some(failed) = self.failed.get() {
            seconds += PENALTY.as_secs_f64() * decay(now.saturating_duration_since(failed), FORGIVEN);
        }
        seconds * (self.in_flight(weight, now) + 1.0)
    }

    /// A response began after this time. A peak counts at once; what is lower is approached over [`DECAY`].
    pub fn observe(&self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let (old, keep) = (self.seconds.get(), self.kept(now));
        self.seconds.set(if took > old { took } else { old * keep + took * (1.0 - keep) });
        self.updated.set(now);
        self.known.set(true);
    }

    /// Seconds that it took when that was last known, with nothing forgotten since.
    pub fn latest(&self) -> f64 {
        self.seconds.get()
    }

    /// The same times the requests that one more would make; `None`: that is not known, or no longer.
    pub fn measured(&self, weight: f64, now: Instant) -> Option<f64> {
        let age = now.saturating_duration_since(self.updated.get());
        (self.known.get() && age < OUTDATED).then(|| self.seconds.get() * (self.in_flight(weight, now) + 1.0))
    }

    /// Nobody waited longer than this.
    pub fn abandoned(&self, after: Duration, now: Instant) {
        if after.as_secs_f64() > self.seconds.get() {
            self.observe(after, now);
        }
    }

    /// A request came to a bad end.
    pub fn failed(&self, now: Instant) {
        self.failed.set(Some(now));
    }

    fn kept(&self, now: Instant) -> f64 {
        decay(now.saturating_duration_since(self.updated.get()), DECAY)
    }
}

fn decay(age: Duration, constant: Duration) -> f64 {
    (-age.as_secs_f64() / constant.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let load = Load::new(Instant::now());
        load.observe(Duration::from_millis(100), Instant::now());
        assert!(load.cost(1.0, Instant::now()) > 0.099);
        tokio::time::advance(Duration::from_secs(10)).await;
        load.observe(Duration::from_millis(1), Instant::now());
        assert!((0.036..0.039).contains(&load.cost(1.0, Instant::now())), "{load:?}");
        load.begin();
        assert!((0.072..0.078).contains(&load.cost(1.0, Instant::now())), "{load:?}");
        load.abandoned(Duration::from_millis(2), Instant::now());
        assert!(load.cost(1.0, Instant::now()) > 0.072);
        load.abandoned(Duration::from_secs(2), Instant::now());
        assert!(load.cost(1.0, Instant::now()) > 3.9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_forgotten_in_two_seconds() {
        let load = Load::new(Instant::now());
        let before = load.cost(1.0, Instant::now());
        load.failed(Instant::now());
        assert!(load.cost(1.0, Instant::now()) > 0.99);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(load.cost(1.0, Instant::now()) < before + 0.002, "{load:?}");
    }
}
