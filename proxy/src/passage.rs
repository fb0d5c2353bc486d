//! The account of one connection that carries no HTTP: bytes, log line, what is in flight.
//!
//! Settled when dropped, however the connection ended. Decides nothing.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, SystemTime},
};

use byrnie_model::{Denial, Grant, ObjectName, SpiffeId};
use tokio::time::Instant;

use crate::{
    access_log::Entry,
    activity::{Activity, Busy},
    drain::InFlight,
    metrics::{Decided, DestinationMetrics, Direction},
    opaque::Meter,
    worker::Worker,
};

/// One connection.
#[derive(Debug)]
pub struct Passage {
    /// What has passed.
    pub meter: Rc<Meter>,
    worker: Rc<Worker>,
    direction: Direction,
    metrics: DestinationMetrics,
    peer: Option<SpiffeId>,
    started: Instant,
    reason: Option<&'static str>,
    verdict: &'static str,
    policy: Option<ObjectName>,
    rule: Option<usize>,
    endpoint: Option<SocketAddr>,
    _busy: Busy,
    _in_flight: InFlight,
}

impl Passage {
    /// Opens the account.
    pub fn new(
        worker: &Rc<Worker>,
        direction: Direction,
        metrics: DestinationMetrics,
        peer: Option<&SpiffeId>,
        activity: &Rc<Activity>,
    ) -> Self {
        Self {
            meter: Rc::default(),
            direction,
            metrics,
            peer: peer.cloned(),
            started: Instant::now(),
            reason: None,
            verdict: "",
            policy: None,
            rule: None,
            endpoint: None,
            _in_flight: worker.shared.drain.in_flight(),
            _busy: activity.busy(),
            worker: worker.clone(),
        }
    }

    /// Whose counters it goes to, and where.
    pub fn set_endpoint(&mut self, metrics: &DestinationMetrics, endpoint: SocketAddr) {
        self.metrics = metrics.clone();
        self.endpoint = Some(endpoint);
    }

    /// It was let in.
    pub fn allowed(&mut self, grant: &Grant<'_>) {
        let (policy, rule) = match grant {
            Grant::NoPolicy => (None, None),
            Grant::Rule(rule) => (Some(rule.policy), Some(rule.rule)),
        };
        self.worker.decisions.borrow_mut().count(Decided::Allow, policy);
        (self.verdict, self.policy, self.rule) = ("allow", policy.cloned(), rule);
    }

    /// A policy refuses it, or would if it were not under audit.
    pub fn refused(&mut self, denial: &Denial<'_>, audit: bool) {
        let decided = if audit { Decided::Audit } else { Decided::Deny };
        self.worker.decisions.borrow_mut().count(decided, denial.policy());
        self.verdict = if audit { "audit" } else { "deny" };
        (self.policy, self.rule) = (denial.policy().cloned(), denial.rule());
        self.reason = Some(denial.reason());
    }

    /// It ends for this reason.
    pub fn failed(&mut self, reason: &'static str) {
        self.reason = Some(reason);
    }

    fn log(&mut self, took: Duration) {
        self.worker.shared.log.log(Entry {
            time: SystemTime::now(),
            direction: self.direction,
            peer: self.peer.take(),
            destination: self.metrics.name().to_string(),
            http: None,
            received: self.meter.received.get(),
            sent: self.meter.sent.get(),
            duration: took,
            reason: self.reason,
            verdict: self.verdict,
            policy: self.policy.take(),
            rule: self.rule,
            endpoint: self.endpoint.map(|e| e.to_string()).unwrap_or_default(),
        });
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.metrics.sent(self.meter.received.get());
        self.metrics.received(self.meter.sent.get());
        if self.worker.is_logged(self.direction, self.reason, self.verdict) {
            self.log(Instant::now().saturating_duration_since(self.started));
        }
    }
}
