//! What the proxy counts, and the text that `/metrics` answers.
//!
//! Label values come from configuration only, never from a request, and the number of series has a hard limit. The
//! data path resolves a handle once per destination or connection and keeps it.

mod labels;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use byrnie_model::{Destination, ObjectName, SpiffeId};
use http::StatusCode;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use serde::Deserialize;

use labels::{
    AuthorizationLabels, ByteLabels, ConnectionLabels, DestinationLabels, FailureLabels, MirroredLabels,
    NameLabels, PeerLabels, ReloadLabels, RequestLabels, RetryLabels,
};

/// More label sets than this are counted under `other`.
pub const MAX_SERIES: usize = 2000;

const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Buckets, `+Inf`, sum and count, and one counter per status class.
const SERIES_PER_DESTINATION: usize = BUCKETS.len() + 3 + CLASSES.len();
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Which way traffic flows, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Direction {
    /// Calls to the pod.
    Inbound,
    /// Calls that the pod makes.
    Outbound,
}

/// All metrics of a process.
pub struct Metrics {
    registry: Registry,
    series: Arc<AtomicUsize>,
    destinations: Mutex<HashMap<(Direction, Arc<str>), DestinationMetrics>>,
    families: Arc<Families>,
    /// Connections cut by a panic in their task. Should be 0.
    pub panics: Counter,
    /// Access log lines that were dropped because their reader was slow.
    pub log_dropped: Counter,
    /// 1 when the proxy has a certificate and its policy.
    pub ready: Gauge,
    /// 1 while the control stream is up.
    pub control_connected: Gauge,
    /// Epoch of the trust bundle in force.
    pub trust_epoch: Gauge,
    /// Seconds until the certificate expires.
    pub leaf_expires: Gauge,
    /// Original destinations that are subscribed to.
    pub subscriptions: Gauge,
    /// Snapshots that were refused because they were not understood.
    pub nacks: Counter,
    /// 1 while the configuration file as it is now is in force.
    config_current: Gauge,
}

#[derive(Default)]
struct Families {
    requests: Family<RequestLabels, Counter>,
    durations: Durations,
    bytes: Family<ByteLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
    ejections: Family<DestinationLabels, Counter>,
    probes: Family<DestinationLabels, Counter>,
    mirrored: Family<MirroredLabels, Counter>,
    authorizations: Family<AuthorizationLabels, Counter>,
    connections: Family<ConnectionLabels, Gauge>,
    opened: Family<PeerLabels, Counter>,
    handshake_failures: Family<FailureLabels, Counter>,
    config_reloads: Family<ReloadLabels, Counter>,
    discovery_failures: Family<NameLabels, Counter>,
    discovery_stale: Family<NameLabels, Gauge>,
}

struct Durations(Family<DestinationLabels, Histogram, fn() -> Histogram>);

/// The handles of one destination (a Service's port, or a port of the pod). Cheap to clone, cheap to count with.
#[derive(Clone, Debug)]
pub struct DestinationMetrics(Arc<DestinationHandles>);

struct DestinationHandles {
    labels: DestinationLabels,
    families: Arc<Families>,
    series: Arc<AtomicUsize>,
    classes: [OnceLock<Counter>; 5],
    duration: Histogram,
    sent: OnceLock<Counter>,
    received: OnceLock<Counter>,
}

/// Counts decisions; one per worker. Remembers the counters of the policies that it has met.
#[derive(Debug)]
pub struct AuthorizationMetrics {
    families: Arc<Families>,
    series: Arc<AtomicUsize>,
    met: Vec<(Decided, Option<ObjectName>, Counter)>,
}

/// How a decision ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decided {
    /// Let in.
    Allow,
    /// Refused.
    Deny,
    /// Let in although a policy under audit would have refused.
    Audit,
}

/// Counts an open connection until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Default for Metrics {
    fn default() -> Self {
        let families = Arc::new(Families::default());
        let mut registry = Registry::with_prefix("byrnie");
        let f = &families;
        registry.register(
            "requests",
            "Requests by destination, status and the proxy's own reason",
            f.requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "Time from a request's head to its response's last byte",
            f.durations.0.clone(),
        );
        registry.register("tcp_bytes", "Bytes of connections that are not HTTP", f.bytes.clone());
        registry.register("retries", "Requests sent again", f.retries.clone());
        registry.register("ejections", "Endpoints taken out of rotation", f.ejections.clone());
        registry.register("probes", "Requests to endpoints out of rotation", f.probes.clone());
        registry.register(
            "mirrored_requests",
            "Requests to be copied, and what became of it",
            f.mirrored.clone(),
        );
        registry.register("authorization", "Decisions by verdict and policy", f.authorizations.clone());
        registry.register("connections", "Open connections", f.connections.clone());
        registry.register("connections_opened", "Connections opened, by verified peer", f.opened.clone());
        registry.register("handshake_failures", "TLS handshakes that failed", f.handshake_failures.clone());
        registry.register(
            "config_reloads",
            "Readings of the configuration file, used or refused",
            f.config_reloads.clone(),
        );
        registry.register(
            "discovery_failures",
            "Questions to DNS about a service's endpoints that had no answer",
            f.discovery_failures.clone(),
        );
        registry.register(
            "discovery_stale",
            "Whether a name's endpoints are those of an earlier answer, because there is no newer one",
            f.discovery_stale.clone(),
        );
        let mut metrics = Self {
            series: Arc::default(),
            destinations: Mutex::default(),
            panics: Counter::default(),
            log_dropped: Counter::default(),
            ready: Gauge::default(),
            control_connected: Gauge::default(),
            trust_epoch: Gauge::default(),
            leaf_expires: Gauge::default(),
            subscriptions: Gauge::default(),
            nacks: Counter::default(),
            config_current: Gauge::default(),
            families,
            registry,
        };
        let m = &mut metrics;
        m.registry.register("panics", "Connections cut by a bug", m.panics.clone());
        m.registry.register("access_log_dropped", "Access log lines dropped", m.log_dropped.clone());
        m.registry.register("ready", "Whether the proxy has a certificate and its policy", m.ready.clone());
        m.registry.register(
            "control_connected",
            "Whether the control stream is up",
            m.control_connected.clone(),
        );
        m.registry.register("trust_epoch", "Epoch of the trust bundle in force", m.trust_epoch.clone());
        m.registry.register("leaf_expires_seconds", "Time left to the certificate", m.leaf_expires.clone());
        m.registry.register("subscriptions", "Original destinations subscribed to", m.subscriptions.clone());
        m.registry.register("nacks", "Snapshots that were refused", m.nacks.clone());
        m.registry.register(
            "config_current",
            "Whether the configuration file as it is now is in force",
            m.config_current.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// The handles of a destination; past the limit, those of `other`.
    pub fn destination(&self, direction: Direction, name: &str) -> DestinationMetrics {
        let mut destinations = self.destinations.lock();
        if let Some(known) = destinations.get(&(direction, Arc::from(name))) {
            return known.clone();
        }
        let name: Arc<str> =
            if claim(&self.series, SERIES_PER_DESTINATION) { name.into() } else { "other".into() };
        destinations
            .entry((direction, name.clone()))
            .or_insert_with(|| {
                let labels = DestinationLabels { direction, destination: name };
                DestinationMetrics(Arc::new(DestinationHandles {
                    duration: self.families.durations.0.get_or_create_owned(&labels),
                    labels,
                    families: self.families.clone(),
                    series: self.series.clone(),
                    classes: Default::default(),
                    sent: OnceLock::new(),
                    received: OnceLock::new(),
                }))
            })
            .clone()
    }

    /// A counter of decisions, for one worker.
    pub fn authorization(&self) -> AuthorizationMetrics {
        AuthorizationMetrics { families: self.families.clone(), series: self.series.clone(), met: Vec::new() }
    }

    /// Counts a connection: open until the guard is dropped, and once for its peer. Once per connection.
    pub fn connection(
        &self,
        direction: Direction,
        kind: &'static str,
        peer: Option<&SpiffeId>,
    ) -> OpenConnection {
        let mut labels = PeerLabels { direction, kind, peer: peer.map_or("", SpiffeId::as_str).to_owned() };
        if self.families.opened.get(&labels).is_none() && !claim(&self.series, 1) {
            "other".clone_into(&mut labels.peer);
        }
        self.families.opened.get_or_create(&labels).inc();
        let open = self.families.connections.get_or_create_owned(&ConnectionLabels { direction, kind });
        open.inc();
        OpenConnection(open)
    }

    /// Counts a handshake that failed.
    pub fn handshake_failed(&self, direction: Direction, reason: &'static str) {
        self.families.handshake_failures.get_or_create(&FailureLabels { direction, reason }).inc();
    }

    /// Counts a reading of the configuration file.
    pub fn reloaded(&self, used: bool) {
        let result = if used { "used" } else { "refused" };
        self.families.config_reloads.get_or_create(&ReloadLabels { result }).inc();
        self.config_current.set(i64::from(used));
    }

    /// Counts a question to DNS that had no answer.
    pub fn discovery_failed(&self, name: &str) {
        self.families.discovery_failures.get_or_create(&NameLabels { name: name.to_owned() }).inc();
    }

    /// Notes whether a name's endpoints are those of an earlier answer.
    pub fn discovery_stale(&self, name: &str, stale: bool) {
        let labels = NameLabels { name: name.to_owned() };
        self.families.discovery_stale.get_or_create(&labels).set(i64::from(stale));
    }

    /// Nobody asks for a name any more.
    pub fn discovery_ended(&self, name: &str) {
        let labels = NameLabels { name: name.to_owned() };
        self.families.discovery_failures.remove(&labels);
        self.families.discovery_stale.remove(&labels);
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: a `String` takes all that is written to it.
    pub fn encode(&self, into: &mut String) -> fmt::Result {
        text::encode(into, &self.registry)
    }
}

impl DestinationMetrics {
    /// A request that was answered, by the destination or on the way.
    pub fn answered(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.0.classes[class].get_or_init(|| self.0.requests(CLASSES[class], "")).inc();
        self.0.duration.observe(took.as_secs_f64());
    }

    /// A request that the proxy itself answered, and why.
    pub fn refused(&self, status: StatusCode, reason: &'static str) {
        let class = CLASSES[usize::from(status.as_u16() / 100).clamp(1, 5) - 1];
        self.0.requests(class, reason).inc();
    }

    /// A request that was sent again, and why.
    pub fn retried(&self, reason: &'static str) {
        let labels = RetryLabels { destination: self.0.labels.destination.clone(), reason };
        self.0.families.retries.get_or_create(&labels).inc();
    }

    /// An endpoint was taken out of rotation.
    pub fn ejected(&self) {
        self.0.families.ejections.get_or_create(&self.0.labels).inc();
    }

    /// A request was sent to learn whether an endpoint is back.
    pub fn probed(&self) {
        self.0.families.probes.get_or_create(&self.0.labels).inc();
    }

    /// A request was to be copied to the destination, and what became of that.
    pub fn mirrored(&self, result: &'static str) {
        let labels = MirroredLabels { destination: self.0.labels.destination.clone(), result };
        self.0.families.mirrored.get_or_create(&labels).inc();
    }

    /// Opaque bytes towards the destination.
    pub fn sent(&self, bytes: u64) {
        self.0.sent.get_or_init(|| self.0.bytes("sent")).inc_by(bytes);
    }

    /// Opaque bytes from the destination.
    pub fn received(&self, bytes: u64) {
        self.0.received.get_or_init(|| self.0.bytes("received")).inc_by(bytes);
    }

    /// The value of the `destination` label.
    pub fn name(&self) -> &Arc<str> {
        &self.0.labels.destination
    }
}

impl DestinationHandles {
    fn requests(&self, status_class: &'static str, reason: &'static str) -> Counter {
        let DestinationLabels { direction, destination } = self.labels.clone();
        let mut labels = RequestLabels { direction, destination, status_class, reason };
        let requests = &self.families.requests;
        if !reason.is_empty() && requests.get(&labels).is_none() && !claim(&self.series, 1) {
            labels.destination = "other".into();
        }
        requests.get_or_create_owned(&labels)
    }

    fn bytes(&self, flow: &'static str) -> Counter {
        let DestinationLabels { direction, destination } = self.labels.clone();
        self.families.bytes.get_or_create_owned(&ByteLabels { direction, destination, flow })
    }
}

impl AuthorizationMetrics {
    /// Counts a decision and the policy that made it, if one did.
    pub fn count(&mut self, verdict: Decided, policy: Option<&ObjectName>) {
        let known = self.met.iter().find(|(v, p, _)| *v == verdict && p.as_ref() == policy);
        if let Some((.., counter)) = known {
            counter.inc();
            return;
        }
        let mut labels =
            AuthorizationLabels { verdict, policy: policy.map(ToString::to_string).unwrap_or_default() };
        if self.families.authorizations.get(&labels).is_none() && !claim(&self.series, 1) {
            "other".clone_into(&mut labels.policy);
        }
        let counter = self.families.authorizations.get_or_create_owned(&labels);
        counter.inc();
        self.met.push((verdict, policy.cloned(), counter));
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The `destination` label of an original destination.
pub fn label(destination: &Destination) -> String {
    match destination {
        Destination::Service(service) => service.name.to_string(),
        Destination::Pod { .. } => "pod".to_owned(),
        Destination::Passthrough => "passthrough".to_owned(),
    }
}

fn claim(series: &AtomicUsize, wanted: usize) -> bool {
    let take = |have: usize| (have + wanted <= MAX_SERIES).then_some(have + wanted);
    series.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
}

impl Default for Durations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(BUCKETS)))
    }
}

impl Direction {
    /// As metrics and logs spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("series", &self.series).finish_non_exhaustive()
    }
}

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Families")
    }
}

impl fmt::Debug for DestinationHandles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.labels.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        let mut text = String::new();
        metrics.encode(&mut text).unwrap();
        text
    }

    #[test]
    fn a_request_is_counted_where_it_went() {
        let metrics = Metrics::default();
        let payments = metrics.destination(Direction::Outbound, "shop/payments:80");
        payments.answered(StatusCode::OK, Duration::from_millis(3));
        payments.refused(StatusCode::SERVICE_UNAVAILABLE, "no-endpoints");
        let text = text(&metrics);
        for line in [
            r#"byrnie_requests_total{direction="outbound",destination="shop/payments:80",status_class="2xx",reason=""} 1"#,
            r#"byrnie_requests_total{direction="outbound",destination="shop/payments:80",status_class="5xx",reason="no-endpoints"} 1"#,
            r#"byrnie_request_duration_seconds_bucket{le="0.005",direction="outbound",destination="shop/payments:80"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let metrics = Metrics::default();
        for n in 0..100_000 {
            metrics
                .destination(Direction::Outbound, &format!("ns/s{n}:80"))
                .answered(StatusCode::OK, Duration::ZERO);
        }
        let mut decisions = metrics.authorization();
        for n in 0..10_000 {
            decisions.count(Decided::Deny, Some(&ObjectName::new("ns", format!("p{n}"))));
        }
        let lines = text(&metrics).lines().count();
        assert!(lines < MAX_SERIES + 200, "{lines}");
    }

    #[test]
    fn connections_are_open_until_dropped() {
        let metrics = Metrics::default();
        let peer = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let open = metrics.connection(Direction::Inbound, "mtls-http1", Some(&peer));
        assert!(text(&metrics).contains(r#"byrnie_connections{direction="inbound",kind="mtls-http1"} 1"#));
        drop(open);
        assert!(text(&metrics).contains(r#"byrnie_connections{direction="inbound",kind="mtls-http1"} 0"#));
        assert!(text(&metrics).contains(r#"peer="spiffe://cluster.local/ns/shop/sa/web"} 1"#));
    }
}
