//! Whatever single field is lost from a message, nobody gains access by it.

use byrnie_api::{decode, encode, parts, v1};
use byrnie_model::{Destination, HttpRequest, InboundPolicy, Peer, Request, SpiffeId, TrustDomain, evaluate};
use http::{HeaderMap, HeaderValue};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use prost::Message;

use crate::{
    values::{self, ACCOUNTS, DOMAINS, HEADER, METHODS, NAMESPACES, PORTS},
    wire::{self, Kind},
};

/// Mutants looked at by each test.
const CASES: usize = 100_000;

/// Requests that tell policies apart: all combinations of what the arbitrary policies speak about, and of what they
/// do not.
struct Requests {
    peers: Vec<Option<SpiffeId>>,
    headers: Vec<HeaderMap>,
}

impl Requests {
    fn new() -> Self {
        let mut peers = vec![None];
        for domain in DOMAINS {
            let domain: TrustDomain = domain.parse().unwrap();
            for namespace in NAMESPACES {
                peers.extend(
                    ACCOUNTS.map(|account| Some(SpiffeId::new(&domain, namespace, account).unwrap())),
                );
            }
        }
        let headers = [None, Some("blue"), Some("b"), Some("red")].map(|value| {
            value.map(|v| (HEADER.parse().unwrap(), HeaderValue::from_static(v))).into_iter().collect()
        });
        Self { peers, headers: headers.into() }
    }

    fn each(&self, mut visit: impl FnMut(&Request<'_>)) {
        for port in PORTS.into_iter().chain([81]) {
            for peer in &self.peers {
                let peer = peer.as_ref().map_or(Peer::Plaintext, Peer::Mesh);
                visit(&Request { port, peer, http: None });
                for method in METHODS {
                    for path in ["/", "/a", "/a/b", "/c"] {
                        for host in ["payments", "x.shop"] {
                            for headers in &self.headers {
                                let http = Some(HttpRequest { method, path, host, headers });
                                visit(&Request { port, peer, http });
                            }
                        }
                    }
                }
            }
        }
    }

    /// The first request that is allowed by `after` and was denied by `before`.
    fn gained(&self, before: &InboundPolicy, after: &InboundPolicy) -> Option<String> {
        let mut gained = None;
        self.each(|request| {
            if gained.is_none() && evaluate(after, request).allowed() && !evaluate(before, request).allowed()
            {
                gained = Some(format!("{request:?}"));
            }
        });
        gained
    }
}

#[test]
fn a_lost_field_never_widens_access() {
    let requests = Requests::new();
    let mut runner = TestRunner::deterministic();
    let (mut cases, mut refused, mut widened_unless_counted) = (0, 0, 0);
    while cases < CASES {
        let workload = values::workload().new_tree(&mut runner).unwrap().current();
        let bytes = encode::workload(&workload).encode_to_vec();
        let tree = wire::read(Kind::Workload, &bytes);
        assert_eq!(wire::write(&tree), bytes, "the table of message types does not fit the contract");
        for mutant in wire::mutants(&tree) {
            cases += 1;
            let mut message = v1::Workload::decode(&wire::write(&mutant)[..]).unwrap();
            match decode::workload(message.clone()) {
                Err(_) => refused += 1,
                Ok(after) if after == workload => {}
                Ok(after) => {
                    let gained = requests.gained(&workload.inbound, &after.inbound);
                    assert_eq!(gained, None, "\nbefore: {workload:#?}\nafter: {after:#?}");
                }
            }
            // The same without the count: shows that the requests would notice.
            if cases % 50 == 0 {
                message.parts = parts::workload(&message);
                if let Ok(after) = decode::workload(message) {
                    widened_unless_counted +=
                        usize::from(requests.gained(&workload.inbound, &after.inbound).is_some());
                }
            }
        }
    }
    println!(
        "{cases} mutants, {refused} refused; {widened_unless_counted} of {} gain without the count",
        cases / 50
    );
    assert!(refused > cases / 2);
    assert!(widened_unless_counted > 50, "only {widened_unless_counted} mutants would widen access");
}

#[test]
fn a_lost_field_never_makes_a_meshed_endpoint_plaintext() {
    let mut runner = TestRunner::deterministic();
    let (mut cases, mut changed) = (0, 0);
    while cases < CASES {
        let at = values::address().new_tree(&mut runner).unwrap().current();
        let destination = values::destination().new_tree(&mut runner).unwrap().current();
        let bytes = encode::destination(at, &destination).encode_to_vec();
        let tree = wire::read(Kind::Destination, &bytes);
        assert_eq!(wire::write(&tree), bytes, "the table of message types does not fit the contract");
        for mutant in wire::mutants(&tree) {
            cases += 1;
            let message = v1::Destination::decode(&wire::write(&mutant)[..]).unwrap();
            let Ok((to, after)) = decode::destination(message) else { continue };
            changed += usize::from(after != destination);
            assert_eq!(to, at);
            assert_eq!(identities(&after), identities(&destination));
            assert_eq!(matches(&after), matches(&destination));
        }
    }
    assert!(changed > 0, "weights and zones may change, or nothing was looked at");
}

fn identities(destination: &Destination) -> Vec<(std::net::SocketAddr, Option<&SpiffeId>)> {
    match destination {
        Destination::Service(service) => {
            let endpoints = service.backends.iter().flat_map(|b| b.endpoints.iter());
            endpoints.map(|e| (e.address, e.identity.as_ref())).collect()
        }
        Destination::Pod { endpoint, .. } => vec![(endpoint.address, endpoint.identity.as_ref())],
        Destination::Passthrough => vec![],
    }
}

fn matches(destination: &Destination) -> Vec<&[byrnie_model::HttpMatch]> {
    match destination {
        Destination::Service(service) => {
            service.routes.iter().map(|route| route.matches.as_slice()).collect()
        }
        _ => vec![],
    }
}
