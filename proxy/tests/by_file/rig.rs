//! Two proxies by file with an application behind them, and what a test needs to look at them.

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

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The application is working on `/slow`.
pub(crate) static SLOW: AtomicBool = AtomicBool::new(false);

/// `web` calls `payments`; each has a proxy.
pub(crate) struct Mesh {
    pub(crate) files: TempDir,
    pub(crate) web: Proxy,
    pub(crate) payments: Proxy,
}

pub(crate) struct Proxy {
    pub(crate) child: Child,
    pub(crate) config: PathBuf,
    /// Where it takes calls.
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Mesh {
    pub(crate) fn start() -> Self {
        Self::with(|outbound, inbound| {
            format!(
                "listeners: [{{direction: Outbound, listen: '{outbound}', service: 'shop/payments:80'}}]\n\
                 {}",
                service(&format!("endpoints: [{}]", endpoint(inbound)))
            )
        })
    }

    /// The caller's file says where it listens, and what `payments` is that listens there.
    pub(crate) fn with(web: impl FnOnce(SocketAddr, SocketAddr) -> String) -> Self {
        let files = TempDir::new().unwrap();
        certificates(&files, &["web", "payments"]);
        let payments = Proxy::of_application(&files, "payments", application("payments"));
        let outbound = free();
        let web = Proxy::start(&files, "web", outbound, &web(outbound, payments.listen));
        Self { files, web, payments }
    }

    pub(crate) fn get(&self, path: &str) -> String {
        ask(self.web.listen, path).unwrap_or_default()
    }
}

/// The service that everybody calls, of which this is said.
pub(crate) fn service(said: &str) -> String {
    format!("services:\n- name: shop/payments:80\n  protocol: HTTP1\n  {said}\n")
}

/// An endpoint that must be `payments`.
pub(crate) fn endpoint(address: SocketAddr) -> String {
    format!("{{address: '{address}', identity: spiffe://cluster.local/ns/shop/sa/payments}}")
}

impl Proxy {
    /// In front of an application.
    pub(crate) fn of_application(files: &TempDir, name: &str, application: SocketAddr) -> Self {
        let (inbound, port) = (free(), application.port());
        let rest = format!(
            "listeners: [{{direction: Inbound, listen: '{inbound}', application: '{application}'}}]\n\
             inbound: {{protocols: [{{port: {port}, protocol: HTTP1}}]}}\n"
        );
        Self::start(files, name, inbound, &rest)
    }

    pub(crate) fn start(files: &TempDir, name: &str, listen: SocketAddr, rest: &str) -> Self {
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

    /// Everything of the file but what every proxy has.
    pub(crate) fn write(&self, rest: &str) {
        let before = fs::read_to_string(&self.config).unwrap();
        let head: Vec<_> = before.lines().take(3).collect();
        // as an editor does it: nobody may read half of it
        let new = self.config.with_extension("new");
        fs::write(&new, format!("{}\n{rest}", head.join("\n"))).unwrap();
        fs::rename(&new, &self.config).unwrap();
    }

    pub(crate) fn hangup(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// The value of a metric, with its labels.
    pub(crate) fn metric(&self, series: &str) -> Option<f64> {
        let all = ask(self.admin, "/metrics")?;
        all.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// How many versions of the file have been in force.
    pub(crate) fn versions(&self) -> f64 {
        self.metric("byrnie_config_reloads_total{result=\"used\"}").unwrap_or_default()
    }

    pub(crate) fn append(&self, text: &str) -> String {
        let before = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, format!("{before}{text}")).unwrap();
        before
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
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

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "did not happen: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A whole answer, if there is one.
pub(crate) fn ask(to: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Says what it was asked; takes a while for `/slow`.
pub(crate) fn application(name: &'static str) -> SocketAddr {
    serve(name, TcpListener::bind("127.0.0.1:0").unwrap())
}

/// The same, on a listener.
pub(crate) fn serve(name: &'static str, listener: TcpListener) -> SocketAddr {
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
                let body = format!("{name}: {}the end\n", String::from_utf8_lossy(&head));
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
pub(crate) fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + u16::try_from(std::process::id() % 100).unwrap() * 200;
    SocketAddr::from(([127, 0, 0, 1], base + NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) fn certificates(files: &TempDir, accounts: &[&str]) {
    certificates_for(files, accounts, time::Duration::hours(1));
}

/// A root, and certificates that are good for so long from now.
pub(crate) fn certificates_for(files: &TempDir, accounts: &[&str], lifetime: time::Duration) {
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
        params.not_after = time::OffsetDateTime::now_utc() + lifetime;
        write(format!("{account}.crt"), params.signed_by(&key, &issuer).unwrap().pem());
        write(format!("{account}.key"), key.serialize_pem());
    }
}
