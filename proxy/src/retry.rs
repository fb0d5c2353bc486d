//! Sending a request until an endpoint takes it: what may be sent again, and how often.
//!
//! What no application has seen goes to another endpoint, whatever its method. What one may have seen is sent again
//! only if doing it twice is the same as doing it once, and only within the budget. Where several endpoints end at
//! once, the news of that is still on its way: the tries after the second wait for it, longer each time.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header, request};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    balance::{Balancer, Member, Pending, grpc_failure},
    body::{ProxyBody, Upload},
    destination::Destination,
    dial::DialError,
    metrics::{DestinationMetrics, Direction},
    pool::{Cause, Lease},
    reject::{self, Reject},
    worker::Worker,
};

/// Pauses before the second and later tries, give or take half: most news of endpoints is there after the first.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];
/// Where no others come, once more on a new connection and at once.
const TRIES_OF_ONE: usize = 2;
/// What no application has seen goes on to so many others at the cost of nobody; then it takes from the budget too.
const FREE: usize = 2;
/// A request that ended so many connections may be why they ended.
const MAX_UNANSWERED: usize = 3;
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

/// Where a request may go.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints<'a> {
    /// The endpoints.
    pub balancer: &'a Balancer,
    /// How much that an application may have seen is sent again; `None`: nothing, callers have other pods.
    pub budget: Option<&'a Budget>,
    /// What they are endpoints of, if others may come.
    pub destination: Option<&'a Destination>,
}

/// The tries of one request that failed.
#[derive(Debug, Default)]
struct Tries {
    members: Vec<Rc<Member>>,
    reasons: Vec<&'static str>,
}

impl Tries {
    fn failed(&mut self, member: Rc<Member>, reason: &'static str) {
        self.members.push(member);
        self.reasons.push(reason);
    }

    fn count(&self) -> usize {
        self.members.len()
    }

    /// For people: who was tried and what happened.
    fn log(&self, worker: &Worker) {
        if self.count() > 1 && worker.quota.admits(Direction::Outbound, "given-up") {
            let addresses = self.members.iter().map(|member| member.pool.endpoint().address);
            let tries: Vec<_> =
                addresses.zip(&self.reasons).map(|(address, reason)| format!("{address} {reason}")).collect();
            tracing::info!(tries = tries.join(", "), "a request was given up");
        }
    }
}

impl Endpoints<'_> {
    fn max_tries(&self) -> usize {
        if self.destination.is_some() { 1 + PAUSES.len() } else { TRIES_OF_ONE }
    }

    /// The next endpoint: one that was not tried yet if there is any, and perhaps after a pause.
    pub async fn next(&self, worker: &Worker, tried: &[Rc<Member>]) -> Option<Rc<Member>> {
        if tried.len() >= self.max_tries() {
            return None;
        }
        let pause = tried.len().checked_sub(1).map_or(Duration::ZERO, |failed| PAUSES[failed]);
        if let Some(destination) = self.destination.filter(|_| !pause.is_zero()) {
            // boxed: few requests need it
            Box::pin(tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64()))).await;
            destination.refresh(worker);
        }
        self.balancer.pick(tried).or_else(|| self.balancer.pick(&[]))
    }
}

/// Sends a request to an endpoint of a backend, and to others where that is safe.
pub async fn send(
    worker: &Rc<Worker>,
    endpoints: Endpoints<'_>,
    metrics: &DestinationMetrics,
    template: &Template,
) -> Result<Answer, Reject> {
    if let Some(budget) = endpoints.budget {
        budget.deposit();
    }
    let mut tries = Tries::default();
    let mut unanswered = 0;
    let mut failure = reject::NO_ENDPOINTS;
    let http2 = template.head.version == http::Version::HTTP_2;
    while let Some(member) = endpoints.next(worker, &tries.members).await {
        if let Some(why) = tries.reasons.last() {
            metrics.retried(why);
        }
        let pending = member.begin();
        let request = template.make();
        let sent = if http2 {
            member.pool.http2(worker, request).await
        } else {
            member.pool.http1(worker, request).await
        };
        let is_last = tries.count() + 1 == endpoints.max_tries();
        let granted = || endpoints.budget.is_some_and(Budget::withdraw);
        let unseen = || template.is_replayable() && (tries.count() < FREE || granted());
        let mut repeatable = || {
            unanswered += 1;
            unanswered < MAX_UNANSWERED && template.is_idempotent() && granted()
        };
        match sent {
            Ok((response, lease)) => {
                let word = retry_word(&response);
                pending.answered(word.is_some() || is_failure(&response));
                let (reject, why, may) = match word {
                    Some(reject::UNDELIVERED) => {
                        (reject::CONNECT_FAILED, "undelivered", !is_last && unseen())
                    }
                    Some(_) => (reject::RESET, "unanswered", !is_last && repeatable()),
                    None => (failure, "answered", false),
                };
                if !may {
                    if word.is_some() {
                        tries.failed(member, why);
                        tries.log(worker);
                    }
                    template.release();
                    return Ok(Answer { response, lease, pending });
                }
                failure = reject;
                tries.failed(member, why);
            }
            Err(error) => {
                tracing::debug!(endpoint = %member.pool.endpoint().address, error = %error.cause, "a request was not answered");
                let (reject, why) = judge(&error.cause);
                failure = reject;
                let may = match error.cause {
                    Cause::Body(_) => return Err(failure),
                    // the endpoint closed what had been idle, as it may: no failure, and no share of the budget
                    Cause::Stale(_) => template.is_idempotent(),
                    Cause::Reset(_) => repeatable(),
                    _ => unseen(),
                };
                if !matches!(error.cause, Cause::Stale(_)) {
                    member.failed();
                }
                tries.failed(member, why);
                if !may {
                    break;
                }
            }
        }
    }
    tries.log(worker);
    Err(failure)
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
