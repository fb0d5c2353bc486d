//! The real binary under limits of its system.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    apps::{echo, get, played, within},
    rig::{Authority, LIMIT, Proxy, free_port, id},
};

/// A proxy process; ends with the test.
pub(crate) struct Process(
    Child,
    #[expect(dead_code, reason = "holds the files that the process reads")] tempfile::TempDir,
);

impl Process {
    /// One that lets plaintext in to `app`.
    pub(crate) fn before(app: SocketAddr, descriptors: u32) -> (Self, SocketAddr) {
        let listen = free_port();
        let rest = format!(
            "listeners:\n- {{direction: Inbound, listen: \"{listen}\", application: \"{app}\"}}\n\
             inbound: {{mtls: {{mode: Permissive}}}}\n"
        );
        (Self::start(&Authority::new(), &rest, descriptors), listen)
    }

    /// One through which an application calls `api`.
    fn towards(api: &Proxy, authority: &Authority, descriptors: u32) -> (Self, SocketAddr) {
        let listen = free_port();
        let rest = format!(
            "listeners:\n- {{direction: Outbound, listen: \"{listen}\", service: \"shop/api:80\"}}\n\
             services:\n- name: shop/api:80\n\
             \x20 endpoints: [{{address: \"{}\", identity: \"{}\"}}]\n",
            api.inbound,
            id("api")
        );
        (Self::start(authority, &rest, descriptors), listen)
    }

    fn start(authority: &Authority, rest: &str, descriptors: u32) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (chain, key) = authority.pem("api");
        let config = format!(
            "trustDomain: cluster.local\n\
             identity: {{chain: api.crt, key: api.key, roots: {{cluster.local: roots.pem}}}}\n\
             accessLog: \"off\"\n{rest}"
        );
        for (name, text) in
            [("api.crt", &chain), ("api.key", &key), ("roots.pem", &authority.root), ("proxy.yaml", &config)]
        {
            fs::write(files.path().join(name), text).unwrap();
        }
        let command = format!("ulimit -n {descriptors}; exec \"$0\" run --config proxy.yaml");
        let child = Command::new("sh")
            .args(["-c", &command, env!("CARGO_BIN_EXE_byrnie-proxy")])
            .current_dir(files.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap(), files)
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_proxy_without_free_descriptors_serves_again_as_soon_as_it_has_some() {
    let (_process, proxy) = Process::before(echo().await, 64);
    within(LIMIT, "the proxy does not start", async || TcpStream::connect(proxy).await.ok()).await;
    for round in 0..3 {
        let mut idle = Vec::new();
        for _ in 0..100 {
            let mut tcp = TcpStream::connect(proxy).await.unwrap();
            tcp.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            idle.push(tcp);
        }
        let mut starved = TcpStream::connect(proxy).await.unwrap();
        starved.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let nothing = timeout(Duration::from_millis(500), starved.read(&mut [0; 1])).await;
        assert!(nothing.is_err(), "round {round}: descriptors were not exhausted");
        drop(idle);
        let served = timeout(Duration::from_millis(1500), starved.read(&mut [0; 1])).await;
        assert_eq!(served.unwrap().unwrap(), 1, "round {round}");
        drop(starved);
        assert!(get(proxy, "/", "").await.starts_with("HTTP/1.1 200 "));
    }
}

/// Connections of each kind of slow client.
const EACH: usize = 100;
/// What one may cost, on the average: half as much again as was measured.
const MOST_KIB: u64 = 48;

/// Answers a GET with more than anybody's sockets take; reads every other body for as long as it comes.
async fn endless() -> SocketAddr {
    played(async |mut tcp| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if !tcp.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                return;
            }
        }
        if head.starts_with(b"GET /small ") {
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        } else if head.starts_with(b"GET ") {
            let length = 64 * 1024 * 1024;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            tcp.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..length / 16_384 {
                if tcp.write_all(&[b'x'; 16_384]).await.is_err() {
                    return;
                }
            }
        }
        while tcp.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
    })
    .await
}

/// Connects with little room for what comes back.
async fn narrow(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(to).await.unwrap()
}

/// Silent ones, ones whose head or body comes byte by byte, and ones that ask for much and never read.
async fn slow_clients(proxy: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    let mut dribbling = Vec::new();
    for _ in 0..EACH {
        held.push(narrow(proxy).await);
        for request in [
            "GET / HTTP/1.1\r\nHost: a\r\nX: ",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
        ] {
            let mut tcp = narrow(proxy).await;
            tcp.write_all(request.as_bytes()).await.unwrap();
            dribbling.push(tcp);
        }
        let mut deaf = narrow(proxy).await;
        deaf.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        held.push(deaf);
    }
    for _ in 0..30 {
        for tcp in &mut dribbling {
            // on a busy machine this takes so long that the proxy rightly gives some up
            let _ = tcp.write_all(b"x").await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    held.extend(dribbling);
    held
}

async fn cost_of_slow_clients(process: &Process, proxy: SocketAddr) {
    within(LIMIT, "the proxy does not start", async || TcpStream::connect(proxy).await.ok()).await;
    assert!(get(proxy, "/small", "").await.starts_with("HTTP/1.1 200 "));
    let before = process.resident_kib();
    let held = slow_clients(proxy).await;
    let each = process.resident_kib().saturating_sub(before) / held.len() as u64;
    assert!(each <= MOST_KIB, "a slow client costs {each} KiB");
    assert!(get(proxy, "/small", "").await.starts_with("HTTP/1.1 200 "), "others are served meanwhile");
}

#[tokio::test]
async fn slow_callers_cost_little() {
    let (process, proxy) = Process::before(endless().await, 4096);
    cost_of_slow_clients(&process, proxy).await;
}

#[tokio::test]
async fn a_slow_application_costs_its_proxy_little() {
    let authority = Authority::new();
    let app = endless().await;
    let api = Proxy::start(authority.identity("api"), app, app);
    let (process, proxy) = Process::towards(&api, &authority, 4096);
    cost_of_slow_clients(&process, proxy).await;
}
