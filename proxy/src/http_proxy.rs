//! Serves HTTP on one connection: hyper's settings, limits, and the end of the connection.
//!
//! Both directions come through here; what is done with a request is the [`Handler`]'s business.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::{
    activity::{Activity, End},
    body::ProxyBody,
    cork::cork,
    http1_guard::{Guard, MAX_HEAD},
    linger::Lingering,
    pace::{Pace, Paced},
    pool::Local,
    stream::Stream,
    upgrade::Tunnel,
    worker::Worker,
};

/// As much as a head that passed the guard can have. No more of a body waits for somebody who does not read: two sips of a
/// server's stream, and not a byte of room that would let in a third.
const MAX_BUFFER: usize = MAX_HEAD;

/// What a stream of HTTP/2 may bring that nobody has taken yet.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// As much for a hundred streams: some that are stuck do not stop the others.
pub const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;
/// What of a stream may wait for a peer that does not read.
pub const MAX_UNSENT: usize = 32 * 1024;

/// What all requests of one accepted connection share.
#[derive(Debug)]
pub struct Front {
    /// The thread.
    pub worker: Rc<Worker>,
    /// Who connected.
    pub client: SocketAddr,
    /// Where the connection was going.
    pub destination: SocketAddr,
    /// What the connection is doing.
    pub activity: Rc<Activity>,
    /// What waits for the client, over HTTP/1.
    pub pace: Rc<Pace>,
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

/// Answers requests.
pub trait Handler: 'static {
    /// The connection that the requests come from.
    fn front(&self) -> &Front;

    /// One request. Boxed, because every step hands it on.
    fn handle(&self, request: Box<Request<Incoming>>) -> impl Future<Output = Response<ProxyBody>>;
}

impl Front {
    /// A connection on which nothing has happened.
    pub fn new(
        worker: Rc<Worker>,
        client: SocketAddr,
        destination: SocketAddr,
        activity: Rc<Activity>,
    ) -> Self {
        Self { worker, client, destination, activity, pace: Rc::default(), tunnel: RefCell::default() }
    }

    /// What follows when the response that is about to be returned, a 101, has been written.
    pub fn set_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(Box::new(tunnel));
    }
}

/// Serves HTTP/1.1 until either side ends it, and what a connection was upgraded to.
pub async fn http1<H: Handler>(stream: Stream, handler: Rc<H>) {
    let activity = handler.front().activity.clone();
    let mut guard = Guard::new(stream);
    // hyper's buffers are for those who ask for something
    tokio::select! {
        biased;
        () = poll_fn(|cx| guard.poll_head(cx)) => {}
        _ = activity.ending() => return,
    }
    let io = TokioIo::new(Paced::new(guard, handler.front().pace.clone()));
    let answering = handler.clone();
    let service = service_fn(move |request| answer(answering.clone(), Box::new(request)));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_BUFFER);
    let mut connection = builder.serve_connection(io, service);
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => match ended {
                Ok(()) => break,
                Err(error) => return tracing::debug!(%error, "a connection ended with an error"),
            },
            end = activity.ending() => match end {
                End::AfterRequests => Pin::new(&mut connection).graceful_shutdown(),
                End::AtOnce => return,
            },
        }
    }
    let tunnel = handler.front().tunnel.take();
    if let Some(tunnel) = tunnel {
        let parts = connection.into_parts();
        let (stream, held) = parts.io.into_inner().into_inner().into_parts();
        Box::pin(tunnel.run(stream, [&parts.read_buf[..], &held].concat(), &activity)).await;
    }
}

/// Serves HTTP/2 until either side ends it, with so many streams at a time.
pub async fn http2<H: Handler>(stream: Stream, handler: Rc<H>, streams: u32) {
    let activity = handler.front().activity.clone();
    activity.can_go_away();
    let service = service_fn(move |request| answer(handler.clone(), Box::new(request)));
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_UNSENT)
        .max_concurrent_streams(streams)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20));
    let (stream, cork) = cork(Lingering::new(stream));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    loop {
        let turn = poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            cork.end_turn(cx);
            polled
        });
        tokio::select! {
            biased;
            _ = turn => return,
            end = activity.ending() => match end {
                End::AfterRequests => connection.as_mut().graceful_shutdown(),
                End::AtOnce => return,
            },
        }
    }
}

async fn answer<H: Handler>(
    handler: Rc<H>,
    request: Box<Request<Incoming>>,
) -> Result<Response<ProxyBody>, Infallible> {
    let http1 = request.version() < Version::HTTP_2;
    // after a request to upgrade the guard holds back what follows, which may not be HTTP
    let last = http1 && request.headers().contains_key(header::UPGRADE);
    let mut response = handler.handle(request).await;
    let last = last || (http1 && handler.front().activity.is_closing());
    if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}
