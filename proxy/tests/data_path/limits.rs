//! The real binary under limits of its system.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    apps::{echo, get, within},
    rig::{Authority, free_port},
};

/// A proxy process that lets plaintext in to `app`; ends with the test.
struct Process(
    Child,
    #[expect(dead_code, reason = "holds the files that the process reads")] tempfile::TempDir,
);

impl Process {
    fn start(app: SocketAddr, descriptors: u32) -> (Self, SocketAddr) {
        let files = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (chain, key) = authority.pem("api");
        let listen = free_port();
        let config = format!(
            "trustDomain: cluster.local\n\
             identity: {{chain: api.crt, key: api.key, roots: {{cluster.local: roots.pem}}}}\n\
             accessLog: \"off\"\n\
             listeners:\n- {{direction: Inbound, listen: \"{listen}\", application: \"{app}\"}}\n\
             inbound: {{mtls: {{mode: Permissive}}}}\n"
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
        (Self(child.unwrap(), files), listen)
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
    let (_process, proxy) = Process::start(echo().await, 64);
    within(Duration::from_secs(10), "the proxy does not start", async || {
        TcpStream::connect(proxy).await.ok()
    })
    .await;
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
