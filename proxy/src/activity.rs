//! What a connection is doing, as its worker sees it once in a while.
//!
//! Owns the limits that hyper does not have: idleness, age, expiry of the certificates. Costs a few stores per
//! request; the worker's sweep does the rest. Knows no protocol.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::drain::InFlight;

/// A connection without a request is closed after this long.
pub const IDLE_LIMIT: Duration = Duration::from_mins(10);
/// A connection that was told to finish and has no request is closed after this long.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// The end of the process waits so long for the first request of a connection that was accepted.
pub const ARRIVAL: Duration = Duration::from_secs(1);

/// Shared by a connection's task, its requests and its worker.
#[derive(Debug)]
pub struct Activity {
    clock: Rc<Cell<Instant>>,
    requests: Cell<u32>,
    idle_since: Cell<Instant>,
    ends: Ends,
    state: Cell<State>,
    goes_away: Cell<bool>,
    told: Notify,
    finishing: Cell<bool>,
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
    /// A connection that begins now, by the worker's coarse clock, and its place among what is in flight.
    pub fn new(clock: &Rc<Cell<Instant>>, ends: Ends, arriving: Option<InFlight>) -> Rc<Self> {
        Rc::new(Self {
            clock: clock.clone(),
            requests: Cell::new(0),
            idle_since: Cell::new(clock.get()),
            ends,
            state: Cell::new(State::Open),
            goes_away: Cell::new(false),
            told: Notify::new(),
            finishing: Cell::new(false),
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
            self.finish();
        } else {
            self.close();
        }
    }

    /// The protocol can announce an end without losing a request (GOAWAY).
    pub fn can_go_away(&self) {
        self.goes_away.set(true);
    }

    /// Returns when the connection must end after the requests in flight: GOAWAY, or no further keep-alive.
    pub async fn finishing(&self) {
        self.told.notified().await;
    }

    fn finish(&self) {
        if !self.finishing.replace(true) {
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
        let finish = self.ends.expires.is_some_and(|end| now >= end)
            || match self.state.get() {
                State::Closing(asked) => idle && longer(asked, FINISH_LIMIT),
                State::Open => idle && longer(self.idle_since.get(), IDLE_LIMIT),
            };
        if finish {
            self.finish();
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
