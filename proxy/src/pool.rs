//! The connections to one endpoint: HTTP/1 bounded and reused last-in-first-out, HTTP/2 several, each up to its streams.
//!
//! A pool belongs to one worker and one endpoint (address, identity and pod UID); it goes when the endpoint goes, and
//! a connection made under an older certificate or trust bundle of our own is not used again. Knows no policy.

mod failure;
mod http1;
mod http2;

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    time::Duration,
};

use byrnie_model::Endpoint;
use http::Response;
use http_body::Body;
use hyper::{body::Incoming, rt::Executor};
use tokio::{
    sync::Notify,
    task::spawn_local,
    time::{Instant, timeout},
};

pub use self::failure::{Cause, SendError};
use self::{
    http1::Http1,
    http2::{Dialling, Http2},
};
use crate::{
    dial::Dialled,
    metrics::{Direction, OpenConnection},
    worker::Worker,
};

/// Open HTTP/1 connections per endpoint and worker; requests beyond wait, up to [`QUEUE_LIMIT`].
const MAX_HTTP1: usize = 4096;
/// How long a request waits for a free connection.
const QUEUE_LIMIT: Duration = Duration::from_secs(1);
/// Our own proxies keep idle connections for longer than this.
const IDLE_MESH: Duration = Duration::from_mins(1);
/// Shorter than the keep-alive of common servers (Node.js: 5 s), so that they rarely close first.
const IDLE_PLAIN: Duration = Duration::from_secs(4);
/// No connection is used for longer, minus up to a tenth.
const MAX_AGE: Duration = Duration::from_hours(1);
/// A response that nobody wants is read to its end if it is not longer than this, for its connection's sake.
const MAX_DISCARDED: u64 = 16 * 1024;
const DISCARD_LIMIT: Duration = Duration::from_secs(1);

/// The connections to one endpoint.
#[derive(Debug)]
pub struct Pool {
    endpoint: Endpoint,
    http1: RefCell<Vec<Http1>>,
    http1_open: Rc<Cell<usize>>,
    freed: Rc<Notify>,
    http2: RefCell<Vec<Rc<Http2>>>,
    dialling: RefCell<Option<Rc<Dialling>>>,
}

/// A connection in use by one request; gives it back when dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<Pool>,
    worker: Rc<Worker>,
    connection: Option<Connection>,
}

#[derive(Debug)]
enum Connection {
    Http1(Http1),
    Http2(Rc<Http2>),
}

/// Until when a connection may be used.
#[derive(Debug)]
struct Life {
    generation: u64,
    expires: Instant,
    idle_since: Cell<Instant>,
}

/// Spawns hyper's tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub struct Local;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

impl Pool {
    /// A pool without connections.
    pub fn new(endpoint: &Endpoint) -> Rc<Self> {
        Rc::new(Self {
            endpoint: endpoint.clone(),
            http1: RefCell::default(),
            http1_open: Rc::default(),
            freed: Rc::default(),
            http2: RefCell::default(),
            dialling: RefCell::default(),
        })
    }

    /// Where the connections go.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Ends what has been idle for too long or may not be used any more; whether anything is left.
    pub fn sweep(&self, worker: &Worker) -> bool {
        let now = Instant::now();
        let limit = if self.endpoint.identity.is_some() { IDLE_MESH } else { IDLE_PLAIN };
        let keep =
            |life: &Life| life.is_good(worker, now) && now.duration_since(life.idle_since.get()) < limit;
        self.http1.borrow_mut().retain(|c| !c.sender.is_closed() && keep(&c.life));
        self.http2.borrow_mut().retain(|c| {
            let busy = c.streams.get() > 0 && c.life.is_good(worker, now);
            !c.sender.is_closed() && (busy || keep(&c.life))
        });
        self.http1_open.get() > 0 || !self.http2.borrow().is_empty()
    }

    fn lease(self: &Rc<Self>, worker: &Rc<Worker>, connection: Connection) -> Lease {
        Lease { pool: self.clone(), worker: worker.clone(), connection: Some(connection) }
    }

    fn count(&self, worker: &Worker, protocol: &'static str) -> OpenConnection {
        let kind = match (self.endpoint.identity.is_some(), protocol) {
            (true, "http1") => "mtls-http1",
            (true, _) => "mtls-http2",
            (false, "http1") => "plain-http1",
            (false, _) => "plain-http2",
        };
        worker.shared.metrics.connection(Direction::Outbound, kind, self.endpoint.identity.as_ref())
    }
}

impl Life {
    fn new(worker: &Worker, dialled: &Dialled) -> Self {
        let now = worker.now();
        let oldest = now + MAX_AGE.mul_f32(1.0 - 0.1 * fastrand::f32());
        let expires = dialled.expires.map_or(oldest, |certificate| certificate.min(oldest));
        // what is overtaken serves whoever waits for it, and nobody else
        let expires = if dialled.overtaken { now } else { expires };
        Self { generation: worker.generation(), expires, idle_since: Cell::new(now) }
    }

    fn is_good(&self, worker: &Worker, now: Instant) -> bool {
        self.generation == worker.generation() && now < self.expires
    }
}

impl Lease {
    /// Gives the connection back when a response that nobody wants has passed, if that will not take long.
    pub fn discard(self, response: Response<Incoming>) {
        let body = response.into_body();
        if body.size_hint().upper().is_some_and(|bytes| bytes <= MAX_DISCARDED) {
            spawn_local(async move {
                let mut body = pin!(body);
                let rest =
                    async { while let Some(Ok(_)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {} };
                // what takes longer costs a new connection
                let _ = timeout(DISCARD_LIMIT, rest).await;
                drop(self);
            });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(Connection::Http1(connection)) => self.pool.put_http1(connection, &self.worker),
            Some(Connection::Http2(connection)) => {
                connection.streams.set(connection.streams.get() - 1);
                connection.life.idle_since.set(self.worker.now());
            }
            None => {}
        }
    }
}
