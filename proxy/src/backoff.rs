//! How long to wait before the next attempt: longer each time, and at random, so that a thousand proxies do not come
//! back at the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Full jitter between 0.1 s and a bound that doubles from 0.2 s up to 10 s: however long nobody answered, a thousand
/// are back 10 s after somebody does, and come one after the other.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        self.attempts += 1;
        let bound = FIRST.saturating_mul(1 << self.attempts.min(10)).min(LONGEST);
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
        assert!((FIRST..=FIRST * 2).contains(&backoff.next()));
        let pauses: Vec<_> = (0..1000).map(|_| backoff.next()).collect();
        assert!(pauses.iter().all(|p| (FIRST..=LONGEST).contains(p)));
        assert!(pauses.iter().any(|p| *p > LONGEST / 2) && pauses[10..].iter().any(|p| *p < LONGEST / 2));
        backoff.reset();
        assert!((FIRST..=FIRST * 2).contains(&backoff.next()));
    }

    #[test]
    fn a_herd_comes_back_soon_and_not_at_once() {
        for away in [1, 5, 30, 600].map(Duration::from_secs) {
            let mut back: Vec<Duration> = (0..1000)
                .map(|_| {
                    let (mut backoff, mut at) = (Backoff::default(), Duration::ZERO);
                    while at < away {
                        at += backoff.next();
                    }
                    at.saturating_sub(away)
                })
                .collect();
            back.sort_unstable();
            let half_a_second = Duration::from_millis(500);
            let busiest = back
                .iter()
                .map(|from| back.iter().filter(|at| (*from..*from + half_a_second).contains(*at)).count());
            let busiest = busiest.max().unwrap();
            println!("away {away:?}: back within {:?}, at most {busiest} in half a second", back[999]);
            assert!(back[999] <= LONGEST, "{away:?}: {:?}", back[999]);
            assert!(busiest <= 200 || away < Duration::from_secs(30), "{away:?}: {busiest} at once");
        }
    }
}
