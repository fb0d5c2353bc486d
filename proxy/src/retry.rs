//! Sending a request until an endpoint takes it: what may be sent again, and how often.
//!
//! What no application has seen goes to another endpoint, whatever its method. What one may have seen is sent again
//! only if doing it twice is the same as doing it once, or a policy says so, and only within the budget. Where several
//! endpoints end at once, the news of that is still on its way: the tries after the second wait for it, longer each time.

use std::{pin::pin, rc::Rc, time::Duration};

use byrnie_model::{Retry, Traffic};
use http::{Response, Version};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    balance::{Balancer, Choice, Member, Pending},
    destination::Destination,
    metrics::{DestinationMetrics, Direction},
    pool::{Cause, Lease, SendError},
    reject::{self, Reject},
    retry_budget::Budget,
    template::Template,
    verdict::{Seen, Verdict},
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
const MAX_UNANSWERED: u32 = 3;

/// Where a request may go.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints<'a> {
    /// The endpoints.
    pub balancer: &'a Balancer,
    /// What an application may have seen is sent again under these limits; `None`: never, callers have other pods.
    pub again: Option<Again<'a>>,
    /// What they are endpoints of, if others may come.
    pub destination: Option<&'a Destination>,
    /// For consistent hashing.
    pub key: Option<u64>,
}

/// What is sent again, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Again<'a> {
    /// What the policy says.
    pub traffic: &'a Traffic,
    /// What is left.
    pub budget: &'a Budget,
}

/// How long a request may take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// One try, to the first byte of its response.
    pub one_try: Option<Duration>,
    /// All of it.
    pub deadline: Option<Instant>,
    /// Whether an endpoint is to blame that does not keep the deadline: not where callers choose it.
    pub is_own: bool,
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

/// Why there is no response.
#[derive(Clone, Copy, Debug)]
pub struct Unanswered {
    /// For the caller.
    pub reject: Reject,
    /// Whether an application may have seen the request.
    pub seen: bool,
}

/// The tries of one request that failed.
#[derive(Debug, Default)]
struct Tries {
    members: Vec<Rc<Member>>,
    reasons: Vec<&'static str>,
    unanswered: u32,
    repeated: u32,
    pause: Duration,
    seen: bool,
}

/// Sends a request to an endpoint of a backend, and to others where that is safe.
pub async fn send(
    worker: &Rc<Worker>,
    endpoints: Endpoints<'_>,
    limits: Limits,
    metrics: &DestinationMetrics,
    template: &Template,
) -> Result<Answer, Unanswered> {
    if let Some(again) = endpoints.again {
        again.budget.deposit(again.traffic.retry_budget);
    }
    let mut tries = Tries::default();
    let mut failure = reject::NO_HEALTHY_ENDPOINTS;
    while let Some(pending) = endpoints.next(worker, &tries, template, limits.deadline).await {
        if let Some(why) = tries.reasons.last() {
            metrics.retried(why);
        }
        if pending.probe {
            metrics.probed();
        }
        let now = Instant::now();
        let left = limits.deadline.map(|at| at.saturating_duration_since(now));
        if left.is_some_and(|left| left.is_zero()) {
            pending.settle();
            return Err(Unanswered { reject: reject::REQUEST_TIMEOUT, seen: tries.seen });
        }
        let sent = {
            let pool = &pending.member().pool;
            let request = template.make(pool.endpoint().identity.is_some(), left);
            let mut sending = pin!(async {
                match template.version() {
                    Version::HTTP_2 => pool.http2(worker, request).await,
                    _ => pool.http1(worker, request).await,
                }
            });
            match limits.until(now) {
                None => sending.await,
                Some((at, cause)) => match timeout_at(at, sending.as_mut()).await {
                    Ok(sent) => sent,
                    Err(_) => Err(SendError { cause, unsent: None }),
                },
            }
        };
        let verdict = match &sent {
            Ok((response, _)) => Verdict::of(response, endpoints.again.map(|again| &again.traffic.retry)),
            Err(error) => Verdict::of_error(&error.cause, limits.is_own),
        };
        if verdict.settle(&pending) {
            metrics.ejected();
        }
        let may =
            tries.count() + 1 < endpoints.max_tries() && tries.may_repeat(&verdict, &endpoints, template);
        match sent {
            Ok((response, lease)) if !may => {
                if verdict.seen != Seen::Served {
                    tries.failed(pending.member(), verdict.why);
                    tries.give_up(worker, &endpoints, template);
                }
                template.release();
                return Ok(Answer { response, lease, pending });
            }
            Ok((response, lease)) => lease.discard(response),
            Err(error) => {
                let endpoint = pending.member().pool.endpoint().address;
                tracing::debug!(%endpoint, error = %error.cause, "a request was not answered");
            }
        }
        failure = verdict.reject;
        tries.failed(pending.member(), verdict.why);
        tries.seen |= !matches!(verdict.seen, Seen::Nobody | Seen::Busy);
        if !may {
            break;
        }
    }
    tries.give_up(worker, &endpoints, template);
    Err(Unanswered { reject: failure, seen: tries.seen })
}

impl Endpoints<'_> {
    fn max_tries(&self) -> usize {
        let attempts = self.again.map_or(0, |again| again.traffic.retry.attempts);
        let by_policy = 1 + usize::try_from(attempts).unwrap_or(0);
        let unseen = if self.destination.is_some() { 1 + PAUSES.len() } else { TRIES_OF_ONE };
        unseen.max(by_policy)
    }

    /// The next endpoint: one that was not tried yet if there is any, and perhaps after a pause.
    async fn next(
        &self,
        worker: &Worker,
        tries: &Tries,
        template: &Template,
        deadline: Option<Instant>,
    ) -> Option<Pending> {
        if tries.count() >= self.max_tries() {
            return None;
        }
        if !tries.pause.is_zero() && !self.wait(worker, tries.pause, deadline).await {
            return None;
        }
        let repeatable =
            self.again.is_some_and(|again| tries.may_be_answered_badly(&again.traffic.retry, template));
        self.pick(&tries.members, repeatable)
    }

    /// For connections without HTTP, of which no byte has been sent.
    pub async fn next_connection(&self, worker: &Worker, tried: &[Rc<Member>]) -> Option<Pending> {
        if tried.len() >= self.max_tries() {
            return None;
        }
        let pause = tried.len().checked_sub(1).map_or(Duration::ZERO, pause);
        if !pause.is_zero() && !self.wait(worker, pause, None).await {
            return None;
        }
        self.pick(tried, true)
    }

    fn pick(&self, tried: &[Rc<Member>], repeatable: bool) -> Option<Pending> {
        let choice = Choice { tried, key: self.key, repeatable };
        self.balancer.pick(choice).or_else(|| {
            let again = !tried.is_empty();
            again.then(|| self.balancer.pick(Choice { tried: &[], ..choice })).flatten()
        })
    }

    /// Lets time pass, if there is so much, and takes over what was learned meanwhile.
    async fn wait(&self, worker: &Worker, pause: Duration, deadline: Option<Instant>) -> bool {
        let until = Instant::now() + pause.mul_f64(0.5 + fastrand::f64());
        if deadline.is_some_and(|deadline| deadline <= until) {
            return false;
        }
        // boxed: few requests need it
        Box::pin(sleep(until.saturating_duration_since(Instant::now()))).await;
        if let Some(destination) = self.destination {
            destination.refresh(worker);
        }
        true
    }
}

impl Limits {
    /// When the try that begins now is over, and what it is then.
    fn until(&self, now: Instant) -> Option<(Instant, Cause)> {
        let one = self.one_try.map(|limit| (now + limit, Cause::Late(limit)));
        match (one, self.deadline) {
            (Some(one), Some(deadline)) if one.0 < deadline => Some(one),
            (_, Some(deadline)) => Some((deadline, Cause::Deadline)),
            (one, None) => one,
        }
    }
}

impl Tries {
    fn failed(&mut self, member: &Rc<Member>, reason: &'static str) {
        self.members.push(member.clone());
        self.reasons.push(reason);
    }

    fn count(&self) -> usize {
        self.members.len()
    }

    /// Whether the request may be sent once more after what became of it, and after which pause.
    fn may_repeat(&mut self, verdict: &Verdict, endpoints: &Endpoints<'_>, template: &Template) -> bool {
        let retry = endpoints.again.map(|again| &again.traffic.retry);
        let granted =
            || endpoints.again.is_some_and(|again| again.budget.withdraw(again.traffic.retry_budget));
        let left = retry.is_some_and(|retry| self.repeated < retry.attempts);
        self.pause = if endpoints.destination.is_some() { pause(self.count()) } else { Duration::ZERO };
        match verdict.seen {
            Seen::Served | Seen::Below => false,
            Seen::Unsure => {
                self.unanswered += 1;
                let may = left && self.unanswered < MAX_UNANSWERED && template.is_idempotent() && granted();
                self.repeated += u32::from(may);
                may
            }
            Seen::Answered => {
                let covered = retry.is_some_and(|retry| template.is_covered(retry));
                let may = left && covered && template.is_replayable() && granted();
                let backoff = retry.map_or(Duration::ZERO, |retry| retry.backoff);
                self.pause = backoff.saturating_mul(1 << self.repeated.min(10));
                self.repeated += u32::from(may);
                may
            }
            Seen::Nobody => template.is_replayable() && (self.count() < FREE || granted()),
            Seen::Busy => template.is_replayable() && granted(),
            Seen::Stale => template.is_idempotent(),
        }
    }

    /// Whether a bad answer to the next try would cost nobody anything.
    fn may_be_answered_badly(&self, retry: &Retry, template: &Template) -> bool {
        let by_policy = !retry.statuses.is_empty() || !retry.grpc_codes.is_empty();
        by_policy && self.repeated < retry.attempts && template.is_covered(retry) && template.is_replayable()
    }

    /// The caller hears of a failure: those who called this application need not ask it again, and people may want to
    /// know who was tried and what happened.
    fn give_up(&self, worker: &Worker, endpoints: &Endpoints<'_>, template: &Template) {
        // the application itself is none of those that it calls
        if endpoints.again.is_some() {
            worker.shared.given_up.note();
        }
        // nobody misses the answer to a copy
        if self.count() > 1 && !template.is_copy() && worker.quota.admits(Direction::Outbound, "given-up") {
            let addresses = self.members.iter().map(|member| member.pool.endpoint().address);
            let tries: Vec<_> =
                addresses.zip(&self.reasons).map(|(address, reason)| format!("{address} {reason}")).collect();
            tracing::info!(tries = tries.join(", "), "a request was given up");
        }
    }
}

/// Before the try after so many others, for the news of endpoints.
fn pause(tried: usize) -> Duration {
    PAUSES.get(tried).copied().unwrap_or(PAUSES[PAUSES.len() - 1])
}
