//! Tells each proxy what it must know, as soon as it is so, and learns what each has in force.
//!
//! The way of a change: `feed` (watched objects -> facts) -> `board` (one snapshot for each topic that somebody
//! follows, made anew when what it depends on changed) -> `subscriber` (the latest of each topic, for one proxy) ->
//! `service` (the stream). Nothing waits for a timer on this way, and nothing queues.

pub mod board;
pub mod content;
pub mod feed;
pub mod holdings;
pub mod metrics;
pub mod replicas;
mod service;
pub mod subscriber;
#[cfg(test)]
mod tests;
pub mod vanished;

use std::sync::{Arc, atomic::AtomicU64};

use byrnie_api::v1::{self, discovery_server::DiscoveryServer};
use byrnie_model::{SpiffeId, TrustDomain};
use prometheus_client::registry::Registry;
use tokio::{sync::watch, time::Instant};

use self::{board::Board, holdings::Holdings, metrics::Metrics, service::Core};
use crate::{index::World, store::Stores, tasks::Tasks};

/// Of what proxies say, in bytes; each thing is a line or two.
const LONGEST_MESSAGE: usize = 64 * 1024;

/// The discovery service; cloning shares.
#[derive(Clone)]
pub struct Discovery {
    core: Arc<Core>,
}

impl Discovery {
    /// Follows `stores` and `trust` until the process ends. Only `operator_id` may ask what proxies hold.
    pub fn new(
        stores: Stores,
        trust_domain: TrustDomain,
        operator_id: SpiffeId,
        trust: watch::Receiver<Option<Arc<v1::Trust>>>,
        tasks: &Tasks,
    ) -> Self {
        let (ready, is_ready) = watch::channel(false);
        let discovery = Self::idle(trust_domain.clone(), operator_id, is_ready);
        let board = discovery.core.board.clone();
        let feed = feed::feed(stores, board, trust_domain, ready);
        let stopping = tasks.stopping();
        tasks.spawn("feed", async move {
            let _ = stopping.run_until_cancelled(feed).await;
        });
        let (core, stopping) = (discovery.core.clone(), tasks.stopping());
        tasks.spawn("trust-to-proxies", async move {
            let _ = stopping.run_until_cancelled(pin_trust(&core.board, trust)).await;
            core.holdings.end();
        });
        discovery
    }

    fn idle(trust_domain: TrustDomain, operator_id: SpiffeId, ready: watch::Receiver<bool>) -> Self {
        let metrics = Metrics::default();
        let board = Arc::new(Board::new(trust_domain, metrics.clone()));
        let streams = AtomicU64::new(0);
        let holdings = Holdings::default();
        Self { core: Arc::new(Core { board, holdings, metrics, operator_id, ready, streams }) }
    }

    /// As a gRPC service.
    pub fn server(self) -> DiscoveryServer<Self> {
        DiscoveryServer::new(self).max_decoding_message_size(LONGEST_MESSAGE)
    }

    /// What proxies have in force.
    pub fn holdings(&self) -> Holdings {
        self.core.holdings.clone()
    }

    /// Puts discovery's series into the registry.
    pub fn register(&self, registry: &mut Registry) {
        self.core.metrics.register(registry);
    }

    /// Waits until the world is complete for the first time.
    pub async fn ready(&self) {
        // The sender lives as long as the feed; without it the process is about to end.
        let _ = self.core.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Whether the world is complete.
    pub fn is_ready(&self) -> bool {
        *self.core.ready.borrow()
    }

    /// Looks at the facts that snapshots are made from, in one consistent moment. Nothing goes on meanwhile: be quick.
    pub fn world<R>(&self, look: impl FnOnce(&World) -> R) -> R {
        self.core.board.world(look)
    }
}

/// Ends only with the sender: the process is about to end then.
async fn pin_trust(board: &Board, mut trust: watch::Receiver<Option<Arc<v1::Trust>>>) {
    loop {
        let current = trust.borrow_and_update().clone();
        board.pin_trust(current.as_deref().map(content::trust), Instant::now());
        if trust.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
