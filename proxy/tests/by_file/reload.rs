//! The file changes while traffic flows.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::rig::{LIMIT, Mesh, Proxy, application, ask, certificates, endpoint, free, service, until};

/// Asks again and again until it is told to stop: how often, and what went wrong.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn on(listen: SocketAddr) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..4).map(|number| {
            let (stop, asked) = (stop.clone(), asked.clone());
            thread::spawn(move || {
                let mut failed = Vec::new();
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) && asked.load(Ordering::Relaxed) < 2_000_000 {
                    // half of them connect anew each time
                    let answer = if number % 2 == 0 {
                        ask(listen, "/").ok_or_else(|| "no connection".to_owned())
                    } else {
                        ask_again(&mut kept, listen).map_err(|error| error.to_string())
                    };
                    asked.fetch_add(1, Ordering::Relaxed);
                    match answer {
                        Ok(answer) if answer.starts_with("HTTP/1.1 200") => {}
                        Ok(answer) => failed.push(answer),
                        Err(error) => failed.push(error),
                    }
                }
                failed
            })
        });
        let threads = threads.collect();
        Self { stop, asked, threads }
    }

    fn end(mut self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed =
            std::mem::take(&mut self.threads).into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (self.asked.load(Ordering::Relaxed), failed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One request over a connection that is kept as long as the proxy keeps it.
fn ask_again(kept: &mut Option<BufReader<TcpStream>>, to: SocketAddr) -> std::io::Result<String> {
    if kept.is_none() {
        let stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(LIMIT))?;
        *kept = Some(BufReader::new(stream));
    }
    let stream = kept.as_mut().unwrap();
    write!(stream.get_mut(), "GET / HTTP/1.1\r\nHost: payments\r\n\r\n")?;
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    if head.contains("connection: close") {
        *kept = None;
    }
    Ok(head)
}

#[test]
fn fifty_reloads_lose_no_request() {
    let mesh = Mesh::start();
    // the same identity, elsewhere
    for kind in ["crt", "key"] {
        let name = |account: &str| mesh.files.path().join(format!("{account}.{kind}"));
        fs::copy(name("payments"), name("other")).unwrap();
    }
    let other = Proxy::of_application(&mesh.files, "other", application("other"));
    let (listen, extra) = (mesh.web.listen, free());
    let load = Load::on(listen);
    for round in 0..50u32 {
        let ends = [endpoint(mesh.payments.listen), endpoint(other.listen)];
        let ends = match round % 3 {
            0 => ends.join(", "),
            1 => ends[0].clone(),
            _ => ends[1].clone(),
        };
        let more = if round % 2 == 0 {
            String::new()
        } else {
            format!("- {{direction: Outbound, listen: '{extra}', service: 'shop/payments:80'}}\n")
        };
        let timeout = 10 + round;
        let before = mesh.web.versions();
        mesh.web.write(&format!(
            "listeners:\n- {{direction: Outbound, listen: '{listen}', service: 'shop/payments:80'}}\n{more}\
             policies: [{{name: shop/p{round}, rules: [{{sources: [{{anyone: true}}]}}]}}]\n{}",
            service(&format!(
                "endpoints: [{ends}]\n  timeouts: {{request: {timeout}s}}\n  \
                 routes: [{{http: [{{path: {{type: PathPrefix, value: /x{round}}}}}], split: [{{service: 'shop/payments:80', weight: 1}}]}}]"
            ))
        ));
        mesh.web.hangup();
        until("it is in force", || mesh.web.versions() > before);
        until("the listener came or went", || TcpStream::connect(extra).is_ok() == (round % 2 == 1));
    }
    let (asked, failed) = load.end();
    assert!(failed.is_empty(), "{} of {asked} failed, the first: {}", failed.len(), failed[0]);
    assert!(asked > 200, "{asked}");
    println!("{asked} requests over 50 reloads, 0 failed");
}

#[test]
fn a_new_certificate_loses_no_request() {
    let mesh = Mesh::start();
    let load = Load::on(mesh.web.listen);
    for _ in 0..3 {
        // both roots are trusted while one takes over from the other
        let old = fs::read_to_string(mesh.files.path().join("roots.pem")).unwrap();
        let before = (mesh.web.versions(), mesh.payments.versions());
        let fresh = tempfile::TempDir::new().unwrap();
        certificates(&fresh, &["web", "payments"]);
        let new = fs::read_to_string(fresh.path().join("roots.pem")).unwrap();
        fs::write(mesh.files.path().join("roots.pem"), format!("{old}{new}")).unwrap();
        until("both roots are trusted", || {
            mesh.web.versions() > before.0 && mesh.payments.versions() > before.1
        });
        let before = (mesh.web.versions(), mesh.payments.versions());
        for name in ["web.crt", "web.key", "payments.crt", "payments.key"] {
            fs::copy(fresh.path().join(name), mesh.files.path().join(name)).unwrap();
        }
        until("they are in use", || mesh.web.versions() > before.0 && mesh.payments.versions() > before.1);
    }
    let (asked, failed) = load.end();
    assert!(failed.is_empty(), "{} of {asked} failed, the first: {}", failed.len(), failed[0]);
}

#[test]
fn listeners_move_and_change_their_meaning() {
    let mesh = Mesh::start();
    let (first, second) = (mesh.web.listen, free());
    let services = format!(
        "{}- {{name: 'shop/none:80', protocol: HTTP1}}\n",
        service(&format!("endpoints: [{}]", endpoint(mesh.payments.listen)))
    );
    let listeners = |which: &[(SocketAddr, &str)]| {
        let each = which.iter().map(|(address, service)| {
            format!("- {{direction: Outbound, listen: '{address}', service: 'shop/{service}:80'}}\n")
        });
        format!("listeners:\n{}{services}", each.collect::<String>())
    };
    mesh.web.write(&listeners(&[(first, "payments"), (second, "payments")]));
    mesh.web.hangup();
    until("the second one listens", || ask(second, "/").is_some_and(|a| a.starts_with("HTTP/1.1 200")));
    let mut kept = None;
    assert!(ask_again(&mut kept, first).unwrap().starts_with("HTTP/1.1 200"));
    mesh.web.write(&listeners(&[(second, "none")]));
    mesh.web.hangup();
    until("the first one does not", || TcpStream::connect(first).is_err());
    until("the second one means something else", || {
        ask(second, "/").is_some_and(|a| a.contains("no-endpoints"))
    });
    assert!(ask_again(&mut kept, first).unwrap().starts_with("HTTP/1.1 200"), "who is connected stays");
}

#[test]
fn what_has_become_of_the_file_is_said() {
    let mesh = Mesh::start();
    let web = &mesh.web;
    let config = || ask(web.admin, "/config").unwrap();
    assert!(
        config().starts_with("HTTP/1.1 200") && config().contains("in force: version 1, "),
        "{}",
        config()
    );
    assert_eq!(web.metric("byrnie_config_current"), Some(1.0));
    let before = web.append("workers: 2\naccessLog: noisy\n");
    until("it is refused", || config().starts_with("HTTP/1.1 503"));
    assert!(config().contains("accessLog: "), "{}", config());
    assert_eq!(web.metric("byrnie_config_current"), Some(0.0));
    until("it is counted", || web.metric("byrnie_config_reloads_total{result=\"refused\"}") == Some(1.0));
    assert!(ask(web.admin, "/ready").unwrap().starts_with("HTTP/1.1 200"), "the last good one serves");
    // a port that somebody else has is found before anything is changed
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = std::net::TcpListener::bind(taken).unwrap();
    fs::write(
        &web.config,
        before.replace(
            "listeners: [",
            &format!("listeners: [{{direction: Outbound, listen: '{taken}', service: 'shop/payments:80'}}, "),
        ),
    )
    .unwrap();
    web.hangup();
    until("the port is named", || config().contains(&format!("cannot listen on {taken}")));
    assert!(mesh.get("/").starts_with("HTTP/1.1 200"));
    drop(held);
    until("the port is free", || config().starts_with("HTTP/1.1 200"));
    fs::write(&web.config, format!("{before}workers: 2\n")).unwrap();
    web.hangup();
    until("it is in force but for a field", || config().contains("takes a restart: workers"));
    assert!(config().starts_with("HTTP/1.1 200"), "{}", config());
}
