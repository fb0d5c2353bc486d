//! HTTP/2 with prior knowledge, as gRPC uses it.

use byrnie_model::{LoadBalancing, Protocol, Retry, Timeouts, Traffic};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{convert::Infallible, net::SocketAddr};

use crate::{
    apps::{echo, http2, text},
    rig::{Mesh, listen, plain, service_with},
};

type Body = BoxBody<Bytes, Infallible>;

/// Answers with the request's body, and a status in the trailers.
async fn grpc() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                let te = request.headers().get("te").cloned();
                let message = request.into_body().collect().await.unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                trailers.insert("byrnie-spoof", "x".parse().unwrap());
                let sum = message.trailers().and_then(|t| t.get("x-sum")).cloned();
                let frames = [Frame::data(message.to_bytes()), Frame::trailers(trailers)];
                let body = StreamBody::new(tokio_stream(frames));
                let response =
                    Response::builder().header("saw-te", te.unwrap()).header("saw-sum", sum.unwrap());
                Ok::<_, Infallible>(response.body(BodyExt::boxed(body)).unwrap())
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tcp), service),
            );
        }
    });
    address
}

fn tokio_stream(
    frames: impl IntoIterator<Item = Frame<Bytes>, IntoIter: Send + Sync>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync {
    futures::stream::iter(frames.into_iter().map(Ok))
}

#[tokio::test]
async fn grpc_keeps_its_trailers() {
    let mesh = Mesh::new(grpc().await);
    let mut client = http2::<Body>(mesh.client.outbound).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let frames = [Frame::data(Bytes::from_static(b"ping")), Frame::trailers(trailers)];
    let request = Request::post("http://api/shop.Payments/Charge").header("te", "trailers");
    let request = request.body(BodyExt::boxed(StreamBody::new(tokio_stream(frames)))).unwrap();
    let (head, body, trailers) = text(client.send_request(request).await.unwrap()).await;
    assert_eq!((head.status, body.as_str()), (StatusCode::OK, "ping"));
    assert_eq!(
        (&head.headers["saw-te"], &head.headers["saw-sum"]),
        (&"trailers".parse().unwrap(), &"7".parse().unwrap())
    );
    let trailers = trailers.unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    assert!(!trailers.contains_key("byrnie-spoof"));
}

#[tokio::test]
async fn what_is_sent_again_keeps_its_trailers() {
    let (listener, failing) = listen().await;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                request.into_body().collect().await.unwrap();
                Ok::<_, Infallible>(Response::builder().status(503).body(Empty::<Bytes>::new()).unwrap())
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tcp), service),
            );
        }
    });
    let mesh = Mesh::new(failing);
    let retry = Retry { statuses: vec![503], methods: vec![http::Method::POST], ..Retry::default() };
    let traffic = Traffic { retry, load_balancing: LoadBalancing::RoundRobin, ..Traffic::default() };
    let endpoints = vec![plain(failing), plain(echo().await)];
    mesh.route(service_with(Protocol::Http2, vec![("api", 1, endpoints)], Timeouts::default(), traffic));
    let mut client = http2::<Body>(mesh.client.outbound).await;
    // one of the two meets the one that fails first
    for _ in 0..2 {
        let trailers = [("x-sum".parse().unwrap(), "7".parse().unwrap())].into_iter().collect();
        let frames = [Frame::data(Bytes::from_static(b"ping")), Frame::trailers(trailers)];
        let body = BodyExt::boxed(StreamBody::new(tokio_stream(frames)));
        let (_, answer, _) =
            text(client.send_request(Request::post("http://api/").body(body).unwrap()).await.unwrap()).await;
        assert!(answer.ends_with("trailer x-sum: 7\nbody 4\n"), "{answer}");
    }
    assert!(mesh.client.metrics().contains("byrnie_retries_total{"));
}

#[tokio::test]
async fn many_streams_share_few_connections() {
    let mesh = Mesh::new(echo().await);
    let client = http2::<Full<Bytes>>(mesh.client.outbound).await;
    let calls = (0..90).map(|n| {
        let mut client = client.clone();
        async move {
            let request =
                Request::post(format!("http://api/{n}")).body(Full::from(vec![b'x'; 10_000])).unwrap();
            text(client.send_request(request).await.unwrap()).await.1
        }
    });
    for (n, answer) in futures::future::join_all(calls).await.into_iter().enumerate() {
        assert!(
            answer.starts_with(&format!("POST http://api/{n} HTTP/2.0\n"))
                && answer.ends_with("body 10000\n"),
            "{answer}"
        );
        assert!(answer.contains("byrnie-client-id: spiffe://cluster.local/ns/shop/sa/web\n"), "{answer}");
    }
    let metrics = mesh.server.metrics();
    assert!(metrics.contains(r#"byrnie_connections{direction="inbound",kind="mtls-http2"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_server_that_goes_away_loses_no_request() {
    // each connection of the application takes five requests and then goes away
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let left = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
                let served = left.clone();
                let service = service_fn(move |_: Request<Incoming>| {
                    served.add_permits(1);
                    async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(tcp), service));
                tokio::select! {
                    _ = connection.as_mut() => return,
                    _ = left.acquire_many(5) => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            });
        }
    });
    let mesh = Mesh::new(address);
    let client = http2::<Empty<Bytes>>(mesh.client.outbound).await;
    for round in 0..20 {
        let calls = (0..10).map(|_| {
            let mut client = client.clone();
            async move {
                client
                    .send_request(Request::get("http://api/").body(Empty::new()).unwrap())
                    .await
                    .unwrap()
                    .status()
            }
        });
        for status in futures::future::join_all(calls).await {
            assert_eq!(status, StatusCode::OK, "round {round}");
        }
    }
}

#[tokio::test]
async fn sizes_are_limited() {
    let mesh = Mesh::new(echo().await);
    let mut client = http2::<Empty<Bytes>>(mesh.client.outbound).await;
    let mut status = async |path: String, fields: usize, padding: usize| {
        let mut request = Request::get(format!("http://api{path}"));
        for n in 0..fields {
            request = request.header(format!("x-{n}"), "y");
        }
        if padding > 0 {
            request = request.header("x", "y".repeat(padding));
        }
        text(client.send_request(request.body(Empty::new()).unwrap()).await.unwrap()).await.0.status
    };
    let long = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
    assert_eq!(status(long(8192), 0, 0).await, StatusCode::OK);
    assert_eq!(status(long(8193), 0, 0).await, StatusCode::URI_TOO_LONG);
    assert_eq!(status("/".into(), 100, 0).await, StatusCode::OK);
    assert_eq!(status("/".into(), 101, 0).await, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    // each field costs 32 bytes besides its own (RFC 9113 section 6.5.2), and all together less than 16 KiB; the last is x
    let fixed = [(":method", "GET"), (":scheme", "http"), (":authority", "api"), (":path", "/"), ("x", "")];
    let room = 16 * 1024 - fixed.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>();
    assert_eq!(status("/".into(), 0, room - 1).await, StatusCode::OK);
    assert_eq!(status("/".into(), 0, room).await, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(status("/".into(), 0, 0).await, StatusCode::OK, "the connection goes on");
}

#[tokio::test]
async fn two_hosts_are_refused() {
    let mesh = Mesh::new(echo().await);
    let mut client = http2::<Empty<Bytes>>(mesh.client.outbound).await;
    let request = Request::get("http://api/").header("host", "other").body(Empty::new()).unwrap();
    let (head, body, _) = text(client.send_request(request).await.unwrap()).await;
    assert_eq!(
        (head.status, &head.headers["byrnie-reason"]),
        (StatusCode::BAD_REQUEST, &"bad-host".parse().unwrap())
    );
    assert_eq!(body, "byrnie: bad-host: the request needs exactly one valid host\n");
}
