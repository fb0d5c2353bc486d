//! HTTP/1.1 from application to application.

use tokio::io::AsyncWriteExt;

use crate::{
    apps::{echo, get, raw, read_until},
    rig::Mesh,
};

#[tokio::test]
async fn a_request_arrives_with_its_callers_identity() {
    let mesh = Mesh::new(echo().await);
    let answer = get(mesh.client.outbound, "/a?b=c", "X-Test: 1\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET /a?b=c HTTP/1.1\n"), "{answer}");
    assert!(answer.contains("byrnie-client-id: spiffe://cluster.local/ns/shop/sa/web\nhost: api\nx-test: 1\nbody 0"), "{answer}");
}

#[tokio::test]
async fn a_connection_carries_many_requests_also_at_once() {
    let mesh = Mesh::new(echo().await);
    let mut tcp = mesh.connect().await;
    for number in 0..3 {
        tcp.write_all(format!("GET /{number} HTTP/1.1\r\nHost: api\r\n\r\n").as_bytes()).await.unwrap();
        assert!(read_until(&mut tcp, "body 0\n").await.contains(&format!("GET /{number} HTTP/1.1")));
    }
    let pipelined: String = (3..6).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: api\r\n\r\n")).collect();
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
    let sized = raw(mesh.client.outbound, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello").await;
    assert!(sized.contains("content-length: 5\n") && sized.contains("body 5\n"), "{sized}");
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n";
    let chunked = raw(mesh.client.outbound, chunked).await;
    assert!(chunked.contains("transfer-encoding: chunked\n") && chunked.contains("body 7\n"), "{chunked}");
}
