//! Endpoints that a file lists, and endpoints that DNS knows: a name server of the test's own answers.

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    thread,
};

use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, SRV},
    },
};

use parking_lot::Mutex;

use crate::rig::{Mesh, application, ask, serve, service, until};

/// Answers with what it was given; fails where it was given nothing.
#[derive(Clone)]
struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<HashMap<String, Vec<RData>>>>,
}

impl NameServer {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = Self { address: socket.local_addr().unwrap(), zone: Arc::default() };
        let this = server.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let Ok(asked) = Message::from_vec(&buffer[..length]) else { continue };
                socket.send_to(&this.answer(&asked).to_vec().unwrap(), from).unwrap();
            }
        });
        server
    }

    fn answer(&self, asked: &Message) -> Message {
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata.recursion_available = true;
        let query = asked.queries[0].clone();
        let zone = self.zone.lock();
        match zone.get(&query.name().to_string()) {
            None => answer.metadata.response_code = ResponseCode::ServFail,
            Some(data) => {
                let fits = data.iter().filter(|data| data.record_type() == query.query_type());
                answer.add_answers(fits.map(|d| Record::from_rdata(query.name().clone(), 1, d.clone())));
            }
        }
        answer.add_query(query);
        answer
    }

    fn set(&self, name: &str, data: Option<Vec<RData>>) {
        let mut zone = self.zone.lock();
        match data {
            Some(data) => zone.insert(name.to_owned(), data),
            None => zone.remove(name),
        };
    }
}

fn a(last: u8) -> RData {
    assert_eq!(RecordType::A, RData::A(A::new(127, 0, 0, last)).record_type());
    RData::A(A::new(127, 0, 0, last))
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
}

/// Applications on one port of several addresses.
fn on_one_port(names: [&'static str; 3]) -> u16 {
    'again: loop {
        let first = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let mut listeners = vec![first];
        for last in [3, 4] {
            let Ok(listener) = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)) else {
                continue 'again;
            };
            listeners.push(listener);
        }
        for (name, listener) in names.into_iter().zip(listeners) {
            serve(name, listener);
        }
        return port;
    }
}

fn listener(address: SocketAddr) -> String {
    format!("listeners: [{{direction: Outbound, listen: '{address}', service: 'shop/payments:80'}}]\n")
}

/// Which applications answered, of so many requests.
fn who(mesh: &Mesh, requests: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..requests {
        let answer = mesh.get("/");
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        let name =
            if answer.starts_with("HTTP/1.1 200") { body.split(':').next().unwrap() } else { "nobody" };
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

/// Whether these answer, each of them sooner or later, and nobody else.
fn only(mesh: &Mesh, names: &[&str]) -> bool {
    let mut left: Vec<_> = names.to_vec();
    for _ in 0..500 {
        let found = who(mesh, 1).into_keys().next().unwrap();
        if !names.contains(&found.as_str()) {
            return false;
        }
        left.retain(|name| *name != found);
        if left.is_empty() {
            return true;
        }
    }
    false
}

#[test]
fn endpoints_from_a_file_are_read_again() {
    let (one, two) = (application("one"), application("two"));
    let mesh = Mesh::with(|outbound, inbound| {
        // the file must be there before the proxy is
        let list = std::env::temp_dir().join(format!(
            "byrnie-endpoints-{}-{}.json",
            std::process::id(),
            inbound.port()
        ));
        fs::write(&list, format!("[{{\"address\": \"{one}\"}}]")).unwrap();
        format!(
            "{}{}",
            listener(outbound),
            service(&format!("endpointsFrom: [{{file: '{}'}}]", list.display()))
        )
    });
    let text = fs::read_to_string(&mesh.web.config).unwrap();
    let list = text.split('\'').find(|part| part.contains("byrnie-endpoints")).unwrap();
    assert!(only(&mesh, &["one"]));
    fs::write(list, format!("- address: {two}\n")).unwrap();
    until("the list is read again", || only(&mesh, &["two"]));
    fs::write(list, "- adress: 1\n").unwrap();
    until("it is refused", || ask(mesh.web.admin, "/config").unwrap().contains(".json:1:3: [0].adress"));
    assert!(only(&mesh, &["two"]), "the last good list stays in force");
    fs::remove_file(list).unwrap();
    until("it is missed", || ask(mesh.web.admin, "/config").unwrap().contains("cannot read"));
    assert!(only(&mesh, &["two"]));
}

#[test]
fn endpoints_follow_addresses_in_dns() {
    let server = NameServer::start();
    let port = on_one_port(["one", "two", "three"]);
    server.set("payments.test.", Some(vec![a(2)]));
    let mesh = Mesh::with(|outbound, _| {
        let from = format!("endpointsFrom: [{{dns: 'payments.test:{port}'}}]");
        format!("dns: {{servers: ['{}']}}\n{}{}", server.address, listener(outbound), service(&from))
    });
    assert!(only(&mesh, &["one"]), "known before the first request");
    server.set("payments.test.", Some(vec![a(3), a(4)]));
    until("the answer is another one", || only(&mesh, &["two", "three"]));
    let stale = format!("byrnie_discovery_stale{{name=\"payments.test:{port}\"}}");
    assert_eq!(mesh.web.metric(&stale), Some(0.0));
    for (said, nothing) in [("no answer", None), ("an empty answer", Some(Vec::new()))] {
        server.set("payments.test.", nothing);
        until(said, || mesh.web.metric(&stale) == Some(1.0));
        assert!(only(&mesh, &["two", "three"]), "the last good answer stays in force");
        server.set("payments.test.", Some(vec![a(3), a(4)]));
        until("DNS answers again", || mesh.web.metric(&stale) == Some(0.0));
    }
    let log = fs::read_to_string(mesh.files.path().join("web.log")).unwrap();
    assert_eq!(log.matches("DNS gives no answer; the last good one stays in force").count(), 2, "{log}");
    assert_eq!(log.matches("DNS answers again").count(), 2, "{log}");
}

#[test]
fn endpoints_follow_services_in_dns() {
    let server = NameServer::start();
    let port = on_one_port(["one", "two", "three"]);
    for (name, last) in [("a.test.", 2), ("b.test.", 3), ("c.test.", 4)] {
        server.set(name, Some(vec![a(last)]));
    }
    let name = "_http._tcp.payments.test.";
    let answer =
        vec![srv(10, 90, port, "a.test."), srv(10, 10, port, "b.test."), srv(20, 1, port, "c.test.")];
    server.set(name, Some(answer));
    let mesh = Mesh::with(|outbound, _| {
        let from = format!("endpointsFrom: [{{srv: '{name}'}}]");
        format!("dns: {{servers: ['{}']}}\n{}{}", server.address, listener(outbound), service(&from))
    });
    let shares = who(&mesh, 600);
    assert_eq!(shares.len(), 2, "{shares:?}");
    assert!(shares["one"] > 3 * shares["two"], "{shares:?}");
    server.set("a.test.", None);
    server.set("b.test.", None);
    until("the next priority takes over", || only(&mesh, &["three"]));
}

#[test]
fn a_proxy_starts_without_its_name_server() {
    // nobody answers there
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let mesh = Mesh::with(|outbound, _| {
        let from = "endpointsFrom: [{dns: 'payments.test:80'}]";
        format!("dns: {{servers: ['{address}']}}\n{}{}", listener(outbound), service(from))
    });
    assert!(mesh.get("/").contains("no-endpoints"));
}
