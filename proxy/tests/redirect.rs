//! `byrnie-proxy init` in a network namespace: which connection ends where, for IPv4 and IPv6.
//!
//! Needs root, `ip`, `nft`, `setpriv` and `bash`; without them it says why and skips (unless `BYRNIE_REQUIRE_NETNS` is
//! set, as in CI). Sockets inside the namespaces belong to this same test binary, started again as `listeners`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread,
};

use byrnie_proxy::original_destination::original_destination;

const POD: [&str; 2] = ["10.77.0.2", "fd77::2"];
const NEIGHBOUR: [&str; 2] = ["10.77.0.1", "fd77::1"];
const SERVICE: [&str; 2] = ["10.96.0.7", "fd96::7"];
const LOCALHOST: [&str; 2] = ["127.0.0.1", "::1"];

const APP: u32 = 1000;
const PROXY: u32 = 14100;
const ROOT: u32 = 0;

#[test]
fn every_connection_ends_where_it_should() {
    let Some(world) = World::new() else { return };
    world.init(&[]);
    for family in [0, 1] {
        let (service, own, localhost) = (SERVICE[family], POD[family], LOCALHOST[family]);
        let redirected = format!("outbound for {}", at(service, 80));
        for (uid, to, port, wanted) in [
            (APP, service, 80, redirected.as_str()),
            (ROOT, service, 80, &redirected),
            (PROXY, service, 80, "service"),
            (APP, localhost, 8080, "application"),
            (PROXY, localhost, 8080, "application"),
            (APP, own, 8080, "application"),
            (PROXY, own, 8080, "application"),
            (APP, localhost, 14140, "outbound was dialled itself"),
        ] {
            assert_eq!(world.pod.dial(uid, to, port), wanted, "uid {uid} in the pod dials {}", at(to, port));
        }
        for (port, wanted) in [
            (8080, format!("inbound for {}", at(own, 8080))),
            (14140, format!("inbound for {}", at(own, 14140))),
            (14143, "inbound was dialled itself".to_owned()),
            (14191, "admin".to_owned()),
        ] {
            assert_eq!(world.outside.dial(APP, own, port), wanted, "a neighbour dials {}", at(own, port));
        }
        assert_eq!(world.pod.udp(APP, service), "service by UDP");
        assert_eq!(world.outside.udp(APP, own), "application by UDP");
    }
}

#[test]
fn rules_are_replaced_as_a_whole() {
    let Some(world) = World::new() else { return };
    world.init(&[]);
    let before = world.listing();
    world.init(&[]);
    assert_eq!(world.listing(), before, "a second run changes nothing");
    world.init(&["--skip-inbound-ports", "8080", "--skip-outbound-ports", "80,81"]);
    for family in [0, 1] {
        assert_eq!(world.pod.dial(APP, SERVICE[family], 80), "service");
        assert_eq!(world.outside.dial(APP, POD[family], 8080), "application");
        assert_eq!(
            world.outside.dial(APP, POD[family], 8081),
            format!("inbound for {}", at(POD[family], 8081))
        );
    }
    // a skipped inbound port must not open the outbound one
    world.init(&["--skip-inbound-ports", "14140"]);
    assert_eq!(world.outside.dial(APP, POD[0], 14140), "");
}

#[test]
fn without_the_capability_nothing_is_laid() {
    let Some(world) = World::new() else { return };
    let mut command = world.pod.command("setpriv");
    let output =
        command.args(["--bounding-set", "-net_admin", env!("CARGO_BIN_EXE_byrnie-proxy"), "init"]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("NET_ADMIN"), "{said}");
    assert_eq!(world.listing(), "");
}

/// Not a test of its own: what listens inside a namespace, and says to each connection which listener it is.
#[test]
fn listeners() {
    let Ok(role) = env::var("BYRNIE_TEST_LISTENERS") else { return };
    let sockets: &[(u16, &'static str)] = match role.as_str() {
        "pod" => &[
            (14140, "outbound"),
            (14143, "inbound"),
            (14191, "admin"),
            (8080, "application"),
            (8081, "other"),
        ],
        _ => &[(80, "service")],
    };
    for &(port, name) in sockets {
        for any in ["0.0.0.0", "::"] {
            let domain = socket2::Domain::for_address(addr(any, port));
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            if any == "::" {
                socket.set_only_v6(true).unwrap();
            }
            socket.bind(&addr(any, port).into()).unwrap();
            socket.listen(16).unwrap();
            let listener: TcpListener = socket.into();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let says = match name {
                        "outbound" | "inbound" => whose(name, &stream),
                        other => other.to_owned(),
                    };
                    // a peer that is gone has its answer
                    let _ = writeln!(stream, "{says}");
                }
            });
        }
    }
    let (name, addresses) = if role == "pod" { ("application", POD) } else { ("service", SERVICE) };
    for ip in addresses {
        let socket = UdpSocket::bind(addr(ip, 9000)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(format!("{name} by UDP\n").as_bytes(), from).unwrap();
            }
        });
    }
    println!("listening");
    // ends with the test that started it
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn whose(name: &str, stream: &std::net::TcpStream) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
        match original_destination(&stream) {
            Ok(address) => format!("{name} for {address}"),
            Err(_) => format!("{name} was dialled itself"),
        }
    })
}

/// A pod, and a neighbour that is also a service's address.
struct World {
    pod: Namespace,
    outside: Namespace,
}

struct Namespace {
    name: String,
    listeners: Option<(Child, BufReader<ChildStdout>)>,
}

impl World {
    fn new() -> Option<Self> {
        let number = format!("{}-{:?}", std::process::id(), thread::current().id());
        let number: String = number.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let mut world = Self {
            pod: Namespace::new(&format!("bp-{number}"))?,
            outside: Namespace::new(&format!("bo-{number}"))?,
        };
        let (pod, outside) = (world.pod.name.clone(), world.outside.name.clone());
        ip(&["-n", &pod, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &outside]);
        for (namespace, addresses) in [(&pod, POD), (&outside, NEIGHBOUR)] {
            ip(&["-n", namespace, "addr", "add", &format!("{}/24", addresses[0]), "dev", "eth0"]);
            ip(&["-n", namespace, "addr", "add", &format!("{}/64", addresses[1]), "dev", "eth0", "nodad"]);
            ip(&["-n", namespace, "link", "set", "eth0", "up"]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        ip(&["-n", &outside, "addr", "add", &format!("{}/32", SERVICE[0]), "dev", "lo"]);
        ip(&["-n", &outside, "addr", "add", &format!("{}/128", SERVICE[1]), "dev", "lo", "nodad"]);
        ip(&["-n", &pod, "route", "add", "default", "via", NEIGHBOUR[0]]);
        ip(&["-n", &pod, "-6", "route", "add", "default", "via", NEIGHBOUR[1]]);
        world.pod.listen("pod");
        world.outside.listen("outside");
        Some(world)
    }

    fn init(&self, options: &[&str]) {
        let output =
            self.pod.command(env!("CARGO_BIN_EXE_byrnie-proxy")).arg("init").args(options).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The rules as the kernel has them; empty without the table.
    fn listing(&self) -> String {
        text(&self.pod.command("nft").args(["list", "table", "inet", "byrnie"]).output().unwrap())
    }
}

impl Namespace {
    fn new(name: &str) -> Option<Self> {
        let added = Command::new("ip").args(["netns", "add", name]).output();
        let problem = match &added {
            Ok(output) if output.status.success() => {
                return Some(Self { name: name.to_owned(), listeners: None });
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        assert!(env::var_os("BYRNIE_REQUIRE_NETNS").is_none(), "cannot make a network namespace: {problem}");
        println!("skipped: cannot make a network namespace ({})", problem.trim());
        None
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    fn listen(&mut self, role: &str) {
        let mut child = self
            .command(env::current_exe().unwrap().to_str().unwrap())
            .args(["--exact", "listeners", "--nocapture"])
            .env("BYRNIE_TEST_LISTENERS", role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let started = said.by_ref().lines().any(|line| line.unwrap().ends_with("listening"));
        assert!(started, "listeners of {role} did not start");
        self.listeners = Some((child, said));
    }

    /// What the one who answers a connection says; empty when nobody does.
    fn dial(&self, uid: u32, to: &str, port: u16) -> String {
        self.bash(uid, &format!("exec 3<>/dev/tcp/{to}/{port} && read -r -t 2 line <&3 && echo \"$line\""))
    }

    fn udp(&self, uid: u32, to: &str) -> String {
        // the shell's own read takes a byte and loses the rest of the datagram
        self.bash(
            uid,
            &format!("exec 3<>/dev/udp/{to}/9000 && echo ask >&3 && dd bs=64 count=1 status=none <&3"),
        )
    }

    fn bash(&self, uid: u32, script: &str) -> String {
        let uid = uid.to_string();
        let arguments =
            ["--reuid", &uid, "--regid", &uid, "--clear-groups", "timeout", "2", "bash", "-c", script];
        text(&self.command("setpriv").args(arguments).output().unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some((mut child, _said)) = self.listeners.take() {
            // its standard input closes, and it ends
            drop(child.stdin.take());
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn at(ip: &str, port: u16) -> String {
    addr(ip, port).to_string()
}
