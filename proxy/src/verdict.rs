//! What became of one try: who may have seen the request, whose fault it was, and what the caller would be told.
//!
//! Owns the reading of responses for that. Decides nothing about sending again.

use byrnie_model::Retry;
use http::{HeaderMap, Response, StatusCode};

use crate::{
    balance::Pending,
    breaker::Fault,
    dial::DialError,
    pool::Cause,
    reject::{self, Reject},
};

/// The end of one try.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Who may have seen the request.
    pub seen: Seen,
    /// For metrics and the log.
    pub why: &'static str,
    /// For the caller, where no response came.
    pub reject: Reject,
    blame: Blame,
}

/// Who may have seen the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No application.
    Nobody,
    /// None, because it has too much to do.
    Busy,
    /// Perhaps one, on a connection that had been idle and ended when it was used again, as it may.
    Stale,
    /// Perhaps one, which did not begin to answer.
    Unsure,
    /// One that answered as a policy would rather not have it, or not in time.
    Answered,
    /// One whose answer is the caller's, good or bad.
    Served,
    /// One whose bad answer is the caller's, because those that it called have been asked again already.
    Below,
}

/// What an endpoint's load and breaker learn.
#[derive(Clone, Copy, Debug)]
enum Blame {
    Good,
    Nothing,
    Abandoned,
    Busy,
    Fault(Fault),
}

impl Verdict {
    /// Of a response, under a policy.
    pub fn of<B>(response: &Response<B>, retry: Option<&Retry>) -> Self {
        let verdict = |seen, why, reject, blame| Self { seen, why, reject, blame };
        match word(response) {
            Some(reject::UNDELIVERED) => {
                let blame = Blame::Fault(Fault::Unreachable);
                verdict(Seen::Nobody, "undelivered", reject::CONNECT_FAILED, blame)
            }
            Some(reject::BUSY) => verdict(Seen::Busy, "overloaded", reject::OVERLOADED, Blame::Busy),
            Some(reject::UNANSWERED) => {
                verdict(Seen::Unsure, "unanswered", reject::RESET, Blame::Fault(Fault::Failing))
            }
            Some(_) => verdict(Seen::Below, "below", reject::RESET, health(response)),
            None => {
                let listed = retry.is_some_and(|retry| is_listed(response, retry));
                let seen = if listed { Seen::Answered } else { Seen::Served };
                verdict(seen, "status", reject::RESET, health(response))
            }
        }
    }

    /// Of a try without response. `is_own`: the deadline was set by a policy.
    pub fn of_error(cause: &Cause, is_own: bool) -> Self {
        use Blame::{Abandoned, Busy, Nothing};
        let failing = Blame::Fault(Fault::Failing);
        let unreachable = Blame::Fault(Fault::Unreachable);
        let (seen, why, reject, blame) = match cause {
            Cause::Dial(error) if matches!(**error, DialError::Handshake { .. }) => {
                (Seen::Nobody, "handshake", reject::HANDSHAKE_FAILED, unreachable)
            }
            Cause::Dial(_) => (Seen::Nobody, "connect", reject::CONNECT_FAILED, unreachable),
            Cause::Full => (Seen::Nobody, "full", reject::POOL_FULL, Busy),
            Cause::Setup(_) => (Seen::Nobody, "unsent", reject::RESET, unreachable),
            Cause::Unsent(_) => (Seen::Nobody, "unsent", reject::RESET, Busy),
            Cause::Unprocessed(_) => (Seen::Nobody, "unprocessed", reject::RESET, Busy),
            Cause::Body(_) => (Seen::Served, "body", reject::BODY_CUT, Nothing),
            Cause::Stale(_) => (Seen::Stale, "stale", reject::RESET, Nothing),
            Cause::Reset(_) => (Seen::Unsure, "reset", reject::RESET, failing),
            Cause::Late(_) => (Seen::Answered, "late", reject::BACKEND_TIMEOUT, failing),
            Cause::Deadline if is_own => (Seen::Served, "deadline", reject::REQUEST_TIMEOUT, failing),
            Cause::Deadline => (Seen::Served, "deadline", reject::REQUEST_TIMEOUT, Abandoned),
        };
        Self { seen, why, reject, blame }
    }

    /// Tells the endpoint's load and breaker. Whether the endpoint is out of rotation by that.
    pub fn settle(&self, pending: &Pending) -> bool {
        match self.blame {
            Blame::Good => pending.answered(),
            Blame::Nothing => pending.settle(),
            Blame::Busy => pending.refused(),
            Blame::Abandoned => {}
            Blame::Fault(fault) => return pending.failed(fault),
        }
        false
    }
}

/// What a gRPC status that comes at a response's end says of the endpoint.
pub fn is_late_fault(trailers: &HeaderMap) -> bool {
    grpc_status(trailers).is_some_and(is_servers_fault)
}

/// Whether the server, not the call, was at fault.
pub fn is_failure<B>(response: &Response<B>) -> bool {
    matches!(health(response), Blame::Fault(_))
}

fn health<B>(response: &Response<B>) -> Blame {
    match response.status() {
        // it does not know the method or the version; nothing ails it
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Blame::Good,
        StatusCode::TOO_MANY_REQUESTS => Blame::Busy,
        status if status.is_server_error() => Blame::Fault(Fault::Failing),
        _ => match grpc_status(response.headers()) {
            Some(8) => Blame::Busy,
            Some(code) if is_servers_fault(code) => Blame::Fault(Fault::Failing),
            _ => Blame::Good,
        },
    }
}

/// Unknown, deadline exceeded, internal, unavailable, data loss.
fn is_servers_fault(grpc_code: u8) -> bool {
    matches!(grpc_code, 2 | 4 | 13 | 14 | 15)
}

fn is_listed<B>(response: &Response<B>, retry: &Retry) -> bool {
    retry.statuses.contains(&response.status().as_u16())
        || grpc_status(response.headers()).is_some_and(|code| retry.grpc_codes.contains(&code))
}

fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    std::str::from_utf8(headers.get("grpc-status")?.as_bytes()).ok()?.parse().ok()
}

/// What the peer's proxy says about sending the request again.
fn word<B>(response: &Response<B>) -> Option<&'static str> {
    let word = response.headers().get(reject::RETRY)?.as_bytes();
    let known = |status: Option<StatusCode>, known: &'static str| {
        (status.is_none_or(|status| response.status() == status) && word == known.as_bytes()).then_some(known)
    };
    known(Some(StatusCode::SERVICE_UNAVAILABLE), reject::UNDELIVERED)
        .or_else(|| known(Some(StatusCode::SERVICE_UNAVAILABLE), reject::BUSY))
        .or_else(|| known(Some(StatusCode::BAD_GATEWAY), reject::UNANSWERED))
        .or_else(|| known(None, reject::NEVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, fields: &[(&str, &str)]) -> Response<()> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap()
    }

    #[test]
    fn a_policy_lists_what_is_asked_again_unless_somebody_below_has() {
        let retry = Retry { statuses: vec![503], grpc_codes: vec![14], ..Retry::default() };
        let seen =
            |status, fields: &[(&str, &str)]| Verdict::of(&response(status, fields), Some(&retry)).seen;
        assert_eq!(seen(200, &[]), Seen::Served);
        assert_eq!(seen(500, &[]), Seen::Served);
        assert_eq!(seen(503, &[]), Seen::Answered);
        assert_eq!(seen(503, &[("byrnie-retry", "never")]), Seen::Below);
        assert_eq!(seen(503, &[("byrnie-retry", "safe")]), Seen::Nobody);
        assert_eq!(seen(503, &[("byrnie-retry", "busy")]), Seen::Busy);
        assert_eq!(seen(502, &[("byrnie-retry", "idempotent")]), Seen::Unsure);
        assert_eq!(seen(200, &[("byrnie-retry", "safe"), ("grpc-status", "0")]), Seen::Served);
        assert_eq!(seen(200, &[("grpc-status", "14")]), Seen::Answered);
        assert_eq!(seen(200, &[("grpc-status", "13")]), Seen::Served);
        assert_eq!(Verdict::of(&response(503, &[]), None).seen, Seen::Served);
    }

    #[test]
    fn what_is_the_servers_fault() {
        for (status, grpc, fault) in [
            (200, "0", false),
            (404, "0", false),
            (429, "0", false),
            (500, "0", true),
            (501, "0", false),
            (503, "0", true),
            (200, "2", true),
            (200, "5", false),
            (200, "8", false),
            (200, "14", true),
            (200, "x", false),
        ] {
            assert_eq!(is_failure(&response(status, &[("grpc-status", grpc)])), fault, "{status} {grpc}");
        }
    }
}
