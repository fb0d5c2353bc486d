//! The file's `traffic` section: what a MeshPolicy says under the same name, with the same words.

use byrnie_model::{self as model, Traffic};
use http::{HeaderName, Method};
use serde::Deserialize;

use super::compile::{Result, duration, wrong};

/// How calls to a service are made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    retry: Option<Retry>,
    retry_budget: Option<RetryBudget>,
    circuit_breaker: Option<CircuitBreaker>,
    load_balancing: Option<LoadBalancing>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Retry {
    attempts: Option<u32>,
    #[serde(default)]
    codes: Vec<u16>,
    #[serde(default)]
    grpc_codes: Vec<String>,
    methods: Option<Vec<String>>,
    backoff: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetryBudget {
    percent: Option<u32>,
    min_per_second: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CircuitBreaker {
    consecutive_failures: Option<u32>,
    success_rate: Option<SuccessRate>,
    max_ejection_percent: Option<u32>,
    base_ejection: Option<String>,
    max_ejection: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SuccessRate {
    percent: u32,
    min_requests: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadBalancing {
    algorithm: Algorithm,
    hash: Option<Hash>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Algorithm {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    ConsistentHash,
}

/// Exactly one of its fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hash {
    header: Option<String>,
    cookie: Option<String>,
    #[serde(default)]
    source: bool,
}

/// What the application takes of all its callers together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Limits {
    concurrency: Option<Concurrency>,
    requests_per_second: Option<u32>,
    burst: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
enum Concurrency {
    Adaptive,
    Off,
}

/// What is done to requests on purpose.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Faults {
    delay: Option<Delay>,
    abort: Option<Abort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delay {
    percent: u32,
    time: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Abort {
    percent: u32,
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
