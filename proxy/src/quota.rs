//! How often one worker writes about the same mishap: a client can cause some with every packet, and a line for each
//! would bury the others.
//!
//! Owns the counts. What is left out is said once a second, in one line per reason. Takes no lock, and memory only for
//! a reason that it has not met.

use std::cell::RefCell;

use crate::metrics::Direction;

/// Lines per second, reason, direction and worker.
const PER_SECOND: u32 = 10;

/// What may still be written.
#[derive(Debug, Default)]
pub struct Quota(RefCell<Vec<Mishap>>);

#[derive(Debug)]
struct Mishap {
    direction: Direction,
    reason: &'static str,
    written: u32,
    suppressed: u64,
}

impl Quota {
    /// Whether to write about one more.
    pub fn admits(&self, direction: Direction, reason: &'static str) -> bool {
        let mut all = self.0.borrow_mut();
        let known = all.iter_mut().find(|m| m.reason == reason && m.direction == direction);
        let Some(mishap) = known else {
            all.push(Mishap { direction, reason, written: 1, suppressed: 0 });
            return true;
        };
        if mishap.written < PER_SECOND {
            mishap.written += 1;
            return true;
        }
        mishap.suppressed += 1;
        false
    }

    /// A second has passed: tells what was left out in it.
    pub fn renew(&self, mut left_out: impl FnMut(Direction, &'static str, u64)) {
        for mishap in self.0.borrow_mut().iter_mut() {
            if mishap.suppressed > 0 {
                left_out(mishap.direction, mishap.reason, mishap.suppressed);
            }
            (mishap.written, mishap.suppressed) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_ten() {
        let quota = Quota::default();
        let admitted = |direction, reason| (0..25).filter(|_| quota.admits(direction, reason)).count();
        for _ in 0..2 {
            assert_eq!(admitted(Direction::Inbound, "body-cut"), 10);
            assert_eq!(admitted(Direction::Outbound, "body-cut"), 10);
            assert!(quota.admits(Direction::Inbound, "client-gone"));
            let mut left_out = Vec::new();
            quota.renew(|direction, reason, count| left_out.push((direction, reason, count)));
            let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
            assert_eq!(left_out, [(inbound, "body-cut", 15), (outbound, "body-cut", 15)]);
            quota.renew(|_, reason, _| panic!("{reason} was told twice"));
        }
    }
}
