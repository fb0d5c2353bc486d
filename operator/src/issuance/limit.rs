//! How often may be asked for a certificate: per address before anything is known, in all, and per pod once it is
//! known. One address cannot use up what all share; a herd waits for its turn. Knows no protocol.

use std::{net::IpAddr, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::rate::{Bucket, Keyed, Rate, TooMany};

const ADDRESS: Rate = Rate { burst: 10, interval: Duration::from_secs(1) };
const TOTAL: Rate = Rate { burst: 100, interval: Duration::from_millis(10) };
const POD: Rate = Rate { burst: 5, interval: Duration::from_secs(10) };

/// How long a request waits for its turn, so that 500 at the same moment all get an answer. With what the work itself
/// takes this is less than a proxy waits.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Calls to the API server at a time.
const CALLS: usize = 32;

/// See the module.
pub struct Limit {
    total: Mutex<Bucket>,
    addresses: Mutex<Keyed<IpAddr>>,
    pods: Mutex<Keyed<String>>,
    calls: Semaphore,
}

impl Limit {
    /// Nothing used yet.
    pub fn new(now: Instant) -> Self {
        Self {
            total: Mutex::new(Bucket::new(now)),
            addresses: Mutex::new(Keyed::new(ADDRESS)),
            pods: Mutex::new(Keyed::new(POD)),
            calls: Semaphore::new(CALLS),
        }
    }

    /// Before any work is done for a caller: how long it waits for its turn.
    pub fn admit(&self, peer: IpAddr, now: Instant) -> Result<Duration, TooMany> {
        self.addresses.lock().take(peer, now)?;
        self.total.lock().reserve(TOTAL, PATIENCE, now)
    }

    /// Before a certificate is signed.
    pub fn admit_pod(&self, uid: &str, now: Instant) -> Result<(), TooMany> {
        self.pods.lock().take(uid.to_owned(), now)
    }

    /// Held during a call to the API server.
    pub async fn call(&self) -> Option<SemaphorePermit<'_>> {
        // Never closed.
        self.calls.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn one_pod_does_not_use_up_anothers() {
        let start = Instant::now();
        let limit = Limit::new(start);
        assert_eq!((0..100).filter(|_| limit.admit_pod("a", start).is_ok()).count(), 5);
        assert_eq!(limit.admit_pod("b", start), Ok(()));
    }

    #[test]
    fn all_share_a_hundred_a_second_and_wait_for_them() {
        let start = Instant::now();
        let limit = Limit::new(start);
        let waits: Vec<_> = (0..1000).filter_map(|n| limit.admit(address(n), start).ok()).collect();
        assert_eq!(waits.len(), 100 + 400);
        assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count(), 100);
        assert!(waits.is_sorted());
        assert_eq!(waits.last(), Some(&PATIENCE));
        let later = start + Duration::from_secs(1);
        let more = (1000..2000).filter(|&n| limit.admit(address(n), later).is_ok()).count();
        assert_eq!(more, 100);
    }

    #[test]
    fn few_addresses_cannot_use_up_what_all_share() {
        let start = Instant::now();
        let limit = Limit::new(start);
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            for _ in 0..10_000 {
                for attacker in 1..=5 {
                    let _ = limit.admit(address(attacker), now);
                }
            }
            let other = u32::try_from(second).unwrap() + 100;
            assert_eq!(limit.admit(address(other), now), Ok(Duration::ZERO), "second {second}");
        }
    }
}
