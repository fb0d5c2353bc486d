//! Applications and clients: real HTTP where it must be valid, raw bytes where it must not.

use std::{convert::Infallible, fmt::Write, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::rig::{LIMIT, listen};

/// Answers every request with what it saw of it: request line, headers, body.
pub(crate) async fn echo() -> SocketAddr {
    named("echo").await
}

/// The same, with a name in the header `served-by`.
pub(crate) async fn named(name: &'static str) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            let service = service_fn(move |request| seen(name, request));
            tokio::spawn(async move {
                let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // room for what a proxy adds
                builder.http2().max_header_list_size(32 * 1024);
                let _ = builder.serve_connection(TokioIo::new(tcp), service).await;
            });
        }
    });
    address
}

async fn seen(name: &'static str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    let mut names: Vec<_> =
        head.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap_or("?"))).collect();
    names.sort();
    text.push_str(&names.join("\n"));
    text.push('\n');
    let Ok(collected) = body.collect().await else {
        return Ok(Response::builder().status(400).body(Full::default()).unwrap());
    };
    for (name, value) in collected.trailers().into_iter().flatten() {
        writeln!(text, "trailer {name}: {}", value.to_str().unwrap()).unwrap();
    }
    writeln!(text, "body {}", collected.to_bytes().len()).unwrap();
    Ok(Response::builder().header("served-by", name).body(Full::from(text)).unwrap())
}

/// Speaks bytes: sends `request` as it is on a connection of its own, and reads to the end or to `LIMIT`.
pub(crate) async fn raw(to: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    tcp.write_all(request.as_ref()).await.unwrap();
    read_all(&mut tcp).await
}

pub(crate) async fn read_all(tcp: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(LIMIT, tcp.read_to_end(&mut answer)).await.expect("the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until `pattern` has come.
pub(crate) async fn read_until(tcp: &mut TcpStream, pattern: &str) -> String {
    let mut answer = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&answer).contains(pattern) {
            let mut chunk = [0; 4096];
            let read = tcp.read(&mut chunk).await.unwrap();
            assert!(read > 0, "ended after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..read]);
        }
    };
    timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("{pattern:?} did not come"));
    String::from_utf8_lossy(&answer).into_owned()
}

/// One GET on a connection of its own.
pub(crate) async fn get(to: SocketAddr, path: &str, headers: &str) -> String {
    raw(to, format!("GET {path} HTTP/1.1\r\nHost: api\r\n{headers}Connection: close\r\n\r\n")).await
}

/// An application that is played by hand: each connection goes to `play`.
pub(crate) async fn played<F, P>(play: P) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
    P: Fn(TcpStream) -> F + Send + 'static,
{
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(play(tcp));
        }
    });
    address
}

/// An HTTP/2 client with prior knowledge.
pub(crate) async fn http2<B>(to: SocketAddr) -> hyper::client::conn::http2::SendRequest<B>
where
    B: hyper::body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let tcp = TcpStream::connect(to).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) async fn text(response: Response<Incoming>) -> (http::response::Parts, String, Option<HeaderMap>) {
    let (head, body) = response.into_parts();
    let collected = timeout(LIMIT, body.collect()).await.unwrap().unwrap();
    let trailers = collected.trailers().cloned();
    (head, String::from_utf8_lossy(&collected.to_bytes()).into_owned(), trailers)
}

pub(crate) async fn within<T>(limit: Duration, what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + limit;
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The three digits.
pub(crate) fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or_default()
}
