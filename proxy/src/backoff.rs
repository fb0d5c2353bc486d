//! How long to wait before the next attempt: longer each time, and at random, so that a thousand proxies do not come
//! back at the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Full jitter between 0.1 s and a bound that doubles up to 10 s.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.attempts.min(10)).min(LONGEST);
        self.attempts += 1;
        FIRST + bound.saturating_sub(FIRST).mul_f64(fastrand::f64())
    }

    /// It worked: the next failure starts from the beginning.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(), FIRST);
        let pauses: Vec<_> = (0..1000).map(|_| backoff.next()).collect();
        assert!(pauses.iter().all(|p| (FIRST..=LONGEST).contains(p)));
        assert!(pauses.iter().any(|p| *p > LONGEST / 2) && pauses[10..].iter().any(|p| *p < LONGEST / 2));
        backoff.reset();
        assert_eq!(backoff.next(), FIRST);
    }
}
