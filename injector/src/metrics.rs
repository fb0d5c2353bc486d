//! Counters of the webhooks, in Prometheus' text format.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The injector's metrics.
pub struct Metrics {
    registry: Registry,
    pods: Family<Outcome, Counter>,
    validations: Family<Outcome, Counter>,
    conversions: Family<Outcome, Counter>,
    certificate_expiry: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("byrnie_injector");
        let (pods, validations, conversions) = (Family::default(), Family::default(), Family::default());
        let certificate_expiry = Gauge::default();
        registry.register("pods", "Pods seen by the injecting webhook, by outcome", pods.clone());
        registry.register(
            "validations",
            "Objects seen by the validating webhook, by outcome",
            validations.clone(),
        );
        registry.register(
            "conversions",
            "TrafficSplits converted between versions, by outcome",
            conversions.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the serving certificate expires, in Unix seconds",
            certificate_expiry.clone(),
        );
        Self { registry, pods, validations, conversions, certificate_expiry }
    }
}

impl Metrics {
    /// Counts a pod.
    pub fn pod(&self, outcome: &'static str) {
        self.pods.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts a validated object.
    pub fn validation(&self, outcome: &'static str) {
        self.validations.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts a conversion.
    pub fn conversion(&self, outcome: &'static str) {
        self.conversions.get_or_create(&Outcome { outcome }).inc();
    }

    /// Notes when the serving certificate expires.
    pub fn certificate_expires(&self, unix_seconds: i64) {
        self.certificate_expiry.set(unix_seconds);
    }

    /// All of it as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# cannot encode the metrics: {error}\n"),
        }
    }
}
