//! What discovery counts. Owns names and labels of its series; none grows with the cluster.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Handles of the series; cloning shares.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Proxies connected.
    pub streams: Gauge,
    /// Snapshots that somebody follows.
    pub snapshots: Gauge,
    /// Messages sent to proxies.
    pub pushes: Family<Labels, Counter>,
    /// Messages that a proxy refused.
    pub refusals: Family<Labels, Counter>,
    /// Proxies that were hung up on because they did not listen.
    pub hung_up: Counter,
    /// Snapshots made anew because something they depend on changed.
    pub recomputed: Counter,
    /// From the API server's event to the message on its way to the proxy.
    pub latency: Histogram,
}

/// Labels of [`Metrics::pushes`].
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Labels {
    /// What was sent.
    pub resource: Sort,
}

/// A sort of message.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub enum Sort {
    /// Roots and signer.
    Trust,
    /// A proxy's own pod.
    Workload,
    /// Where calls go.
    Destination,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            streams: Gauge::default(),
            snapshots: Gauge::default(),
            pushes: Family::default(),
            refusals: Family::default(),
            hung_up: Counter::default(),
            recomputed: Counter::default(),
            latency: Histogram::new([
                0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
            ]),
        }
    }
}

impl Metrics {
    /// Puts every series into the registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("byrnie_operator_discovery");
        registry.register("streams", "Proxies connected to this replica", self.streams.clone());
        registry.register("snapshots", "Snapshots that proxies follow", self.snapshots.clone());
        registry.register("pushes", "Messages sent to proxies", self.pushes.clone());
        registry.register("refusals", "Messages that a proxy refused", self.refusals.clone());
        registry.register("hung_up", "Proxies hung up on because they did not listen", self.hung_up.clone());
        registry.register("recomputed", "Snapshots made anew after a change", self.recomputed.clone());
        registry.register_with_unit(
            "push_latency",
            "From an event of the API server to the message for a proxy",
            Unit::Seconds,
            self.latency.clone(),
        );
    }
}
