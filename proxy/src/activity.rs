//! What a connection is doing, as its worker sees it once in a while.
//!
//! Owns the limits that hyper does not have or has per request (idle, a head that does not end, age, expiry of the
//! peer's certificate). Costs a few stores per request; the worker's sweep does the rest. Knows no protocol.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// A head must be complete this long after its first byte (R20).
pub const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// A connection without a request is closed after this long.
pub const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// A connection that was told to finish and has no request is closed after this long.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

/// Shared by a connection's task, its requests and its worker.
#[derive(Debug)]
pub struct Activity {
    clock: Rc<Cell<Instant>>,
    requests: Cell<u32>,
    idle_since: Cell<Instant>,
    head_since: Cell<Option<Instant>>,
    ends: Ends,
    state: Cell<State>,
    goes_away: Cell<bool>,
    told: Notify,
    order: Cell<Order>,
}

/// When a connection must end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// It has lived long enough: no further request.
    pub retires: Option<Instant>,
    /// The certificates on which it stands are no longer valid.
    pub expires: Option<Instant>,
}

/// What the worker wants from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// Nothing.
    #[default]
    None,
    /// End after the requests in flight: GOAWAY, or no further keep-alive.
    Finish,
    /// End now.
    Abort,
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

/// A stream whose reads are noted.
#[derive(Debug)]
pub struct Watched<S> {
    io: S,
    activity: Rc<Activity>,
}

impl Activity {
    /// A connection that begins now, by the worker's coarse clock.
    pub fn new(clock: &Rc<Cell<Instant>>, ends: Ends) -> Rc<Self> {
        Rc::new(Self {
            clock: clock.clone(),
            requests: Cell::new(0),
            idle_since: Cell::new(clock.get()),
            head_since: Cell::new(None),
            ends,
            state: Cell::new(State::Open),
            goes_away: Cell::new(false),
            told: Notify::new(),
            order: Cell::new(Order::None),
        })
    }

    /// Counts a request in.
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.requests.set(self.requests.get() + 1);
        self.head_since.set(None);
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
            self.tell(Order::Finish);
        } else {
            self.close();
        }
    }

    /// The protocol can announce an end without losing a request (GOAWAY).
    pub fn can_go_away(&self) {
        self.goes_away.set(true);
    }

    /// Tells the connection's task to do something at once.
    pub fn tell(&self, order: Order) {
        if self.order.get() != order {
            self.order.set(order);
            self.told.notify_one();
        }
    }

    /// Returns when the worker has told the connection something.
    pub async fn told(&self) -> Order {
        self.told.notified().await;
        self.order.get()
    }

    /// Applies the limits; called by the worker every now and then.
    pub fn check(&self) {
        let now = self.clock.get();
        let longer = |then: Instant, limit: Duration| now.saturating_duration_since(then) > limit;
        let idle = self.requests.get() == 0;
        if self.ends.retires.is_some_and(|end| now >= end) {
            self.close();
        }
        let finish = self.ends.expires.is_some_and(|end| now >= end)
            || match self.state.get() {
                State::Closing(asked) => idle && longer(asked, FINISH_LIMIT),
                State::Open => idle && longer(self.idle_since.get(), IDLE_LIMIT),
            };
        if self.head_since.get().is_some_and(|head| longer(head, HEAD_LIMIT)) {
            self.tell(Order::Abort);
        } else if finish {
            self.tell(Order::Finish);
        }
    }

    fn read(&self) {
        if self.requests.get() == 0 && self.head_since.get().is_none() {
            self.head_since.set(Some(self.clock.get()));
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

impl<S> Watched<S> {
    /// Watches a stream that carries HTTP/1.
    pub fn new(io: S, activity: Rc<Activity>) -> Self {
        Self { io, activity }
    }

    /// The stream.
    pub fn into_inner(self) -> S {
        self.io
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.activity.read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
