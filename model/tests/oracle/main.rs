//! A million random (policy, request) pairs: the evaluator agrees with a judge that shares no code with it.
//!
//! `BYRNIE_ORACLE_CASES` sets the number; the seed is printed and `BYRNIE_ORACLE_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod judge;

use std::collections::BTreeMap;

use byrnie_model::{
    Action, Decision, Enforcement, HeaderMatch, HttpMatch, HttpRequest, InboundPolicy, Mtls, MtlsMode,
    ObjectName, PathMatch, Peer, Policy, Ports, Request, Rule, Source, SpiffeId, ValueMatch, evaluate,
};
use http::HeaderMap;
use judge::Outcome;

const CASES: u64 = 1_000_000;
const PORTS: [u16; 3] = [80, 8080, 9090];
const NAMES: [&str; 5] = ["web", "we", "web-2", "w.e.b", "batch"];
const NAMESPACES: [&str; 3] = ["shop", "sho", "ops"];
const DOMAINS: [&str; 2] = ["cluster.local", "other.example"];
const METHODS: [&str; 4] = ["GET", "POST", "get", "DELETE"];
const HOSTS: [&str; 6] = ["pay.shop", "*.shop", "shop", "pay.shop.svc", "*.svc", "other"];
const CALLED: [&str; 8] =
    ["pay.shop", "PAY.shop:80", "pay.shop.", "shop", "x.pay.shop", "pay.shop.svc", "[::1]:80", ""];
const HEADERS: [&str; 2] = ["x-team", "x-canary"];
const VALUES: [&str; 4] = ["blue", "blueish", "red", ""];
const PATTERNS: [&str; 7] = ["/", "/a", "/a/", "/a/b", "/A", "/admin", "/a;v=1"];
const PATHS: [&str; 24] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/ab",
    "/A",
    "/A/B",
    "/admin",
    "/admin/",
    "/admin;x",
    "/a;v=1",
    "/a;v=1/b",
    "/public",
    "/a//b",
    "/a/../admin",
    "/a/..;/b",
    "/%61dmin",
    "/a%2fb",
    "/a%20b",
    "/a%25zz",
    "/a%2541",
    "/a\\b",
    "/a/;x",
];

#[test]
fn the_evaluator_agrees_with_the_judge() {
    let cases = number("BYRNIE_ORACLE_CASES").unwrap_or(CASES);
    let seed = number("BYRNIE_ORACLE_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut counts: BTreeMap<_, u64> = judge::kinds().into_iter().map(|kind| (kind, 0)).collect();
    for case in 0..cases {
        let (world, policy) = world(&mut random);
        let call = call(&mut random);
        let ours = ours(&policy, &call);
        let theirs = judge::judge(&world, &call);
        assert_eq!(ours, theirs, "seed {seed} case {case}: {policy:#?} on {}", show(&call));
        *counts.get_mut(&ours).unwrap() += 1;
    }
    println!("{cases} pairs, seed {seed}: {counts:?}");
    for (outcome, count) in counts {
        assert!(count * 10 >= cases, "{outcome:?} is only {count} of {cases}: the generator is lopsided");
    }
}

#[test]
fn another_rule_never_widens_beyond_itself() {
    let seed = number("BYRNIE_ORACLE_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut decided = 0u64;
    for case in 0..200_000 {
        let (_, mut policy) = world(&mut random);
        if policy.policies.is_empty() {
            continue;
        }
        let call = call(&mut random);
        let before = ours(&policy, &call);
        let (_, added) = rule(&mut random);
        let at = random.usize(..policy.policies.len());
        let alone = alone(&policy, at, &added);
        policy.policies[at].rules.push(added);
        let after = ours(&policy, &call);
        if before == Outcome::Deny && after != Outcome::Deny {
            decided += 1;
            assert!(alone.is_some(), "seed {seed} case {case}: a rule added to a Deny let something in");
            assert_ne!(
                ours(&alone.unwrap(), &call),
                Outcome::Deny,
                "seed {seed} case {case}: wider than the rule itself"
            );
        }
    }
    assert!(decided > 100, "only {decided} cases were about widening");
}

/// The same world with nothing but the added rule in an Allow policy; `None` when the policy is a Deny.
fn alone(policy: &InboundPolicy, at: usize, added: &Rule) -> Option<InboundPolicy> {
    let mut only = policy.policies[at].clone();
    if only.action == Action::Deny {
        return None;
    }
    only.rules = vec![added.clone()];
    Some(InboundPolicy { mtls: policy.mtls.clone(), policies: vec![only] })
}

fn ours(policy: &InboundPolicy, call: &judge::Call) -> Outcome {
    let mut headers = HeaderMap::new();
    if let Some(seen) = &call.http {
        for (name, value) in &seen.headers {
            headers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
    }
    let peer = call
        .peer
        .as_ref()
        .map(|(d, n, a)| format!("spiffe://{d}/ns/{n}/sa/{a}").parse::<SpiffeId>().unwrap());
    let http = call.http.as_ref().map(|s| HttpRequest {
        method: &s.method,
        path: &s.path,
        host: &s.host,
        headers: &headers,
    });
    let peer = peer.as_ref().map_or(Peer::Plaintext, Peer::Mesh);
    let verdict = evaluate(policy, &Request { port: call.port, peer, http });
    match (verdict.decision, verdict.audit) {
        (Decision::Deny(_), _) => Outcome::Deny,
        (Decision::Allow(_), Some(_)) => Outcome::Audit,
        (Decision::Allow(_), None) => Outcome::Allow,
    }
}

fn world(random: &mut fastrand::Rng) -> (judge::World, InboundPolicy) {
    let strict = random.bool();
    let default = if strict { MtlsMode::Strict } else { MtlsMode::Permissive };
    let mut theirs = vec![];
    let mut ours = vec![];
    for index in 0..random.usize(..4) {
        let (deny, audit) = (random.u8(..3) == 0, random.u8(..2) == 0);
        let (their_ports, our_ports) = ports(random);
        let rules: Vec<_> = (0..random.usize(..4)).map(|_| rule(random)).collect();
        let (their_rules, our_rules) = rules.into_iter().unzip();
        theirs.push(judge::Policy { deny, audit, ports: their_ports, rules: their_rules });
        ours.push(Policy {
            name: ObjectName::new("shop", format!("p{index}")),
            action: if deny { Action::Deny } else { Action::Allow },
            enforcement: if audit { Enforcement::Audit } else { Enforcement::Enforced },
            ports: our_ports,
            rules: our_rules,
        });
    }
    (
        judge::World { strict, policies: theirs },
        InboundPolicy { mtls: Mtls { default, ports: vec![] }, policies: ours },
    )
}

fn rule(random: &mut fastrand::Rng) -> (judge::Rule, Rule) {
    let (their_ports, our_ports) = ports(random);
    let sources: Vec<_> = (0..random.usize(..3)).map(|_| source(random)).collect();
    let (their_sources, our_sources) = sources.into_iter().unzip();
    let count = if random.bool() { 0 } else { random.usize(1..3) };
    let http: Vec<_> = (0..count).map(|_| http_match(random)).collect();
    let (their_http, our_http) = http.into_iter().unzip();
    (
        judge::Rule { sources: their_sources, ports: their_ports, http: their_http },
        Rule { sources: our_sources, ports: our_ports, http: our_http },
    )
}

fn ports(random: &mut fastrand::Rng) -> (Option<Vec<u16>>, Ports) {
    if random.u8(..3) > 0 {
        return (None, Ports::All);
    }
    let list: Vec<u16> = PORTS.into_iter().filter(|_| random.bool()).collect();
    (Some(list.clone()), Ports::Only(list))
}

fn source(random: &mut fastrand::Rng) -> (judge::Source, Source) {
    if random.u8(..3) == 0 {
        return (judge::Source::Anyone, Source::Anyone);
    }
    let domain = if random.u8(..6) == 0 { DOMAINS[1] } else { DOMAINS[0] };
    let namespace = pick(random, &NAMESPACES);
    let name = if random.bool() { None } else { Some(pick(random, &NAMES)) };
    (
        judge::Source::Account { domain: domain.into(), namespace: namespace.clone(), name: name.clone() },
        Source::Workload { trust_domain: domain.parse().unwrap(), namespace, service_account: name },
    )
}

fn http_match(random: &mut fastrand::Rng) -> (judge::Http, HttpMatch) {
    let some = |random: &mut fastrand::Rng, from: &[&str]| {
        if random.u8(..3) > 0 {
            vec![]
        } else {
            (0..random.usize(1..3)).map(|_| pick(random, from)).collect::<Vec<_>>()
        }
    };
    let methods = some(random, &METHODS);
    let hosts = some(random, &HOSTS);
    let path = random.bool().then(|| (random.bool(), pick(random, &PATTERNS)));
    let headers: Vec<_> = some(random, &HEADERS)
        .into_iter()
        .map(|name| (name, (random.u8(..3) > 0).then(|| (random.bool(), pick(random, &VALUES)))))
        .collect();
    let ours = HttpMatch {
        methods: methods.clone(),
        hosts: hosts.clone(),
        path: path.clone().map(|(prefix, v)| if prefix { PathMatch::Prefix(v) } else { PathMatch::Exact(v) }),
        headers: headers
            .iter()
            .map(|(name, value)| HeaderMatch {
                name: http::HeaderName::try_from(name).unwrap(),
                value: match value.clone() {
                    None => ValueMatch::Present,
                    Some((true, v)) => ValueMatch::Prefix(v),
                    Some((false, v)) => ValueMatch::Exact(v),
                },
            })
            .collect(),
    };
    (judge::Http { methods, path, hosts, headers }, ours)
}

fn call(random: &mut fastrand::Rng) -> judge::Call {
    let peer = (random.u8(..5) > 0).then(|| {
        let domain = if random.u8(..8) == 0 { DOMAINS[1] } else { DOMAINS[0] };
        (domain.to_owned(), pick(random, &NAMESPACES), pick(random, &NAMES))
    });
    let http = (random.u8(..5) > 0).then(|| judge::Seen {
        method: pick(random, &METHODS),
        path: pick(random, &PATHS),
        host: pick(random, &CALLED),
        headers: (0..random.usize(..4)).map(|_| (pick(random, &HEADERS), pick(random, &VALUES))).collect(),
    });
    judge::Call { port: PORTS[random.usize(..PORTS.len())], peer, http }
}

fn pick(random: &mut fastrand::Rng, from: &[&str]) -> String {
    from[random.usize(..from.len())].to_owned()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} must be a number")))
}

fn show(call: &judge::Call) -> String {
    let http =
        call.http.as_ref().map(|s| format!("{} {} host {:?} {:?}", s.method, s.path, s.host, s.headers));
    format!("port {} peer {:?} {http:?}", call.port, call.peer)
}
