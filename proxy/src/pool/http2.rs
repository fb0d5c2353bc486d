//! HTTP/2 connections: each carries streams up to what both sides allow; another is opened when all are full.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::Context,
    time::Duration,
};

use byrnie_identity::Alpn;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Notify, task::spawn_local};

use super::{Cause, Connection, Lease, Life, Pool, SendError};
use crate::{
    body::ProxyBody,
    cork::cork,
    dial::{DialError, dial},
    http_proxy::{CONNECTION_WINDOW, MAX_UNSENT, STREAM_WINDOW},
    worker::Worker,
};

/// HTTP/2 connections per endpoint and worker.
const MAX_HTTP2: usize = 64;
/// Streams per HTTP/2 connection, if the peer allows as many.
const MAX_STREAMS: usize = 100;

#[derive(Debug)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<ProxyBody>,
    pub(super) streams: Cell<usize>,
    limit: Rc<Cell<usize>>,
    pub(super) life: Life,
}

/// An HTTP/2 connection on its way, for everybody who needs it.
#[derive(Debug, Default)]
pub(super) struct Dialling {
    done: Notify,
    failed: RefCell<Option<Rc<DialError>>>,
}

impl Pool {
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

    async fn pick_http2(self: &Rc<Self>, worker: &Rc<Worker>) -> Result<Rc<Http2>, Rc<DialError>> {
        loop {
            let full = {
                let mut open = self.http2.borrow_mut();
                let now = worker.now();
                open.retain(|c| !c.sender.is_closed() && c.life.is_good(worker, now));
                match open.iter().min_by_key(|c| c.streams.get()) {
                    Some(c)
                        if open.len() >= MAX_HTTP2 || c.streams.get() < c.limit.get().min(MAX_STREAMS) =>
                    {
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
        let dialled = dial(worker, &self.endpoint, Alpn::Http2).await?;
        let life = Life::new(worker, &dialled);
        // whoever speaks HTTP/2 reads on while streams stall
        dialled.vigilance.set(true);
        let opened = self.count(worker, "http2");
        let (stream, cork) = cork(dialled.stream);
        let mut builder = http2::Builder::new(cork);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(MAX_UNSENT)
            .max_header_list_size(16 * 1024)
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20));
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| DialError::Connect {
            address: self.endpoint.address,
            source: io::Error::other(error),
        })?;
        let limit = Rc::new(Cell::new(MAX_STREAMS));
        let mut connection = Box::pin(connection);
        let published = limit.clone();
        spawn_local(async move {
            let ended = poll_fn(|cx: &mut Context<'_>| {
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
}
