//! What an endpoint would cost the next request: peak-EWMA latency, requests in flight, and a penalty for failures.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// How fast old latencies are forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// An average is about the last two seconds, a fifth of [`DECAY`]: what it keeps is this power of what else is kept.
const LATELY: i32 = 5;
/// Until there are so many, all count alike.
const FIRST: u32 = 20;
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
    average: Cell<f64>,
    samples: Cell<u32>,
    failed: Cell<Option<Instant>>,
    pending: Cell<u32>,
}

impl Load {
    /// Of an endpoint of which nothing is known.
    pub fn new(now: Instant) -> Self {
        Self {
            seconds: Cell::new(SEED.as_secs_f64()),
            updated: Cell::new(now),
            average: Cell::default(),
            samples: Cell::default(),
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
        let samples = (self.samples.get() + 1).min(FIRST);
        let lately = 1.0 - keep.powi(LATELY);
        // the first of all would count for long: it may have opened a connection
        let part = if samples < FIRST { lately.max(1.0 / f64::from(samples)) } else { lately };
        self.average.set(self.average.get() + (took - self.average.get()) * part);
        self.samples.set(samples);
        self.updated.set(now);
    }

    /// Seconds that it took on average lately, where a single peak is no more than that; `None`: that is not known, or no
    /// longer.
    pub fn average(&self, now: Instant) -> Option<f64> {
        let age = now.saturating_duration_since(self.updated.get());
        (self.samples.get() > 0 && age < OUTDATED).then(|| self.average.get())
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
    async fn an_average_is_of_all_at_first_and_then_of_the_last_seconds() {
        let load = Load::new(Instant::now());
        let is = |millis: f64| {
            let average = load.average(Instant::now()).unwrap() * 1000.0;
            assert!((average - millis).abs() < 0.1, "{average}");
        };
        assert_eq!(load.average(Instant::now()), None);
        for (took, expected) in [(100, 100.0), (10, 55.0), (10, 40.0)] {
            load.observe(Duration::from_millis(took), Instant::now());
            is(expected);
        }
        for _ in 0..200 {
            tokio::time::advance(Duration::from_millis(100)).await;
            load.observe(Duration::from_millis(10), Instant::now());
        }
        is(10.0);
        load.observe(Duration::from_secs(1), Instant::now());
        is(10.0);
        tokio::time::advance(OUTDATED).await;
        assert_eq!(load.average(Instant::now()), None);
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
