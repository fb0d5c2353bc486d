//! How calls are made.

use byrnie_model as model;

use super::millis;
use crate::v1;

/// `None`: as every proxy does it by itself.
pub(super) fn traffic(traffic: &model::Traffic) -> Option<v1::Traffic> {
    (*traffic != model::Traffic::default()).then(|| v1::Traffic {
        retry: Some(retry(&traffic.retry)),
        retry_budget: Some(v1::RetryBudget {
            percent: traffic.retry_budget.percent,
            min_per_second: traffic.retry_budget.min_per_second,
        }),
        circuit_breaker: Some(circuit_breaker(&traffic.circuit_breaker)),
        load_balancing: Some(load_balancing(&traffic.load_balancing)),
        prefer_zone: traffic.prefer_zone,
    })
}

/// `None`: there are none.
pub(super) fn limits(limits: model::Limits) -> Option<v1::Limits> {
    let model::Limits { adaptive, requests_per_second, burst } = limits;
    (limits != model::Limits::default()).then_some(v1::Limits { adaptive, requests_per_second, burst })
}

/// `None`: there are none.
pub(super) fn faults(faults: model::Faults) -> Option<v1::Faults> {
    (faults != model::Faults::default()).then(|| v1::Faults {
        delay: faults.delay.map(|(percent, time)| v1::Delay { percent, time_ms: millis(time) }),
        abort: faults.abort.map(|(percent, status)| v1::Abort { percent, status: status.into() }),
    })
}

fn retry(retry: &model::Retry) -> v1::Retry {
    v1::Retry {
        attempts: retry.attempts,
        statuses: retry.statuses.iter().copied().map(u32::from).collect(),
        grpc_codes: retry.grpc_codes.iter().copied().map(u32::from).collect(),
        methods: retry.methods.iter().map(ToString::to_string).collect(),
        backoff_ms: millis(retry.backoff),
    }
}

fn circuit_breaker(breaker: &model::CircuitBreaker) -> v1::CircuitBreaker {
    v1::CircuitBreaker {
        consecutive_failures: breaker.consecutive_failures,
        success_percent: breaker.success_percent,
        min_requests: breaker.min_requests,
        max_ejection_percent: breaker.max_ejection_percent,
        base_ejection_ms: millis(breaker.base_ejection),
        max_ejection_ms: millis(breaker.max_ejection),
    }
}

fn load_balancing(balancing: &model::LoadBalancing) -> v1::LoadBalancing {
    use v1::load_balancing::Algorithm;
    let algorithm = match balancing {
        model::LoadBalancing::PeakEwma => Algorithm::PeakEwma(v1::Plain {}),
        model::LoadBalancing::LeastRequest => Algorithm::LeastRequest(v1::Plain {}),
        model::LoadBalancing::RoundRobin => Algorithm::RoundRobin(v1::Plain {}),
        model::LoadBalancing::ConsistentHash(model::HashKey::Header(name)) => {
            Algorithm::HashHeader(name.to_string())
        }
        model::LoadBalancing::ConsistentHash(model::HashKey::Cookie(name)) => {
            Algorithm::HashCookie(name.clone())
        }
        model::LoadBalancing::ConsistentHash(model::HashKey::Source) => Algorithm::HashSource(v1::Plain {}),
    };
    v1::LoadBalancing { algorithm: Some(algorithm) }
}
