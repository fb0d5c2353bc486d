//! A listener that applications are told by `http_proxy`, asked by curl.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::rig::{Mesh, application, ask, endpoint, serve, service, until};

fn mesh(unknown: &str, more: &str) -> Mesh {
    Mesh::with(|outbound, inbound| {
        let said = format!(
            "hosts: [pay.example.com]\n  addresses: ['10.1.2.3:80']\n  endpoints: [{}]",
            endpoint(inbound)
        );
        format!(
            "pod: {{namespace: shop}}\n\
             listeners: [{{direction: Outbound, listen: '{outbound}', forwardProxy: {{unknown: {unknown}}}}}]\n{}{more}",
            service(&said)
        )
    })
}

/// What curl has to say: headers and body, and, for a tunnel, what the proxy answered.
fn curl(mesh: &Mesh, arguments: &[&str]) -> String {
    let proxy = format!("http://{}", mesh.web.listen);
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--max-time", "20"]).args(arguments);
    // as people tell applications
    command
        .env("http_proxy", &proxy)
        .env("https_proxy", &proxy)
        .env_remove("no_proxy")
        .env_remove("NO_PROXY");
    let output = command.output().expect("curl is among the prerequisites");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn services_are_asked_for_by_name_and_address() {
    let mesh = mesh("Refuse", "");
    for host in
        ["payments.shop", "payments", "PAY.example.com", "pay.example.com.", "10.1.2.3", "payments.shop:80"]
    {
        let answer = curl(&mesh, &[&format!("http://{host}/a?b")]);
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("payments: GET /a?b HTTP/1.1"),
            "{host}: {answer}"
        );
        assert!(
            answer.contains("byrnie-client-id: spiffe://cluster.local/ns/shop/sa/web"),
            "{host}: {answer}"
        );
        assert!(!answer.to_lowercase().contains("proxy-connection"), "{answer}");
    }
    let metrics = ask(mesh.web.admin, "/metrics").unwrap();
    assert!(metrics.contains("destination=\"shop/payments:80\",status_class=\"2xx\""), "{metrics}");
}

#[test]
fn a_connection_may_go_from_one_service_to_another() {
    let other = application("other");
    let more = format!("- name: shop/other:80\n  protocol: HTTP1\n  endpoints: [{{address: '{other}'}}]\n");
    let mesh = mesh("Refuse", &more);
    let answer = curl(&mesh, &["http://payments/", "http://other/", "http://payments/"]);
    let names: Vec<_> =
        answer.lines().filter_map(|line| line.split_once(": GET / HTTP")).map(|l| l.0).collect();
    assert_eq!(names, ["payments", "other", "payments"], "{answer}");
}

#[test]
fn tunnels_go_through_mutual_tls_too() {
    let mesh = mesh("Refuse", "");
    let answer = curl(&mesh, &["--proxytunnel", "http://payments/tunnel"]);
    assert!(answer.starts_with("HTTP/1.1 200 Connection established"), "{answer}");
    assert!(answer.contains("payments: GET /tunnel HTTP/1.1"), "{answer}");
    // what the server's proxy does not know as HTTP it cannot name the caller in
    until("it is counted", || {
        ask(mesh.web.admin, "/metrics")
            .unwrap()
            .contains("byrnie_tcp_bytes_total{direction=\"outbound\",destination=\"shop/payments:80\"")
    });
}

#[test]
fn what_is_no_service_is_refused() {
    let mesh = mesh("Refuse", "");
    let outside = application("outside");
    for (arguments, expected) in [
        (&[&format!("http://{outside}/") as &str][..], "403"),
        (&["--proxytunnel", &format!("http://{outside}/")], "403"),
        (&["http://payments:81/"], "502"),
        (&["--proxytunnel", "http://payments:81/"], "502"),
    ] {
        let answer = curl(&mesh, arguments);
        assert!(answer.contains(expected), "{arguments:?}: {answer}");
        assert!(answer.contains("unknown-host") || answer.contains("no-address"), "{arguments:?}: {answer}");
    }
    for host in ["payments:0", "payments:99999", "payments:x", "payments:"] {
        let mut stream = TcpStream::connect(mesh.web.listen).unwrap();
        write!(stream, "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{host}: {answer}");
    }
    let direct = ask(mesh.web.listen, "/").unwrap();
    assert!(direct.starts_with("HTTP/1.1 400") && direct.contains("no-host-asked"), "{direct}");
}

#[test]
fn what_is_no_service_passes_where_the_file_says_so_but_never_to_the_proxy_itself() {
    let mesh = mesh("Pass", "");
    let outside = serve("outside", TcpListener::bind("127.0.0.1:0").unwrap());
    for arguments in
        [&[&format!("http://{outside}/x") as &str][..], &["--proxytunnel", &format!("http://{outside}/x")]]
    {
        let answer = curl(&mesh, arguments);
        assert!(answer.contains("outside: GET /x HTTP/1.1"), "{arguments:?}: {answer}");
        assert!(!answer.contains("byrnie-client-id"), "{answer}");
    }
    let itself = [mesh.web.admin, mesh.web.listen].map(|address| format!("http://{address}/metrics"));
    let mapped = format!("http://[::ffff:127.0.0.1]:{}/metrics", mesh.web.admin.port());
    let anywhere = format!("http://0.0.0.0:{}/metrics", mesh.web.admin.port());
    for url in [
        &itself[0],
        &itself[1],
        &mapped,
        &anywhere,
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
    ] {
        for tunnel in [&[][..], &["--proxytunnel"]] {
            let answer = curl(&mesh, &[tunnel, &["-g", url]].concat());
            assert!(answer.contains("403") && answer.contains("forbidden-host"), "{url}: {answer}");
        }
    }
}
