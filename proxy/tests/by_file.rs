//! The binary as people run it without Kubernetes: two proxies by file, an application behind them, changes of the file,
//! and the end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

/// The application is working on `/slow`.
static SLOW: AtomicBool = AtomicBool::new(false);

/// `web` calls `payments`; each has a proxy.
struct Mesh {
    files: TempDir,
    web: Proxy,
    payments: Proxy,
}

struct Proxy {
    child: Child,
    config: PathBuf,
    /// Where it takes calls.
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Mesh {
    fn start() -> Self {
        let files = TempDir::new().unwrap();
        certificates(&files, &["web", "payments"]);
        let application = application();
        let inbound = free();
        let payments = Proxy::start(
            &files,
            "payments",
            inbound,
            &format!(
                "listeners: [{{direction: Inbound, listen: '{inbound}', application: '{application}'}}]\n\
                 inbound: {{protocols: [{{port: {}, protocol: HTTP1}}]}}\n",
                application.port()
            ),
        );
        let outbound = free();
        let web = Proxy::start(
            &files,
            "web",
            outbound,
            &format!(
                "listeners: [{{direction: Outbound, listen: '{outbound}', service: 'shop/payments:80'}}]\n\
                 services:\n\
                 - name: shop/payments:80\n\
                 \x20 protocol: HTTP1\n\
                 \x20 endpoints: [{{address: '{inbound}', identity: spiffe://cluster.local/ns/shop/sa/payments}}]\n"
            ),
        );
        Self { files, web, payments }
    }

    fn get(&self, path: &str) -> String {
        ask(self.web.listen, path).unwrap_or_default()
    }
}

impl Proxy {
    fn start(files: &TempDir, name: &str, listen: SocketAddr, rest: &str) -> Self {
        let admin = free();
        let config = files.path().join(format!("{name}.yaml"));
        let text = format!(
            "trustDomain: cluster.local\n\
             identity: {{chain: {name}.crt, key: {name}.key, roots: {{cluster.local: roots.pem}}}}\n\
             admin: '{admin}'\n{rest}"
        );
        fs::write(&config, text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_byrnie-proxy"))
            .args(["run", "--config", config.to_str().unwrap()])
            .env("BYRNIE_GRACE_SECONDS", "10")
            .stdout(Stdio::from(fs::File::create(files.path().join(format!("{name}.access"))).unwrap()))
            .stderr(Stdio::from(fs::File::create(files.path().join(format!("{name}.log"))).unwrap()))
            .spawn()
            .unwrap();
        let proxy = Self { child, config, listen, admin };
        until("the proxy is ready", || ask(admin, "/ready").is_some_and(|a| a.starts_with("HTTP/1.1 200")));
        proxy
    }

    fn append(&self, text: &str) -> String {
        let before = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, format!("{before}{text}")).unwrap();
        before
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the proxy ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
    let access = fs::read_to_string(mesh.files.path().join("payments.access")).unwrap();
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

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "did not happen: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A whole answer, if there is one.
fn ask(to: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Says what it was asked; takes a while for `/slow`.
fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                if head.starts_with(b"GET /slow") {
                    SLOW.store(true, Ordering::Relaxed);
                    thread::sleep(Duration::from_secs(2));
                }
                let body = format!("{}the end\n", String::from_utf8_lossy(&head));
                // a proxy that goes away has its reasons
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            });
        }
    });
    address
}

/// A port that nothing else takes: below those that the kernel gives away, and never the same twice.
fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + u16::try_from(std::process::id() % 200).unwrap() * 40;
    SocketAddr::from(([127, 0, 0, 1], base + NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn certificates(files: &TempDir, accounts: &[&str]) {
    let write = |name: String, text: String| fs::write(files.path().join(name), text).unwrap();
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    write("roots.pem".into(), params.self_signed(&root_key).unwrap().pem());
    let issuer = Issuer::new(params, root_key);
    for account in accounts {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = time::OffsetDateTime::now_utc() - Duration::from_mins(1);
        params.not_after = time::OffsetDateTime::now_utc() + Duration::from_hours(1);
        write(format!("{account}.crt"), params.signed_by(&key, &issuer).unwrap().pem());
        write(format!("{account}.key"), key.serialize_pem());
    }
}
