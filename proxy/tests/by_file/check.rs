//! `byrnie-proxy check`: everything that is wrong is said at once, with its place.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::rig::{certificates, certificates_for};

const GOOD: &str = "\
trustDomain: cluster.local
identity: {chain: web.crt, key: web.key, roots: {cluster.local: roots.pem}}
listeners:
- {direction: Outbound, listen: '127.0.0.1:8001', service: 'shop/payments:80'}
services:
- name: shop/payments:80
  endpoints: [{address: '127.0.0.1:9001'}]
  endpointsFrom: [{file: more.yaml}]
";

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = TempDir::new().unwrap();
        certificates(&files, &["web", "payments"]);
        let this = Self(files);
        this.write("proxy.yaml", GOOD);
        this.write("more.yaml", "[{address: '127.0.0.1:9002'}]");
        this
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn change(&self, from: &str, to: &str) -> (i32, String) {
        assert!(GOOD.contains(from), "{from}");
        self.write("proxy.yaml", &GOOD.replace(from, to));
        self.check("text")
    }

    fn check(&self, format: &str) -> (i32, String) {
        check(&self.0.path().join("proxy.yaml"), format)
    }
}

fn check(file: &Path, format: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byrnie-proxy"));
    let output = command.arg("check").arg(file).args(["-o", format]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text.replace(&format!("{}/", file.parent().unwrap().display()), ""))
}

#[test]
fn a_good_file_has_no_problems() {
    let files = Files::new();
    assert_eq!(files.check("text"), (0, "proxy.yaml: no problems\n".to_owned()));
    let (status, json) = files.check("json");
    assert_eq!(status, 0);
    assert!(json.contains("\"ok\": true") && json.contains("\"problems\": []"), "{json}");
}

#[test]
fn a_file_that_cannot_be_read_is_another_thing() {
    let (status, said) = check(Path::new("/nowhere/proxy.yaml"), "text");
    assert!(status == 2 && said.starts_with("proxy.yaml: cannot be read: No such file"), "{status} {said}");
}

#[test]
fn all_problems_are_said_with_their_places() {
    let files = Files::new();
    files.write(
        "proxy.yaml",
        "\
trustDomain: cluster.local
identity: {chain: none.crt, key: payments.key, roots: {cluster.local: web.key}}
workers: 99
acessLog: all
listeners:
- {direction: Outbound, listen: '127.0.0.1:8001', service: 'shop/payments:80'}
- {direction: Sideways, listen: '127.0.0.1:8001'}
- {direction: Outbound, listen: '0.0.0.0:3128', forwardProxy: {}}
services:
- name: payments
  timeouts: {request: soon, idle: 5m}
  endpoints:
  - {address: localhost, identity: 'spiffe://x'}
  endpointsFrom: [{file: more.yaml}, {dns: nowhere}, {}]
policies:
- {name: shop/p, rules: [{sources: [{anyone: false}], http: [{path: {type: Exact, value: /a/../b}}]}]}
",
    );
    files.write("more.yaml", "- {address: '127.0.0.1:9002'}\n- {addres: '127.0.0.1:9003'}\n");
    let (status, said) = files.check("text");
    let places: Vec<_> =
        said.lines().map(|line| line.splitn(3, ": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "proxy.yaml:4:1 acessLog",
        "proxy.yaml:7:4 listeners[1].direction",
        "proxy.yaml:13:6 services[0].endpoints[0].address",
        "proxy.yaml:13:26 services[0].endpoints[0].identity",
        "proxy.yaml:3:1 workers",
        "more.yaml:2:4 [1].addres",
        "more.yaml:2:3 [1].address",
        "proxy.yaml:10:3 services[0].name",
        "proxy.yaml:11:14 services[0].timeouts.request",
        "proxy.yaml:14:39 services[0].endpointsFrom[1].dns",
        "proxy.yaml:14:54 services[0].endpointsFrom[2]",
        "proxy.yaml:8:25 listeners[2].listen",
        "proxy.yaml:16:37 policies[0].rules[0].sources[0]",
        "proxy.yaml:16:83 policies[0].rules[0].http[0].path.value",
        "proxy.yaml:2:56 identity.roots.cluster.local",
        "proxy.yaml:2:12 identity.chain",
    ];
    let problems: Vec<_> = places.iter().take(places.len() - 1).map(String::as_str).collect();
    for place in expected {
        let at = place.split_once(' ').unwrap().1;
        assert!(problems.iter().any(|p| p.ends_with(&format!(" {at}"))), "{at} is not in\n{said}");
    }
    assert_eq!(problems.len(), expected.len(), "{said}");
    for place in expected {
        assert!(problems.contains(&place), "{place} is not in\n{said}");
    }
    assert_eq!((status, places.last().unwrap().as_str()), (1, "16 problems"));
    let (status, json) = files.check("json");
    assert_eq!(status, 1);
    for part in [
        "\"ok\": false",
        "\"line\": 13,",
        "\"column\": 6,",
        "\"field\": \"services[0].endpoints[0].address\"",
    ] {
        assert!(json.contains(part), "{part} is not in\n{json}");
    }
}

#[test]
fn what_is_no_yaml_says_where() {
    let (status, said) = Files::new().change("services:", "services: [");
    assert!(status == 1 && said.starts_with("proxy.yaml:") && said.contains("is no YAML"), "{said}");
    assert!(!said.starts_with("proxy.yaml: "), "{said}");
}

#[test]
fn certificates_are_tried() {
    let files = Files::new();
    for (from, to, expected) in [
        ("web.key", "payments.key", "identity.chain: web.crt: the key does not belong to the certificate"),
        ("key: web.key", "key: web.crt", "identity.key: web.crt: "),
        ("chain: web.crt", "chain: web.key", "identity.chain: web.key: "),
        (
            "trustDomain: cluster.local",
            "trustDomain: other.local",
            "which is not of trust domain other.local",
        ),
        ("roots: {cluster.local:", "roots: {other.local:", "has no roots of cluster.local"),
    ] {
        let (status, said) = files.change(from, to);
        assert!(status == 1 && said.contains(expected), "{to}: {said}");
    }
    files.write("proxy.yaml", GOOD);
    certificates(&files.0, &["payments"]);
    let (status, said) = files.check("text");
    assert!(
        status == 1 && said.contains("identity.chain: web.crt: ") && said.contains("not signed by"),
        "{said}"
    );
    certificates_for(&files.0, &["web"], time::Duration::seconds(-10));
    let (status, said) = files.check("text");
    assert!(
        status == 1 && said.contains("identity.chain: web.crt: ") && said.contains("has expired"),
        "{said}"
    );
}

#[test]
fn the_schema_is_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_byrnie-proxy")).arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["listeners"]["description"].is_string());
}
