//! TLS listeners for gRPC: accept, handshake, hand over to the routes. Never ends on an error of accept.
//!
//! Owns connection limits and what a request learns about its connection ([`PeerIdentity`], [`PeerAddress`]). Which
//! certificates are good is decided by the TLS configuration; what may be called, by the services.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use byrnie_identity::Identity;
use byrnie_model::SpiffeId;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tower::Service;
use tracing::{debug, warn};

use crate::rate::{Keyed, Rate};

/// Who is at the other end, by its verified certificate. In the extensions of each request on a mutual-TLS listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity(pub SpiffeId);

/// Ends the connection that a request came on, where that is the only way to be rid of who does not listen. In the
/// extensions of each request.
#[derive(Clone, Debug, Default)]
pub struct HangUp(pub CancellationToken);

/// Where the other end is, IPv4 as IPv4. In the extensions of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// What distinguishes one listener from another.
pub struct Settings {
    /// For logs.
    pub name: &'static str,
    /// The operator's own certificate and whom it trusts.
    pub identity: Identity,
    /// Whether clients must have a certificate.
    pub mutual: bool,
    /// No connection lives longer, authenticated or not.
    pub max_age: Duration,
}

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
const CONCURRENT_HANDSHAKES: usize = 1024;
/// Connections of one address, in handshake or after it: a pod needs one, and one more when it renews.
const PER_ADDRESS: usize = 16;
/// Those of them that are in handshake.
const HANDSHAKES_PER_ADDRESS: usize = 4;
/// New connections of one address: a handshake costs us as much as the caller.
const NEW_PER_ADDRESS: Rate = Rate { burst: 32, interval: Duration::from_millis(250) };
/// What a connection may send before it is read; nobody has more to say at once.
const WINDOW: u32 = 256 * 1024;
/// What waits in a stream for one that reads slowly.
const SEND_BUFFER: usize = 64 * 1024;
/// How long streams may take to end when the process stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Binds one address; all of IPv6 is all of IPv4 too, and IPv4 alone where the node has no IPv6.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(e) if address.ip().is_unspecified() && e.raw_os_error().is_some() && address.is_ipv6() => {
            debug!(error = %e, "no IPv6 here; listening on IPv4 alone");
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], address.port()))).await
        }
        bound => bound,
    }
}

/// Serves until `stopping`, then drains.
pub async fn serve(listener: TcpListener, settings: Settings, routes: Routes, stopping: CancellationToken) {
    let shared = Arc::new(Shared {
        settings,
        routes: routes.prepare(),
        handshakes: Semaphore::new(CONCURRENT_HANDSHAKES),
        addresses: Mutex::new(Addresses { here: HashMap::new(), new: Keyed::new(NEW_PER_ADDRESS) }),
        stopping: stopping.clone(),
    });
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let Some(mut place) = Place::take(&shared, address.ip()) else {
                    debug!(listener = shared.settings.name, %address, "too many connections from one address");
                    continue;
                };
                let shared = shared.clone();
                connections.spawn(async move {
                    connection(&shared, stream, address, &mut place).await;
                });
            }
            // Out of descriptors, or the peer is gone already: neither may end the listener.
            Err(e) => {
                warn!(listener = shared.settings.name, error = %e, "accept failed");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    if timeout(DRAIN, connections.wait()).await.is_err() {
        debug!(listener = shared.settings.name, open = connections.len(), "connections did not end in time");
    }
}

struct Shared {
    settings: Settings,
    routes: Routes,
    handshakes: Semaphore,
    addresses: Mutex<Addresses>,
    stopping: CancellationToken,
}

struct Addresses {
    here: HashMap<IpAddr, Here>,
    new: Keyed<IpAddr>,
}

/// An address's connections.
#[derive(Default)]
struct Here {
    open: usize,
    in_handshake: usize,
}

/// One of an address's connections, given back when dropped.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
    in_handshake: bool,
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        let mut addresses = shared.addresses.lock();
        let Addresses { here, new } = &mut *addresses;
        let crowded = here
            .get(&address)
            .is_some_and(|here| here.open >= PER_ADDRESS || here.in_handshake >= HANDSHAKES_PER_ADDRESS);
        if crowded || new.take(address, Instant::now()).is_err() {
            return None;
        }
        let here = here.entry(address).or_default();
        here.open += 1;
        here.in_handshake += 1;
        Some(Self { shared: shared.clone(), address, in_handshake: true })
    }

    fn handshake_is_over(&mut self) {
        if std::mem::take(&mut self.in_handshake)
            && let Some(here) = self.shared.addresses.lock().here.get_mut(&self.address)
        {
            here.in_handshake -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshake_is_over();
        let mut addresses = self.shared.addresses.lock();
        if let Some(here) = addresses.here.get_mut(&self.address) {
            here.open -= 1;
            if here.open == 0 {
                addresses.here.remove(&self.address);
            }
        }
    }
}

async fn connection(shared: &Shared, stream: TcpStream, address: SocketAddr, place: &mut Place) {
    let settings = &shared.settings;
    let stream = match timeout(HANDSHAKE_LIMIT, handshake(shared, stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            debug!(listener = settings.name, %address, error = %e, "handshake failed");
            return;
        }
        Err(_) => {
            debug!(listener = settings.name, %address, "handshake took too long");
            return;
        }
    };
    place.handshake_is_over();
    // Spread, so that connections that began together do not end together.
    let mut age = settings.max_age.mul_f64(0.9 + 0.1 * fastrand::f64());
    let mut identity = None;
    if settings.mutual {
        let Some(peer) = byrnie_identity::peer_of(stream.get_ref().1) else {
            warn!(listener = settings.name, %address, "a verified client certificate has no readable name");
            return;
        };
        age = age.min(peer.not_after.duration_since(SystemTime::now()).unwrap_or_default());
        identity = Some(PeerIdentity(peer.id));
    }
    let hang_up = HangUp::default();
    let service = service_fn(|mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(PeerAddress(address));
        request.extensions_mut().insert(hang_up.clone());
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        shared.routes.clone().call(request)
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(16)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = http.serve_connection(TokioIo::new(stream), service);
    match hang_up.0.run_until_cancelled(until(connection, &shared.stopping, age)).await {
        Some(Ok(())) => {}
        Some(Err(e)) => debug!(listener = settings.name, %address, error = %e, "connection ended"),
        None => debug!(listener = settings.name, %address, "hung up"),
    }
}

async fn handshake(shared: &Shared, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let _permit = shared.handshakes.acquire().await.map_err(std::io::Error::other)?;
    let identity = &shared.settings.identity;
    let tls = if shared.settings.mutual {
        identity.server_config(&[b"h2"])
    } else {
        identity.server_without_client_auth(&[b"h2"])
    };
    TlsAcceptor::from(tls.map_err(std::io::Error::other)?).accept(stream).await
}

/// Runs a connection; at shutdown or old age says GOAWAY and gives its streams a moment.
async fn until<S>(
    connection: http2::Connection<TokioIo<TlsStream<TcpStream>>, S, TokioExecutor>,
    stopping: &CancellationToken,
    age: Duration,
) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = tonic::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, tonic::body::Body>,
{
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stopping.cancelled() => {}
        () = sleep(age) => {}
    }
    connection.as_mut().graceful_shutdown();
    timeout(DRAIN, connection).await.unwrap_or(Ok(()))
}
