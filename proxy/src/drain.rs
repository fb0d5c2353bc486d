//! The end of a process: who is still busy, and when everybody was told to finish.
//!
//! Owns the signal and the count. What finishing means (`Connection: close`, GOAWAY) is the connections' business.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// Shared by everything that must end well. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    draining: AtomicBool,
    begun: Notify,
    busy: AtomicUsize,
    idle: Notify,
}

/// Something in flight, a request or an opaque connection: the process waits for it, up to its grace period.
#[derive(Debug)]
pub struct InFlight(Arc<Inner>);

impl Drain {
    /// Counts something in until the guard is dropped.
    pub fn in_flight(&self) -> InFlight {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        InFlight(self.0.clone())
    }

    /// Whether the end has begun: responses say `Connection: close`. One relaxed load.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Returns when the end begins, at once if it has: connections then shut down gracefully.
    pub async fn begun(&self) {
        let notified = self.0.begun.notified();
        if !self.0.draining.load(Ordering::SeqCst) {
            notified.await;
        }
    }

    /// Tells everybody. Listeners stay open.
    pub fn begin(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.0.begun.notify_waiters();
    }

    /// Waits until nothing is in flight, or the grace period is over; how many were left then.
    pub async fn finish(&self, grace: Duration) -> usize {
        let idle = async {
            loop {
                let notified = self.0.idle.notified();
                if self.0.busy.load(Ordering::SeqCst) == 0 {
                    return;
                }
                notified.await;
            }
        };
        match timeout(grace, idle).await {
            Ok(()) => 0,
            Err(_) => self.0.busy.load(Ordering::SeqCst),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.draining.load(Ordering::SeqCst) {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_what_is_in_flight() {
        let drain = Drain::default();
        let first = drain.in_flight();
        assert!(!drain.is_draining());
        let waiter = tokio::spawn({
            let drain = drain.clone();
            async move { drain.begun().await }
        });
        tokio::task::yield_now().await;
        drain.begin();
        waiter.await.unwrap();
        drain.begun().await;
        assert_eq!(drain.finish(Duration::from_secs(1)).await, 1);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(first);
        });
        let began = tokio::time::Instant::now();
        assert_eq!(drain.finish(Duration::from_mins(1)).await, 0);
        assert_eq!(tokio::time::Instant::now() - began, Duration::from_secs(5));
    }
}
