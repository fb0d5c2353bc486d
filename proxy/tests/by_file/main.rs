//! The binary as people run it without Kubernetes: two proxies by file, an application behind them, changes of the file,
//! and the end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod check;
mod endpoints;
mod forward_proxy;
mod reload;
mod rig;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use rig::{Mesh, SLOW, ask, until};

#[test]
fn a_request_passes_both_proxies() {
    let mesh = Mesh::start();
    let answer = mesh.get("/a?b");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("GET /a?b HTTP/1.1"), "{answer}");
    assert!(answer.contains("byrnie-client-id: spiffe://cluster.local/ns/shop/sa/web"), "{answer}");
    let metrics = ask(mesh.payments.admin, "/metrics").unwrap();
    for line in [
        "byrnie_ready 1",
        "status_class=\"2xx\"",
        "process_resident_memory_bytes",
        "byrnie_leaf_expires_seconds",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(ask(mesh.payments.admin, "/live").unwrap().starts_with("HTTP/1.1 200"));
    assert!(ask(mesh.payments.admin, "/probe/0").unwrap().starts_with("HTTP/1.1 404"));
}

#[test]
fn a_changed_file_is_read_again_and_a_bad_one_is_not_used() {
    let mesh = Mesh::start();
    assert!(mesh.get("/").starts_with("HTTP/1.1 200"));
    let before = mesh.payments.append("policies: [{name: shop/nobody, rules: []}]\n");
    until("nobody is allowed", || mesh.get("/").starts_with("HTTP/1.1 403"));
    assert!(mesh.get("/").contains("byrnie-reason: no-rule-allows"));
    let access = || fs::read_to_string(mesh.files.path().join("payments.access")).unwrap();
    until("it is in the log", || access().contains('\n'));
    let access = access();
    let denied = access.lines().next().unwrap();
    for said in
        [r#""policy":"shop/nobody""#, r#""status":403"#, r#""peer":"spiffe://cluster.local/ns/shop/sa/web""#]
    {
        assert!(denied.contains(said), "{denied}");
    }
    fs::write(&mesh.payments.config, format!("{before}polcies: []\n")).unwrap();
    let log = || fs::read_to_string(mesh.files.path().join("payments.log")).unwrap();
    until("the mistake is said", || log().contains("polcies"));
    assert!(mesh.get("/").starts_with("HTTP/1.1 403"), "the last good file stays in force");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(log().lines().filter(|line| line.contains("polcies")).count(), 1, "and it is said once");
    fs::write(&mesh.payments.config, before).unwrap();
    until("everybody is allowed again", || mesh.get("/").starts_with("HTTP/1.1 200"));
}

#[test]
fn the_end_waits_for_what_is_in_flight() {
    let mut mesh = Mesh::start();
    let listen = mesh.web.listen;
    let slow = thread::spawn(move || ask(listen, "/slow").unwrap());
    until("the request is with the application", || SLOW.load(Ordering::Relaxed));
    mesh.payments.terminate();
    mesh.web.terminate();
    let answer = slow.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("the end\n"), "{answer}");
    assert!(mesh.web.ended().success() && mesh.payments.ended().success());
}

#[test]
fn an_idle_proxy_ends_at_once() {
    let mut mesh = Mesh::start();
    let began = Instant::now();
    mesh.web.terminate();
    assert!(mesh.web.ended().success());
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn who_came_before_the_end_is_served_and_the_silent_do_not_hold_it_up() {
    let mut mesh = Mesh::start();
    let mut early = TcpStream::connect(mesh.web.listen).unwrap();
    let _silent = TcpStream::connect(mesh.web.listen).unwrap();
    thread::sleep(Duration::from_millis(100));
    mesh.web.terminate();
    thread::sleep(Duration::from_millis(400));
    let began = Instant::now();
    write!(early, "GET / HTTP/1.1\r\nHost: payments\r\n\r\n").unwrap();
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert!(mesh.web.ended().success());
    assert!(began.elapsed() < Duration::from_secs(3));
}
