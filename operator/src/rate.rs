//! Token buckets: so many at once and one more per interval, for one or for each of many keys. Pure; memory is bounded.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// So many at once, and one more per interval.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Until there is room for one more.
    pub interval: Duration,
}

/// Refused; there will be room after this long.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct TooMany {
    /// When to try again.
    pub retry_after: Duration,
}

/// A bucket as one instant: when it will be full again.
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// Full.
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one now, or not at all.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), TooMany> {
        self.reserve(rate, Duration::ZERO, now).map(|_| ())
    }

    /// Takes one for later: how long to wait for it, at most `patience`.
    pub fn reserve(&mut self, rate: Rate, patience: Duration, now: Instant) -> Result<Duration, TooMany> {
        let full_at = self.full_at.max(now) + rate.interval;
        let wait = full_at.saturating_duration_since(now + rate.interval * rate.burst);
        if wait > patience {
            return Err(TooMany { retry_after: wait });
        }
        self.full_at = full_at;
        Ok(wait)
    }
}

/// Keys remembered at a time.
pub const MAX_KEYS: usize = 50_000;

/// A bucket for each key. Full ones are forgotten when there are [`MAX_KEYS`].
pub struct Keyed<K> {
    rate: Rate,
    buckets: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Keyed<K> {
    /// All of them full.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new() }
    }

    /// Takes one of a key's now, or not at all.
    pub fn take(&mut self, key: K, now: Instant) -> Result<(), TooMany> {
        if self.buckets.len() >= MAX_KEYS && !self.buckets.contains_key(&key) {
            self.buckets.retain(|_, bucket| bucket.full_at > now);
            if self.buckets.len() >= MAX_KEYS {
                return Err(TooMany { retry_after: self.rate.interval });
            }
        }
        self.buckets.entry(key).or_insert(Bucket::new(now)).take(self.rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 5, interval: Duration::from_secs(10) };

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        for _ in 0..5 {
            assert_eq!(bucket.take(RATE, start), Ok(()));
        }
        let refused = bucket.take(RATE, start).unwrap_err();
        assert_eq!(refused.retry_after, RATE.interval);
        let later = start + refused.retry_after;
        assert_eq!(bucket.take(RATE, later), Ok(()));
        assert!(bucket.take(RATE, later).is_err());
    }

    #[test]
    fn whoever_waits_is_served_in_order_and_what_is_refused_costs_nothing() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let patience = Duration::from_secs(30);
        let waits: Vec<u64> =
            (0..8).map(|_| bucket.reserve(RATE, patience, start).unwrap().as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 10, 20, 30]);
        for _ in 0..100 {
            let refused = bucket.reserve(RATE, patience, start).unwrap_err();
            assert_eq!(refused.retry_after, Duration::from_secs(40));
        }
        assert_eq!(bucket.reserve(RATE, patience, start + RATE.interval), Ok(patience));
    }

    #[test]
    fn memory_is_bounded_and_recovers() {
        let start = Instant::now();
        let mut keyed = Keyed::new(RATE);
        for key in 0..MAX_KEYS {
            keyed.take(key, start).unwrap();
        }
        assert!(keyed.take(MAX_KEYS, start).is_err());
        assert_eq!(keyed.take(7, start), Ok(()), "known ones go on");
        assert_eq!(keyed.take(MAX_KEYS, start + Duration::from_mins(1)), Ok(()));
        assert_eq!(keyed.buckets.len(), 1);
    }
}
