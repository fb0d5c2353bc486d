//! Sending a request until an endpoint takes it: what may be sent again, and how often.
//!
//! What no application has seen goes to another endpoint, whatever its method. What one may have seen is sent once
//! more only if doing it twice is the same as doing it once, and only within the budget.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use http::{Method, Request, Response, StatusCode, header, request};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    balance::{Balancer, Member, Pending, grpc_failure},
    body::{ProxyBody, Upload},
    dial::DialError,
    metrics::DestinationMetrics,
    pool::{Cause, Lease},
    reject::{self, Reject},
    worker::Worker,
};

/// Endpoints that one request tries.
const MAX_TRIES: usize = 3;
/// Share of the requests that may be sent twice.
const SHARE: f64 = 0.2;
/// And so many per second besides, for destinations with few requests.
const PER_SECOND: f64 = 10.0;
/// Unused permission is kept for ten seconds.
const MAX_TOKENS: f64 = 10.0 * PER_SECOND;

/// Permission to send again: a token bucket that requests and time fill.
#[derive(Debug)]
pub struct Budget {
    tokens: Cell<f64>,
    updated: Cell<Instant>,
}

/// A request that can be made again.
#[derive(Debug)]
pub struct Template {
    head: request::Parts,
    body: Option<Rc<RefCell<Upload>>>,
}

/// A response with what stays busy until its end.
#[derive(Debug)]
pub struct Answer {
    /// The response.
    pub response: Response<Incoming>,
    /// Its connection.
    pub lease: Lease,
    /// Its endpoint.
    pub pending: Pending,
}

impl Default for Budget {
    fn default() -> Self {
        Self { tokens: Cell::new(MAX_TOKENS), updated: Cell::new(Instant::now()) }
    }
}

impl Budget {
    /// A request was made.
    pub fn deposit(&self) {
        self.tokens.set((self.tokens.get() + SHARE).min(MAX_TOKENS));
    }

    /// Takes the permission to send one request again.
    pub fn withdraw(&self) -> bool {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.updated.replace(now)).as_secs_f64();
        let tokens = (self.tokens.get() + since * PER_SECOND).min(MAX_TOKENS);
        // ten deposits of a fifth are two, however they are rounded
        let granted = tokens >= 1.0 - 1e-9;
        self.tokens.set(if granted { tokens - 1.0 } else { tokens }.max(0.0));
        granted
    }
}

impl Template {
    /// A request whose body, if it has one, is read through an [`Upload`].
    pub fn new(head: request::Parts, body: Option<Rc<RefCell<Upload>>>) -> Self {
        Self { head, body }
    }

    fn make(&self) -> Request<ProxyBody> {
        let body =
            self.body.as_ref().map_or(ProxyBody::Empty, |upload| ProxyBody::Upload(Upload::open(upload)));
        Request::from_parts(self.head.clone(), body)
    }

    fn is_replayable(&self) -> bool {
        self.body.as_ref().is_none_or(|upload| upload.borrow().is_replayable())
    }

    /// Doing it twice is doing it once (RFC 9110 section 9.2.2), and there is nothing in it to be half done.
    fn is_idempotent(&self) -> bool {
        let method = &self.head.method;
        let idempotent =
            [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE].contains(method);
        idempotent && self.body.is_none() && !self.head.headers.contains_key(header::UPGRADE)
    }

    fn release(&self) {
        if let Some(upload) = &self.body {
            upload.borrow_mut().release();
        }
    }
}

/// Sends a request to an endpoint of a backend, and to another one where that is safe.
pub async fn send(
    worker: &Rc<Worker>,
    balancer: &Balancer,
    budget: &Budget,
    metrics: &DestinationMetrics,
    template: &Template,
) -> Result<Answer, Reject> {
    budget.deposit();
    let mut tried: Vec<Rc<Member>> = Vec::new();
    let mut failure = reject::NO_ENDPOINTS;
    let mut again_because = None;
    let http2 = template.head.version == http::Version::HTTP_2;
    while tried.len() < MAX_TRIES {
        let Some(member) = balancer.pick(&tried).or_else(|| again(&tried, failure)) else { break };
        if let Some(why) = again_because {
            metrics.retried(why);
        }
        let pending = member.begin();
        let request = template.make();
        let sent = if http2 {
            member.pool.http2(worker, request).await
        } else {
            member.pool.http1(worker, request).await
        };
        again_because = Some(match sent {
            Ok((response, lease)) => {
                let word = retry_word(&response);
                pending.answered(word.is_some() || is_failure(&response));
                let last = tried.len() + 1 == MAX_TRIES || balancer.pick(&with(&tried, &member)).is_none();
                let may = match word {
                    _ if last => false,
                    Some(reject::UNDELIVERED) => template.is_replayable(),
                    Some(_) => template.is_idempotent() && budget.withdraw(),
                    None => false,
                };
                let Some(word) = word.filter(|_| may) else {
                    template.release();
                    return Ok(Answer { response, lease, pending });
                };
                if word == reject::UNDELIVERED {
                    failure = reject::CONNECT_FAILED;
                    "undelivered"
                } else {
                    failure = reject::RESET;
                    "unanswered"
                }
            }
            Err(error) => {
                tracing::debug!(endpoint = %member.pool.endpoint().address, error = %error.cause, "a request was not answered");
                let (reject, why) = judge(&error.cause);
                failure = reject;
                let may = match error.cause {
                    Cause::Body(_) => break,
                    // the endpoint closed what had been idle, as it may: no failure, and no share of the budget
                    Cause::Stale(_) => template.is_idempotent(),
                    Cause::Reset(_) => template.is_idempotent() && budget.withdraw(),
                    _ => template.is_replayable(),
                };
                if !matches!(error.cause, Cause::Stale(_)) {
                    member.failed();
                }
                if !may {
                    break;
                }
                why
            }
        });
        tried.push(member);
    }
    Err(failure)
}

/// A single endpoint gets a second chance if the connection, not the endpoint, was at fault.
fn again(tried: &[Rc<Member>], failure: Reject) -> Option<Rc<Member>> {
    match tried {
        [only] if failure == reject::RESET => Some(only.clone()),
        _ => None,
    }
}

fn with(tried: &[Rc<Member>], member: &Rc<Member>) -> Vec<Rc<Member>> {
    tried.iter().chain([member]).cloned().collect()
}

/// What the peer's proxy says about sending the request again.
fn retry_word(response: &Response<Incoming>) -> Option<&'static str> {
    let word = response.headers().get(reject::RETRY)?.as_bytes();
    let known = |status, known: &'static str| {
        (response.status() == status && word == known.as_bytes()).then_some(known)
    };
    known(StatusCode::SERVICE_UNAVAILABLE, reject::UNDELIVERED)
        .or_else(|| known(StatusCode::BAD_GATEWAY, reject::UNANSWERED))
}

/// What should send the next requests elsewhere.
fn is_failure(response: &Response<Incoming>) -> bool {
    let status = response.status();
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || grpc_failure(response.headers())
}

fn judge(cause: &Cause) -> (Reject, &'static str) {
    match cause {
        Cause::Dial(error) => match **error {
            DialError::Handshake { .. } => (reject::HANDSHAKE_FAILED, "handshake"),
            _ => (reject::CONNECT_FAILED, "connect"),
        },
        Cause::Full => (reject::POOL_FULL, "full"),
        Cause::Setup(_) | Cause::Unsent(_) => (reject::RESET, "unsent"),
        Cause::Unprocessed(_) => (reject::RESET, "unprocessed"),
        Cause::Body(_) => (reject::BODY_CUT, "body"),
        Cause::Stale(_) => (reject::RESET, "stale"),
        Cause::Reset(_) => (reject::RESET, "reset"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_a_fifth_and_ten_a_second() {
        let budget = Budget::default();
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 100);
        (0..100).for_each(|_| budget.deposit());
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 10);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 100);
    }
}
