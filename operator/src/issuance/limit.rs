//! How often may be asked for a certificate: per address before anything is known, in all, and per pod once it is
//! known. One address cannot use up what all share. Memory is bounded; knows no protocol.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// So many at once, and one more per interval.
#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    interval: Duration,
}

const ADDRESS: Rate = Rate { burst: 10, interval: Duration::from_secs(1) };
const TOTAL: Rate = Rate { burst: 100, interval: Duration::from_millis(10) };
const POD: Rate = Rate { burst: 5, interval: Duration::from_secs(10) };

/// Addresses, and pods, remembered at a time.
const MAX_KEYS: usize = 50_000;

/// See the module.
pub struct Limit {
    buckets: Mutex<Buckets>,
}

struct Buckets {
    total: Bucket,
    addresses: Keyed<IpAddr>,
    pods: Keyed<String>,
}

/// Refused; there will be room after this long.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct TooMany {
    /// When to try again.
    pub retry_after: Duration,
}

impl Limit {
    /// Nothing used yet.
    pub fn new(now: Instant) -> Self {
        let buckets =
            Buckets { total: Bucket::new(now), addresses: Keyed::new(ADDRESS), pods: Keyed::new(POD) };
        Self { buckets: Mutex::new(buckets) }
    }

    /// Before any work is done for a caller.
    pub fn admit(&self, peer: IpAddr, now: Instant) -> Result<(), TooMany> {
        let mut buckets = self.buckets.lock();
        buckets.addresses.take(peer, now)?;
        buckets.total.take(TOTAL, now)
    }

    /// Before a certificate is signed.
    pub fn admit_pod(&self, uid: &str, now: Instant) -> Result<(), TooMany> {
        self.buckets.lock().pods.take(uid.to_owned(), now)
    }
}

struct Keyed<K> {
    rate: Rate,
    buckets: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Keyed<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new() }
    }

    fn take(&mut self, key: K, now: Instant) -> Result<(), TooMany> {
        if self.buckets.len() >= MAX_KEYS && !self.buckets.contains_key(&key) {
            self.buckets.retain(|_, bucket| bucket.full_at > now);
            if self.buckets.len() >= MAX_KEYS {
                return Err(TooMany { retry_after: self.rate.interval });
            }
        }
        self.buckets.entry(key).or_insert(Bucket::new(now)).take(self.rate, now)
    }
}

/// A token bucket as one instant: when it will be full again.
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), TooMany> {
        let full_at = self.full_at.max(now) + rate.interval;
        let retry_after = full_at.saturating_duration_since(now + rate.interval * rate.burst);
        if !retry_after.is_zero() {
            return Err(TooMany { retry_after });
        }
        self.full_at = full_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_pod_has_a_burst_and_then_one_every_ten_seconds() {
        let start = Instant::now();
        let limit = Limit::new(start);
        for _ in 0..5 {
            assert_eq!(limit.admit_pod("a", start), Ok(()));
        }
        let refused = limit.admit_pod("a", start).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(10));
        assert_eq!(limit.admit_pod("b", start), Ok(()), "another pod is not affected");
        let later = start + refused.retry_after;
        assert_eq!(limit.admit_pod("a", later), Ok(()));
        assert!(limit.admit_pod("a", later).is_err());
    }

    #[test]
    fn all_share_a_hundred_a_second() {
        let start = Instant::now();
        let limit = Limit::new(start);
        let admitted = |from: u32| {
            let at = |ms| start + Duration::from_millis(u64::from(ms));
            (from..from + 1000).filter(|&ms| limit.admit(address(ms), at(ms)).is_ok()).count()
        };
        assert_eq!(admitted(0), 199, "a burst of 100, and 99 that come back within the second");
        assert_eq!(admitted(1000), 100);
    }

    #[test]
    fn one_address_cannot_use_up_what_all_share() {
        let start = Instant::now();
        let limit = Limit::new(start);
        assert_eq!((0..10_000).filter(|_| limit.admit(address(1), start).is_ok()).count(), 10);
        assert_eq!((2..92).filter(|&n| limit.admit(address(n), start).is_ok()).count(), 90);
    }

    #[test]
    fn memory_is_bounded_and_recovers() {
        let start = Instant::now();
        let limit = Limit::new(start);
        for pod in 0..MAX_KEYS {
            limit.admit_pod(&pod.to_string(), start).unwrap();
        }
        assert!(limit.admit_pod("one more", start).is_err());
        assert_eq!(limit.admit_pod("7", start), Ok(()), "known ones go on");
        assert_eq!(limit.admit_pod("one more", start + Duration::from_mins(1)), Ok(()));
        assert_eq!(limit.buckets.lock().pods.buckets.len(), 1);
    }
}
