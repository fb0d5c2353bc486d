//! One connection to one endpoint: TCP, and mutual TLS where the endpoint has an identity.
//!
//! An endpoint with an identity is never spoken to in plaintext. Knows nothing of pools and requests.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use byrnie_identity::{Alpn, HandshakeError};
use byrnie_model::{Endpoint, SpiffeId};
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    metrics::Direction,
    state::Shared,
    stream::{Prefixed, Stream, Vigilance},
    worker::{Worker, until},
};

/// A pod in the same cluster answers a SYN within this time or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// And its proxy says within this time what became of the connection.
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);
/// The server's first byte: its application has taken the connection.
pub const TAKEN: u8 = 0;
/// The server's first byte: it must not.
pub const DENIED: u8 = 1;

/// An open connection.
#[derive(Debug)]
pub struct Dialled {
    /// The bytes.
    pub stream: Stream,
    /// When the certificates that it stands on expire.
    pub expires: Option<Instant>,
    /// Whether a peer that acknowledges nothing is given up.
    pub vigilance: Vigilance,
    /// The certificate that we showed was replaced meanwhile.
    pub overtaken: bool,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// Nobody listens there.
    #[error("nobody listens on {0}; is the pod still there, and does its container listen on that port?")]
    Refused(SocketAddr),
    /// TCP failed otherwise.
    #[error("cannot connect to {address}; does a NetworkPolicy block the port?")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No answer.
    #[error("{0} did not answer within {CONNECT_LIMIT:?}; does a NetworkPolicy block the port?")]
    Timeout(SocketAddr),
    /// The peer is not who it must be, or we are not who it wants.
    #[error("TLS with {address}, expected to be {expected}, failed")]
    Handshake {
        /// Where to.
        address: SocketAddr,
        /// Who should have answered.
        expected: SpiffeId,
        /// Why not.
        #[source]
        source: HandshakeError,
    },
    /// The application behind the endpoint takes no connection.
    #[error("the application on {0} took no connection; does its container listen on that port?")]
    NotTaken(SocketAddr),
    /// The endpoint's policy does not let us in.
    #[error("the policy of {0} does not allow this connection")]
    Denied(SocketAddr),
    /// The connection would come back to this very proxy.
    #[error("{0} is this proxy's own listener")]
    Loop(SocketAddr),
}

/// Opens a connection to an endpoint.
pub async fn dial(worker: &Worker, endpoint: &Endpoint, alpn: Alpn) -> Result<Dialled, DialError> {
    let shared = &worker.shared;
    let tcp = connect(shared, endpoint.address).await?;
    let (tcp, vigilance) = Prefixed::vigilant(tcp);
    let Some(expected) =
        endpoint.identity.as_ref().filter(|expected| !is_own_pod(shared, endpoint, expected))
    else {
        return Ok(Dialled { stream: Stream::Plain(tcp), expires: None, vigilance, overtaken: false });
    };
    let shown = shared.identity.leaf();
    // boxed: requests on open connections need no room for a handshake
    match Box::pin(shared.identity.connect(tcp, expected, alpn)).await {
        Ok(connected) => {
            let expires = until(connected.not_after);
            let tie = worker.tie(expires, connected.standing);
            let mut stream = Stream::tied(connected.stream, tie);
            if connected.alpn == Alpn::ConfirmedTcp {
                confirm(&mut stream, endpoint.address).await?;
            }
            let overtaken =
                shared.identity.leaf().map(|it| Arc::as_ptr(&it)) != shown.map(|it| Arc::as_ptr(&it));
            Ok(Dialled { stream, expires: Some(expires), vigilance, overtaken })
        }
        Err(source) => {
            shared.metrics.handshake_failed(Direction::Outbound, source.reason());
            Err(DialError::Handshake { address: endpoint.address, expected: expected.clone(), source })
        }
    }
}

/// Waits until the endpoint's application has taken the connection: until then another one can be tried.
async fn confirm(stream: &mut Stream, address: SocketAddr) -> Result<(), DialError> {
    match timeout(CONFIRM_LIMIT, stream.read_u8()).await {
        Ok(Ok(TAKEN)) => Ok(()),
        Ok(Ok(_)) => Err(DialError::Denied(address)),
        Ok(Err(_)) => Err(DialError::NotTaken(address)),
        Err(_) => Err(DialError::Timeout(address)),
    }
}

/// What leaves for the own pod is not redirected: its application is at the other end, not its proxy.
fn is_own_pod(shared: &Shared, endpoint: &Endpoint, expected: &SpiffeId) -> bool {
    let ip = endpoint.address.ip();
    !ip.is_loopback()
        && shared.pod.ips.contains(&ip)
        && shared.identity.leaf().is_some_and(|own| own.id == *expected)
}

/// Opens a TCP connection that is not to this proxy itself.
pub async fn connect(shared: &Shared, address: SocketAddr) -> Result<TcpStream, DialError> {
    if shared.pod.is_own_listener(address) {
        return Err(DialError::Loop(address));
    }
    match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
        Ok(Ok(tcp)) => {
            tune(&tcp).map_err(|source| DialError::Connect { address, source })?;
            Ok(tcp)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(DialError::Refused(address))
        }
        Ok(Err(source)) => Err(DialError::Connect { address, source }),
        Err(_) => Err(DialError::Timeout(address)),
    }
}

/// What the kernel holds back for a peer that does not read. It would be megabytes, on the pod's account.
const UNSENT: u32 = 32 * 1024;

/// No delay, little unsent, and a peer that vanishes from an idle connection is noticed.
pub fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(3))
        .with_retries(3);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

impl DialError {
    /// One word, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Connect { .. } => "connect",
            Self::Timeout(_) => "timeout",
            Self::Handshake { .. } => "handshake",
            Self::NotTaken(_) => "not-taken",
            Self::Denied(_) => "denied",
            Self::Loop(_) => "loop",
        }
    }
}

/// Makes the end of a connection a reset, so that nobody takes it for an orderly one.
pub fn reset(tcp: &TcpStream) {
    // a socket that is gone already needs no reset
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}
