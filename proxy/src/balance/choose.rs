//! Whom a request goes to among those that may have it: by zone, by weight, and then by algorithm.
//!
//! A zone is left where it is worth it: when too few of its endpoints are well to carry what all of them did, or when
//! requests take much longer there than elsewhere.

use std::{ops::Range, rc::Rc, time::Duration};

use byrnie_model::LoadBalancing;
use tokio::time::Instant;

use super::{Balancer, Member};
use crate::{hash, load::Load};

/// Endpoints of a zone are thought to bear so many times what they do on average.
const HEADROOM: f64 = 1.4;
/// A request leaves its zone when others have taken so many times longer there than elsewhere,
const WORTH_LEAVING: f64 = 3.0;
/// and so much longer: between zones it takes about that long itself.
const WAY: Duration = Duration::from_millis(1);
/// One request in so many finds out what elsewhere takes, where that is not known.
const EXPLORE: u32 = 100;

/// Those that may have a request, those of the own zone first.
pub(super) struct Among<'a, F: Fn(usize) -> &'a Rc<Member>> {
    /// How many there are.
    pub count: usize,
    /// How many of them are of the own zone.
    pub near: usize,
    /// Each of them.
    pub at: F,
    /// For consistent hashing.
    pub key: Option<u64>,
    /// Now.
    pub now: Instant,
}

impl<'a, F: Fn(usize) -> &'a Rc<Member>> Among<'a, F> {
    /// One of them.
    pub(super) fn choose(&self, balancer: &Balancer) -> Option<&'a Rc<Member>> {
        let Self { count, near, .. } = *self;
        if count <= 1 {
            return (count == 1).then(|| (self.at)(0));
        }
        if near == 0 || near == count {
            return self.by_algorithm(balancer, 0..count);
        }
        #[expect(clippy::cast_precision_loss, reason = "nobody has that many endpoints")]
        let bears = HEADROOM * near as f64 / balancer.near.get() as f64;
        if bears < 1.0 && fastrand::f64() >= bears {
            return self.by_algorithm(balancer, near..count);
        }
        let inside = self.by_algorithm(balancer, 0..near)?;
        if self.is_by_key(balancer) {
            return Some(inside);
        }
        let outside = (self.at)(self.draw(balancer, near..count));
        Some(if is_worth_leaving(&inside.load, &outside.load, self.now) { outside } else { inside })
    }

    fn is_by_key(&self, balancer: &Balancer) -> bool {
        self.key.is_some() && matches!(&*balancer.algorithm.borrow(), LoadBalancing::ConsistentHash(_))
    }

    fn by_algorithm(&self, balancer: &Balancer, range: Range<usize>) -> Option<&'a Rc<Member>> {
        Some(match (&*balancer.algorithm.borrow(), self.key) {
            (LoadBalancing::ConsistentHash(_), Some(key)) if balancer.weighted.get() => {
                let score = |member: &Rc<Member>| score(hash::mix(key, member.hash), member.weight());
                range.map(&self.at).max_by(|a, b| score(a).total_cmp(&score(b)))?
            }
            (LoadBalancing::ConsistentHash(_), Some(key)) => {
                range.map(&self.at).max_by_key(|member| hash::mix(key, member.hash))?
            }
            (LoadBalancing::RoundRobin, _) => {
                let first = self.in_turn(balancer, range.clone());
                self.warm(balancer, first, range)
            }
            (LoadBalancing::LeastRequest, _) => self.better(balancer, range, Load::in_flight),
            (LoadBalancing::PeakEwma | LoadBalancing::ConsistentHash(_), _) => {
                self.better(balancer, range, Load::cost)
            }
        })
    }

    /// The better of two random ones.
    fn better(
        &self,
        balancer: &Balancer,
        range: Range<usize>,
        cost: fn(&Load, f64, Instant) -> f64,
    ) -> &'a Rc<Member> {
        let first = self.draw(balancer, range.clone());
        let second =
            if balancer.weighted.get() { self.draw(balancer, range.clone()) } else { another(first, &range) };
        let first = self.warm(balancer, first, range.clone());
        let second = self.warm(balancer, second, range);
        let cost = |member: &Member| cost(&member.load, member.weight(), self.now);
        if cost(second) < cost(first) { second } else { first }
    }

    /// A random one by weight.
    fn draw(&self, balancer: &Balancer, range: Range<usize>) -> usize {
        if balancer.weighted.get() { self.by_weight(range, fastrand::f64()) } else { fastrand::usize(range) }
    }

    /// The next one; with weights, they alternate as evenly as the golden ratio has it.
    fn in_turn(&self, balancer: &Balancer, range: Range<usize>) -> usize {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let turn = balancer.turn.get().wrapping_add(1);
        balancer.turn.set(turn);
        if !balancer.weighted.get() {
            return range.start + turn % range.len();
        }
        self.by_weight(range, fraction((turn as u64).wrapping_mul(GOLDEN)))
    }

    /// The one at this part of the sum of all weights.
    fn by_weight(&self, range: Range<usize>, part: f64) -> usize {
        let total: f64 = range.clone().map(|at| (self.at)(at).weight()).sum();
        let (mut left, last) = (part * total, range.end - 1);
        for at in range {
            left -= (self.at)(at).weight();
            if left < 0.0 {
                return at;
            }
        }
        last
    }

    /// The one at this place, or another one if it is still warming up and this request is not of its part.
    fn warm(&self, balancer: &Balancer, first: usize, range: Range<usize>) -> &'a Rc<Member> {
        let mut member = (self.at)(first);
        for _ in 0..3 {
            let warmth = member.warmth(self.now);
            if warmth >= 1.0 || fastrand::f64() < warmth {
                break;
            }
            member = (self.at)(self.draw(balancer, range.clone()));
        }
        member
    }
}

/// A random place other than this one, if there is one.
fn another(first: usize, range: &Range<usize>) -> usize {
    let count = range.len();
    if count == 1 { first } else { range.start + (first - range.start + fastrand::usize(1..count)) % count }
}

/// Weighted rendezvous: of equal weights the highest hash wins, and a key moves only for the share that changed.
fn score(hash: u64, weight: f64) -> f64 {
    -weight / fraction(hash).max(f64::MIN_POSITIVE).ln()
}

/// From 0 to less than 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits are just what fits")]
fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn is_worth_leaving(inside: &Load, outside: &Load, now: Instant) -> bool {
    let Some(here) = inside.average(now) else { return false };
    match outside.average(now) {
        Some(elsewhere) => here > WORTH_LEAVING * elsewhere + WAY.as_secs_f64(),
        None => fastrand::u32(..EXPLORE) == 0,
    }
}
