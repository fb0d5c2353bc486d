//! What becomes of open connections when certificates and roots change.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use byrnie_model::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use crate::{
    apps::{echo, http2, played, raw, read_until, text, within},
    rig::{Authority, LIMIT, Mesh, Proxy, bundle, free_port, meshed, one_service},
};

#[tokio::test]
async fn a_renewed_certificate_is_used_at_once_and_costs_no_request() {
    let mesh = Mesh::new(echo().await);
    let mut tcp = mesh.connect().await;
    let opened = |mesh: &Mesh| {
        let metrics = mesh.server.metrics();
        let line = metrics
            .lines()
            .find(|l| l.contains("connections_opened_total") && l.contains("mtls-http1"))
            .unwrap();
        line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    for renewal in 1..=3 {
        for _ in 0..10 {
            tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert!(read_until(&mut tcp, "body 0\n").await.starts_with("HTTP/1.1 200 "));
        }
        assert_eq!(opened(&mesh), renewal);
        mesh.client
            .shared
            .identity
            .install_leaf(mesh.authority.leaf("web", Duration::from_hours(1)))
            .unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
}

#[tokio::test]
async fn a_handshake_that_a_renewal_overtook_serves_only_the_request_that_waited_for_it() {
    let mesh = Mesh::new(echo().await);
    let (inbound, held) = (mesh.server.inbound, Arc::new(tokio::sync::Semaphore::new(0)));
    let opened = Arc::new(AtomicUsize::new(0));
    let (holding, opening) = (held.clone(), opened.clone());
    let slow = played(move |mut tcp| {
        opening.fetch_add(1, Ordering::SeqCst);
        let holding = holding.clone();
        async move {
            holding.acquire().await.unwrap().forget();
            let mut server = tokio::net::TcpStream::connect(inbound).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut tcp, &mut server).await;
        }
    });
    mesh.route(one_service(Protocol::Detect, vec![meshed(slow.await, "api")]));
    let mut tcp = mesh.connect().await;
    let mut ask = async || {
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_until(&mut tcp, "body 0\n").await.starts_with("HTTP/1.1 200 "));
    };
    let renewing = async {
        within(LIMIT, "nobody calls", async || (opened.load(Ordering::SeqCst) == 1).then_some(())).await;
        let leaf = mesh.authority.leaf("web", Duration::from_hours(1));
        mesh.client.shared.identity.install_leaf(leaf).unwrap();
        sleep(Duration::from_millis(600)).await;
        held.add_permits(2);
    };
    tokio::join!(ask(), renewing);
    ask().await;
    assert_eq!(opened.load(Ordering::SeqCst), 2);
    ask().await;
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_server_that_refuses_the_callers_certificate_has_not_seen_the_request() {
    let mesh = Mesh::new(echo().await);
    // this endpoint knows other roots; it has the right name all the same
    let stranger = Authority::new();
    let identity = mesh.authority.identity("api");
    identity.install_bundle(stranger.bundle(7)).unwrap();
    let suspicious = Proxy::start(identity, free_port(), mesh.service);
    let endpoints = vec![meshed(mesh.server.inbound, "api"), meshed(suspicious.inbound, "api")];
    mesh.route(one_service(Protocol::Detect, endpoints));
    for _ in 0..30 {
        let post = raw(
            mesh.client.outbound,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        )
        .await;
        assert!(post.starts_with("HTTP/1.1 200 ") && post.contains("body 3\n"), "{post}");
    }
    assert!(suspicious.metrics().contains("byrnie_handshake_failures_total{direction=\"inbound\""));
}

#[tokio::test]
async fn connections_end_with_their_certificates() {
    let mesh = Mesh::speaking(
        played(|mut tcp| async move {
            let _ = tcp.read(&mut [0; 1]).await;
        })
        .await,
        Protocol::Opaque,
    );
    mesh.client.shared.identity.install_leaf(mesh.authority.leaf("web", Duration::from_secs(4))).unwrap();
    let mut tcp = mesh.connect().await;
    let began = Instant::now();
    let ended = timeout(LIMIT, tcp.read(&mut [0; 1])).await.unwrap();
    let lived = Instant::now() - began;
    assert!(matches!(ended, Ok(0) | Err(_)) && lived < Duration::from_secs(6), "{ended:?} after {lived:?}");
    let failed = within(LIMIT, "an expired certificate is shown", async || {
        let mut tcp = mesh.connect().await;
        let ended = timeout(Duration::from_secs(1), tcp.read(&mut [0; 1])).await.ok()?;
        matches!(ended, Ok(0) | Err(_)).then_some(true)
    });
    assert!(failed.await);
}

/// What the operator does to the proxies in a rotation from one root to another.
struct Rotation<'a> {
    mesh: &'a Mesh,
    next: Authority,
}

impl<'a> Rotation<'a> {
    fn new(mesh: &'a Mesh) -> Self {
        Self { mesh, next: Authority::new() }
    }

    async fn trust_both(&self) {
        self.everywhere(|proxy| {
            proxy.shared.identity.install_bundle(bundle(1, &[&self.mesh.authority, &self.next])).unwrap();
        })
        .await;
    }

    async fn sign_with_the_next(&self) {
        self.everywhere(|proxy| {
            let account = proxy.shared.identity.leaf().unwrap().id.clone();
            let account = account.as_str().rsplit('/').next().unwrap().to_owned();
            proxy.shared.identity.install_leaf(self.next.leaf(&account, Duration::from_hours(1))).unwrap();
        })
        .await;
    }

    async fn trust_the_next_alone(&self) {
        self.everywhere(|proxy| {
            proxy.shared.identity.install_bundle(bundle(2, &[&self.next])).unwrap();
        })
        .await;
    }

    /// One proxy after the other, and long enough for connections to move.
    async fn everywhere(&self, change: impl Fn(&Proxy)) {
        for proxy in [&self.mesh.server, &self.mesh.client] {
            change(proxy);
            sleep(Duration::from_millis(600)).await;
        }
    }
}

#[tokio::test]
async fn a_rotation_of_the_root_costs_no_request() {
    let app = echo().await;
    let mesh = Mesh::new(app);
    let rotation = Rotation::new(&mesh);
    let (mut first, mut second) = (mesh.connect().await, http2(mesh.client.outbound).await);
    let rotating = async {
        rotation.trust_both().await;
        rotation.sign_with_the_next().await;
        rotation.trust_the_next_alone().await;
    };
    let asking = async {
        loop {
            first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert!(read_until(&mut first, "body 0\n").await.starts_with("HTTP/1.1 200 "));
            let request = http::Request::get("http://a/").body(http_body_util::Empty::<bytes::Bytes>::new());
            let response = second.send_request(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
            text(response).await;
        }
    };
    tokio::select! {
        () = rotating => {}
        () = asking => {}
    }
}

/// A server that sends back what it gets, without HTTP.
async fn bytes_back() -> SocketAddr {
    played(|mut tcp| async move {
        let mut byte = [0; 1];
        while tcp.read(&mut byte).await.is_ok_and(|read| read > 0) {
            let _ = tcp.write_all(&byte).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_caller_cuts_what_stands_on_a_root_that_it_trusts_no_more() {
    let mesh = Mesh::speaking(bytes_back().await, Protocol::Opaque);
    let rotation = Rotation::new(&mesh);
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"x").await.unwrap();
    assert_eq!(timeout(LIMIT, tcp.read(&mut [0; 1])).await.unwrap().unwrap(), 1);
    let caller = &mesh.client.shared;
    assert_eq!(caller.standings.besides(None).len(), 1);
    // the server goes on to trust the old root, as one would whose key was stolen
    rotation.trust_both().await;
    caller.identity.install_bundle(bundle(2, &[&rotation.next])).unwrap();
    let ended = timeout(LIMIT, tcp.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    within(LIMIT, "the connection is counted", async || {
        caller.standings.besides(None).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_end_with_their_roots() {
    let mesh = Mesh::speaking(bytes_back().await, Protocol::Opaque);
    let rotation = Rotation::new(&mesh);
    let mut tcp = mesh.connect().await;
    let echoed = async |tcp: &mut tokio::net::TcpStream| {
        tcp.write_all(b"x").await.ok()?;
        let read = timeout(LIMIT, tcp.read(&mut [0; 1])).await.unwrap();
        read.is_ok_and(|read| read > 0).then_some(())
    };
    assert!(echoed(&mut tcp).await.is_some());
    rotation.trust_both().await;
    rotation.sign_with_the_next().await;
    assert!(echoed(&mut tcp).await.is_some(), "the old root is still trusted");
    let server = &mesh.server.shared;
    let left = || server.standings.besides(server.identity.root()).len();
    assert_eq!(left(), 1, "one connection stands on the old root");
    let mut young = mesh.connect().await;
    assert!(echoed(&mut young).await.is_some());
    rotation.trust_the_next_alone().await;
    within(LIMIT, "a connection outlives its root", async || echoed(&mut tcp).await.is_none().then_some(()))
        .await;
    assert!(echoed(&mut young).await.is_some(), "it stands on the new root");
    assert_eq!(left(), 0);
}
