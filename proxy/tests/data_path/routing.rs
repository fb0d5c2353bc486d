//! Splits, failover, routes asked for, faults, retries, discovery, drain: which endpoint a request reaches, and what its client notices when one fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use byrnie_model::{Destination, Faults, Protocol, Timeouts, Traffic};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout},
};

use crate::{
    apps::{echo, get, named, played, raw, read_all, read_until, status, within},
    rig::{LIMIT, Mesh, Proxy, free_port, meshed, one_service, plain, service, service_with},
};

#[tokio::test]
async fn weights_hold_per_request_on_one_connection() {
    let mesh = Mesh::new(echo().await);
    let (one, two) = (named("one").await, named("two").await);
    let shares = |a, b| {
        service(
            Protocol::Detect,
            vec![("v1", a, vec![plain(one)]), ("v2", b, vec![plain(two)])],
            Timeouts::default(),
        )
    };
    mesh.route(shares(90, 10));
    let mut tcp = mesh.connect().await;
    let mut count = async |requests: usize| {
        let mut ones = 0;
        for _ in 0..requests {
            tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            ones += usize::from(read_until(&mut tcp, "body 0\n").await.contains("served-by: one\r\n"));
        }
        ones
    };
    let ones = count(2000).await;
    assert!((1740..1860).contains(&ones), "{ones}");
    mesh.route(shares(0, 1));
    assert_eq!(count(50).await, 0);
    let empty =
        service(Protocol::Detect, vec![("v1", 99, vec![plain(one)]), ("v2", 1, vec![])], Timeouts::default());
    mesh.route(empty);
    assert_eq!(count(50).await, 50);
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_costs_no_request() {
    let mesh = Mesh::new(echo().await);
    let dead = free_port();
    mesh.route(one_service(Protocol::Detect, vec![meshed(mesh.server.inbound, "api"), meshed(dead, "api")]));
    for _ in 0..50 {
        let post = raw(
            mesh.client.outbound,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        )
        .await;
        assert!(post.starts_with("HTTP/1.1 200 ") && post.contains("body 3\n"), "{post}");
    }
    mesh.route(one_service(Protocol::Detect, vec![meshed(dead, "api")]));
    let answer = get(mesh.client.outbound, "/", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("byrnie-reason: connect-failed"),
        "{answer}"
    );
    mesh.route(one_service(Protocol::Detect, vec![]));
    let answer = get(mesh.client.outbound, "/", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("byrnie-reason: no-endpoints"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_request_that_no_application_saw_goes_elsewhere_with_its_body() {
    let mesh = Mesh::new(echo().await);
    let leaving = mesh.leaving(1);
    let endpoints = vec![meshed(mesh.server.inbound, "api"), leaving[0].clone()];
    mesh.route(one_service(Protocol::Detect, endpoints));
    for _ in 0..50 {
        let post = raw(
            mesh.client.outbound,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        )
        .await;
        assert!(post.starts_with("HTTP/1.1 200 ") && post.contains("body 3\n"), "{post}");
    }
    let metrics = mesh.client.metrics();
    assert!(
        metrics.contains(r#"byrnie_retries_total{destination="shop/api:80",reason="undelivered"}"#),
        "{metrics}"
    );
    mesh.route(one_service(Protocol::Detect, leaving));
    let answer = get(mesh.client.outbound, "/", "").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("byrnie-reason: app-refused"), "{answer}");
    assert!(!answer.contains("byrnie-retry"), "{answer}");
}

#[tokio::test]
async fn a_request_that_an_application_dropped_goes_elsewhere_if_it_may_be_repeated() {
    let mesh = Mesh::new(echo().await);
    let dropping = played(|mut tcp| async move {
        let _ = read_until(&mut tcp, "\r\n\r\n").await;
        byrnie_proxy::dial::reset(&tcp);
    });
    let dropping = Proxy::start(mesh.authority.identity("api"), dropping.await, mesh.service);
    let endpoints = vec![meshed(mesh.server.inbound, "api"), meshed(dropping.inbound, "api")];
    mesh.route(one_service(Protocol::Detect, endpoints));
    for _ in 0..30 {
        let answer = get(mesh.client.outbound, "/", "").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let metrics = mesh.client.metrics();
    assert!(
        metrics.contains(r#"byrnie_retries_total{destination="shop/api:80",reason="unanswered"}"#),
        "{metrics}"
    );
    mesh.route(one_service(Protocol::Detect, vec![meshed(dropping.inbound, "api")]));
    let post = raw(
        mesh.client.outbound,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(post.starts_with("HTTP/1.1 502 ") && post.contains("byrnie-reason: app-reset"), "{post}");
    assert!(!post.contains("byrnie-retry"), "{post}");
}

#[tokio::test]
async fn a_request_waits_for_the_news_that_all_its_endpoints_have_ended() {
    let mesh = Mesh::new(echo().await);
    for count in [1, 2, 5] {
        mesh.route(one_service(Protocol::Detect, mesh.leaving(count)));
        let mut calls = Vec::new();
        for _ in 0..10 {
            let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
            calls.push(tokio::spawn(raw(mesh.client.outbound, post)));
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        mesh.route(one_service(Protocol::Detect, vec![meshed(mesh.server.inbound, "api")]));
        for call in calls {
            let answer = call.await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("body 3\n"), "{count}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_request_that_ended_three_connections_ends_no_fourth() {
    let mesh = Mesh::new(echo().await);
    let seen = Arc::new(AtomicUsize::new(0));
    let mut endpoints = Vec::new();
    for _ in 0..6 {
        let seen = seen.clone();
        let app = played(move |mut tcp| {
            let seen = seen.clone();
            async move {
                let _ = read_until(&mut tcp, "\r\n\r\n").await;
                seen.fetch_add(1, Ordering::SeqCst);
                byrnie_proxy::dial::reset(&tcp);
            }
        });
        let proxy = Proxy::start(mesh.authority.identity("api"), app.await, mesh.service);
        endpoints.push(meshed(proxy.inbound, "api"));
    }
    mesh.route(one_service(Protocol::Detect, endpoints));
    let answer = get(mesh.client.outbound, "/of-death", "").await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("byrnie-reason: app-reset"), "{answer}");
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

/// An application that closes each connection after one answer, without saying so, at once or a little later.
async fn closing(later: Duration) -> std::net::SocketAddr {
    played(move |mut tcp| async move {
        read_until(&mut tcp, "\r\n\r\n").await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        tokio::time::sleep(later).await;
    })
    .await
}

#[tokio::test]
async fn a_connection_that_ends_while_idle_costs_no_request() {
    for later in [0, 1, 2, 5] {
        let mesh = Mesh::new(closing(Duration::from_millis(later)).await);
        let mut tcp = mesh.connect().await;
        for number in 0..200u64 {
            tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let answer = read_until(&mut tcp, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{number}: {answer}");
            if !answer.ends_with("ok") {
                read_until(&mut tcp, "ok").await;
            }
            tokio::time::sleep(Duration::from_micros(number * 37 % 3000)).await;
        }
    }
}

#[tokio::test]
async fn what_an_application_may_have_seen_is_sent_twice_only_if_that_is_the_same() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counting = seen.clone();
    let app = played(move |mut tcp| {
        let seen = counting.clone();
        async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            if seen.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
                tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let mesh = Mesh::new(app);
    assert!(get(mesh.client.outbound, "/", "").await.ends_with("ok"));
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    let answer = raw(
        mesh.client.outbound,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("byrnie-reason: app-reset"), "{answer}");
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_destination_that_stays_unknown_is_refused_with_its_reason() {
    let mesh = Mesh::new(echo().await);
    let proxy = Proxy::start(mesh.authority.identity("web"), free_port(), ([10, 96, 0, 99], 80).into());
    let began = Instant::now();
    let answer = get(proxy.outbound, "/", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("byrnie-reason: discovery-timeout"),
        "{answer}"
    );
    assert!(Instant::now() - began < Duration::from_secs(8));
    let waiting = tokio::spawn(async move { get(proxy.outbound, "/late", "").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy
        .shared
        .destinations
        .slot(([10, 96, 0, 99], 80).into())
        .store(Arc::new(one_service(Protocol::Detect, vec![meshed(mesh.server.inbound, "api")])));
    assert!(waiting.await.unwrap().contains("GET /late "));
}

#[tokio::test]
async fn a_request_has_a_deadline() {
    let app = played(|mut tcp| async move {
        let slow_head = read_until(&mut tcp, "\r\n\r\n").await.contains("/head");
        if !slow_head {
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await.unwrap();
        }
        tokio::time::sleep(LIMIT).await;
    })
    .await;
    let mesh = Mesh::new(app);
    let timeouts = Timeouts { request: Some(Duration::from_millis(300)), ..Timeouts::default() };
    mesh.route(service(
        Protocol::Detect,
        vec![("api", 1, vec![meshed(mesh.server.inbound, "api")])],
        timeouts,
    ));
    let answer = get(mesh.client.outbound, "/head", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 504 ") && answer.contains("byrnie-reason: request-timeout"),
        "{answer}"
    );
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"GET /body HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let cut = timeout(Duration::from_secs(3), read_all(&mut tcp)).await.unwrap();
    assert!(cut.ends_with("part"), "{cut}");
}

#[tokio::test]
async fn a_draining_proxy_takes_requests_and_ends_connections_politely() {
    let mesh = Mesh::new(echo().await);
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut tcp, "body 0\n").await;
    mesh.server.shared.drain.begin();
    mesh.client.shared.drain.begin();
    tokio::time::sleep(Duration::from_millis(600)).await;
    tcp.write_all(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let last = read_all(&mut tcp).await;
    assert!(last.contains("connection: close\r\n") && last.contains("GET /2 "), "{last}");
    let fresh = raw(mesh.client.outbound, "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(fresh.contains("connection: close\r\n") && fresh.contains("GET /3 "), "{fresh}");
    assert_eq!(mesh.server.shared.drain.finish(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn the_end_waits_for_peers_that_have_not_heard_of_it() {
    let mesh = Mesh::new(echo().await);
    assert!(get(mesh.client.outbound, "/1", "").await.contains("GET /1 "));
    let drain = &mesh.server.shared.drain;
    drain.begin();
    let mut end = std::pin::pin!(drain.finish(Duration::from_secs(10)));
    assert!(timeout(Duration::from_millis(300), end.as_mut()).await.is_err(), "a request may be on its way");
    assert!(get(mesh.client.outbound, "/2", "").await.contains("GET /2 "));
    // the endpoint is gone from the client's world: it closes what it has kept open
    mesh.route(one_service(Protocol::Detect, vec![]));
    let began = std::time::Instant::now();
    assert_eq!(end.await, 0);
    let took = std::time::Instant::now().saturating_duration_since(began);
    assert!(took < Duration::from_secs(2), "it waited for nobody: {took:?}");
}

#[tokio::test]
async fn another_service_serves_while_no_endpoint_can() {
    let (own, other) = (named("own").await, named("other").await);
    let mesh = Mesh::new(own);
    let backends = |endpoints| {
        let backends = vec![("api", 1, endpoints), ("spare", 0, vec![plain(other)])];
        let Destination::Service(mut service) =
            service_with(Protocol::Detect, backends, Timeouts::default(), Traffic::default())
        else {
            unreachable!("a service")
        };
        service.routes[0].failover = vec![1];
        Destination::Service(service)
    };
    let served = async |by: &str| {
        within(LIMIT, by, async || {
            let answer = get(mesh.client.outbound, "/", "").await;
            answer.contains(&format!("served-by: {by}\r\n")).then_some(())
        })
        .await;
    };
    mesh.route(backends(vec![plain(own)]));
    served("own").await;
    mesh.route(backends(vec![]));
    assert!(get(mesh.client.outbound, "/", "").await.contains("served-by: other\r\n"), "at once");
    let dead = free_port();
    mesh.route(backends(vec![plain(dead)]));
    served("other").await;
    mesh.route(backends(vec![plain(dead), plain(own)]));
    served("own").await;
}

#[tokio::test]
async fn faults_are_injected_and_routes_asked_for_where_a_policy_says_so() {
    let (own, trial) = (named("own").await, named("trial").await);
    let mesh = Mesh::new(own);
    let backends = |overrides: &[usize], faults| {
        let backends = vec![("api", 1, vec![plain(own)]), ("trial", 0, vec![plain(trial)])];
        let Destination::Service(mut service) =
            service_with(Protocol::Detect, backends, Timeouts::default(), Traffic::default())
        else {
            unreachable!("a service")
        };
        service.routes[0].overrides = overrides.to_vec();
        service.routes[0].faults = faults;
        Destination::Service(service)
    };
    let wish = "Baggage: user=1,byrnie-route=shop/api:trial\r\n";
    mesh.route(backends(&[], Faults::default()));
    assert!(get(mesh.client.outbound, "/", wish).await.contains("served-by: own\r\n"), "no policy lists it");
    mesh.route(backends(&[1], Faults::default()));
    let answer = get(mesh.client.outbound, "/", wish).await;
    assert!(
        answer.contains("served-by: trial\r\n") && answer.contains("byrnie-route=shop/api:trial"),
        "{answer}"
    );
    assert!(get(mesh.client.outbound, "/", "").await.contains("served-by: own\r\n"));
    let unlisted = get(mesh.client.outbound, "/", "Baggage: byrnie-route=shop/api:other\r\n").await;
    assert!(unlisted.contains("served-by: own\r\n"), "{unlisted}");

    let faults = |delay, abort| backends(&[], Faults { delay, abort });
    mesh.route(faults(None, Some((100, 418))));
    let answer = get(mesh.client.outbound, "/", "").await;
    assert!(status(&answer) == "418" && answer.contains("byrnie-reason: fault-injected"), "{answer}");
    mesh.route(faults(Some((100, Duration::from_millis(300))), Some((0, 418))));
    let began = std::time::Instant::now();
    assert_eq!(status(&get(mesh.client.outbound, "/", "").await), "200");
    assert!(began.elapsed() >= Duration::from_millis(300));
    mesh.route(faults(None, Some((50, 503))));
    let mut aborted = 0;
    for _ in 0..100 {
        aborted += usize::from(status(&get(mesh.client.outbound, "/", "").await) == "503");
    }
    assert!((20..80).contains(&aborted), "{aborted}");
}

#[tokio::test]
async fn callers_without_identity_ask_for_no_route() {
    let mesh = Mesh::new(echo().await);
    mesh.server.permissive();
    let wish = "Baggage: user=1,byrnie-route=shop/api:trial\r\n";
    let answer = get(mesh.server.inbound, "/", wish).await;
    assert!(answer.contains("baggage: user=1\n"), "{answer}");
}
