//! How many requests an application has at a time: as many as it can answer about as fast as when it has little to do.
//!
//! The limit follows the answers (a gradient, after Netflix' concurrency-limits): while they take much longer than those
//! of a calm application, it falls, else it grows by what little queueing is worth. What a calm application takes is
//! measured anew every few seconds of a busy time, at half the limit. Where it is off, requests are only counted.
//!
//! Also a number of requests per second, where a policy says one. One per application and worker.

use std::{cell::Cell, rc::Rc, time::Duration};

use byrnie_model::Limits;
use tokio::time::Instant;

use crate::reject::{self, Reject};

/// Where nothing is known, and for how few requests at a time nobody is refused.
const START: f64 = 64.0;
const FLOOR: f64 = 8.0;
const CEILING: f64 = 10_000.0;
/// Answers may take so many times as long as those of a calm application.
const TOLERANCE: f64 = 1.2;
/// So many times its root the limit may grow by at a time: with more, answers settle at well above the tolerance; with less,
/// one in 200 is refused at nine tenths of what the application can do.
const GROWTH: f64 = 0.6;
/// The limit is considered after this, and not before so many answers.
const WINDOW: Duration = Duration::from_millis(100);
const LEAST: u32 = 10;
/// After so many windows of a busy time, so many at half the limit.
const BUSY: u32 = 30;
const CALM: u32 = 3;
/// So much of the limit, and at least [`FLOOR`], is kept for what is critical, beyond it: whatever else is in flight.
const CRITICAL: f64 = 0.5;

/// The limits of one application.
#[derive(Debug)]
pub struct Limiter {
    limit: Cell<f64>,
    in_flight: Cell<u32>,
    critical: Cell<u32>,
    calm: Cell<Option<f64>>,
    window: Cell<Window>,
    busy: Cell<u32>,
    tokens: Cell<Option<f64>>,
    filled: Cell<Instant>,
}

/// A request's place; free again when dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Rc<Limiter>,
    began: Instant,
    critical: bool,
    answered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    answers: u32,
    seconds: f64,
    most: u32,
}

impl Window {
    fn new(since: Instant) -> Self {
        Self { since, answers: 0, seconds: 0.0, most: 0 }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            limit: Cell::new(START),
            in_flight: Cell::default(),
            critical: Cell::default(),
            calm: Cell::default(),
            window: Cell::new(Window::new(now)),
            busy: Cell::default(),
            tokens: Cell::default(),
            filled: Cell::new(now),
        }
    }
}

impl Limiter {
    /// Takes a place for a request, or says why there is none.
    pub fn admit(self: &Rc<Self>, limits: &Limits, critical: bool) -> Result<Permit, Reject> {
        let now = Instant::now();
        if limits.adaptive && !self.has_room(critical) {
            return Err(reject::OVERLOADED);
        }
        if let Some(rate) = limits.requests_per_second
            && !self.withdraw(rate.into(), limits.burst.into(), now)
        {
            return Err(reject::RATE_LIMITED);
        }
        self.in_flight.set(self.in_flight.get() + 1);
        self.critical.set(self.critical.get() + u32::from(critical));
        let mut window = self.window.get();
        window.most = window.most.max(self.in_flight.get());
        self.window.set(window);
        Ok(Permit { limiter: self.clone(), began: now, critical, answered: false })
    }

    fn has_room(&self, critical: bool) -> bool {
        let limit = self.limit.get();
        let now = if self.is_calming() { (limit / 2.0).max(FLOOR) } else { limit };
        let kept = critical && f64::from(self.critical.get()) < (limit * CRITICAL).max(FLOOR);
        kept || f64::from(self.in_flight.get()) < now
    }

    fn is_calming(&self) -> bool {
        self.busy.get() >= BUSY
    }

    fn withdraw(&self, rate: f64, burst: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled.replace(now)).as_secs_f64();
        let tokens = self.tokens.get().map_or(burst, |tokens| (tokens + since * rate).min(burst));
        let granted = tokens >= 1.0;
        self.tokens.set(Some(if granted { tokens - 1.0 } else { tokens }));
        granted
    }

    fn observe(&self, took: Duration, now: Instant) {
        let mut window = self.window.get();
        window.answers += 1;
        window.seconds += took.as_secs_f64();
        if window.answers >= LEAST && now.saturating_duration_since(window.since) >= WINDOW {
            self.consider(window.seconds / f64::from(window.answers), window.most);
            window = Window { most: self.in_flight.get(), ..Window::new(now) };
        }
        self.window.set(window);
    }

    /// What follows from a window's mean and its most requests at a time.
    fn consider(&self, mean: f64, most: u32) {
        let calm = self.calm.get().unwrap_or(mean).min(mean);
        let limit = self.limit.get();
        if self.is_calming() {
            let calming = self.busy.get() - BUSY + 1;
            self.busy.set(if calming >= CALM { 0 } else { self.busy.get() + 1 });
            // the first ones still have answers of before
            self.calm.set(Some(if calming >= CALM { mean } else { calm }));
            return;
        }
        if f64::from(most) < limit / 2.0 {
            // nobody was held back: this is how it is
            self.calm.set(Some(calm + (mean - calm) * 0.1));
            self.busy.set(0);
            return;
        }
        self.calm.set(Some(calm));
        self.busy.set(self.busy.get() + 1);
        let gradient = (TOLERANCE * calm / mean).clamp(0.35, 1.0);
        self.limit.set((limit * gradient + limit.sqrt() * GROWTH).clamp(FLOOR, CEILING));
    }
}

impl Permit {
    /// The response begins. Answers that tell of failures say nothing about what an application can do.
    pub fn answered(&mut self, good: bool) {
        if good && !self.answered {
            self.answered = true;
            let now = Instant::now();
            self.limiter.observe(now.saturating_duration_since(self.began), now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let in_flight = &self.limiter.in_flight;
        in_flight.set(in_flight.get() - 1);
        let critical = &self.limiter.critical;
        critical.set(critical.get() - u32::from(self.critical));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;

    use super::*;

    const ADAPTIVE: Limits = Limits { adaptive: true, requests_per_second: None, burst: 0 };

    /// Seconds of an application with so many threads, each 10 ms for a request, under so many requests per second:
    /// answers per second, refusals per second, the mean of the answers' milliseconds. Of the last half. The same each time.
    async fn run(limiter: &Rc<Limiter>, threads: usize, rate: u32, seconds: u32) -> (f64, f64, f64) {
        fastrand::seed(7);
        let service = Duration::from_millis(10);
        let start = Instant::now();
        let mut free = vec![start; threads];
        let mut done: BinaryHeap<std::cmp::Reverse<(Instant, usize)>> = BinaryHeap::new();
        let mut permits: Vec<Option<(Permit, Instant)>> = Vec::new();
        let (mut answers, mut refused, mut millis) = (0u32, 0u32, 0.0);
        for number in 0..rate * seconds {
            // by chance, as callers are
            let step = -fastrand::f64().max(1e-9).ln() / f64::from(rate);
            tokio::time::advance(Duration::from_secs_f64(step)).await;
            let now = Instant::now();
            while let Some(std::cmp::Reverse((at, index))) = done.peek().copied().filter(|d| d.0.0 <= now) {
                done.pop();
                let (mut permit, began) = permits[index].take().unwrap();
                permit.answered = true;
                limiter.observe(at - began, now);
                if number > rate * seconds / 2 {
                    answers += 1;
                    millis += (at - began).as_secs_f64() * 1000.0;
                }
            }
            match limiter.admit(&ADAPTIVE, false) {
                Ok(permit) => {
                    let thread = free.iter_mut().min().unwrap();
                    *thread = (*thread).max(now) + service;
                    done.push(std::cmp::Reverse((*thread, permits.len())));
                    permits.push(Some((permit, now)));
                }
                Err(_) if number > rate * seconds / 2 => refused += 1,
                Err(_) => {}
            }
        }
        let half = f64::from(seconds) / 2.0;
        (f64::from(answers) / half, f64::from(refused) / half, millis / f64::from(answers))
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_with_too_much_to_do_does_what_it_can() {
        for times in [2, 5] {
            let limiter = Rc::new(Limiter::default());
            let (calm, refused, _) = run(&limiter, 10, 500, 5).await;
            assert!(calm > 480.0 && refused < 1.0, "{calm} {refused}");
            // it can do 1,000 per second
            let (answers, _, millis) = run(&limiter, 10, 1000 * times, 20).await;
            assert!(answers > 930.0, "{times}: {answers}");
            assert!(millis < 20.0, "{times}: {millis}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_application_is_not_held_back() {
        let limiter = Rc::new(Limiter::default());
        // long: refusals come in bursts
        let (answers, refused, _) = run(&limiter, 10, 900, 600).await;
        assert!(answers > 890.0 && refused < 4.5, "{answers} {refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_met_in_an_overload_is_understood_too() {
        let limiter = Rc::new(Limiter::default());
        let (answers, _, millis) = run(&limiter, 10, 3000, 30).await;
        assert!(answers > 930.0 && millis < 20.0, "{answers} {millis}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_critical_has_room_left() {
        let limiter = Rc::new(Limiter::default());
        let held: Vec<_> = std::iter::from_fn(|| limiter.admit(&ADAPTIVE, false).ok()).collect();
        assert_eq!(held.len(), 64);
        let more: Vec<_> = std::iter::from_fn(|| limiter.admit(&ADAPTIVE, true).ok()).collect();
        assert_eq!(more.len(), 32);
        drop(held);
        assert!(limiter.admit(&ADAPTIVE, false).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_per_second_and_no_more() {
        let limiter = Rc::new(Limiter::default());
        let limits = Limits { adaptive: false, requests_per_second: Some(10), burst: 20 };
        let granted = || (0..1000).filter(|_| limiter.admit(&limits, false).is_ok()).count();
        assert_eq!(granted(), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(granted(), 10);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(granted(), 20);
        assert!((0..1000).all(|_| limiter.admit(&Limits::default(), false).is_ok()));
    }
}
