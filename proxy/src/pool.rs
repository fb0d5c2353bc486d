//! The connections to one endpoint: HTTP/1 bounded and reused last-in-first-out, HTTP/2 several, each up to its streams.
//!
//! A pool belongs to one worker and one endpoint (address, identity and pod UID); it goes when the endpoint goes, and
//! a connection made under an older certificate or trust bundle of our own is not used again. Knows no policy.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::Context,
    time::Duration,
};

use byrnie_identity::Alpn;
use byrnie_model::Endpoint;
use http::{Request, Response, header};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::AlertDescription;
use thiserror::Error;
use tokio::{
    sync::Notify,
    task::spawn_local,
    time::{Instant, timeout},
};

use crate::{
    body::{BodyError, ProxyBody},
    dial::{DialError, Dialled, dial},
    metrics::Direction,
    stream::Vigilance,
    worker::Worker,
};

/// Open HTTP/1 connections per endpoint and worker; requests beyond wait, up to [`QUEUE_LIMIT`].
const MAX_HTTP1: usize = 4096;
/// Unused HTTP/1 connections kept per endpoint and worker.
const MAX_IDLE: usize = 64;
/// HTTP/2 connections per endpoint and worker.
const MAX_HTTP2: usize = 64;
/// Streams per HTTP/2 connection, if the peer allows as many.
const MAX_STREAMS: usize = 100;
/// How long a request waits for a free connection.
const QUEUE_LIMIT: Duration = Duration::from_secs(1);
/// Our own proxies keep idle connections for longer than this.
const IDLE_MESH: Duration = Duration::from_mins(1);
/// Shorter than the keep-alive of common servers (Node.js: 5 s), so that they rarely close first.
const IDLE_PLAIN: Duration = Duration::from_secs(4);
/// A body that any receive buffer takes at once.
const SMALL: u64 = 16 * 1024;
/// No connection is used for longer, minus up to a tenth.
const MAX_AGE: Duration = Duration::from_hours(1);

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

/// Why no response came.
#[derive(Debug)]
pub struct SendError {
    /// What happened.
    pub cause: Cause,
    /// The request, if not a byte of it was sent.
    pub unsent: Option<Request<ProxyBody>>,
}

/// What happened instead of a response.
#[derive(Debug, Error)]
pub enum Cause {
    /// There is no connection.
    #[error(transparent)]
    Dial(Rc<DialError>),
    /// The protocol's own first exchange failed.
    #[error("the endpoint ended a connection before its first request")]
    Setup(#[source] hyper::Error),
    /// Too many connections are busy.
    #[error("all {MAX_HTTP1} connections to the endpoint stayed busy for {QUEUE_LIMIT:?}")]
    Full,
    /// The connection ended before the request was sent.
    #[error("the connection ended before the request was sent")]
    Unsent(#[source] hyper::Error),
    /// The endpoint says that it has not processed the request (REFUSED_STREAM, GOAWAY).
    #[error("the endpoint refused the stream unprocessed")]
    Unprocessed(#[source] hyper::Error),
    /// The request's own body ended early: its sender is at fault, not the endpoint.
    #[error("the request's body ended early")]
    Body(#[source] hyper::Error),
    /// The connection had been idle, and ended when it was used again.
    #[error("an idle connection ended when it was used again")]
    Stale(#[source] hyper::Error),
    /// The connection ended before the response began.
    #[error("the connection ended before the response began")]
    Reset(#[source] hyper::Error),
}

#[derive(Debug)]
struct Http1 {
    sender: http1::SendRequest<ProxyBody>,
    vigilance: Vigilance,
    life: Life,
}

#[derive(Debug)]
struct Http2 {
    sender: http2::SendRequest<ProxyBody>,
    streams: Cell<usize>,
    limit: Rc<Cell<usize>>,
    life: Life,
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

/// An HTTP/2 connection on its way, for everybody who needs it.
#[derive(Debug, Default)]
struct Dialling {
    done: Notify,
    failed: RefCell<Option<Rc<DialError>>>,
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

    /// Sends a request over HTTP/1.1, on an idle connection if there is one.
    pub async fn http1(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        mut request: Request<ProxyBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        loop {
            let (mut connection, reused) = match self.idle_or_new(worker).await {
                Ok(connection) => connection,
                Err(cause) => return Err(SendError { cause, unsent: Some(request) }),
            };
            connection.vigilance.set(is_small(&request));
            let sending = connection.sender.try_send_request(request);
            let lease = self.lease(worker, Connection::Http1(connection));
            match sending.await {
                Ok(response) => return Ok((response, lease)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    unsent => return Err(SendError::new(error.into_error(), unsent, reused)),
                },
            }
        }
    }

    /// Sends a request over HTTP/2, on the least busy connection.
    pub async fn http2(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        request: Request<ProxyBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let connection = match self.pick_http2(worker).await {
            Ok(connection) => connection,
            Err(error) => return Err(SendError { cause: Cause::Dial(error), unsent: Some(request) }),
        };
        connection.streams.set(connection.streams.get() + 1);
        let mut sender = connection.sender.clone();
        let lease = self.lease(worker, Connection::Http2(connection));
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, lease)),
            Err(mut error) => {
                let unsent = error.take_message();
                Err(SendError::new(error.into_error(), unsent, false))
            }
        }
    }

    /// Ends what has been idle for too long or may not be used any more; whether anything is left.
    pub fn sweep(&self, worker: &Worker) -> bool {
        let now = Instant::now();
        let limit = if self.endpoint.identity.is_some() { IDLE_MESH } else { IDLE_PLAIN };
        let keep = |life: &Life| life.is_good(worker, now) && now.duration_since(life.idle_since.get()) < limit;
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

    async fn idle_or_new(&self, worker: &Rc<Worker>) -> Result<(Http1, bool), Cause> {
        if let Some(idle) = self.take_http1(worker) {
            return Ok((idle, true));
        }
        if self.http1_open.get() < MAX_HTTP1 {
            return Ok((self.open_http1(worker).await?, false));
        }
        let free = async {
            loop {
                self.freed.notified().await;
                if let Some(idle) = self.take_http1(worker) {
                    return Ok((idle, true));
                }
                if self.http1_open.get() < MAX_HTTP1 {
                    return Ok((self.open_http1(worker).await?, false));
                }
            }
        };
        timeout(QUEUE_LIMIT, free).await.unwrap_or(Err(Cause::Full))
    }

    fn take_http1(&self, worker: &Worker) -> Option<Http1> {
        let mut idle = self.http1.borrow_mut();
        let now = Instant::now();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            if idle[at].sender.is_closed() || !idle[at].life.is_good(worker, now) {
                idle.swap_remove(at);
            } else if idle[at].sender.is_ready() {
                return Some(idle.remove(at));
            }
        }
        None
    }

    async fn open_http1(&self, worker: &Rc<Worker>) -> Result<Http1, Cause> {
        self.http1_open.set(self.http1_open.get() + 1);
        let slot = Slot { open: self.http1_open.clone(), freed: self.freed.clone() };
        let dialled = dial(&worker.shared, &self.endpoint, Alpn::Http1).await.map_err(|e| Cause::Dial(Rc::new(e)))?;
        let life = Life::new(worker, &dialled);
        let opened = self.count(worker, "http1");
        let mut builder = http1::Builder::new();
        builder.max_buf_size(64 * 1024);
        let (sender, connection) = builder.handshake(TokioIo::new(dialled.stream)).await.map_err(Cause::Setup)?;
        let connection = connection.with_upgrades();
        spawn_local(async move {
            // why it ended is told to the request that was on it
            let _ = connection.await;
            drop((slot, opened));
        });
        Ok(Http1 { sender, vigilance: dialled.vigilance, life })
    }

    async fn pick_http2(self: &Rc<Self>, worker: &Rc<Worker>) -> Result<Rc<Http2>, Rc<DialError>> {
        loop {
            let full = {
                let mut open = self.http2.borrow_mut();
                let now = Instant::now();
                open.retain(|c| !c.sender.is_closed() && c.life.is_good(worker, now));
                match open.iter().min_by_key(|c| c.streams.get()) {
                    Some(c) if open.len() >= MAX_HTTP2 || c.streams.get() < c.limit.get().min(MAX_STREAMS) => {
                        return Ok(c.clone());
                    }
                    _ => open.len(),
                }
            };
            let dialling = self.dial_http2(worker);
            dialling.done.notified().await;
            if let Some(error) = dialling.failed.take() {
                *dialling.failed.borrow_mut() = Some(error.clone());
                if full == 0 {
                    return Err(error);
                }
                if let Some(connection) = self.http2.borrow().first() {
                    return Ok(connection.clone());
                }
            }
        }
    }

    /// Opens one more HTTP/2 connection unless that is happening already. Survives who asked for it.
    fn dial_http2(self: &Rc<Self>, worker: &Rc<Worker>) -> Rc<Dialling> {
        let mut current = self.dialling.borrow_mut();
        if let Some(dialling) = current.as_ref() {
            return dialling.clone();
        }
        let dialling = Rc::new(Dialling::default());
        *current = Some(dialling.clone());
        let (pool, worker) = (self.clone(), worker.clone());
        spawn_local(async move {
            let opened = pool.open_http2(&worker).await;
            let dialling = pool.dialling.take();
            match opened {
                Ok(connection) => pool.http2.borrow_mut().push(Rc::new(connection)),
                Err(error) => {
                    if let Some(dialling) = &dialling {
                        *dialling.failed.borrow_mut() = Some(Rc::new(error));
                    }
                }
            }
            if let Some(dialling) = dialling {
                dialling.done.notify_waiters();
            }
        });
        dialling
    }

    async fn open_http2(&self, worker: &Rc<Worker>) -> Result<Http2, DialError> {
        let dialled = dial(&worker.shared, &self.endpoint, Alpn::Http2).await?;
        let life = Life::new(worker, &dialled);
        // whoever speaks HTTP/2 reads on while streams stall
        dialled.vigilance.set(true);
        let opened = self.count(worker, "http2");
        let mut builder = http2::Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(128 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_header_list_size(16 * 1024)
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20));
        let handshake = builder.handshake(TokioIo::new(dialled.stream)).await;
        let (sender, connection) = handshake.map_err(|error| DialError::Connect {
            address: self.endpoint.address,
            source: io::Error::other(error),
        })?;
        let limit = Rc::new(Cell::new(MAX_STREAMS));
        let mut connection = Box::pin(connection);
        let published = limit.clone();
        spawn_local(async move {
            let ended = std::future::poll_fn(|cx: &mut Context<'_>| {
                let polled = connection.as_mut().poll(cx);
                published.set(Pin::get_ref(connection.as_ref()).current_max_send_streams());
                polled
            });
            // why it ended is told to the requests that were on it
            let _ = ended.await;
            drop(opened);
        });
        Ok(Http2 { sender, streams: Cell::new(0), limit, life })
    }

    fn count(&self, worker: &Worker, protocol: &'static str) -> crate::metrics::OpenConnection {
        let kind = match (self.endpoint.identity.is_some(), protocol) {
            (true, "http1") => "mtls-http1",
            (true, _) => "mtls-http2",
            (false, "http1") => "plain-http1",
            (false, _) => "plain-http2",
        };
        worker.shared.metrics.connection(Direction::Outbound, kind, self.endpoint.identity.as_ref())
    }
}

impl SendError {
    fn new(error: hyper::Error, unsent: Option<Request<ProxyBody>>, reused: bool) -> Self {
        let cause = match unsent {
            Some(_) => Cause::Unsent(error),
            None if source::<BodyError>(&error).is_some() => Cause::Body(error),
            None if was_refused(&error) => Cause::Setup(error),
            None if was_not_processed(&error) => Cause::Unprocessed(error),
            None if reused => Cause::Stale(error),
            None => Cause::Reset(error),
        };
        Self { cause, unsent }
    }
}

/// Whether all of a request fits into the peer's buffers, however slowly it reads.
fn is_small(request: &Request<ProxyBody>) -> bool {
    let switches = request.headers().contains_key(header::UPGRADE);
    !switches && request.body().size_hint().upper().is_some_and(|bytes| bytes <= SMALL)
}

/// The first error of a type among those that led to this one.
fn source<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A TLS 1.3 client learns only at its first read that the server refused its certificate: the request was not read.
fn was_refused(error: &hyper::Error) -> bool {
    let io = source::<io::Error>(error).and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
    matches!(io, Some(rustls::Error::AlertReceived(alert)) if *alert != AlertDescription::CloseNotify)
}

/// HTTP/2 only: the peer reset the stream as refused, or ended the connection before it took the stream.
fn was_not_processed(error: &hyper::Error) -> bool {
    source::<h2::Error>(error).is_some_and(|error| match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => true,
        Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        _ => false,
    })
}

impl Life {
    fn new(worker: &Worker, dialled: &Dialled) -> Self {
        let now = Instant::now();
        let oldest = now + MAX_AGE.mul_f32(1.0 - 0.1 * fastrand::f32());
        let expires = dialled.expires.map_or(oldest, |certificate| certificate.min(oldest));
        Self { generation: worker.generation(), expires, idle_since: Cell::new(now) }
    }

    fn is_good(&self, worker: &Worker, now: Instant) -> bool {
        self.generation == worker.generation() && now < self.expires
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(Connection::Http1(connection)) => {
                let mut idle = self.pool.http1.borrow_mut();
                let life = &connection.life;
                life.idle_since.set(Instant::now());
                if !connection.sender.is_closed() && idle.len() < MAX_IDLE && life.generation == self.worker.generation() {
                    idle.push(connection);
                    if self.pool.http1_open.get() >= MAX_HTTP1 {
                        self.pool.freed.notify_one();
                    }
                }
            }
            Some(Connection::Http2(connection)) => {
                connection.streams.set(connection.streams.get() - 1);
                connection.life.idle_since.set(Instant::now());
            }
            None => {}
        }
    }
}

/// A place among the open HTTP/1 connections.
struct Slot {
    open: Rc<Cell<usize>>,
    freed: Rc<Notify>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.freed.notify_one();
    }
}
