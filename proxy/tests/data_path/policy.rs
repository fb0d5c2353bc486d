//! Who is let in: plaintext, identities, rules, and changes while connections live.

use std::time::Duration;

use byrnie_model::{
    Action, Enforcement, HttpMatch, InboundPolicy, Mtls, MtlsMode, ObjectName, PathMatch, Policy, Ports,
    Protocol, Rule, Source, Workload,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    apps::{echo, get, http2, played, raw, read_until, text},
    rig::{LIMIT, Mesh},
};

fn allow(account: &str, http: Vec<HttpMatch>, enforcement: Enforcement) -> InboundPolicy {
    let source = Source::Workload {
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "shop".into(),
        service_account: Some(account.into()),
    };
    let rule = Rule { sources: vec![source], ports: Ports::All, http };
    let name = ObjectName::new("shop", "who-may");
    let policy = Policy { name, action: Action::Allow, enforcement, ports: Ports::All, rules: vec![rule] };
    InboundPolicy { mtls: Mtls::default(), policies: vec![policy] }
}

fn path(prefix: &str) -> Vec<HttpMatch> {
    vec![HttpMatch { path: Some(PathMatch::Prefix(prefix.into())), ..HttpMatch::default() }]
}

#[tokio::test]
async fn plaintext_is_let_in_only_where_the_port_is_permissive() {
    let mesh = Mesh::new(echo().await);
    let mut tcp = TcpStream::connect(mesh.server.inbound).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let refused = timeout(LIMIT, tcp.read(&mut [0; 16])).await.unwrap();
    assert!(refused.is_err(), "{refused:?}");
    assert!(mesh.server.metrics().contains(r#"byrnie_authorization_total{verdict="deny",policy=""} 1"#));
    mesh.server.permissive();
    let answer = get(mesh.server.inbound, "/", "").await;
    assert!(answer.contains("\nhost: api\nbody 0\n") && !answer.contains("byrnie-client-id"), "{answer}");
    assert!(get(mesh.client.outbound, "/", "").await.contains("byrnie-client-id"));
}

#[tokio::test]
async fn nobody_is_let_in_before_the_policy_is_known() {
    let mesh = Mesh::new(echo().await);
    mesh.server.shared.workload.store(None);
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(timeout(Duration::from_millis(300), tcp.read(&mut [0; 1])).await.is_err());
    mesh.server.policy(InboundPolicy::default());
    assert!(read_until(&mut tcp, "body 0\n").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn requests_are_decided_one_by_one_on_the_same_connection() {
    let mesh = Mesh::new(echo().await);
    mesh.server.policy(allow("web", path("/charge"), Enforcement::Enforced));
    let mut tcp = mesh.connect().await;
    for (path, status) in [
        ("/charge/1", "200 OK"),
        ("/admin", "403 Forbidden"),
        ("/charge/../admin", "400 Bad Request"),
        ("/charge", "200 OK"),
    ] {
        tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_until(&mut tcp, "\n").await + &read_until(&mut tcp, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {answer}");
        if status.starts_with('4') {
            assert!(!answer.contains("who-may"), "{answer}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        drain(&mut tcp).await;
    }
    let metrics = mesh.server.metrics();
    assert!(
        metrics.contains(r#"byrnie_authorization_total{verdict="allow",policy="shop/who-may"} 2"#),
        "{metrics}"
    );
    assert!(
        metrics.contains(r#"byrnie_authorization_total{verdict="deny",policy="shop/who-may"} 2"#),
        "{metrics}"
    );
}

async fn drain(tcp: &mut TcpStream) {
    let mut rest = [0; 4096];
    while timeout(Duration::from_millis(50), tcp.read(&mut rest)).await.is_ok() {}
}

#[tokio::test]
async fn a_policy_change_holds_for_the_next_request() {
    let mesh = Mesh::new(echo().await);
    let mut tcp = mesh.connect().await;
    for (account, status) in [("web", "200"), ("other", "403"), ("web", "200")] {
        mesh.server.policy(allow(account, vec![], Enforcement::Enforced));
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let answer = read_until(&mut tcp, "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        drain(&mut tcp).await;
    }
}

#[tokio::test]
async fn an_opaque_connection_is_cut_within_a_second_of_a_denial() {
    let app = played(|mut tcp| async move {
        let mut byte = [0; 1];
        while tcp.read_exact(&mut byte).await.is_ok() {
            tcp.write_all(&byte).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::speaking(app, Protocol::Opaque);
    mesh.server.policy(allow("web", vec![], Enforcement::Enforced));
    let mut tcp = mesh.connect().await;
    let mut echoed = [0; 1];
    tcp.write_all(b"x").await.unwrap();
    timeout(LIMIT, tcp.read_exact(&mut echoed)).await.unwrap().unwrap();
    mesh.server.policy(allow("web", vec![], Enforcement::Enforced));
    tokio::time::sleep(Duration::from_millis(600)).await;
    tcp.write_all(b"y").await.unwrap();
    timeout(LIMIT, tcp.read_exact(&mut echoed)).await.unwrap().unwrap();
    let began = Instant::now();
    mesh.server.policy(allow("other", vec![], Enforcement::Enforced));
    let cut = timeout(LIMIT, tcp.read(&mut echoed)).await.unwrap();
    assert!(matches!(cut, Ok(0) | Err(_)) && Instant::now() - began < Duration::from_secs(1));
}

#[tokio::test]
async fn a_port_with_http_rules_refuses_what_is_not_http() {
    let mesh = Mesh::speaking(echo().await, Protocol::Opaque);
    mesh.server.policy(allow("web", path("/"), Enforcement::Enforced));
    let answer = raw(mesh.client.outbound, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // the client's proxy was told that the port is opaque, the server's decides
    let mut tcp = mesh.connect().await;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let ended = timeout(LIMIT, tcp.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    drop(answer);
    // and where the server's side says opaque, HTTP from the caller is judged as opaque
    let mesh = Mesh::new(echo().await);
    let port = mesh.server_port();
    let inbound = allow("web", path("/"), Enforcement::Enforced);
    mesh.server.workload(Workload {
        inbound,
        protocols: vec![(port, Protocol::Opaque)],
        ..Workload::default()
    });
    let answer = get(mesh.client.outbound, "/", "").await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("byrnie-reason: not-http"), "{answer}");
}

#[tokio::test]
async fn what_is_audited_passes_and_is_counted() {
    let mesh = Mesh::new(echo().await);
    mesh.server.policy(allow("other", vec![], Enforcement::Audit));
    assert!(get(mesh.client.outbound, "/", "").await.starts_with("HTTP/1.1 200 "));
    let metrics = mesh.server.metrics();
    assert!(
        metrics.contains(r#"byrnie_authorization_total{verdict="audit",policy="shop/who-may"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn denials_reach_http2_too() {
    let mesh = Mesh::new(echo().await);
    mesh.server.policy(allow("other", vec![], Enforcement::Enforced));
    let mut client = http2::<http_body_util::Empty<bytes::Bytes>>(mesh.client.outbound).await;
    let request = http::Request::get("http://api/").body(http_body_util::Empty::new()).unwrap();
    let (head, body, _) = text(client.send_request(request).await.unwrap()).await;
    assert_eq!(
        (head.status.as_u16(), head.headers["byrnie-reason"].to_str().unwrap()),
        (403, "no-rule-allows")
    );
    assert_eq!(body, "byrnie: no-rule-allows: the caller is not allowed to make this request\n");
}

#[tokio::test]
async fn permissive_is_per_port() {
    let mesh = Mesh::new(echo().await);
    let port = mesh.server_port();
    let mtls = Mtls { default: MtlsMode::Strict, ports: vec![(port, MtlsMode::Permissive)] };
    mesh.server.policy(InboundPolicy { mtls, policies: vec![] });
    assert!(get(mesh.server.inbound, "/", "").await.starts_with("HTTP/1.1 200 "));
    let mtls = Mtls { default: MtlsMode::Permissive, ports: vec![(port, MtlsMode::Strict)] };
    mesh.server.policy(InboundPolicy { mtls, policies: vec![] });
    let mut tcp = TcpStream::connect(mesh.server.inbound).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(timeout(LIMIT, tcp.read(&mut [0; 16])).await.unwrap().is_err());
}
