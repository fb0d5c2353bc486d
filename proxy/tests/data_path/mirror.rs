//! Copies of requests: they are the same, they are as many as a policy says, and callers never notice them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use byrnie_model::{Destination, Endpoint, Mirror, Protocol, Timeouts, Traffic};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex, Notify, mpsc},
    time::timeout,
};

use crate::{
    apps::{echo, get, http2, played, raw, read_until, text, within},
    rig::{LIMIT, Mesh, Proxy, free_port, listen, meshed, plain, service_with},
};

/// Nobody answers.
const HANGS: u16 = 0;
/// Longer than what is kept of a body.
const LONG: usize = 1024 * 1024;

/// A request as an application has seen it.
#[derive(Debug, PartialEq)]
struct Seen {
    line: (String, String, Version),
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

/// An application that tells what it sees, and answers with a status or not at all.
struct Witness {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    changed: Arc<Notify>,
    seen: Mutex<mpsc::UnboundedReceiver<Seen>>,
}

impl Witness {
    async fn answering(status: u16) -> Self {
        let (listener, address) = listen().await;
        let (status, changed) = (Arc::new(AtomicU16::new(status)), Arc::new(Notify::new()));
        let (tell, seen) = mpsc::unbounded_channel();
        let (answer, news) = (status.clone(), changed.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (answer, news, tell) = (answer.clone(), news.clone(), tell.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, news, tell) = (answer.clone(), news.clone(), tell.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap();
                        let trailers = body.trailers().cloned();
                        let line = (head.method.to_string(), head.uri.to_string(), head.version);
                        let changed = news.notified();
                        let _ =
                            tell.send(Seen { line, headers: head.headers, body: body.to_bytes(), trailers });
                        if answer.load(Ordering::SeqCst) == HANGS {
                            changed.await;
                        }
                        let status = answer.load(Ordering::SeqCst);
                        Ok::<_, Infallible>(
                            Response::builder().status(status).body(Full::<Bytes>::from("seen")).unwrap(),
                        )
                    }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::spawn(
                    async move { builder.serve_connection(TokioIo::new(tcp), service).await.is_ok() },
                );
            }
        });
        Self { address, status, changed, seen: Mutex::new(seen) }
    }

    /// The next request.
    async fn next(&self) -> Seen {
        timeout(LIMIT, self.seen.lock().await.recv()).await.expect("a request comes").unwrap()
    }

    /// All requests up to one for this path.
    async fn up_to(&self, path: &str) -> Vec<Seen> {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                last if last.line.1.ends_with(path) => return all,
                seen => all.push(seen),
            }
        }
    }

    /// Answers what waits, and what comes from now on.
    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

fn mirrored_to(own: Vec<Endpoint>, other: Endpoint, percent: u32) -> Destination {
    let backends = vec![("api", 1, own), ("next", 0, vec![other])];
    let Destination::Service(mut service) =
        service_with(Protocol::Detect, backends, Timeouts::default(), Traffic::default())
    else {
        unreachable!("a service")
    };
    service.routes[0].mirrors = vec![Mirror { backend: 1, percent }];
    Destination::Service(service)
}

/// A mesh whose calls to `own` are copied to `other`, both without a proxy of their own.
fn mirroring(own: SocketAddr, other: SocketAddr) -> Mesh {
    let mesh = Mesh::new(own);
    mesh.route(mirrored_to(vec![plain(own)], plain(other), 100));
    mesh
}

fn counted(mesh: &Mesh, result: &str) -> usize {
    let line = format!(r#"byrnie_mirrored_requests_total{{destination="shop/next:80",result="{result}"}} "#);
    let metrics = mesh.client.metrics();
    metrics.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

async fn counts(mesh: &Mesh, result: &str, wanted: usize) {
    within(LIMIT, result, async || (counted(mesh, result) == wanted).then_some(())).await;
}

/// Takes out what tells a copy.
fn told(mut copy: Seen) -> Seen {
    assert_eq!(copy.headers.remove("byrnie-mirrored").unwrap(), "true");
    copy
}

#[tokio::test]
async fn a_copy_is_the_same_byte_for_byte() {
    let (own, other) = (Witness::answering(200).await, Witness::answering(200).await);
    let mesh = mirroring(own.address, other.address);
    let body = (0..3000).map(|n| format!("{n:05}")).collect::<Vec<_>>().concat();
    let length = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for request in [
        "GET /a?b=c HTTP/1.1\r\nX-A: 1\r\nX-A: 2\r\nBaggage: byrnie-route=shop/x:y\r\nCookie: a=b\r\n\r\n",
        &format!("POST /with/length HTTP/1.1\r\n{length}"),
        &format!("PUT /chunked HTTP/1.1\r\n{chunked}"),
        "POST /empty HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ] {
        let request = request.replacen("\r\n", "\r\nHost: api\r\nConnection: close\r\n", 1);
        let answer = raw(mesh.client.outbound, request).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("seen"), "{answer}");
        let original = own.next().await;
        assert!(!original.headers.contains_key("byrnie-mirrored"));
        assert_eq!(told(other.next().await), original);
    }
    counts(&mesh, "answered", 4).await;
}

#[tokio::test]
async fn a_copy_of_grpc_has_its_trailers() {
    let (own, other) = (Witness::answering(200).await, Witness::answering(200).await);
    let mesh = mirroring(own.address, other.address);
    let mut client = http2(mesh.client.outbound).await;
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "7".parse().unwrap())].into_iter().collect();
    let frames = [Frame::data(Bytes::from_static(b"ping")), Frame::trailers(trailers.clone())];
    let frames = futures::stream::iter(frames.into_iter().map(Ok::<_, Infallible>));
    let request = Request::post("http://api/shop.Payments/Charge")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(StreamBody::new(frames))
        .unwrap();
    assert_eq!(text(client.send_request(request).await.unwrap()).await.1, "seen");
    let original = own.next().await;
    assert_eq!((&original.body[..], &original.trailers), (&b"ping"[..], &Some(trailers)));
    assert_eq!(told(other.next().await), original);
}

#[tokio::test]
async fn so_many_percent_are_copied() {
    let other = Witness::answering(200).await;
    let own = echo().await;
    let mesh = Mesh::new(own);
    let to = |percent| mesh.route(mirrored_to(vec![plain(own)], plain(other.address), percent));
    to(30);
    for _ in 0..300 {
        get(mesh.client.outbound, "/", "").await;
    }
    to(100);
    get(mesh.client.outbound, "/last", "").await;
    let copies = other.up_to("/last").await.len();
    assert!((50..130).contains(&copies), "{copies}");
}

#[tokio::test]
async fn nothing_that_a_mirror_does_is_seen_by_the_caller() {
    let own = echo().await;
    let other = Witness::answering(HANGS).await;
    let mesh = mirroring(own, other.address);
    let answer = async || {
        let answer = get(mesh.client.outbound, "/", "").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("served-by: echo\r\n"), "{answer}");
        let named = |line: &&str| !line.starts_with("date: ");
        answer.lines().filter(named).map(str::to_owned).collect::<Vec<_>>()
    };
    let hanging = answer().await;
    other.next().await;
    assert_eq!((counted(&mesh, "answered"), counted(&mesh, "failed")), (0, 0), "it has not answered yet");
    // the proxy does not wait either when it ends
    assert_eq!(mesh.client.shared.drain.finish(Duration::from_secs(5)).await, 0);
    other.answers(500);
    counts(&mesh, "answered", 1).await;
    assert_eq!(answer().await, hanging);
    counts(&mesh, "answered", 2).await;
    mesh.route(mirrored_to(vec![plain(own)], plain(free_port()), 100));
    assert_eq!(answer().await, hanging);
    counts(&mesh, "failed", 1).await;
    mesh.route(mirrored_to(vec![plain(own)], plain(own), 100));
    let plainly = answer().await;
    assert_eq!(plainly, hanging);
}

#[tokio::test]
async fn a_copy_follows_what_an_application_has_seen() {
    let own = Witness::answering(HANGS).await;
    let other = Witness::answering(200).await;
    let mesh = mirroring(own.address, other.address);
    let waiting = tokio::spawn(get(mesh.client.outbound, "/waits", ""));
    own.next().await;
    let failing = played(async |mut tcp| {
        read_until(&mut tcp, "\r\n\r\n").await;
    })
    .await;
    for (endpoint, path, status) in
        [(free_port(), "/undelivered", "503"), (failing, "/seen", "502"), (echo().await, "/served", "200")]
    {
        mesh.route(mirrored_to(vec![plain(endpoint)], plain(other.address), 100));
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let answer = raw(mesh.client.outbound, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let paths: Vec<_> = other.up_to("/served").await.into_iter().map(|seen| seen.line.1).collect();
    assert_eq!(paths, ["/seen"], "not what is undelivered, and not yet what waits");
    own.answers(200);
    assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(other.next().await.line.1, "/waits");
}

#[tokio::test]
async fn what_cannot_be_copied_passes_and_is_counted() {
    let other = Witness::answering(200).await;
    let mesh = mirroring(echo().await, other.address);
    let long =
        format!("POST /long HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {LONG}\r\n\r\n");
    let answer = raw(mesh.client.outbound, long + &"x".repeat(LONG)).await;
    assert!(answer.ends_with(&format!("body {LONG}\n")), "{answer}");
    counts(&mesh, "unmirrored", 1).await;
    let upgrade = "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(raw(mesh.client.outbound, upgrade).await.starts_with("HTTP/1.1 200"));
    counts(&mesh, "unmirrored", 2).await;
    let early = played(async |mut tcp| {
        read_until(&mut tcp, "abc").await;
        tcp.write_all(b"HTTP/1.1 413 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
    })
    .await;
    mesh.route(mirrored_to(vec![plain(early)], plain(other.address), 100));
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await.unwrap();
    assert!(read_until(&mut tcp, "\r\n\r\n").await.starts_with("HTTP/1.1 413"));
    counts(&mesh, "unmirrored", 3).await;
    let mut tcp = mesh.connect().await;
    // no HTTP
    tcp.write_all(b"\x00\x01\x02\x03\x04\x05\x06\x07").await.unwrap();
    counts(&mesh, "unmirrored", 4).await;
    mesh.route(mirrored_to(vec![plain(echo().await)], plain(other.address), 100));
    get(mesh.client.outbound, "/last", "").await;
    assert_eq!(other.up_to("/last").await, []);
}

#[tokio::test]
async fn no_more_than_64_copies_are_on_their_way() {
    let other = Witness::answering(HANGS).await;
    let mesh = mirroring(echo().await, other.address);
    let asked = (0..100).map(|_| get(mesh.client.outbound, "/", ""));
    for answer in futures::future::join_all(asked).await {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for _ in 0..64 {
        other.next().await;
    }
    assert_eq!((counted(&mesh, "dropped"), counted(&mesh, "answered")), (36, 0));
    other.answers(200);
    counts(&mesh, "answered", 64).await;
    get(mesh.client.outbound, "/last", "").await;
    assert_eq!(other.up_to("/last").await, []);
}

#[tokio::test]
async fn an_application_knows_a_copy_and_nobody_can_call_a_request_one() {
    let (own, other) = (Witness::answering(200).await, Witness::answering(200).await);
    let mesh = Mesh::new(own.address);
    let next = Proxy::start(mesh.authority.identity("next"), other.address, mesh.service);
    let endpoints = vec![meshed(mesh.server.inbound, "api")];
    mesh.route(mirrored_to(endpoints, meshed(next.inbound, "next"), 100));
    let said = "Byrnie-Mirrored: true\r\nByrnie-Priority: critical\r\n";
    get(mesh.client.outbound, "/", said).await;
    let (original, mut copy) = (own.next().await, told(other.next().await));
    assert_eq!(original.headers["byrnie-client-id"], "spiffe://cluster.local/ns/shop/sa/web");
    assert!(!original.headers.contains_key("byrnie-mirrored"), "an application cannot call it a copy");
    assert!(!copy.headers.contains_key("byrnie-priority"), "nobody waits for it");
    copy.headers.remove("byrnie-timeout").expect("it is limited");
    copy.headers.insert("byrnie-priority", "critical".parse().unwrap());
    assert_eq!(copy, original);

    mesh.server.permissive();
    get(mesh.server.inbound, "/", said).await;
    assert!(!own.next().await.headers.contains_key("byrnie-mirrored"), "neither can who has no identity");
}

#[tokio::test]
async fn a_copy_has_the_time_that_the_caller_gave() {
    let other = Witness::answering(HANGS).await;
    let mesh = Mesh::new(echo().await);
    let next = Proxy::start(mesh.authority.identity("next"), other.address, mesh.service);
    mesh.route(mirrored_to(vec![plain(mesh.app)], meshed(next.inbound, "next"), 100));
    let answer = get(mesh.client.outbound, "/", "Byrnie-Timeout: 8000\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let copy = other.next().await;
    let left: u32 = copy.headers["byrnie-timeout"].to_str().unwrap().parse().unwrap();
    assert!(left <= 8000, "{left}");
    counts(&mesh, "failed", 1).await;
}
