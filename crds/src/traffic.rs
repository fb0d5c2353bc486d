//! MeshPolicy's `traffic`: how calls to the targets are made, by the callers' proxies.
//!
//! Only its shape; what it means is in [`crate::compile`]. The doc comments are what `kubectl explain` shows.

#![expect(unreachable_pub, reason = "derive(KubeSchema) copies each struct into a function")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration, schema};

/// How calls are made.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.timeouts) || has(self.retry) || has(self.retryBudget) || has(self.circuitBreaker) || has(self.loadBalancing) || has(self.limits) || has(self.failover) || has(self.overrides) || has(self.mirrors) || has(self.faults) || has(self.protocols)")
    .message("at least one of timeouts, retry, retryBudget, circuitBreaker, loadBalancing, limits, failover, overrides, mirrors, faults and protocols is needed"))]
pub struct TrafficSpec {
    /// Time limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutsSpec>,
    /// What is sent again after an application may have seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// How much is sent again at most, by each caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudgetSpec>,
    /// When an endpoint gets no requests for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerSpec>,
    /// Which endpoint is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancingSpec>,
    /// What the targets take of all their callers together. Their own proxies see to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// Where calls go while no endpoint of the target takes any: other Services of its namespace, in order. They need the
    /// called port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub failover: Vec<OtherService>,
    /// Other Services of the namespace that a request may ask for, by `baggage: byrnie-route=NAMESPACE/SERVICE:OTHER`. They
    /// need the called port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub overrides: Vec<OtherService>,
    /// Other Services of the namespace that get copies of requests. What they answer is thrown away, and callers notice
    /// nothing of them. They need the called port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub mirrors: Vec<MirrorSpec>,
    /// What is done to requests on purpose, to see what becomes of their callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<FaultsSpec>,
    /// What is spoken on ports that do not say so themselves (appProtocol, port name).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub protocols: Vec<PortProtocol>,
}

/// Time limits, as in `10s` or `1h30m`; `0s` is no limit.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct TimeoutsSpec {
    /// From the request's last header to the response's last byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = duration::PATTERN))]
    pub request: Option<String>,
    /// From sending a request to one endpoint to the first byte of its response. What is late is sent to another one
    /// where its method, the retries and their budget allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = duration::PATTERN))]
    pub backend_request: Option<String>,
    /// Without a byte in either direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = duration::PATTERN))]
    pub idle: Option<String>,
}

/// What is sent again. What no application has seen is sent again whatever this says.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct RetrySpec {
    /// How often beyond the first time: 2 if absent; 0 is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub attempts: Option<u32>,
    /// Statuses of HTTP after which it is done, as in `[502, 503]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 500, max = 599)))]
    pub codes: Vec<u16>,
    /// Codes of gRPC after which it is done, as in `[Unavailable]`. Every method of gRPC is meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::grpc_codes")]
    pub grpc_codes: Vec<String>,
    /// Methods of HTTP that may be sent again: GET, HEAD, OPTIONS, PUT and DELETE if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 32)))]
    pub methods: Option<Vec<String>>,
    /// Pause before the first; doubles each time; give or take half. `25ms` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = duration::PATTERN))]
    pub backoff: Option<String>,
}

/// How much is sent again at most.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct RetryBudgetSpec {
    /// Percent of the requests: 20 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u32>,
    /// At least so many per second: 10 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub min_per_second: Option<u32>,
}

/// When an endpoint gets no requests for a while.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct CircuitBreakerSpec {
    /// So many failures in a row: 5 if absent; 0: a row of failures ejects nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub consecutive_failures: Option<u32>,
    /// Too few successes within ten seconds: below 80 % of at least 20 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRateSpec>,
    /// Percent of a Service's endpoints that may be out at a time: 50 if absent. The last one never is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: Option<u32>,
    /// How long the first time; doubles with each probe that fails. `1s` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = duration::PATTERN))]
    pub base_ejection: Option<String>,
    /// How long at most. `60s` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = duration::PATTERN))]
    pub max_ejection: Option<String>,
}

/// Which share of successes is too low.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct SuccessRateSpec {
    /// Below so many percent; 0: the share ejects nobody.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// Of at least so many requests within ten seconds: 20 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: Option<u32>,
}

/// Which endpoint is next.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(self.algorithm == 'ConsistentHash') == has(self.hash)")
    .message("ConsistentHash has a hash, the others have none"))]
pub struct LoadBalancingSpec {
    /// PeakEwma (the better of two by latency and requests in flight; the default), LeastRequest, RoundRobin or
    /// ConsistentHash.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Prefer: endpoints of the caller's zone first, as long as enough of them are well and none is much slower than
    /// elsewhere. Ignore: all alike. As the Service's trafficDistribution says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::zone")]
    pub zone: Option<Zone>,
    /// What of a request is hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashSpec>,
}

/// Whether the caller's zone comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Zone {
    Prefer,
    Ignore,
}

/// How the next endpoint is found.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
pub enum Algorithm {
    #[default]
    PeakEwma,
    LeastRequest,
    RoundRobin,
    ConsistentHash,
}

/// Exactly one of its fields. A request without it is balanced by PeakEwma.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.header), has(self.cookie), has(self.source)].exists_one(it, it)")
    .message("a hash is exactly one of header, cookie and source"))]
pub struct HashSpec {
    /// A header's first value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub header: Option<String>,
    /// A cookie's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub cookie: Option<String>,
    /// The caller's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::only_true")]
    pub source: Option<bool>,
}

/// Who takes calls instead, or may.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct OtherService {
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub service: String,
}

/// Who gets copies.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct MirrorSpec {
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub service: String,
    /// Percent of the requests, by chance: 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: Option<u32>,
}

/// What is done to requests on purpose. Each is decided by chance for each request.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.delay) || has(self.abort)")
    .message("at least one of delay and abort is needed"))]
pub struct FaultsSpec {
    /// Sent later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<DelaySpec>,
    /// Answered instead of being sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortSpec>,
}

/// Requests that are sent later.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct DelaySpec {
    /// Percent of the requests.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// By how much.
    #[schemars(length(max = 24), regex(pattern = duration::PATTERN))]
    pub time: String,
}

/// Requests that are answered instead of being sent.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct AbortSpec {
    /// Percent of the requests.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// With which status of HTTP. Callers of gRPC get the code that belongs to it.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
}

/// What one pod takes, on each of its ports.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct LimitsSpec {
    /// Adaptive: as many requests at a time as are answered about as fast as when there is little to do; what is more
    /// is refused with 503 at once, or sent to another pod.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// Requests per second; what is more is refused with 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_second: Option<u32>,
    /// How many may come at once after a pause: requestsPerSecond if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
}

/// How many requests at a time.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
pub enum Concurrency {
    Adaptive,
    #[default]
    Off,
}

/// What is spoken on one port.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct PortProtocol {
    /// Container port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What is spoken there.
    pub protocol: AppProtocol,
}

/// What an application speaks.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
pub enum AppProtocol {
    #[serde(rename = "HTTP1")]
    Http1,
    #[serde(rename = "HTTP2")]
    Http2,
    #[serde(rename = "GRPC")]
    Grpc,
    #[serde(rename = "TLS")]
    Tls,
    Opaque,
}
