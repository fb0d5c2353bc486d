//! What the operator counts. Owns names and labels of the series; every series has a bounded number of label values.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

/// Handles of the series; cloning shares.
#[derive(Clone, Default, Debug)]
pub struct Metrics {
    /// Asked for a certificate, by outcome.
    pub issuance: Family<IssuanceLabels, Counter>,
    /// 1 while this replica is the leader.
    pub leader: Gauge,
    /// End of the authority that signs, in seconds since 1970.
    pub authority_expiry: Gauge<f64, AtomicU64>,
    /// Epoch of the trust that this replica serves.
    pub trust_epoch: Gauge<u64, AtomicU64>,
    /// Failed attempts to bring something in line, by what.
    pub reconcile_errors: Family<ReconcileLabels, Counter>,
    /// Writes to the API server, by what.
    pub writes: Family<ReconcileLabels, Counter>,
}

/// Labels of [`Metrics::issuance`].
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct IssuanceLabels {
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request for a certificate.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub enum Outcome {
    /// A certificate.
    Issued,
    /// Too many requests.
    Limited,
    /// The request itself was bad.
    BadRequest,
    /// The token did not prove who asks.
    Unauthenticated,
    /// The pod is not one that gets a certificate, or not the one that asks.
    Denied,
    /// The operator or the API server could not answer now.
    Unavailable,
}

/// Labels of what is done to objects.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReconcileLabels {
    /// Which kind of object.
    pub kind: &'static str,
}

impl Metrics {
    /// Puts every series into the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("byrnie_operator");
        registry.register(
            "build",
            "Version of the operator",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "certificate_requests",
            "Requests for a certificate by outcome",
            metrics.issuance.clone(),
        );
        registry.register("leader", "1 while this replica writes statuses and trust", metrics.leader.clone());
        registry.register_with_unit(
            "authority_expiry_timestamp",
            "End of the authority that signs, since 1970",
            Unit::Seconds,
            metrics.authority_expiry.clone(),
        );
        registry.register("trust_epoch", "Epoch of the trust served", metrics.trust_epoch.clone());
        registry.register(
            "reconcile_errors",
            "Failed attempts to bring an object in line",
            metrics.reconcile_errors.clone(),
        );
        registry.register("writes", "Objects written to the API server", metrics.writes.clone());
        metrics
    }

    /// Counts one request for a certificate.
    pub fn issued(&self, outcome: Outcome) {
        self.issuance.get_or_create(&IssuanceLabels { outcome }).inc();
    }

    /// Counts one write.
    pub fn wrote(&self, kind: &'static str) {
        self.writes.get_or_create(&ReconcileLabels { kind }).inc();
    }

    /// Counts one failure.
    pub fn failed(&self, kind: &'static str) {
        self.reconcile_errors.get_or_create(&ReconcileLabels { kind }).inc();
    }
}
