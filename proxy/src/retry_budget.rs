//! How much may be sent again, over all requests to one destination: a token bucket that requests and time fill.

use std::cell::Cell;

use byrnie_model::RetryBudget;
use tokio::time::Instant;

/// Unused permission is kept for so many seconds.
const KEPT: f64 = 10.0;
/// And that of so many is there at first.
const FIRST: f64 = 3.0;

/// Permission to send again.
#[derive(Debug)]
pub struct Budget {
    tokens: Cell<Option<f64>>,
    /// What requests have earned since the last withdrawal.
    earned: Cell<f64>,
    updated: Cell<Instant>,
}

impl Default for Budget {
    /// With what a few seconds earn: whatever fails from the start is not helped by more.
    fn default() -> Self {
        Self { tokens: Cell::default(), earned: Cell::default(), updated: Cell::new(Instant::now()) }
    }
}

impl Budget {
    /// A request was made.
    pub fn deposit(&self, limits: RetryBudget) {
        let tokens = self.tokens.get().unwrap_or_else(|| first(limits));
        let earned = f64::from(limits.percent) / 100.0;
        self.earned.set(self.earned.get() + earned);
        self.tokens.set(Some((tokens + earned).min(full(limits))));
    }

    /// Takes the permission to send one request again.
    pub fn withdraw(&self, limits: RetryBudget) -> bool {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.updated.replace(now)).as_secs_f64();
        let full = full(limits);
        // what the requests of this time were too few to earn
        let rest = (since * f64::from(limits.min_per_second) - self.earned.take()).max(0.0);
        let tokens = (self.tokens.get().unwrap_or_else(|| first(limits)) + rest).min(full);
        // ten deposits of a fifth are two, however they are rounded
        let granted = tokens >= 1.0 - 1e-9;
        self.tokens.set(Some(if granted { tokens - 1.0 } else { tokens }.max(0.0)));
        granted
    }
}

fn first(limits: RetryBudget) -> f64 {
    FIRST * f64::from(limits.min_per_second)
}

/// A budget by percent alone must be able to save up for one request.
fn full(limits: RetryBudget) -> f64 {
    let floor = if limits.percent > 0 { 1.0 } else { 0.0 };
    (KEPT * f64::from(limits.min_per_second)).max(floor)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn granted(budget: &Budget, limits: RetryBudget) -> usize {
        (0..1000).filter(|_| budget.withdraw(limits)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_a_fifth_and_at_least_ten_a_second() {
        let (budget, limits) = (Budget::default(), RetryBudget::default());
        assert_eq!(granted(&budget, limits), 30);
        (0..100).for_each(|_| budget.deposit(limits));
        assert_eq!(granted(&budget, limits), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        (0..100).for_each(|_| budget.deposit(limits));
        assert_eq!(granted(&budget, limits), 20, "they have earned more than time has");
        tokio::time::advance(Duration::from_secs(1)).await;
        (0..20).for_each(|_| budget.deposit(limits));
        assert_eq!(granted(&budget, limits), 10, "they have earned less");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(granted(&budget, limits), 10);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(granted(&budget, limits), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_nothing_and_percent_alone_saves_up() {
        let (budget, nothing) = (Budget::default(), RetryBudget { percent: 0, min_per_second: 0 });
        (0..100).for_each(|_| budget.deposit(nothing));
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(granted(&budget, nothing), 0);
        let (budget, tenth) = (Budget::default(), RetryBudget { percent: 10, min_per_second: 0 });
        assert_eq!(granted(&budget, tenth), 0);
        (0..10).for_each(|_| budget.deposit(tenth));
        assert_eq!(granted(&budget, tenth), 1);
        (0..9).for_each(|_| budget.deposit(tenth));
        assert_eq!(granted(&budget, tenth), 0);
        budget.deposit(tenth);
        assert_eq!(granted(&budget, tenth), 1);
    }
}
