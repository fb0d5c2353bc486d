//! A gRPC connection to the control plane from an address of our choice: the operator looks at who calls. Otherwise as
//! the proxy's own.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use byrnie_identity::server_name;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

pub(crate) const ALPN: &[&[u8]] = &[b"h2"];

const CONNECT: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);

/// Connects once.
pub(crate) async fn connect(
    from: IpAddr,
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(move |_: tonic::codegen::http::Uri| {
        let config = config.clone();
        async move {
            let dialled = timeout(CONNECT, dial(from, to, config)).await;
            dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
        }
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

async fn dial(from: IpAddr, to: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let tcp = socket.connect(to).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config).connect(server_name(), tcp).await
}
