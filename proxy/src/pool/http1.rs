//! HTTP/1.1 connections: one request at a time each, reused last-in-first-out, bounded.

use std::{cell::Cell, rc::Rc};

use byrnie_identity::Alpn;
use http::{Request, Response, header};
use http_body::Body;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{sync::Notify, task::spawn_local, time::timeout};

use super::{Cause, Connection, Lease, Life, MAX_HTTP1, Pool, QUEUE_LIMIT, SendError};
use crate::{
    body::ProxyBody,
    dial::dial,
    sips::{Short, Sips},
    stream::Vigilance,
    worker::Worker,
};

/// Unused HTTP/1 connections kept per endpoint and worker.
const MAX_IDLE: usize = 64;
/// A body that any receive buffer takes at once.
const SMALL: u64 = 16 * 1024;

#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<ProxyBody>,
    vigilance: Vigilance,
    short: Short,
    pub(super) life: Life,
}

impl Pool {
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
                Ok(response) => {
                    if let Some(Connection::Http1(connection)) = &lease.connection {
                        connection.short.set(response.body().size_hint().upper());
                    }
                    return Ok((response, lease));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    unsent => return Err(SendError::new(error.into_error(), unsent, reused)),
                },
            }
        }
    }

    async fn idle_or_new(&self, worker: &Rc<Worker>) -> Result<(Http1, bool), Cause> {
        if let Some(idle) = self.take_http1(worker) {
            return Ok((idle, true));
        }
        // boxed: the requests that find an idle connection need no room for this
        Box::pin(self.new_or_freed(worker)).await
    }

    async fn new_or_freed(&self, worker: &Rc<Worker>) -> Result<(Http1, bool), Cause> {
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
        let now = worker.now();
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
        let dialled = dial(worker, &self.endpoint, Alpn::Http1).await.map_err(|e| Cause::Dial(Rc::new(e)))?;
        let life = Life::new(worker, &dialled);
        let opened = self.count(worker, "http1");
        let (stream, short) = Sips::new(dialled.stream);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(64 * 1024);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(Cause::Setup)?;
        let connection = connection.with_upgrades();
        spawn_local(async move {
            // why it ended is told to the request that was on it
            let _ = connection.await;
            drop((slot, opened));
        });
        Ok(Http1 { sender, vigilance: dialled.vigilance, short, life })
    }

    /// Takes a connection back after its request.
    pub(super) fn put_http1(&self, connection: Http1, worker: &Worker) {
        let mut idle = self.http1.borrow_mut();
        let life = &connection.life;
        life.idle_since.set(worker.now());
        if !connection.sender.is_closed() && idle.len() < MAX_IDLE && life.generation == worker.generation() {
            idle.push(connection);
            if self.http1_open.get() >= MAX_HTTP1 {
                self.freed.notify_one();
            }
        }
    }
}

/// Whether all of a request fits into the peer's buffers, however slowly it reads.
fn is_small(request: &Request<ProxyBody>) -> bool {
    let switches = request.headers().contains_key(header::UPGRADE);
    !switches && request.body().size_hint().upper().is_some_and(|bytes| bytes <= SMALL)
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
