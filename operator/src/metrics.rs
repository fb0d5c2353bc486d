//! What the operator counts. Owns names and labels of the series; every series has a bounded number of label values.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::trust::AuthorityId;

/// Handles of the series; cloning shares.
#[derive(Clone, Default, Debug)]
pub struct Metrics {
    /// Asked for a certificate, by outcome.
    pub issuance: Family<IssuanceLabels, Counter>,
    /// Latest end of the certificates that this replica has issued and that are still valid, by who signed them: after
    /// it nobody shows one.
    pub last_expiry: Family<SignerLabels, Gauge<f64, AtomicU64>>,
    signers: Arc<Mutex<BTreeMap<AuthorityId, SystemTime>>>,
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
    /// Pods of meshed namespaces that run without a proxy; the leader counts.
    pub uninjected: Family<NamespaceLabels, Gauge>,
}

/// Labels of [`Metrics::issuance`].
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct IssuanceLabels {
    /// What came of it.
    pub outcome: Outcome,
}

/// Labels of [`Metrics::last_expiry`].
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct SignerLabels {
    /// The authority that signed.
    pub signer: String,
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

/// Labels of [`Metrics::uninjected`].
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct NamespaceLabels {
    /// A meshed namespace.
    pub namespace: String,
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
        registry.register_with_unit(
            "certificate_last_expiry_timestamp",
            "Latest end of the valid certificates issued by this replica, by signer, since 1970",
            Unit::Seconds,
            metrics.last_expiry.clone(),
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
        registry.register(
            "uninjected_pods",
            "Pods of meshed namespaces that run without a proxy; told by the leader",
            metrics.uninjected.clone(),
        );
        metrics
    }

    /// Counts one request for a certificate.
    pub fn issued(&self, outcome: Outcome) {
        self.issuance.get_or_create(&IssuanceLabels { outcome }).inc();
    }

    /// Notes that an authority has signed a certificate with this end. Whoever has no valid ones any more is forgotten.
    pub fn signed(&self, by: AuthorityId, not_after: SystemTime) {
        let labels = |id: &AuthorityId| SignerLabels { signer: id.short() };
        let mut signers = self.signers.lock();
        let now = SystemTime::now();
        signers.retain(|id, last| {
            let valid = *last > now || *id == by;
            if !valid {
                self.last_expiry.remove(&labels(id));
            }
            valid
        });
        let last = signers.entry(by).or_insert(not_after);
        *last = not_after.max(*last);
        let since_1970 = last.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_expiry.get_or_create(&labels(&by)).set(since_1970.as_secs_f64());
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn the_last_certificate_of_each_signer_is_told_for_as_long_as_it_is_valid() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (old, new) = (AuthorityId::of_spki(b"old"), AuthorityId::of_spki(b"new"));
        let end = SystemTime::now() + Duration::from_hours(1);
        let at = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let told =
            |id: &AuthorityId| metrics.last_expiry.get(&SignerLabels { signer: id.short() }).map(|g| g.get());
        metrics.signed(old, end);
        metrics.signed(old, end - Duration::from_mins(1));
        metrics.signed(new, end);
        assert_eq!((told(&old), told(&new)), (Some(at(end)), Some(at(end))));
        metrics.signers.lock().insert(old, SystemTime::now() - Duration::from_secs(1));
        metrics.signed(new, end + Duration::from_secs(1));
        assert_eq!((told(&old), told(&new)), (None, Some(at(end + Duration::from_secs(1)))));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("byrnie_operator_certificate_last_expiry_timestamp_seconds{signer="), "{text}");
    }
}
