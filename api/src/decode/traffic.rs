//! How calls are made.

use std::time::Duration;

use byrnie_model::{CircuitBreaker, Faults, HashKey, Limits, LoadBalancing, Retry, RetryBudget, Traffic};

use super::{At, DecodeError};
use crate::v1;

/// Absent: as every proxy does it by itself.
pub(super) fn traffic(at: At<'_>, message: Option<v1::Traffic>) -> Result<Traffic, DecodeError> {
    let Some(message) = message else { return Ok(Traffic::default()) };
    let v1::Traffic {
        retry: again,
        retry_budget,
        circuit_breaker: breaker,
        load_balancing: balancing,
        prefer_zone,
    } = message;
    let budget = at.field("retry_budget");
    let v1::RetryBudget { percent, min_per_second } = budget.required(retry_budget)?;
    Ok(Traffic {
        retry: retry(at.field("retry"), again)?,
        retry_budget: RetryBudget { percent: percentage(budget, percent)?, min_per_second },
        circuit_breaker: circuit_breaker(at.field("circuit_breaker"), breaker)?,
        load_balancing: load_balancing(at.field("load_balancing"), balancing)?,
        prefer_zone,
    })
}

/// Absent: there are none.
pub(super) fn limits(at: At<'_>, message: Option<v1::Limits>) -> Result<Limits, DecodeError> {
    let v1::Limits { adaptive, requests_per_second, burst } = message.unwrap_or_default();
    if requests_per_second == Some(0) || requests_per_second.is_some() && burst == 0 {
        return at.fail("a rate of 0 lets nobody in; to refuse everybody is the business of policies");
    }
    Ok(Limits { adaptive, requests_per_second, burst })
}

/// Absent: there are none.
pub(super) fn faults(at: At<'_>, message: Option<v1::Faults>) -> Result<Faults, DecodeError> {
    let v1::Faults { delay, abort } = message.unwrap_or_default();
    let delay = delay.map(|v1::Delay { percent, time_ms }| {
        let at = at.field("delay");
        Ok((percentage(at, percent)?, time(at, time_ms)?))
    });
    let abort = abort.map(|v1::Abort { percent, status }| {
        let at = at.field("abort");
        match u16::try_from(status) {
            Ok(status @ 200..600) => Ok((percentage(at, percent)?, status)),
            _ => at.fail(format!("{status} is not one of 200 to 599")),
        }
    });
    Ok(Faults { delay: delay.transpose()?, abort: abort.transpose()? })
}

fn retry(at: At<'_>, message: Option<v1::Retry>) -> Result<Retry, DecodeError> {
    let v1::Retry { attempts, statuses, grpc_codes, methods, backoff_ms } = at.required(message)?;
    let statuses = at.field("statuses").each(statuses, |at, status| match u16::try_from(status) {
        Ok(status @ 500..600) => Ok(status),
        _ => at.fail(format!("{status} is not one of 500 to 599")),
    })?;
    let grpc_codes = at.field("grpc_codes").each(grpc_codes, |at, code| match u8::try_from(code) {
        Ok(code @ 1..=16) => Ok(code),
        _ => at.fail(format!("{code} is not one of 1 to 16")),
    })?;
    let methods = at.field("methods").each(methods, |at, method| method.parse().or_else(|e| at.fail(e)))?;
    Ok(Retry { attempts, statuses, grpc_codes, methods, backoff: Duration::from_millis(backoff_ms) })
}

fn circuit_breaker(at: At<'_>, message: Option<v1::CircuitBreaker>) -> Result<CircuitBreaker, DecodeError> {
    let message = at.required(message)?;
    Ok(CircuitBreaker {
        consecutive_failures: message.consecutive_failures,
        success_percent: percentage(at.field("success_percent"), message.success_percent)?,
        min_requests: message.min_requests,
        max_ejection_percent: percentage(at.field("max_ejection_percent"), message.max_ejection_percent)?,
        base_ejection: time(at.field("base_ejection_ms"), message.base_ejection_ms)?,
        max_ejection: time(at.field("max_ejection_ms"), message.max_ejection_ms)?,
    })
}

fn load_balancing(at: At<'_>, message: Option<v1::LoadBalancing>) -> Result<LoadBalancing, DecodeError> {
    use v1::load_balancing::Algorithm;
    let algorithm = at.field("algorithm");
    Ok(match algorithm.required(at.required(message)?.algorithm)? {
        Algorithm::PeakEwma(v1::Plain {}) => LoadBalancing::PeakEwma,
        Algorithm::LeastRequest(v1::Plain {}) => LoadBalancing::LeastRequest,
        Algorithm::RoundRobin(v1::Plain {}) => LoadBalancing::RoundRobin,
        Algorithm::HashHeader(name) => {
            LoadBalancing::ConsistentHash(HashKey::Header(name.parse().or_else(|e| algorithm.fail(e))?))
        }
        Algorithm::HashCookie(name) => LoadBalancing::ConsistentHash(HashKey::Cookie(name)),
        Algorithm::HashSource(v1::Plain {}) => LoadBalancing::ConsistentHash(HashKey::Source),
    })
}

fn percentage(at: At<'_>, percent: u32) -> Result<u32, DecodeError> {
    if percent <= 100 { Ok(percent) } else { at.fail(format!("{percent} is more than 100 percent")) }
}

fn time(at: At<'_>, millis: u64) -> Result<Duration, DecodeError> {
    if millis == 0 { at.fail("0 ms is no time at all") } else { Ok(Duration::from_millis(millis)) }
}
