//! Plaintext or not, and how calls are made.

use std::time::Duration;

use byrnie_model::{
    CircuitBreaker, Faults, HashKey, Limits, LoadBalancing, Mtls, Protocol, Retry, RetryBudget, Timeouts,
    spiffe::is_dns_label, traffic::grpc_code,
};
use http::{HeaderName, Method};

use super::{Traffic, all, problem, unique};
use crate::{
    duration,
    meshpolicy::MtlsSpec,
    problem::Findings,
    traffic::{
        Algorithm, AppProtocol, CircuitBreakerSpec, Concurrency, FaultsSpec, HashSpec, LimitsSpec,
        LoadBalancingSpec, MirrorSpec, OtherService, RetrySpec, TrafficSpec, Zone,
    },
};

/// `None`: not understood.
pub(super) fn mtls(spec: &MtlsSpec, findings: &mut Findings) -> Option<Mtls> {
    let ports: Vec<u16> = spec.ports.iter().map(|p| p.port).collect();
    unique(&ports, "spec.mtls.ports", "port", findings)?;
    Some(Mtls { default: spec.mode, ports: spec.ports.iter().map(|p| (p.port, p.mode)).collect() })
}

/// `None`: not understood.
pub(super) fn compile(spec: &TrafficSpec, findings: &mut Findings) -> Option<Traffic> {
    if *spec == TrafficSpec::default() {
        let fields = "timeouts, retry, retryBudget, circuitBreaker, loadBalancing, limits, failover, overrides, mirrors, faults and protocols";
        return problem("spec.traffic", format!("needs at least one of {fields}"), findings);
    }
    let timeouts = spec.timeouts.clone().unwrap_or_default();
    let request = limit(timeouts.request.as_deref(), "spec.traffic.timeouts.request", findings);
    let backend_request =
        limit(timeouts.backend_request.as_deref(), "spec.traffic.timeouts.backendRequest", findings);
    let idle = limit(timeouts.idle.as_deref(), "spec.traffic.timeouts.idle", findings);
    let retry = spec.retry.as_ref().map_or(Some(Retry::default()), |spec| retry(spec, findings));
    let breaker = spec.circuit_breaker.as_ref();
    let breaker = breaker.map_or(Some(CircuitBreaker::default()), |spec| circuit_breaker(spec, findings));
    let balancing = spec.load_balancing.as_ref();
    let balancing = balancing.map_or(Some(LoadBalancing::default()), |spec| load_balancing(spec, findings));
    let limits = spec.limits.as_ref().map_or(Some(Limits::default()), |spec| limits(spec, findings));
    let names = |others: &[OtherService]| others.iter().map(|other| other.service.clone()).collect();
    let failover = services(names(&spec.failover), "spec.traffic.failover", findings);
    let overrides = services(names(&spec.overrides), "spec.traffic.overrides", findings);
    let mirrors = mirrors(&spec.mirrors, findings);
    let faults = spec.faults.as_ref().map_or(Some(Faults::default()), |spec| faults(spec, findings));
    let ports: Vec<u16> = spec.protocols.iter().map(|p| p.port).collect();
    unique(&ports, "spec.traffic.protocols", "port", findings)?;
    let default = RetryBudget::default();
    let budget = spec.retry_budget.clone().unwrap_or_default();
    Some(Traffic {
        timeouts: Timeouts {
            request: nonzero(request?),
            backend_request: nonzero(backend_request?),
            idle: nonzero(idle?),
        },
        prefer_zone: spec.load_balancing.as_ref().and_then(|spec| spec.zone).map(|zone| zone == Zone::Prefer),
        calls: byrnie_model::Traffic {
            retry: retry?,
            retry_budget: RetryBudget {
                percent: budget.percent.unwrap_or(default.percent),
                min_per_second: budget.min_per_second.unwrap_or(default.min_per_second),
            },
            circuit_breaker: breaker?,
            load_balancing: balancing?,
            prefer_zone: false,
        },
        limits: limits?,
        failover: failover?,
        overrides: overrides?,
        mirrors: mirrors?,
        faults: faults?,
        protocols: spec.protocols.iter().map(|p| (p.port, p.protocol.into())).collect(),
    })
}

fn retry(spec: &RetrySpec, findings: &mut Findings) -> Option<Retry> {
    let default = Retry::default();
    let methods = spec.methods.as_deref().map(|methods| {
        all(methods.iter().enumerate().map(|(i, method)| match Method::from_bytes(method.as_bytes()) {
            Ok(method) => Some(method),
            Err(_) => problem(
                &format!("spec.traffic.retry.methods[{i}]"),
                format!("{method:?} is no method"),
                findings,
            ),
        }))
    });
    let codes = all(spec.grpc_codes.iter().enumerate().map(|(i, name)| {
        let path = format!("spec.traffic.retry.grpcCodes[{i}]");
        grpc_code(name).or_else(|| problem(&path, format!("{name:?} is no code of gRPC"), findings))
    }));
    let backoff = positive(spec.backoff.as_deref(), default.backoff, "spec.traffic.retry.backoff", findings);
    Some(Retry {
        attempts: spec.attempts.unwrap_or(default.attempts),
        statuses: spec.codes.clone(),
        grpc_codes: codes?,
        methods: methods.unwrap_or(Some(default.methods))?,
        backoff: backoff?,
    })
}

fn circuit_breaker(spec: &CircuitBreakerSpec, findings: &mut Findings) -> Option<CircuitBreaker> {
    const PATH: &str = "spec.traffic.circuitBreaker";
    let default = CircuitBreaker::default();
    let base = spec.base_ejection.as_deref();
    let base = positive(base, default.base_ejection, &format!("{PATH}.baseEjection"), findings);
    let most = spec.max_ejection.as_deref();
    let most = positive(most, default.max_ejection, &format!("{PATH}.maxEjection"), findings);
    let (base, most) = (base?, most?);
    if base > most {
        return problem(&format!("{PATH}.baseEjection"), "is longer than maxEjection", findings);
    }
    let rate = spec.success_rate.as_ref();
    Some(CircuitBreaker {
        consecutive_failures: spec.consecutive_failures.unwrap_or(default.consecutive_failures),
        success_percent: rate.map_or(default.success_percent, |rate| rate.percent),
        min_requests: rate.and_then(|rate| rate.min_requests).unwrap_or(default.min_requests),
        max_ejection_percent: spec.max_ejection_percent.unwrap_or(default.max_ejection_percent),
        base_ejection: base,
        max_ejection: most,
    })
}

fn load_balancing(spec: &LoadBalancingSpec, findings: &mut Findings) -> Option<LoadBalancing> {
    const PATH: &str = "spec.traffic.loadBalancing";
    match (spec.algorithm, &spec.hash) {
        (Algorithm::PeakEwma, None) => Some(LoadBalancing::PeakEwma),
        (Algorithm::LeastRequest, None) => Some(LoadBalancing::LeastRequest),
        (Algorithm::RoundRobin, None) => Some(LoadBalancing::RoundRobin),
        (Algorithm::ConsistentHash, Some(hash)) => {
            hash_key(hash, findings).map(LoadBalancing::ConsistentHash)
        }
        _ => problem(PATH, "ConsistentHash has a hash, the others have none", findings),
    }
}

fn services(names: Vec<String>, path: &str, findings: &mut Findings) -> Option<Vec<String>> {
    let fine = all(names.iter().enumerate().map(|(i, name)| {
        let path = format!("{path}[{i}].service");
        let message = "must be the name of a Service in this namespace: 1 to 63 of a-z, 0-9 and '-'";
        if is_dns_label(name) { Some(()) } else { problem(&path, message, findings) }
    }));
    unique(&names, path, "Service", findings)?;
    fine.map(|_| names)
}

fn mirrors(spec: &[MirrorSpec], findings: &mut Findings) -> Option<Vec<(String, u32)>> {
    let names = spec.iter().map(|mirror| mirror.service.clone()).collect();
    let services = services(names, "spec.traffic.mirrors", findings)?;
    Some(services.into_iter().zip(spec.iter().map(|mirror| mirror.percent.unwrap_or(100))).collect())
}

fn faults(spec: &FaultsSpec, findings: &mut Findings) -> Option<Faults> {
    if *spec == FaultsSpec::default() {
        return problem("spec.traffic.faults", "needs at least one of delay and abort", findings);
    }
    let path = "spec.traffic.faults.delay.time";
    let delay = match &spec.delay {
        Some(delay) => Some((delay.percent, positive(Some(&delay.time), Duration::ZERO, path, findings)?)),
        None => None,
    };
    Some(Faults { delay, abort: spec.abort.as_ref().map(|abort| (abort.percent, abort.status)) })
}

fn limits(spec: &LimitsSpec, findings: &mut Findings) -> Option<Limits> {
    if spec.burst.is_some() && spec.requests_per_second.is_none() {
        return problem("spec.traffic.limits.burst", "is of no use without requestsPerSecond", findings);
    }
    let rate = spec.requests_per_second;
    Some(Limits {
        adaptive: spec.concurrency == Concurrency::Adaptive,
        requests_per_second: rate,
        burst: spec.burst.or(rate).unwrap_or_default(),
    })
}

fn hash_key(spec: &HashSpec, findings: &mut Findings) -> Option<HashKey> {
    const PATH: &str = "spec.traffic.loadBalancing.hash";
    match (&spec.header, &spec.cookie, spec.source) {
        (Some(name), None, None) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Some(HashKey::Header(name)),
            Err(_) => problem(&format!("{PATH}.header"), format!("{name:?} is no header's name"), findings),
        },
        (None, Some(name), None) => Some(HashKey::Cookie(name.clone())),
        (None, None, Some(true)) => Some(HashKey::Source),
        _ => problem(PATH, "a hash is exactly one of header, cookie and source", findings),
    }
}

fn limit(text: Option<&str>, path: &str, findings: &mut Findings) -> Option<Duration> {
    let Some(text) = text else { return Some(Duration::ZERO) };
    duration::parse(text).or_else(|| problem(path, duration::EXPLAINED, findings))
}

fn positive(text: Option<&str>, default: Duration, path: &str, findings: &mut Findings) -> Option<Duration> {
    match text.map(duration::parse) {
        None => Some(default),
        Some(Some(time)) if !time.is_zero() => Some(time),
        Some(Some(_)) => problem(path, "must be longer than nothing", findings),
        Some(None) => problem(path, duration::EXPLAINED, findings),
    }
}

fn nonzero(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then_some(limit)
}

impl From<AppProtocol> for Protocol {
    fn from(protocol: AppProtocol) -> Self {
        match protocol {
            AppProtocol::Http1 => Self::Http1,
            AppProtocol::Http2 | AppProtocol::Grpc => Self::Http2,
            AppProtocol::Tls => Self::Tls,
            AppProtocol::Opaque => Self::Opaque,
        }
    }
}
