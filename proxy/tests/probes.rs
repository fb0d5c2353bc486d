//! The kubelet's probes, run by the proxy against applications of every kind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc, time::Duration};

use byrnie_identity::{Identity, provider};
use byrnie_proxy::{
    access_log::AccessLog, admin::Admin, certificate::News, metrics::Metrics, probe::Probe, run,
    state::PodInfo,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// Runs one probe as the kubelet would; the status and what is said about it.
async fn probe(json: &str) -> (StatusCode, String) {
    probe_at("/probe/0", json).await
}

async fn probe_at(path: &str, json: &str) -> (StatusCode, String) {
    let pod = PodInfo { ips: vec![Ipv4Addr::LOCALHOST.into()], ..PodInfo::default() };
    let identity = Identity::new("cluster.local".parse().unwrap());
    let shared = run::shared(identity, pod, Metrics::default(), AccessLog::off());
    let admin = Admin {
        shared,
        news: News::default(),
        probes: Probe::list(&format!("[{json}]")).unwrap(),
        configuration: None,
    };
    let answer = admin.answer(&Request::get(path).body(()).unwrap()).await;
    let (head, body) = answer.into_parts();
    (head.status, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// An application that answers everybody with this, once it has read a request's head.
async fn raw(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let len = tcp.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..len]).to_lowercase();
            assert!(
                head.is_empty() || head.starts_with("get /healthz http/1.1") && head.contains("kube-probe"),
                "{head}"
            );
            tcp.write_all(answer.as_bytes()).await.unwrap();
            if answer.is_empty() {
                tokio::time::sleep(Duration::from_mins(1)).await;
            }
        }
    });
    port
}

#[tokio::test]
async fn http_is_its_status() {
    for (answer, status, said) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", StatusCode::OK, ""),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", StatusCode::OK, ""),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret",
            StatusCode::SERVICE_UNAVAILABLE,
            "answered 404",
        ),
        ("SSH-2.0-x\r\n", StatusCode::SERVICE_UNAVAILABLE, "does not speak the protocol"),
        ("", StatusCode::SERVICE_UNAVAILABLE, "no answer within 1 s"),
    ] {
        let port = raw(answer).await;
        let (found, text) = probe(&format!(r#"{{"http":{{"port":{port},"path":"/healthz"}}}}"#)).await;
        assert_eq!(found, status, "{answer:?}");
        assert!(text.contains(said) && !text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_hook_is_for_those_who_know_its_key() {
    let port = raw("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let hook =
        format!(r#"{{"http":{{"port":{port},"path":"/healthz"}},"key":"5ec2e7","timeoutSeconds":3600}}"#);
    let probe = format!(r#"{{"http":{{"port":{port},"path":"/healthz"}}}}"#);
    for (path, of, status) in [
        ("/probe/0/5ec2e7", &hook, StatusCode::OK),
        ("/probe/0", &hook, StatusCode::NOT_FOUND),
        ("/probe/0/", &hook, StatusCode::NOT_FOUND),
        ("/probe/0/5ec2e", &hook, StatusCode::NOT_FOUND),
        ("/probe/0/5ec2e7", &probe, StatusCode::NOT_FOUND),
        ("/probe/0", &probe, StatusCode::OK),
    ] {
        assert_eq!(probe_at(path, of).await.0, status, "{path} of {of}");
    }
}

#[tokio::test]
async fn tcp_is_a_connection() {
    let open = raw("").await;
    assert_eq!(probe(&format!(r#"{{"tcp":{{"port":{open}}}}}"#)).await.0, StatusCode::OK);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (status, text) = probe(&format!(r#"{{"tcp":{{"port":{closed}}}}}"#)).await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && text.contains("cannot connect"), "{text}");
}

#[tokio::test]
async fn https_takes_any_certificate() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().clone();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.unwrap();
        let read = tls.read(&mut [0; 1024]).await.unwrap();
        assert!(read > 0);
        tls.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    });
    let json = format!(r#"{{"http":{{"port":{port},"path":"healthz","scheme":"HTTPS"}}}}"#);
    assert_eq!(probe(&json).await, (StatusCode::OK, String::new()));
}

/// A gRPC application of one service that is healthy and others that are not.
async fn health() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = service_fn(|request: Request<hyper::body::Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let serving = asked.ends_with(b"payments");
        let message =
            Bytes::from_static(if serving { &[0, 0, 0, 0, 2, 8, 1] } else { &[0, 0, 0, 0, 2, 8, 2] });
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
        let body = StreamBody::new(futures::stream::iter(frames));
        Ok::<_, Infallible>(
            Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
        )
    });
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let io = TokioIo::new(tcp);
            let connection =
                hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, check);
            // the probe hangs up when it knows
            let _ = connection.await;
        }
    });
    port
}

#[tokio::test]
async fn grpc_is_its_health() {
    let port = health().await;
    let ask =
        |service: &str| format!(r#"{{"grpc":{{"port":{port},"service":"{service}"}},"timeoutSeconds":5}}"#);
    assert_eq!(probe(&ask("payments")).await, (StatusCode::OK, String::new()));
    let (status, text) = probe(&ask("")).await;
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && text.contains("is not serving"), "{text}");
}

#[tokio::test]
async fn a_healthy_page_is_not_grpc() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let page = service_fn(|_: Request<hyper::body::Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("not gRPC at all"))))
    });
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // the probe hangs up when it knows
        let _ = server.serve_connection(TokioIo::new(tcp), page).await;
    });
    let (status, _) = probe(&format!(r#"{{"grpc":{{"port":{port}}}}}"#)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}
