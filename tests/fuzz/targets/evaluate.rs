//! No spelling of a path gets more than the path that an application may read out of it.
#![no_main]

use byrnie_model::{
    self as model, Action, Enforcement, HttpMatch, HttpRequest, InboundPolicy, ObjectName, PathMatch, Peer,
    Policy, Ports, Request, Rule, Source, SpiffeId, evaluate,
};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;

/// Whether the rule denies, whether its path is whole, which path it is, and the path that is asked for.
type Input<'a> = (bool, bool, u8, &'a str);

/// What applications make of a path, each after its fashion.
const READERS: [fn(&str) -> String; 7] = [raw, dots, merged, decoded, without_parameters, folded, everything];

fn raw(path: &str) -> String {
    path.to_owned()
}

fn dots(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

fn merged(path: &str) -> String {
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    format!("/{}{}", segments.join("/"), if path.ends_with('/') && !segments.is_empty() { "/" } else { "" })
}

fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let pair = path.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok().filter(|_| !pair.starts_with('+'))) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn without_parameters(path: &str) -> String {
    let segments: Vec<_> =
        path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    segments.join("/")
}

fn folded(path: &str) -> String {
    path.to_ascii_lowercase()
}

/// Parameters go before escapes: an escaped `;` is data to everybody.
fn everything(path: &str) -> String {
    let path = merged(&dots(&decoded(&decoded(&without_parameters(path))).replace('\\', "/")));
    folded(if path == "/" { &path } else { path.trim_end_matches('/') })
}

fn allowed(policy: &InboundPolicy, peer: &SpiffeId, path: &str) -> bool {
    let headers = HeaderMap::new();
    let http = HttpRequest { method: "GET", path, host: "api", headers: &headers };
    let verdict = evaluate(policy, &Request { port: 80, peer: Peer::Mesh(peer), http: Some(http) });
    verdict.allowed()
}

fn policy(deny: bool, exact: bool, wanted: &str) -> InboundPolicy {
    let path = if exact { PathMatch::Exact(wanted.into()) } else { PathMatch::Prefix(wanted.into()) };
    let http = HttpMatch { path: Some(path), ..HttpMatch::default() };
    let rule = Rule { sources: vec![Source::Anyone], ports: Ports::All, http: vec![http] };
    let name = ObjectName::new("shop", "api");
    let action = if deny { Action::Deny } else { Action::Allow };
    let policy =
        Policy { name, action, enforcement: Enforcement::Enforced, ports: Ports::All, rules: vec![rule] };
    InboundPolicy { mtls: model::Mtls::default(), policies: vec![policy] }
}

fuzz_target!(|input: Input<'_>| {
    let (deny, exact, which, asked) = input;
    let wanted = ["/a", "/a/b", "/admin", "/"][usize::from(which) % 4];
    let peer: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().expect("an id");
    let policy = policy(deny, exact, wanted);
    if !allowed(&policy, &peer, asked) {
        return;
    }
    for read in READERS {
        let path = read(asked);
        let below =
            path == wanted || !exact && path.starts_with(&format!("{}/", wanted.trim_end_matches('/')));
        assert!(
            below != deny,
            "{asked:?} passes, and an application may read {path:?} out of it; the rule is about {wanted:?}"
        );
    }
});
