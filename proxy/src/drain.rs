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

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};

/// Peers learn within this time that the pod is gone, and close their connections; a request may come until they do.
const PARTING: Duration = Duration::from_secs(3);

/// Most have learned it within this time.
const NEWS: Duration = Duration::from_secs(1);

/// Shared by everything that must end well. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    draining: AtomicBool,
    begun: Notify,
    busy: AtomicUsize,
    peers: AtomicUsize,
    met: AtomicBool,
    fewer: Notify,
}

/// Something in flight, a request or an opaque connection: the process waits for it, up to its grace period.
#[derive(Debug)]
pub struct InFlight(Arc<Inner>);

/// A peer's connection, on which a request may be on its way: the process waits for its end, up to [`PARTING`].
#[derive(Debug)]
pub struct Peer(Arc<Inner>);

impl Drain {
    /// Counts something in until the guard is dropped.
    pub fn in_flight(&self) -> InFlight {
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        InFlight(self.0.clone())
    }

    /// Counts a peer's connection in until the guard is dropped.
    pub fn peer(&self) -> Peer {
        self.0.peers.fetch_add(1, Ordering::Relaxed);
        self.0.met.store(true, Ordering::Relaxed);
        Peer(self.0.clone())
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

    /// Waits until peers have learned that the pod ends and closed their connections, [`PARTING`] at most; not at all
    /// where there never were any. Changes nothing.
    pub async fn parted(&self) {
        if !self.0.met.load(Ordering::Relaxed) {
            return;
        }
        let parted = async {
            sleep(NEWS).await;
            while self.0.peers.load(Ordering::SeqCst) > 0 {
                sleep(NEWS / 20).await;
            }
        };
        // those that stay are not waited for
        let _ = timeout(PARTING, parted).await;
    }

    /// Waits until peers have closed their connections and nothing is in flight, or the grace period is over; how much
    /// was left then.
    pub async fn finish(&self, grace: Duration) -> usize {
        let end = Instant::now() + grace;
        // those that stay have nothing to say
        let _ = timeout(grace.min(PARTING), self.0.none(&self.0.peers)).await;
        match timeout_at(end, self.0.none(&self.0.busy)).await {
            Ok(()) => 0,
            Err(_) => self.0.busy.load(Ordering::SeqCst),
        }
    }
}

impl Inner {
    async fn none(&self, of: &AtomicUsize) {
        loop {
            let notified = self.fewer.notified();
            if of.load(Ordering::SeqCst) == 0 {
                return;
            }
            notified.await;
        }
    }

    fn leave(&self, count: &AtomicUsize) {
        if count.fetch_sub(1, Ordering::SeqCst) == 1 && self.draining.load(Ordering::SeqCst) {
            self.fewer.notify_waiters();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.leave(&self.0.busy);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.leave(&self.0.peers);
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

    #[tokio::test(start_paused = true)]
    async fn an_application_ends_when_its_peers_have_parted() {
        let drain = Drain::default();
        let parted = async || {
            let began = tokio::time::Instant::now();
            drain.parted().await;
            (tokio::time::Instant::now() - began).as_millis()
        };
        assert_eq!(parted().await, 0, "nobody ever came");
        let stays = drain.peer();
        assert_eq!(parted().await, PARTING.as_millis());
        let leaves = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            drop(stays);
        };
        let ((), took) = tokio::join!(leaves, parted());
        assert!((1500..1600).contains(&took), "{took}");
        assert_eq!(parted().await, NEWS.as_millis(), "one may be about to come");
        assert!(!drain.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn peers_get_the_time_to_leave() {
        let drain = Drain::default();
        let (leaves, stays) = (drain.peer(), drain.peer());
        drain.begin();
        let began = tokio::time::Instant::now();
        drop(leaves);
        assert_eq!(drain.finish(Duration::from_mins(1)).await, 0);
        assert_eq!(tokio::time::Instant::now() - began, PARTING, "one of them stays");
        drop(stays);
        assert_eq!(drain.finish(Duration::from_mins(1)).await, 0);
        assert_eq!(tokio::time::Instant::now() - began, PARTING);
    }
}
