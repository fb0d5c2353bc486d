//! Connections that carry no HTTP, and WebSockets once they have switched.

use std::time::Duration;

use byrnie_model::{Destination, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    apps::{echo, played, raw, read_all, read_until, within},
    rig::{LIMIT, Mesh, meshed, one_service},
};

/// Reads to the end, then answers with the number of bytes.
async fn counter() -> std::net::SocketAddr {
    played(|mut tcp| async move {
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.unwrap();
        tcp.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
    })
    .await
}

#[tokio::test]
async fn bytes_and_half_closes_pass() {
    let mesh = Mesh::speaking(counter().await, Protocol::Opaque);
    let mut tcp = mesh.connect().await;
    tcp.write_all(&vec![7; 3_000_000]).await.unwrap();
    tcp.shutdown().await.unwrap();
    assert_eq!(read_all(&mut tcp).await, "3000000 bytes");
    let counted =
        r#"byrnie_tcp_bytes_total{direction="outbound",destination="shop/api:80",flow="sent"} 3000000"#;
    within(LIMIT, "the bytes are not counted", async || {
        mesh.client.metrics().contains(counted).then_some(())
    })
    .await;
    let peer = r#"kind="mtls-tcp",peer="spiffe://cluster.local/ns/shop/sa/web"} 1"#;
    assert!(mesh.server.metrics().contains(peer));
}

#[tokio::test]
async fn a_connection_that_no_application_took_goes_elsewhere() {
    let mesh = Mesh::speaking(counter().await, Protocol::Opaque);
    let leaving = mesh.leaving(1);
    let endpoints = vec![meshed(mesh.server.inbound, "api"), leaving[0].clone()];
    mesh.route(one_service(Protocol::Opaque, endpoints));
    for _ in 0..20 {
        let mut tcp = mesh.connect().await;
        tcp.write_all(b"seven..").await.unwrap();
        tcp.shutdown().await.unwrap();
        assert_eq!(read_all(&mut tcp).await, "7 bytes");
    }
    mesh.route(one_service(Protocol::Opaque, leaving));
    let ended = timeout(LIMIT, mesh.connect().await.read(&mut [0; 1])).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn a_connection_waits_for_the_news_that_all_its_endpoints_have_ended() {
    let mesh = Mesh::speaking(counter().await, Protocol::Opaque);
    mesh.route(one_service(Protocol::Opaque, mesh.leaving(3)));
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"12345").await.unwrap();
    tcp.shutdown().await.unwrap();
    let answer = tokio::spawn(async move { read_all(&mut tcp).await });
    tokio::time::sleep(Duration::from_millis(150)).await;
    mesh.route(one_service(Protocol::Opaque, vec![meshed(mesh.server.inbound, "api")]));
    assert_eq!(answer.await.unwrap(), "5 bytes");
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let app = || {
        played(|mut tcp| async move {
            tcp.write_all(b"220 ready\r\n").await.unwrap();
            assert_eq!(read_until(&mut tcp, "\r\n").await, "EHLO me\r\n");
            tcp.write_all(b"250 ok\r\n").await.unwrap();
        })
    };
    for (protocol, least, most) in [(Protocol::Opaque, 0, 500), (Protocol::Detect, 900, 1500)] {
        let mesh = Mesh::speaking(app().await, protocol);
        let began = Instant::now();
        let mut tcp = mesh.connect().await;
        assert_eq!(read_until(&mut tcp, "\r\n").await, "220 ready\r\n");
        let waited = (Instant::now() - began).as_millis();
        assert!((least..most).contains(&waited), "{protocol:?}: {waited} ms");
        tcp.write_all(b"EHLO me\r\n").await.unwrap();
        assert_eq!(read_all(&mut tcp).await, "250 ok\r\n");
    }
}

#[tokio::test]
async fn an_applications_own_tls_passes_untouched() {
    let mesh = Mesh::new(counter().await);
    let hello = [&b"\x16\x03\x01\x00\x05\x01"[..], &[0; 200]].concat();
    let mut tcp = mesh.connect().await;
    tcp.write_all(&hello).await.unwrap();
    tcp.shutdown().await.unwrap();
    assert_eq!(read_all(&mut tcp).await, format!("{} bytes", hello.len()));
}

#[tokio::test]
async fn what_is_no_destination_of_the_mesh_passes_through() {
    let app = counter().await;
    let mesh = Mesh::new(app);
    // the slot's address is where it goes
    let proxy = crate::rig::Proxy::start(mesh.authority.identity("web"), app, app);
    proxy.shared.destinations.slot(app).store(std::sync::Arc::new(Destination::Passthrough));
    let mut tcp = TcpStream::connect(proxy.outbound).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\nbyrnie-client-id: kept\n").await.unwrap();
    tcp.shutdown().await.unwrap();
    assert_eq!(read_all(&mut tcp).await, "38 bytes");
}

#[tokio::test]
async fn the_identity_of_an_endpoint_must_be_the_expected_one() {
    let mesh = Mesh::speaking(echo().await, Protocol::Opaque);
    mesh.route(one_service(Protocol::Opaque, vec![meshed(mesh.server.inbound, "somebody-else")]));
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"secret").await.unwrap();
    let ended = timeout(LIMIT, tcp.read(&mut [0; 16])).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
    assert!(
        mesh.client
            .metrics()
            .contains(r#"byrnie_handshake_failures_total{direction="outbound",reason="unexpected-peer"} 5"#)
    );
}

#[tokio::test]
async fn a_websocket_is_one_long_request() {
    let app = played(|mut tcp| async move {
        let request = read_until(&mut tcp, "\r\n\r\n").await.to_lowercase();
        assert!(request.contains("upgrade: websocket\r\n") && request.contains("connection: upgrade\r\n"), "{request}");
        assert!(request.contains("byrnie-client-id: spiffe://cluster.local/ns/shop/sa/web\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n"), "bytes came before the switch: {request}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        tcp.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nfirst").await.unwrap();
        assert_eq!(read_until(&mut tcp, "more").await, "earlymore");
        tcp.write_all(b"last").await.unwrap();
    })
    .await;
    let mesh = Mesh::new(app);
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\nearly").await.unwrap();
    let switched = read_until(&mut tcp, "first").await.to_lowercase();
    assert!(
        switched.starts_with("http/1.1 101 ") && switched.contains("upgrade: websocket\r\n"),
        "{switched}"
    );
    assert!(
        switched.contains("sec-websocket-accept: x\r\n") && switched.contains("connection: upgrade\r\n"),
        "{switched}"
    );
    tcp.write_all(b"more").await.unwrap();
    assert_eq!(read_all(&mut tcp).await, "last");
}

#[tokio::test]
async fn a_refused_websocket_is_an_ordinary_answer() {
    let mesh = Mesh::new(echo().await);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = raw(mesh.client.outbound, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert!(!answer.contains("smuggled"), "{answer}");
}

#[tokio::test]
async fn a_reader_may_pause_for_longer_than_a_vanished_peer_is_waited_for() {
    let sending = || {
        played(|mut tcp| async move {
            let request = read_until(&mut tcp, "\n").await;
            if request.starts_with("GET") {
                tcp.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
            }
            tcp.write_all(&vec![b'x'; 20_000_000]).await.unwrap();
        })
    };
    let opaque = Mesh::speaking(sending().await, Protocol::Opaque);
    let http = Mesh::new(sending().await);
    let mut readers = [opaque.connect().await, http.connect().await];
    readers[0].write_all(b"go\n").await.unwrap();
    readers[1].write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(18)).await;
    for reader in &mut readers {
        assert_eq!(read_all(reader).await.matches('x').count(), 20_000_000);
    }
}
