//! Calls to the pod: who calls, may they, and on to the application.
//!
//! Follow a connection from [`serve`], and a request from `Inbound::handle`. The server's own view of its port
//! decides which check applies; what the caller says it speaks never chooses a weaker one.

use std::{
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    time::{Duration, SystemTime},
};

use byrnie_identity::{Accepted, Alpn, HandshakeError, Standing};
use byrnie_model::{
    self as model, CircuitBreaker, Endpoint, MtlsMode, Protocol, SpiffeId, Timeouts, Traffic,
};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    activity::{ARRIVAL, Activity, Ends},
    authorize, baggage,
    balance::Balancer,
    body::ProxyBody,
    client_hello,
    detect::{self, Peeked, Spoken},
    dial,
    drain::InFlight,
    exchange::Exchange,
    forward::{Way, forward},
    front_door, headers,
    http_proxy::{self, Front, Handler},
    limiter::Limiter,
    metrics::{DestinationMetrics, Direction},
    mirror::Mirrors,
    opaque::copy,
    original_destination::Source,
    outbound::spoken,
    passage::Passage,
    pool::Pool,
    reject::{self, Reject},
    retry::Endpoints,
    said,
    state::Shared,
    stream::Stream,
    template::is_grpc,
    verdict,
    worker::{Worker, until},
};

/// Where only the mesh is let in, a caller that says nothing is not waited for longer.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Streams per HTTP/2 connection; proxies open another one when they need more.
const MAX_STREAMS: u32 = 100;
/// No connection carries requests for longer, minus up to a tenth.
const MAX_AGE: Duration = Duration::from_hours(1);

/// The application on one port of the pod, as one worker knows it.
#[derive(Debug)]
pub struct App {
    balancer: Rc<Balancer>,
    limiter: Rc<Limiter>,
    metrics: DestinationMetrics,
}

/// A connection of which nothing is known yet.
struct Arrived {
    peeked: Peeked,
    client: SocketAddr,
    destination: SocketAddr,
    arriving: Option<InFlight>,
}

/// A caller's connection.
struct Caller {
    worker: Rc<Worker>,
    stream: Stream,
    client: SocketAddr,
    destination: SocketAddr,
    peer: Option<SpiffeId>,
    activity: Rc<Activity>,
}

/// A caller's connection that carries HTTP.
struct Inbound {
    front: Front,
    peer: Option<SpiffeId>,
    client_id: Option<HeaderValue>,
    app: Rc<App>,
}

/// Serves one connection to the pod, from its acceptance to its end.
pub async fn serve(
    worker: Rc<Worker>,
    tcp: TcpStream,
    client: SocketAddr,
    source: Source,
    arriving: InFlight,
) {
    let Ok(destination) = source.destination(&tcp) else { return dial::reset(&tcp) };
    let own = source == Source::Redirected && worker.shared.pod.is_own_listener(destination);
    if own || dial::tune(&tcp).is_err() {
        return dial::reset(&tcp);
    }
    let mut arrived = Arrived { peeked: Peeked::new(tcp), client, destination, arriving: Some(arriving) };
    match arrived.is_mesh(first_bytes_limit(&worker.shared, destination.port())).await {
        Ok(true) => accept_mesh(worker, arrived).await,
        Ok(false) => accept_plaintext(worker, arrived).await,
        Err(error) => tracing::debug!(%error, %client, "a connection broke before its first bytes"),
    }
}

impl Arrived {
    /// Whether the caller begins a mesh connection within this time.
    async fn is_mesh(&mut self, limit: Duration) -> std::io::Result<bool> {
        let soon = limit.min(ARRIVAL);
        let mut mesh = self.peeked.until(Some(soon), hello).await?;
        if mesh.is_none() && limit > soon {
            self.arriving = None;
            mesh = self.peeked.until(Some(limit.saturating_sub(soon)), hello).await?;
        }
        Ok(mesh == Some(true))
    }

    /// What a plaintext caller speaks.
    async fn spoken(&mut self, declared: Protocol) -> std::io::Result<Spoken> {
        let mut looking = pin!(spoken(&mut self.peeked, declared));
        if let Ok(looked) = timeout(ARRIVAL, looking.as_mut()).await {
            return looked;
        }
        self.arriving = None;
        looking.await
    }
}

async fn accept_mesh(worker: Rc<Worker>, arrived: Arrived) {
    let Arrived { peeked, client, destination, arriving } = arrived;
    // boxed: what a handshake needs is not kept for the connection's life
    let accepted = Box::pin(handshake(&worker, peeked)).await;
    let (stream, accepted) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            worker.shared.metrics.handshake_failed(Direction::Inbound, error.reason());
            if worker.quota.admits(Direction::Inbound, error.reason()) {
                tracing::info!(%error, %client, "a caller was not accepted");
            }
            return;
        }
    };
    let Shown { peer, alpn, not_after, standing } = accepted;
    let expires = Some(until(not_after).into_std());
    let ends = Ends { expires, ..ends(matches!(alpn, Alpn::Http1 | Alpn::Http2)) };
    let activity = worker.watch_over_peer(ends, standing, arriving);
    let caller = Caller { worker, stream, client, destination, peer: Some(peer), activity };
    match alpn {
        Alpn::Http1 => caller.http1("mtls-http1").await,
        Alpn::Http2 => caller.http2("mtls-http2").await,
        Alpn::ConfirmedTcp => caller.opaque("mtls-tcp", true).await,
        Alpn::Tcp => caller.opaque("mtls-tcp", false).await,
    }
}

/// What a caller has shown, apart from its stream.
struct Shown {
    peer: SpiffeId,
    alpn: Alpn,
    not_after: SystemTime,
    standing: Standing,
}

async fn handshake(worker: &Worker, peeked: Peeked) -> Result<(Stream, Shown), HandshakeError> {
    let Accepted { stream, peer, alpn, not_after, standing } =
        worker.shared.identity.accept(peeked.into_stream()).await?;
    Ok((Stream::mesh(stream), Shown { peer, alpn, not_after, standing }))
}

async fn accept_plaintext(worker: Rc<Worker>, mut arrived: Arrived) {
    let (client, destination) = (arrived.client, arrived.destination);
    let refuse = |worker: &Rc<Worker>, peeked: &Peeked, reason| {
        let activity = worker.watch_over(Ends::default(), None);
        let metrics = worker.shared.metrics.destination(Direction::Inbound, &destination.port().to_string());
        let mut passage = Passage::new(worker, Direction::Inbound, metrics, None, &activity);
        match reason {
            None => passage.refused(&model::Denial::Plaintext, false),
            Some(reason) => passage.failed(reason),
        }
        dial::reset(peeked.tcp());
    };
    let Some(workload) = authorize::policy(&worker.shared).await else {
        return refuse(&worker, &arrived.peeked, Some(reject::POLICY_UNKNOWN.reason));
    };
    if workload.inbound.mtls.mode(destination.port()) == MtlsMode::Strict {
        return refuse(&worker, &arrived.peeked, None);
    }
    let declared = workload.protocol(destination.port());
    drop(workload);
    let spoken = match arrived.spoken(declared).await {
        Ok(spoken) => spoken,
        Err(error) => return tracing::debug!(%error, %client, "a connection broke before its first bytes"),
    };
    let stream = Stream::Plain(arrived.peeked.into_stream());
    let http = matches!(spoken, Spoken::Http1 | Spoken::Http2);
    let activity = worker.watch_over(ends(http), arrived.arriving);
    let caller = Caller { worker, stream, client, destination, peer: None, activity };
    match spoken {
        Spoken::Http1 => caller.http1("plain-http1").await,
        Spoken::Http2 => caller.http2("plain-http2").await,
        Spoken::Tls | Spoken::Opaque => caller.opaque("plain-tcp", false).await,
    }
}

impl Caller {
    async fn http1(self, kind: &'static str) {
        let _open = self.worker.shared.metrics.connection(Direction::Inbound, kind, self.peer.as_ref());
        let (stream, handler) = self.into_handler();
        http_proxy::http1(stream, handler).await;
    }

    async fn http2(self, kind: &'static str) {
        let _open = self.worker.shared.metrics.connection(Direction::Inbound, kind, self.peer.as_ref());
        let (stream, handler) = self.into_handler();
        // boxed: there are fewer of these, and they are larger
        Box::pin(http_proxy::http2(stream, handler, MAX_STREAMS)).await;
    }

    fn into_handler(self) -> (Stream, Rc<Inbound>) {
        let app = self.worker.app(self.destination);
        let client_id = self
            .peer
            .as_ref()
            .map(|id| HeaderValue::from_str(id.as_str()).expect("a SPIFFE id is made of visible ASCII only"));
        let front = Front::new(self.worker, self.client, self.destination, self.activity);
        (self.stream, Rc::new(Inbound { front, peer: self.peer, client_id, app }))
    }

    /// A caller that wants it `confirmed` is told whether the application has taken the connection.
    async fn opaque(mut self, kind: &'static str, confirmed: bool) {
        let worker = self.worker.clone();
        let app = worker.app(self.destination);
        let _open = worker.shared.metrics.connection(Direction::Inbound, kind, self.peer.as_ref());
        let mut passage = Passage::new(
            &worker,
            Direction::Inbound,
            app.metrics.clone(),
            self.peer.as_ref(),
            &self.activity,
        );
        let meter = passage.meter.clone();
        let Some(workload) = authorize::policy(&worker.shared).await else {
            passage.failed(reject::POLICY_UNKNOWN.reason);
            return dial::reset(self.stream.tcp());
        };
        let home = worker.shared.identity.trust_domain();
        if !authorize::connection(&workload, home, self.destination.port(), self.peer.as_ref(), &mut passage)
        {
            if confirmed && self.say(dial::DENIED).await.is_ok() {
                return;
            }
            return dial::reset(self.stream.tcp());
        }
        let mut server = match dial::connect(&worker.shared, self.destination).await {
            Ok(tcp) => tcp,
            Err(error) => {
                tracing::debug!(%error, "the application took no connection");
                passage.failed(reject::APP_REFUSED.reason);
                return dial::reset(self.stream.tcp());
            }
        };
        if confirmed && let Err(error) = self.say(dial::TAKEN).await {
            return tracing::debug!(%error, client = %self.client, "a caller went before it was served");
        }
        let (port, peer) = (self.destination.port(), self.peer.as_ref());
        tokio::select! {
            ended = copy(&mut self.stream, &mut server, &meter, None) => match ended {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, client = %self.client, "an opaque connection ended with an error"),
            },
            _ = self.activity.ending() => passage.failed("expired"),
            () = authorize::denied(&worker, workload, port, peer, &mut passage) => {}
        }
        dial::reset(self.stream.tcp());
        dial::reset(&server);
    }
}

impl Caller {
    async fn say(&mut self, word: u8) -> std::io::Result<()> {
        self.stream.write_u8(word).await?;
        self.stream.flush().await
    }
}

impl Handler for Inbound {
    fn front(&self) -> &Front {
        &self.front
    }

    async fn handle(&self, request: Box<Request<Incoming>>) -> Response<ProxyBody> {
        let Front { worker, activity, .. } = &self.front;
        let metrics = self.app.metrics.clone();
        let exchange =
            Exchange::new(worker, Direction::Inbound, metrics, self.peer.as_ref(), activity, &request);
        let grpc = is_grpc(request.version(), request.headers());
        match self.answer(request, exchange).await {
            Ok(response) => response,
            Err((reject, mut exchange)) => {
                exchange.reject(reject);
                if self.peer.is_some() { reject.to_peer() } else { reject.to_app(grpc) }
            }
        }
    }
}

impl Inbound {
    async fn answer(
        &self,
        mut request: Box<Request<Incoming>>,
        mut exchange: Box<Exchange>,
    ) -> Result<Response<ProxyBody>, (Reject, Box<Exchange>)> {
        let front = &self.front;
        if let Err(reject) = front_door::admit(&mut *request, || front.destination.to_string()) {
            return Err((reject, exchange));
        }
        let port = front.destination.port();
        let caller = self.peer.as_ref();
        let authorized =
            authorize::request(&front.worker.shared, port, caller, &request, &mut exchange).await;
        let version = request.version();
        let fields = request.headers_mut();
        let asked = headers::strip_hop_by_hop(fields);
        let said = said::take(fields, version);
        match authorized.and_then(|limits| self.app.limiter.admit(&limits, said.critical)) {
            Ok(permit) => exchange.set_permit(permit),
            Err(reject) => return Err((reject, exchange)),
        }
        said.tell(fields);
        match &self.client_id {
            Some(id) => {
                fields.insert(headers::CLIENT_ID, id.clone());
                said.tell_of_peer(fields);
            }
            None => baggage::strip(fields),
        }
        let began = exchange.started();
        let endpoints = Endpoints { balancer: &self.app.balancer, again: None, destination: None, key: None };
        let (timeouts, mirrors) = (Timeouts::default(), Mirrors::default());
        let way = Way { endpoints, timeouts, told: said.timeout, asked, mirrors };
        let mut response = forward(front, way, request, exchange)
            .await
            .map_err(|(reject, exchange)| (of_app(reject), exchange))?;
        // what it called meanwhile was asked again in vain: asking it again would multiply that
        let given_up = || {
            let since = Instant::now().saturating_duration_since(began);
            front.worker.shared.given_up.is_within(since)
        };
        if self.peer.is_some() && verdict::is_failure(&response) && given_up() {
            response.headers_mut().insert(reject::RETRY, HeaderValue::from_static(reject::NEVER));
        }
        Ok(response)
    }
}

impl App {
    /// An application to which nobody has connected yet.
    pub fn new(address: SocketAddr, shared: &Shared) -> Self {
        let balancer = Rc::new(Balancer::default());
        balancer.update(&[Endpoint::bare(address)], &traffic(), "", Pool::new);
        let metrics = shared.metrics.destination(Direction::Inbound, &address.port().to_string());
        Self { balancer, limiter: Rc::default(), metrics }
    }

    /// Ends idle connections; whether there are any left.
    pub fn sweep(&self, worker: &Worker) -> bool {
        self.balancer.sweep(worker)
    }
}

/// Whether the first bytes open a mesh connection, as soon as that is certain.
fn hello(bytes: &[u8]) -> Option<bool> {
    match client_hello::peek(bytes) {
        client_hello::Peek::NeedMore => None,
        client_hello::Peek::NotTls => Some(false),
        client_hello::Peek::Tls(hello) => Some(hello.is_mesh()),
    }
}

/// Mesh peers speak first; plaintext peers, where they are let in, may wait for the server to speak.
fn first_bytes_limit(shared: &Shared, port: u16) -> Duration {
    match shared.workload.load().as_ref().map(|workload| workload.inbound.mtls.mode(port)) {
        Some(MtlsMode::Permissive) => detect::LIMIT,
        Some(MtlsMode::Strict) | None => HELLO_LIMIT,
    }
}

/// There is one application: it is never out.
fn traffic() -> Traffic {
    let never = CircuitBreaker { consecutive_failures: 0, success_percent: 0, ..CircuitBreaker::default() };
    Traffic { circuit_breaker: never, ..Traffic::default() }
}

fn ends(http: bool) -> Ends {
    let age = || (Instant::now() + MAX_AGE.mul_f32(1.0 - 0.1 * fastrand::f32())).into_std();
    Ends { retires: http.then(age), ..Ends::default() }
}

/// The endpoint is the application here, and its failures are named so.
fn of_app(reject: Reject) -> Reject {
    match reject {
        reject::CONNECT_FAILED => reject::APP_REFUSED,
        reject::RESET => reject::APP_RESET,
        other => other,
    }
}
