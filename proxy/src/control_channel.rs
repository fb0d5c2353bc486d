//! A gRPC connection to the control plane over a TLS configuration of ours: who answers is checked by the mesh's rules,
//! not by a host name.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use byrnie_identity::server_name;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use socket2::SockRef;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// What the control plane's ports speak.
pub(crate) const ALPN: &[&[u8]] = &[b"h2"];

const CONNECT: Duration = Duration::from_secs(5);
/// A control plane that went away without a word is noticed within these.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// Connects now, once: whoever holds the channel decides about another attempt.
pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(move |_: http::Uri| {
        let config = config.clone();
        async move { dial(address, config).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://byrnie")
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .connect_with_connector(connector)
        .await
}

async fn dial(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let dialled = timeout(CONNECT, async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        SockRef::from(&tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        TlsConnector::from(config).connect(server_name(), tcp).await
    });
    dialled.await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")))
    })
}

/// An error with everything that caused it, on one line: tonic keeps the interesting part for its sources.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
