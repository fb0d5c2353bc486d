//! The account of one request, from its head to the last byte of its response: metrics, log line, what is in flight.
//!
//! Settled when dropped, so that a request that its client abandons is accounted for too. Decides nothing.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, SystemTime},
};

use byrnie_model::{Denial, Grant, ObjectName, SpiffeId};
use http::{Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    access_log::{Entry, HttpEntry, MAX_TEXT},
    activity::{Activity, Busy},
    body::Upload,
    drain::InFlight,
    limiter::Permit,
    metrics::{Decided, DestinationMetrics, Direction},
    reject::Reject,
    worker::Worker,
};

/// One request.
#[derive(Debug)]
pub struct Exchange {
    worker: Rc<Worker>,
    direction: Direction,
    metrics: DestinationMetrics,
    peer: Option<SpiffeId>,
    head: Option<Head>,
    started: Instant,
    status: Option<StatusCode>,
    reason: Option<&'static str>,
    verdict: Verdict,
    endpoint: Option<SocketAddr>,
    upload: Option<Rc<RefCell<Upload>>>,
    permit: Option<Permit>,
    sent: u64,
    complete: bool,
    _busy: Busy,
    _in_flight: InFlight,
}

/// What the log says of a request. Copied: a part of the head would keep in memory all that was read with it.
#[derive(Debug)]
struct Head {
    method: Method,
    path: Box<str>,
    version: Version,
}

#[derive(Debug, Default)]
struct Verdict {
    word: &'static str,
    policy: Option<ObjectName>,
    rule: Option<usize>,
}

impl Head {
    fn of<B>(request: &Request<B>) -> Self {
        let path = request.uri().path();
        let end = path.floor_char_boundary(MAX_TEXT + 1);
        Self { method: request.method().clone(), path: path[..end].into(), version: request.version() }
    }
}

impl Exchange {
    /// Opens the account. Boxed, because every step of a request hands it on.
    pub fn new(
        worker: &Rc<Worker>,
        direction: Direction,
        metrics: DestinationMetrics,
        peer: Option<&SpiffeId>,
        activity: &Rc<Activity>,
        request: &Request<Incoming>,
    ) -> Box<Self> {
        let logged = worker.shared.log.wants(true);
        Box::new(Self {
            direction,
            metrics,
            peer: peer.filter(|_| logged).cloned(),
            head: logged.then(|| Head::of(request)),
            started: Instant::now(),
            status: None,
            reason: None,
            verdict: Verdict::default(),
            endpoint: None,
            upload: None,
            permit: None,
            sent: 0,
            complete: false,
            _in_flight: worker.shared.drain.in_flight(),
            _busy: activity.busy(),
            worker: worker.clone(),
        })
    }

    /// When the request's head had come in.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whose counters it goes to.
    pub fn set_metrics(&mut self, metrics: &DestinationMetrics) {
        self.metrics = metrics.clone();
    }

    /// Counters in use.
    pub fn metrics(&self) -> &DestinationMetrics {
        &self.metrics
    }

    /// Where it went.
    pub fn set_endpoint(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
    }

    /// The body that came with it.
    pub fn set_upload(&mut self, upload: &Rc<RefCell<Upload>>) {
        self.upload = Some(upload.clone());
    }

    /// Its place among those that the application has at a time.
    pub fn set_permit(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// A policy let it in.
    pub fn allowed(&mut self, grant: &Grant<'_>) {
        let rule = match grant {
            Grant::NoPolicy => None,
            Grant::Rule(rule) => Some(rule),
        };
        self.worker.decisions.borrow_mut().count(Decided::Allow, rule.map(|rule| rule.policy));
        if self.worker.shared.log.wants(false) {
            self.verdict =
                Verdict { word: "allow", policy: rule.map(|r| r.policy.clone()), rule: rule.map(|r| r.rule) };
        }
    }

    /// A policy refuses it, or would if it were not under audit.
    pub fn refused(&mut self, denial: &Denial<'_>, audit: bool) {
        let decided = if audit { Decided::Audit } else { Decided::Deny };
        self.worker.decisions.borrow_mut().count(decided, denial.policy());
        let word = if audit { "audit" } else { "deny" };
        self.verdict = Verdict { word, policy: denial.policy().cloned(), rule: denial.rule() };
        if audit {
            self.reason = Some(denial.reason());
        }
    }

    /// It is answered here.
    pub fn reject(&mut self, reject: Reject) {
        self.status = Some(reject.status);
        self.reason = Some(reject.reason);
        self.complete = true;
    }

    /// The response begins.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        if let Some(permit) = &mut self.permit {
            permit.answered(!status.is_server_error());
        }
    }

    /// Bytes of the response's body.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// How many those are so far.
    pub fn bytes_sent(&self) -> u64 {
        self.sent
    }

    /// The response's last byte has passed.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    fn log(&mut self, took: Duration) {
        let Some(head) = self.head.take() else { return };
        self.worker.shared.log.log(Entry {
            time: SystemTime::now(),
            direction: self.direction,
            peer: self.peer.take(),
            destination: self.metrics.name().to_string(),
            http: Some(HttpEntry {
                method: head.method.to_string(),
                path: head.path.into(),
                protocol: if head.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
                status: self.status.map_or(0, |s| s.as_u16()),
            }),
            received: self.upload.as_ref().map_or(0, |upload| upload.borrow().bytes()),
            sent: self.sent,
            duration: took,
            reason: self.reason,
            verdict: self.verdict.word,
            policy: self.verdict.policy.take(),
            rule: self.verdict.rule,
            endpoint: self.endpoint.map(|e| e.to_string()).unwrap_or_default(),
        });
    }
}

/// Nginx' number for a client that did not wait for the answer.
const CLIENT_GONE: u16 = 499;

impl Drop for Exchange {
    fn drop(&mut self) {
        let took = Instant::now().saturating_duration_since(self.started);
        if !self.complete {
            let (reason, gone) = match self.status {
                Some(_) => ("response-cut", None),
                None => ("client-gone", StatusCode::from_u16(CLIENT_GONE).ok()),
            };
            self.reason = Some(reason);
            self.status = self.status.or(gone);
        }
        let failed = self.reason.is_some() && self.verdict.word != "audit";
        if let Some(status) = self.status {
            match self.reason {
                Some(reason) if failed => self.metrics.refused(status, reason),
                _ => self.metrics.answered(status, took),
            }
        }
        if self.worker.is_logged(self.direction, self.reason, self.verdict.word) {
            self.log(took);
        }
    }
}
