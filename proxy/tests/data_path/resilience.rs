//! What is done about endpoints that fail: ejection, retries by policy, time limits, and who is told of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use byrnie_model::{
    CircuitBreaker, Destination, Endpoint, HashKey, Limits, LoadBalancing, Protocol, Retry, Timeouts,
    Traffic, Workload,
};
use http::Method;
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    apps::{echo, get, http2, named, played, raw, read_until, status, text, within},
    rig::{LIMIT, Mesh, Proxy, free_port, meshed, plain, service_with},
};

/// An application whose status can be changed; 0 is no answer at all.
#[derive(Clone)]
struct App {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl App {
    async fn answering(status: u16) -> Self {
        let (status, asked) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
        let (answer, count) = (status.clone(), asked.clone());
        let address = played(move |mut tcp| {
            let (answer, count) = (answer.clone(), count.clone());
            async move {
                let head = read_until(&mut tcp, "\r\n\r\n").await;
                if head.contains("content-length: 3") && !head.ends_with("abc") {
                    read_until(&mut tcp, "abc").await;
                }
                count.fetch_add(1, Ordering::SeqCst);
                match answer.load(Ordering::SeqCst) {
                    0 => tokio::time::sleep(LIMIT).await,
                    status => {
                        let line = format!(
                            "HTTP/1.1 {status} x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
                        );
                        tcp.write_all(line.as_bytes()).await.unwrap();
                    }
                }
            }
        })
        .await;
        Self { address, status, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn to(endpoints: Vec<Endpoint>, timeouts: Timeouts, traffic: Traffic) -> Destination {
    service_with(Protocol::Detect, vec![("api", 1, endpoints)], timeouts, traffic)
}

fn retrying(retry: Retry) -> Traffic {
    Traffic { retry, ..Traffic::default() }
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";

#[tokio::test]
async fn an_endpoint_that_fails_goes_out_of_rotation_and_comes_back() {
    let (good, bad) = (App::answering(200).await, App::answering(500).await);
    let mesh = Mesh::new(good.address);
    // long enough to look at it
    let circuit_breaker =
        CircuitBreaker { base_ejection: Duration::from_secs(3), ..CircuitBreaker::default() };
    let traffic =
        Traffic { circuit_breaker, load_balancing: LoadBalancing::RoundRobin, ..Traffic::default() };
    mesh.route(to(vec![plain(good.address), plain(bad.address)], Timeouts::default(), traffic));
    let mut failures = 0;
    for _ in 0..40 {
        failures += usize::from(status(&get(mesh.client.outbound, "/", "").await) == "500");
    }
    assert_eq!((failures, bad.asked()), (5, 5));
    let metrics = mesh.client.metrics();
    assert!(
        metrics.contains(r#"byrnie_ejections_total{direction="outbound",destination="shop/api:80"} 1"#),
        "{metrics}"
    );
    bad.status.store(200, Ordering::SeqCst);
    within(LIMIT, "the endpoint comes back", async || {
        assert_eq!(status(&get(mesh.client.outbound, "/", "").await), "200");
        (bad.asked() > 7).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_only_endpoint_stays_however_it_fails() {
    let bad = App::answering(500).await;
    let mesh = Mesh::new(bad.address);
    for _ in 0..30 {
        assert_eq!(status(&get(mesh.client.outbound, "/", "").await), "500");
    }
    assert_eq!(bad.asked(), 30);
}

#[tokio::test]
async fn where_nobody_takes_connections_requests_fail_fast_in_the_end() {
    let mesh = Mesh::new(echo().await);
    mesh.route(to(vec![plain(free_port()), plain(free_port())], Timeouts::default(), Traffic::default()));
    within(LIMIT, "requests fail fast", async || {
        let began = Instant::now();
        let answer = get(mesh.client.outbound, "/", "").await;
        assert_eq!(status(&answer), "503", "{answer}");
        let fast = began.elapsed() < Duration::from_millis(100);
        (fast && answer.contains("byrnie-reason: no-healthy-endpoints")).then_some(())
    })
    .await;
    let alive = plain(mesh.app);
    mesh.route(to(vec![alive], Timeouts::default(), Traffic::default()));
    assert_eq!(status(&get(mesh.client.outbound, "/", "").await), "200");
}

#[tokio::test]
async fn a_policy_has_statuses_asked_again_of_methods_that_it_names() {
    let (good, bad) = (App::answering(200).await, App::answering(503).await);
    let mesh = Mesh::new(good.address);
    let endpoints = || vec![plain(good.address), plain(bad.address)];
    let never = CircuitBreaker { consecutive_failures: 0, success_percent: 0, ..CircuitBreaker::default() };
    let with = |retry| Traffic {
        retry,
        circuit_breaker: never,
        load_balancing: LoadBalancing::RoundRobin,
        ..Traffic::default()
    };
    let listed = Retry { statuses: vec![503], ..Retry::default() };
    mesh.route(to(endpoints(), Timeouts::default(), with(listed.clone())));
    let mut refused = 0;
    for _ in 0..10 {
        assert_eq!(status(&get(mesh.client.outbound, "/", "").await), "200");
        for _ in 0..2 {
            refused += usize::from(status(&raw(mesh.client.outbound, POST).await) == "503");
        }
    }
    assert!(refused > 0, "a POST is not sent again unless it is named");
    let metrics = mesh.client.metrics();
    assert!(
        metrics.contains(r#"byrnie_retries_total{destination="shop/api:80",reason="status"}"#),
        "{metrics}"
    );
    mesh.route(to(
        endpoints(),
        Timeouts::default(),
        with(Retry { methods: vec![Method::POST], ..listed.clone() }),
    ));
    for _ in 0..10 {
        assert_eq!(status(&raw(mesh.client.outbound, POST).await), "200");
    }
    bad.status.store(500, Ordering::SeqCst);
    mesh.route(to(vec![plain(bad.address)], Timeouts::default(), with(listed)));
    let before = bad.asked();
    assert_eq!(status(&get(mesh.client.outbound, "/", "").await), "500");
    assert_eq!(bad.asked(), before + 1, "500 is not listed");
    mesh.route(to(
        endpoints(),
        Timeouts::default(),
        with(Retry { attempts: 0, statuses: vec![500], ..Retry::default() }),
    ));
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(status(&get(mesh.client.outbound, "/", "").await) == "500");
    }
    assert!(failed > 0, "no attempts are none");
}

#[tokio::test]
async fn what_is_late_is_asked_of_another_endpoint() {
    let (good, late) = (App::answering(200).await, App::answering(0).await);
    let mesh = Mesh::new(good.address);
    let timeouts = Timeouts { backend_request: Some(Duration::from_millis(200)), ..Timeouts::default() };
    let traffic = Traffic {
        load_balancing: LoadBalancing::RoundRobin,
        ..retrying(Retry { statuses: vec![504], ..Retry::default() })
    };
    mesh.route(to(vec![plain(good.address), plain(late.address)], timeouts, traffic.clone()));
    for _ in 0..4 {
        assert_eq!(status(&get(mesh.client.outbound, "/", "").await), "200");
    }
    assert!(late.asked() > 0);
    mesh.route(to(vec![plain(late.address)], timeouts, traffic));
    let answer = raw(mesh.client.outbound, POST).await;
    assert!(status(&answer) == "504" && answer.contains("byrnie-reason: backend-timeout"), "{answer}");
}

#[tokio::test]
async fn a_step_above_does_not_repeat_what_a_step_below_has_repeated() {
    let leaf = App::answering(503).await;
    // the application in the middle asks through its own proxy
    let own = Arc::new(std::sync::OnceLock::<SocketAddr>::new());
    let outbound = own.clone();
    let middle = played(move |mut tcp| {
        let outbound = outbound.clone();
        async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            let below = get(*outbound.get().unwrap(), "/", "").await;
            let line =
                format!("HTTP/1.1 {} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status(&below));
            tcp.write_all(line.as_bytes()).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::new(middle);
    own.set(mesh.server.outbound).unwrap();
    let traffic = retrying(Retry { statuses: vec![503], ..Retry::default() });
    let below = to(vec![plain(leaf.address)], Timeouts::default(), traffic.clone());
    mesh.server.shared.destinations.slot(mesh.service).store(Arc::new(below));
    mesh.route(to(vec![meshed(mesh.server.inbound, "api")], Timeouts::default(), traffic));
    let answer = get(mesh.client.outbound, "/", "").await;
    assert_eq!(
        (status(&answer), leaf.asked()),
        ("503", 3),
        "three of the step below, and none of those above"
    );
    assert!(!answer.contains("byrnie-retry"), "{answer}");
}

#[tokio::test]
async fn a_callers_deadline_travels_and_nothing_begins_after_it() {
    let mesh = Mesh::new(echo().await);
    let heard = |answer: &str, name: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name} in {answer}"))
    };
    let answer = get(mesh.client.outbound, "/", "byrnie-timeout: 30000\r\n").await;
    let left: u32 = heard(&answer, "byrnie-timeout: ").parse().unwrap();
    assert!((20_000..=30_000).contains(&left), "{left}");
    let mut client = http2::<http_body_util::Empty<bytes::Bytes>>(mesh.client.outbound).await;
    let call = http::Request::get("http://api/").header("grpc-timeout", "1M");
    let call = call.body(http_body_util::Empty::new()).unwrap();
    let (_, answer, _) = text(client.send_request(call).await.unwrap()).await;
    let left: u32 = heard(&answer, "byrnie-timeout: ").parse().unwrap();
    assert!((50_000..=60_000).contains(&left), "{left}");
    assert!(heard(&answer, "grpc-timeout: ").ends_with('m'), "{answer}");
    assert!(!get(mesh.client.outbound, "/", "").await.contains("byrnie-timeout"));

    let silent = App::answering(0).await;
    let mesh = Mesh::new(silent.address);
    let answer = get(mesh.client.outbound, "/", "byrnie-timeout: 0\r\n").await;
    assert!(status(&answer) == "504" && answer.contains("byrnie-reason: request-timeout"), "{answer}");
    assert_eq!(silent.asked(), 0);
    let asking = get(mesh.client.outbound, "/", "byrnie-timeout: 300\r\n");
    let answer = timeout(LIMIT / 2, asking).await.unwrap();
    assert_eq!((status(&answer), silent.asked()), ("504", 1));
    // callers that give too little time say nothing about the endpoint
    for _ in 0..10 {
        get(mesh.client.outbound, "/", "byrnie-timeout: 20\r\n").await;
    }
    assert!(!mesh.client.metrics().contains("byrnie_ejections_total{"));
}

#[tokio::test]
async fn what_nobody_waits_for_is_cancelled_at_the_application() {
    let (began, ended) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (asked, noticed) = (began.clone(), ended.clone());
    let app = played(move |mut tcp| {
        let (asked, noticed) = (asked.clone(), noticed.clone());
        async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            asked.notify_one();
            let mut rest = [0; 1];
            let _ = tokio::io::AsyncReadExt::read(&mut tcp, &mut rest).await;
            noticed.notify_one();
        }
    })
    .await;
    let mesh = Mesh::new(app);
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    timeout(LIMIT, began.notified()).await.expect("the application has the request");
    drop(tcp);
    timeout(LIMIT, ended.notified()).await.expect("the application's connection ends");
}

#[tokio::test]
async fn a_key_leads_to_the_same_endpoint() {
    let mut endpoints = Vec::new();
    for name in ["one", "two", "three", "four"] {
        endpoints.push(plain(named(name).await));
    }
    let mesh = Mesh::new(endpoints[0].address);
    let key = HashKey::Header(http::HeaderName::from_static("x-user"));
    let traffic = Traffic { load_balancing: LoadBalancing::ConsistentHash(key), ..Traffic::default() };
    mesh.route(to(endpoints, Timeouts::default(), traffic));
    let mut served = std::collections::BTreeSet::new();
    for user in 0..20 {
        let mut by = std::collections::BTreeSet::new();
        for _ in 0..5 {
            let answer = get(mesh.client.outbound, "/", &format!("X-User: {user}\r\n")).await;
            by.insert(answer.lines().find(|line| line.starts_with("served-by")).unwrap().to_owned());
        }
        assert_eq!(by.len(), 1, "{user}: {by:?}");
        served.extend(by);
    }
    assert!(served.len() > 2, "{served:?}");
}

#[tokio::test]
async fn callers_of_grpc_hear_of_failures_as_grpc_says_them() {
    let mesh = Mesh::new(echo().await);
    mesh.route(to(vec![plain(free_port())], Timeouts::default(), Traffic::default()));
    let mut client = http2::<http_body_util::Empty<bytes::Bytes>>(mesh.client.outbound).await;
    let call = http::Request::post("http://api/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .body(http_body_util::Empty::new())
        .unwrap();
    let (head, _, _) = text(client.send_request(call).await.unwrap()).await;
    assert_eq!(
        (head.status.as_u16(), &head.headers["grpc-status"]),
        (200, &http::HeaderValue::from_static("14"))
    );
    let message = head.headers["grpc-message"].to_str().unwrap();
    assert!(message.starts_with("byrnie: connect-failed: "), "{message}");
    assert_eq!(head.headers["content-type"], "application/grpc");
}

#[tokio::test]
async fn an_application_is_not_given_more_than_its_limits() {
    let silent = App::answering(0).await;
    let mesh = Mesh::new(silent.address);
    let limits = |limits| mesh.server.workload(Workload { limits, ..Workload::default() });
    limits(Limits { adaptive: true, ..Limits::default() });
    let held: Vec<_> = (0..64).map(|_| tokio::spawn(get(mesh.client.outbound, "/", ""))).collect();
    within(LIMIT, "64 requests arrive", async || (silent.asked() == 64).then_some(())).await;
    let answer = get(mesh.client.outbound, "/", "").await;
    assert!(status(&answer) == "503" && answer.contains("byrnie-reason: overloaded"), "{answer}");
    let critical = tokio::spawn(get(mesh.client.outbound, "/", "byrnie-priority: critical\r\n"));
    within(LIMIT, "a critical one arrives", async || (silent.asked() == 65).then_some(())).await;
    critical.abort();
    held.iter().for_each(tokio::task::JoinHandle::abort);

    silent.status.store(200, Ordering::SeqCst);
    limits(Limits { adaptive: false, requests_per_second: Some(1), burst: 5 });
    within(LIMIT, "the policy is in force", async || {
        (status(&get(mesh.client.outbound, "/", "").await) == "429").then_some(())
    })
    .await;
    let answer = get(mesh.client.outbound, "/", "").await;
    assert!(status(&answer) == "429" && answer.contains("byrnie-reason: rate-limited"), "{answer}");
}

#[tokio::test]
async fn what_one_endpoint_is_too_busy_for_goes_to_another() {
    let (busy, idle) = (App::answering(0).await, App::answering(200).await);
    let mesh = Mesh::new(busy.address);
    let other = Proxy::start(mesh.authority.identity("api"), idle.address, mesh.service);
    let limits = Limits { adaptive: true, ..Limits::default() };
    mesh.server.workload(Workload { limits, ..Workload::default() });
    mesh.route(to(vec![meshed(mesh.server.inbound, "api")], Timeouts::default(), Traffic::default()));
    let held: Vec<_> = (0..64).map(|_| tokio::spawn(get(mesh.client.outbound, "/", ""))).collect();
    within(LIMIT, "64 requests arrive", async || (busy.asked() == 64).then_some(())).await;
    let both = vec![meshed(mesh.server.inbound, "api"), meshed(other.inbound, "api")];
    let traffic = Traffic { load_balancing: LoadBalancing::RoundRobin, ..Traffic::default() };
    mesh.route(to(both, Timeouts::default(), traffic));
    for _ in 0..10 {
        assert_eq!(status(&raw(mesh.client.outbound, POST).await), "200");
    }
    let metrics = mesh.client.metrics();
    assert!(
        metrics.contains(r#"byrnie_retries_total{destination="shop/api:80",reason="overloaded"}"#),
        "{metrics}"
    );
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn requests_stay_in_the_callers_zone_wherever_that_is() {
    let (here, there) = (App::answering(200).await, App::answering(200).await);
    let mesh = Mesh::new(here.address);
    let zoned = |app: &App, zone: &str| Endpoint { zone: zone.to_owned(), ..plain(app.address) };
    let live_in = |zone: &str| {
        mesh.client.workload(Workload { zone: zone.to_owned(), ..Workload::default() });
    };
    let endpoints = vec![zoned(&here, "a"), zoned(&there, "b")];
    live_in("a");
    let traffic =
        Traffic { prefer_zone: true, load_balancing: LoadBalancing::RoundRobin, ..Traffic::default() };
    mesh.route(to(endpoints, Timeouts::default(), traffic));
    let ask = async || {
        for _ in 0..20 {
            assert_eq!(status(&get(mesh.client.outbound, "/", "").await), "200");
        }
        (here.asked(), there.asked())
    };
    // one request may find out what elsewhere takes
    let (near, far) = ask().await;
    assert!(near >= 19 && far <= 1, "{near} {far}");
    live_in("b");
    let (far, near) = ask().await;
    assert!(near >= 19 && far <= 21, "the pod's zone was learned late: {far} {near}");
    live_in("c");
    let (one, other) = ask().await;
    assert!(one >= far + 10 && other >= near + 10, "there is nobody near: {one} {other}");
}

#[tokio::test]
async fn only_the_pods_own_calls_are_given_up() {
    let mesh = Mesh::new(free_port());
    let ever = Duration::from_hours(1);
    assert_eq!(status(&get(mesh.client.outbound, "/", "").await), "503");
    assert!(mesh.client.shared.given_up.is_within(ever), "the caller's call was");
    assert!(
        !mesh.server.shared.given_up.is_within(ever),
        "the application itself is not one of those that it calls"
    );
}
