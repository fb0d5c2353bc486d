//! The file's `traffic` section: what a MeshPolicy says under the same name, with the same words.

use byrnie_model::{self as model, Traffic};
use http::{HeaderName, Method};
#[cfg(test)]
use schemars::JsonSchema;
use serde::Deserialize;

use super::compile::{Result, duration, wrong};
#[cfg(test)]
use super::schema;

/// How calls to a service are made.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    /// What is sent again after an application may have seen it.
    retry: Option<Retry>,
    /// How much is sent again at most.
    retry_budget: Option<RetryBudget>,
    /// When an endpoint gets no requests for a while.
    circuit_breaker: Option<CircuitBreaker>,
    /// Which endpoint is next.
    load_balancing: Option<LoadBalancing>,
}

/// What is sent again.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Retry {
    /// How often beyond the first time: 0 to 10. Default: 2.
    #[cfg_attr(test, schemars(range(min = 0, max = 10)))]
    attempts: Option<u32>,
    /// Statuses after which it is done, 500 to 599. Default: none.
    #[serde(default)]
    codes: Vec<u16>,
    /// Codes of gRPC after which it is done, as in Unavailable. Default: none.
    #[serde(default)]
    grpc_codes: Vec<String>,
    /// Methods that may be sent again. Default: GET, HEAD, OPTIONS, PUT, DELETE.
    methods: Option<Vec<String>>,
    /// Pause before the first; doubles each time. Default: 25ms.
    #[cfg_attr(test, schemars(schema_with = "schema::duration"))]
    #[serde(default)]
    backoff: Option<String>,
}

/// How much is sent again at most.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetryBudget {
    /// Percent of the requests, 0 to 100. Default: 20.
    percent: Option<u32>,
    /// At least so many per second, up to 1000000. Default: 10.
    min_per_second: Option<u32>,
}

/// When an endpoint gets no requests for a while.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CircuitBreaker {
    /// So many failures in a row, up to 1000; 0: a row ejects nobody. Default: 5.
    consecutive_failures: Option<u32>,
    /// Too few successes within ten seconds. Default: below 80 % of at least 20.
    success_rate: Option<SuccessRate>,
    /// Percent of the endpoints that may be out at a time. Default: 50.
    max_ejection_percent: Option<u32>,
    /// How long the first time; doubles with each probe that fails. Default: 1s.
    #[cfg_attr(test, schemars(schema_with = "schema::duration"))]
    #[serde(default)]
    base_ejection: Option<String>,
    /// How long at most. Default: 1m.
    #[cfg_attr(test, schemars(schema_with = "schema::duration"))]
    #[serde(default)]
    max_ejection: Option<String>,
}

/// Which share of successes is too low.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SuccessRate {
    /// Below so many percent; 0: the share ejects nobody.
    percent: u32,
    /// Of at least so many requests, up to 1000000. Default: 20.
    min_requests: Option<u32>,
}

/// Which endpoint is next.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
struct LoadBalancing {
    /// Default: PeakEwma.
    #[serde(default)]
    algorithm: Algorithm,
    /// Prefer: endpoints of the pod's own zone first, as long as enough of them are well and none is much slower than elsewhere. Default: Ignore.
    #[serde(default)]
    zone: Zone,
    /// With ConsistentHash: of what.
    hash: Option<Hash>,
}

/// Prefer or Ignore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
enum Zone {
    Prefer,
    #[default]
    Ignore,
}

/// PeakEwma, LeastRequest, RoundRobin or ConsistentHash.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
enum Algorithm {
    #[default]
    PeakEwma,
    LeastRequest,
    RoundRobin,
    ConsistentHash,
}

/// Exactly one of its fields.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
struct Hash {
    /// A header's first value.
    header: Option<String>,
    /// A cookie's value.
    cookie: Option<String>,
    /// The caller's address. Default: false.
    #[serde(default)]
    source: bool,
}

/// What the application takes of all its callers together.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Limits {
    /// Adaptive: as many requests at a time as are answered about as fast as when there is little to do. Default: Off.
    concurrency: Option<Concurrency>,
    /// What is more is answered 429. Default: no limit.
    requests_per_second: Option<u32>,
    /// How many may come at once after a pause. Default: requestsPerSecond.
    burst: Option<u32>,
}

/// Adaptive or Off.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
enum Concurrency {
    Adaptive,
    Off,
}

/// What is done to requests on purpose.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Faults {
    /// Sent later.
    delay: Option<Delay>,
    /// Answered instead of being sent.
    abort: Option<Abort>,
}

/// Requests that are sent later.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
struct Delay {
    /// Percent of the requests, 0 to 100.
    percent: u32,
    /// By how much.
    #[cfg_attr(test, schemars(schema_with = "schema::duration"))]
    time: String,
}

/// Requests that are answered instead of being sent.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
struct Abort {
    /// Percent of the requests, 0 to 100.
    percent: u32,
    /// With which status, 200 to 599.
    status: u16,
}

pub(super) fn faults(spec: &Faults, at: &str) -> Result<model::Faults> {
    let delay = match &spec.delay {
        Some(delay) => {
            let at = format!("{at}.delay");
            let time = time(Some(&delay.time), &format!("{at}.time"))?.unwrap_or_default();
            Some((up_to(Some(delay.percent), 100, 0, &format!("{at}.percent"))?, time))
        }
        None => None,
    };
    let abort = match &spec.abort {
        Some(Abort { status, .. }) if !(200..600).contains(status) => {
            return wrong(&format!("{at}.abort.status"), format!("{status} is not one of 200 to 599"));
        }
        Some(abort) => {
            Some((up_to(Some(abort.percent), 100, 0, &format!("{at}.abort.percent"))?, abort.status))
        }
        None => None,
    };
    Ok(model::Faults { delay, abort })
}

pub(super) fn limits(spec: &Limits, at: &str) -> Result<model::Limits> {
    let rate = spec.requests_per_second;
    if rate == Some(0) || spec.burst == Some(0) || (rate.is_none() && spec.burst.is_some()) {
        return wrong(
            at,
            "requestsPerSecond and burst are at least 1, and there is no burst without the rate",
        );
    }
    Ok(model::Limits {
        adaptive: spec.concurrency == Some(Concurrency::Adaptive),
        requests_per_second: rate,
        burst: spec.burst.or(rate).unwrap_or_default(),
    })
}

/// What is not said is as it is without the section.
pub(super) fn compile(spec: &Spec, at: &str) -> Result<Traffic> {
    let mut traffic = Traffic::default();
    if let Some(spec) = &spec.retry {
        retry(spec, &format!("{at}.retry"), &mut traffic.retry)?;
    }
    if let Some(spec) = &spec.retry_budget {
        let budget = &mut traffic.retry_budget;
        budget.percent = up_to(spec.percent, 100, budget.percent, &format!("{at}.retryBudget.percent"))?;
        let at = format!("{at}.retryBudget.minPerSecond");
        budget.min_per_second = up_to(spec.min_per_second, 1_000_000, budget.min_per_second, &at)?;
    }
    if let Some(spec) = &spec.circuit_breaker {
        circuit_breaker(spec, &format!("{at}.circuitBreaker"), &mut traffic.circuit_breaker)?;
    }
    if let Some(spec) = &spec.load_balancing {
        traffic.load_balancing = load_balancing(spec, &format!("{at}.loadBalancing"))?;
        traffic.prefer_zone = spec.zone == Zone::Prefer;
    }
    Ok(traffic)
}

fn retry(spec: &Retry, at: &str, retry: &mut model::Retry) -> Result<()> {
    retry.attempts = up_to(spec.attempts, 10, retry.attempts, &format!("{at}.attempts"))?;
    if let Some(bad) = spec.codes.iter().find(|code| !(500..600).contains(*code)) {
        return wrong(&format!("{at}.codes"), format!("{bad} is not one of 500 to 599"));
    }
    retry.statuses.clone_from(&spec.codes);
    for name in &spec.grpc_codes {
        let Some(code) = model::traffic::grpc_code(name) else {
            let problem = format!("'{name}' is no code of gRPC: write Unavailable, DeadlineExceeded ...");
            return wrong(&format!("{at}.grpcCodes"), problem);
        };
        retry.grpc_codes.push(code);
    }
    if let Some(methods) = &spec.methods {
        let method = |text: &String| Method::from_bytes(text.as_bytes()).ok();
        match methods.iter().map(method).collect() {
            Some(methods) => retry.methods = methods,
            None => return wrong(&format!("{at}.methods"), "one of them is no method"),
        }
    }
    if let Some(backoff) = time(spec.backoff.as_deref(), &format!("{at}.backoff"))? {
        retry.backoff = backoff;
    }
    Ok(())
}

fn circuit_breaker(spec: &CircuitBreaker, at: &str, breaker: &mut model::CircuitBreaker) -> Result<()> {
    let row = spec.consecutive_failures;
    breaker.consecutive_failures =
        up_to(row, 1000, breaker.consecutive_failures, &format!("{at}.consecutiveFailures"))?;
    if let Some(rate) = &spec.success_rate {
        let at = format!("{at}.successRate");
        breaker.success_percent = up_to(Some(rate.percent), 100, 0, &format!("{at}.percent"))?;
        let least = breaker.min_requests;
        breaker.min_requests = up_to(rate.min_requests, 1_000_000, least, &format!("{at}.minRequests"))?;
    }
    let most = breaker.max_ejection_percent;
    breaker.max_ejection_percent =
        up_to(spec.max_ejection_percent, 100, most, &format!("{at}.maxEjectionPercent"))?;
    if let Some(time) = time(spec.base_ejection.as_deref(), &format!("{at}.baseEjection"))? {
        breaker.base_ejection = time;
    }
    if let Some(time) = time(spec.max_ejection.as_deref(), &format!("{at}.maxEjection"))? {
        breaker.max_ejection = time;
    }
    Ok(())
}

fn load_balancing(spec: &LoadBalancing, at: &str) -> Result<model::LoadBalancing> {
    Ok(match (spec.algorithm, &spec.hash) {
        (Algorithm::PeakEwma, None) => model::LoadBalancing::PeakEwma,
        (Algorithm::LeastRequest, None) => model::LoadBalancing::LeastRequest,
        (Algorithm::RoundRobin, None) => model::LoadBalancing::RoundRobin,
        (Algorithm::ConsistentHash, Some(hash)) => {
            model::LoadBalancing::ConsistentHash(hash_key(hash, &format!("{at}.hash"))?)
        }
        _ => return wrong(&format!("{at}.hash"), "ConsistentHash has a hash, the others have none"),
    })
}

fn hash_key(spec: &Hash, at: &str) -> Result<model::HashKey> {
    match (&spec.header, &spec.cookie, spec.source) {
        (Some(name), None, false) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(model::HashKey::Header(name)),
            Err(_) => wrong(&format!("{at}.header"), format!("'{name}' is no header name")),
        },
        (None, Some(name), false) => Ok(model::HashKey::Cookie(name.clone())),
        (None, None, true) => Ok(model::HashKey::Source),
        _ => wrong(at, "is exactly one of header, cookie and source: true"),
    }
}

fn up_to(said: Option<u32>, most: u32, otherwise: u32, at: &str) -> Result<u32> {
    match said {
        Some(number) if number > most => wrong(at, format!("{number} is more than {most}")),
        number => Ok(number.unwrap_or(otherwise)),
    }
}

fn time(text: Option<&str>, at: &str) -> Result<Option<std::time::Duration>> {
    match text.map(duration) {
        None => Ok(None),
        Some(Some(time)) if !time.is_zero() => Ok(Some(time)),
        Some(_) => wrong(at, "is no duration above zero: write 25ms, 1s, 1m"),
    }
}
