//! HTTP/1.1 from application to application.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    apps::{echo, get, played, raw, read_until},
    rig::{LIMIT, Mesh, Proxy},
};

#[tokio::test]
async fn a_request_arrives_with_its_callers_identity() {
    let mesh = Mesh::new(echo().await);
    let answer = get(mesh.client.outbound, "/a?b=c", "X-Test: 1\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET /a?b=c HTTP/1.1\n"), "{answer}");
    assert!(
        answer.contains(
            "byrnie-client-id: spiffe://cluster.local/ns/shop/sa/web\nhost: api\nx-test: 1\nbody 0"
        ),
        "{answer}"
    );
}

#[tokio::test]
async fn a_connection_carries_many_requests_also_at_once() {
    let mesh = Mesh::new(echo().await);
    let mut tcp = mesh.connect().await;
    for number in 0..3 {
        tcp.write_all(format!("GET /{number} HTTP/1.1\r\nHost: api\r\n\r\n").as_bytes()).await.unwrap();
        assert!(read_until(&mut tcp, "body 0\n").await.contains(&format!("GET /{number} HTTP/1.1")));
    }
    let pipelined = [3, 4, 5].map(|n| format!("GET /{n} HTTP/1.1\r\nHost: api\r\n\r\n")).concat();
    tcp.write_all(pipelined.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while answer.matches("body 0\n").count() < 3 {
        answer.push_str(&read_until(&mut tcp, "body 0\n").await);
    }
    let at = |n: u8| answer.find(&format!("GET /{n} ")).unwrap();
    assert!(at(3) < at(4) && at(4) < at(5), "{answer}");
    let metrics = mesh.server.metrics();
    assert!(metrics.contains(r#"byrnie_connections_opened_total{direction="inbound",kind="mtls-http1",peer="spiffe://cluster.local/ns/shop/sa/web"} 1"#), "{metrics}");
}

#[tokio::test]
async fn bodies_pass_sized_and_chunked() {
    let mesh = Mesh::new(echo().await);
    let sized = raw(
        mesh.client.outbound,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
    )
    .await;
    assert!(sized.contains("content-length: 5\n") && sized.contains("body 5\n"), "{sized}");
    for method in ["POST", "GET", "DELETE"] {
        let chunked = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"
        );
        let chunked = raw(mesh.client.outbound, chunked).await;
        assert!(
            chunked.contains("transfer-encoding: chunked\n") && chunked.contains("body 7\n"),
            "{chunked}"
        );
    }
}

#[tokio::test]
async fn responses_without_a_body_have_none() {
    let app = played(|mut tcp| async move {
        loop {
            let request = read_until(&mut tcp, "\r\n\r\n").await;
            let answer = match request.split(' ').nth(1).unwrap() {
                "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n",
                "/early" => "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            };
            tcp.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::new(app);
    let mut tcp = mesh.connect().await;
    for (request, status, header) in [
        ("HEAD /head", "200 OK", "content-length: 1000"),
        ("GET /204", "204 No Content", ""),
        ("GET /304", "304 Not Modified", "etag: \"x\""),
        ("GET /empty", "200 OK", "content-length: 0"),
    ] {
        tcp.write_all(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_until(&mut tcp, "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")) && answer.contains(header), "{answer}");
        assert!(answer.ends_with("\r\n\r\n") && !answer.contains("chunked"), "{answer}");
    }
    let hinted = get(mesh.client.outbound, "/early", "").await;
    assert!(hinted.starts_with("HTTP/1.1 200 OK\r\n") && hinted.ends_with("ok"), "{hinted}");
}

#[tokio::test]
async fn trailers_pass_both_ways_where_they_were_asked_for() {
    let app = played(|mut tcp| async move {
        let request = read_until(&mut tcp, "0\r\nx-sum: 7\r\n\r\n").await;
        assert!(request.to_lowercase().contains("trailer: x-sum\r\n") && request.contains("te: trailers"), "{request}");
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Done\r\n\r\n2\r\nok\r\n0\r\nX-Done: yes\r\n\r\n";
        tcp.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let mesh = Mesh::new(app);
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n";
    let mut tcp = mesh.connect().await;
    tcp.write_all(request.as_bytes()).await.unwrap();
    let answer = read_until(&mut tcp, "x-done: yes\r\n\r\n").await;
    assert!(answer.contains("trailer: X-Done"), "{answer}");
    let spoofed = request.replace("X-Sum: 7", "Byrnie-Sum: 8");
    let answer = raw(mesh.client.outbound, spoofed).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("byrnie-reason: body-cut"), "{answer}");
}

#[tokio::test]
async fn expectations_are_met_on_each_hop() {
    let mesh = Mesh::new(echo().await);
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_until(&mut tcp, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    tcp.write_all(b"abc").await.unwrap();
    let answer = read_until(&mut tcp, "body 3\n").await;
    assert!(!answer.contains("expect"), "{answer}");
}

#[tokio::test]
async fn http_1_0_is_spoken_to_in_its_own_way() {
    let mesh = Mesh::new(echo().await);
    let answer = raw(mesh.client.outbound, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET / HTTP/1.1\n") && answer.contains("host: 10.96.0.1:80\n"), "{answer}");
    let kept =
        raw(mesh.client.outbound, "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n")
            .await;
    assert!(kept.contains("GET /1 ") && kept.contains("GET /2 "), "{kept}");
}

#[tokio::test]
async fn what_concerns_one_hop_or_is_ours_does_not_arrive() {
    let mesh = Mesh::new(echo().await);
    let spoofed = "Byrnie-Client-Id: spiffe://cluster.local/ns/shop/sa/root\r\nX-Byrnie-Peer: root\r\n\
        X-Forwarded-Client-Cert: By=root\r\nbyrnie-client-id: again\r\nBYRNIE-REASON: none\r\n\
        Connection: X-Hop, byrnie-client-id\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Connection: close\r\nUpgrade: h2c\r\n";
    for to in [mesh.client.outbound, mesh.server.inbound] {
        mesh.server.permissive();
        let answer = get(to, "/", spoofed).await;
        let (_, seen) = answer.split_once("HTTP/1.1\n").unwrap_or_else(|| panic!("{answer}"));
        let expected = if to == mesh.client.outbound {
            "byrnie-client-id: spiffe://cluster.local/ns/shop/sa/web\nhost: api\nbody 0\n"
        } else {
            "host: api\nbody 0\n"
        };
        assert_eq!(seen, expected);
    }
    for name in ["Byrnie_Client_Id", "x_forwarded_client_cert", "x-byrnie_peer"] {
        let answer = get(mesh.client.outbound, "/", &format!("{name}: root\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("byrnie-reason: bad-header"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn what_servers_could_read_differently_is_refused() {
    let mesh = Mesh::new(echo().await);
    mesh.server.permissive();
    for (request, status) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ] {
        for to in [mesh.client.outbound, mesh.server.inbound] {
            let answer = raw(to, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?} to {to}: {answer}");
            assert!(answer.contains("\r\nbyrnie-reason: ") && !answer.contains("served-by"), "{answer}");
        }
    }
    let absolute =
        raw(mesh.client.outbound, "get http://A/x%2F..//y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;
    assert!(absolute.contains("get /x%2F..//y HTTP/1.1\n"), "{absolute}");
}

#[tokio::test]
async fn sizes_are_limited() {
    let mesh = Mesh::new(echo().await);
    let long = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
    assert!(get(mesh.client.outbound, &long(8192), "").await.starts_with("HTTP/1.1 200 "));
    assert!(get(mesh.client.outbound, &long(8193), "").await.starts_with("HTTP/1.1 414 "));
    // Host and Connection are there already
    let fields = |count: usize| (2..count).map(|n| format!("x-{n}: y\r\n")).collect::<Vec<_>>().concat();
    assert!(get(mesh.client.outbound, "/", &fields(100)).await.starts_with("HTTP/1.1 200 "));
    assert!(get(mesh.client.outbound, "/", &fields(101)).await.starts_with("HTTP/1.1 431 "));
    let large = format!("x: {}\r\n", "y".repeat(17 * 1024));
    assert!(get(mesh.client.outbound, "/", &large).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn what_requests_say_makes_no_series() {
    let mesh = Mesh::new(echo().await);
    let series = |proxy: &Proxy| proxy.metrics().lines().filter(|line| !line.starts_with('#')).count();
    let ask = async |tcp: &mut TcpStream, n: u32| {
        let request = format!("M{n} /{n} HTTP/1.1\r\nHost: h{n}\r\nX-{n}: {n}\r\nUser-Agent: {n}\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        read_until(tcp, "body 0\n").await;
    };
    let mut tcp = mesh.connect().await;
    ask(&mut tcp, 0).await;
    let before = (series(&mesh.client), series(&mesh.server));
    for n in 1..2000 {
        ask(&mut tcp, n).await;
    }
    assert_eq!((series(&mesh.client), series(&mesh.server)), before);
}

#[tokio::test]
async fn a_request_that_a_client_abandons_ends_at_the_application() {
    let (saw, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let app = played(move |mut tcp| {
        let saw = saw.clone();
        async move {
            read_until(&mut tcp, "\r\n\r\n").await;
            saw.send("a request").unwrap();
            let left = tcp.read(&mut [0; 16]).await;
            saw.send(if matches!(left, Ok(0) | Err(_)) { "its end" } else { "more" }).unwrap();
        }
    })
    .await;
    let mesh = Mesh::new(app);
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(timeout(LIMIT, seen.recv()).await.unwrap(), Some("a request"));
    drop(tcp);
    assert_eq!(timeout(LIMIT, seen.recv()).await.unwrap(), Some("its end"));
}
