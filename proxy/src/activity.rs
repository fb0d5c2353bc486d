//! What a connection is doing, as its worker sees it once in a while.
//!
//! Owns the limits that hyper does not have: idleness, age, expiry of the certificates. Costs a few stores per
//! request; the worker's sweep does the rest. Knows no protocol.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use byrnie_identity::Identity;
use tokio::sync::Notify;

use crate::{
    drain::{InFlight, Peer},
    standing::Counted,
};

/// A connection without a request is closed after this long.
pub const IDLE_LIMIT: Duration = Duration::from_mins(10);
/// A connection that was told to finish and has no request is closed after this long.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// Before its certificates expire, a connection is asked for so long to end by itself.
const NOTICE: Duration = Duration::from_secs(10);

/// The end of the process waits so long for the first request of a connection that was accepted.
pub const ARRIVAL: Duration = Duration::from_secs(1);

/// Shared by a connection's task, its requests and its worker.
#[derive(Debug)]
pub struct Activity {
    clock: Rc<Cell<Instant>>,
    requests: Cell<u32>,
    idle_since: Cell<Instant>,
    ends: Ends,
    standing: Option<(Counted, Peer)>,
    state: Cell<State>,
    goes_away: Cell<bool>,
    told: Notify,
    end: Cell<Option<End>>,
    arriving: RefCell<Option<InFlight>>,
}

/// When a connection must end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// It has lived long enough: no further request.
    pub retires: Option<Instant>,
    /// The certificates on which it stands are no longer valid.
    pub expires: Option<Instant>,
}

/// How a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// After the requests in flight: GOAWAY, or no further keep-alive.
    AfterRequests,
    /// Whatever is in flight.
    AtOnce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The next response says `Connection: close`.
    Closing(Instant),
}

/// A request in flight on a connection.
#[derive(Debug)]
pub struct Busy(Rc<Activity>);

impl Activity {
    /// A connection that begins now, by the worker's coarse clock, what a peer's certificates stand on, and its place
    /// among what is in flight.
    pub fn new(
        clock: &Rc<Cell<Instant>>,
        ends: Ends,
        standing: Option<(Counted, Peer)>,
        arriving: Option<InFlight>,
    ) -> Rc<Self> {
        Rc::new(Self {
            clock: clock.clone(),
            requests: Cell::new(0),
            idle_since: Cell::new(clock.get()),
            ends,
            standing,
            state: Cell::new(State::Open),
            goes_away: Cell::new(false),
            told: Notify::new(),
            end: Cell::new(None),
            arriving: RefCell::new(arriving),
        })
    }

    /// Counts a request in, which is in flight on its own account.
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.arriving.take();
        self.requests.set(self.requests.get() + 1);
        Busy(self.clone())
    }

    /// Whether the next response should be the last one.
    pub fn is_closing(&self) -> bool {
        self.state.get() != State::Open
    }

    /// Asks for an end after the requests in flight, without breaking one that is on its way.
    pub fn close(&self) {
        if self.state.get() == State::Open {
            self.state.set(State::Closing(self.clock.get()));
        }
    }

    /// The process ends: no further request on this connection, but none that is on its way is broken.
    pub fn drain(&self) {
        if self.goes_away.get() {
            self.tell(End::AfterRequests);
        } else {
            self.close();
        }
    }

    /// Our trust or our certificate has changed: what stands on a root that is no longer trusted ends, and what stands on
    /// another root than our new certificate is asked to move.
    pub fn reconsider(&self, identity: &Identity) {
        let Some((Counted { standing, .. }, _)) = &self.standing else { return };
        if !identity.still_trusts(standing) {
            self.tell(End::AtOnce);
        } else if identity.root() != Some(standing.own) {
            self.drain();
        }
    }

    /// The protocol can announce an end without losing a request (GOAWAY).
    pub fn can_go_away(&self) {
        self.goes_away.set(true);
    }

    /// Returns when the connection must end, and once more when it must do so in a harder way.
    pub async fn ending(&self) -> End {
        self.told.notified().await;
        self.end.get().unwrap_or(End::AtOnce)
    }

    fn tell(&self, end: End) {
        if self.end.get() < Some(end) {
            self.end.set(Some(end));
            self.told.notify_one();
        }
    }

    /// Applies the limits; called by the worker every now and then.
    pub fn check(&self) {
        let now = self.clock.get();
        let longer = |then: Instant, limit: Duration| now.saturating_duration_since(then) > limit;
        let idle = self.requests.get() == 0;
        if longer(self.idle_since.get(), ARRIVAL) {
            self.arriving.take();
        }
        if self.ends.retires.is_some_and(|end| now >= end) {
            self.close();
        }
        if let Some(end) = self.ends.expires {
            if now >= end {
                self.tell(End::AtOnce);
            } else if now + NOTICE >= end {
                self.drain();
            }
        }
        let finish = match self.state.get() {
            State::Closing(asked) => idle && longer(asked, FINISH_LIMIT),
            State::Open => idle && longer(self.idle_since.get(), IDLE_LIMIT),
        };
        if finish {
            self.tell(End::AfterRequests);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let activity = &self.0;
        activity.requests.set(activity.requests.get() - 1);
        activity.idle_since.set(activity.clock.get());
    }
}
