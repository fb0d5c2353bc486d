//! The process's long-running tasks: one that panics, or ends before shutdown, ends the process.
//!
//! A control plane with a dead part looks healthy and decides on old facts; a restarted one is right in a second.

use std::{future::Future, sync::Arc};

use futures::FutureExt;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

/// Spawns tasks and knows when the process ends. Cloning shares.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    failed: Arc<Notify>,
}

impl Tasks {
    /// Runs `future` until it ends, which it may do only once [`Self::stopping`] is cancelled.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let (stopping, failed) = (self.stopping.clone(), self.failed.clone());
        self.tracker.spawn(async move {
            let panicked = std::panic::AssertUnwindSafe(future).catch_unwind().await.is_err();
            if panicked || !stopping.is_cancelled() {
                error!(task = name, panicked, "a task of the operator ended; the process ends too");
                failed.notify_one();
            }
        });
    }

    /// Cancelled once, when the process is to end.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Completes when a task has failed.
    pub async fn failed(&self) {
        self.failed.notified().await;
    }

    /// Tells every task to end and waits for them.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_fails_the_process() {
        let tasks = Tasks::default();
        tasks.spawn("short", async {});
        tasks.failed().await;
    }

    #[tokio::test]
    async fn a_panic_fails_the_process_even_while_stopping() {
        let tasks = Tasks::default();
        let stopping = tasks.stopping();
        tasks.spawn("broken", async move {
            stopping.cancelled().await;
            panic!("expected by this test");
        });
        tasks.stop().await;
        tasks.failed().await;
    }

    #[tokio::test]
    async fn stopping_is_no_failure() {
        let tasks = Tasks::default();
        let stopping = tasks.stopping();
        tasks.spawn("patient", async move { stopping.cancelled().await });
        tasks.stop().await;
        assert!(tasks.failed().now_or_never().is_none());
    }
}
