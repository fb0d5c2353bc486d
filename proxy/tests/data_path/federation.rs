//! Callers of another trust domain: believed for their own names alone, let in by a rule alone, and only for as long as
//! the domain is federated.

use std::time::Duration;

use byrnie_identity::Identity;
use byrnie_model::{
    Action, Enforcement, InboundPolicy, Mtls, ObjectName, Policy, Ports, Protocol, Rule, Source, TrustDomain,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

use crate::{
    apps::{echo, get, read_until, within},
    rig::{Authority, LIMIT, Mesh, Proxy, meshed, one_service},
};

struct World {
    mesh: Mesh,
    other: TrustDomain,
    foreign: Authority,
}

impl World {
    async fn new() -> Self {
        let other = "other.org".parse().unwrap();
        Self { mesh: Mesh::new(echo().await), other, foreign: Authority::new() }
    }

    /// The server believes the other domain, or not any more.
    fn federate(&self, on: bool) {
        let mut bundle = self.mesh.authority.bundle(0);
        if on {
            bundle.roots.extend(self.foreign.roots(&self.other).roots);
        }
        assert!(self.mesh.server.shared.identity.install_bundle(bundle).unwrap());
    }

    /// A proxy of `shop/web` in this domain, with a certificate by this authority, that calls the server.
    fn caller(&self, domain: &TrustDomain, signer: &Authority) -> Proxy {
        let identity = Identity::new(domain.clone());
        let mut believes = self.mesh.authority.bundle(0);
        // it must believe its own certificate to show it
        let own = signer.roots(domain).roots.remove(domain).unwrap();
        believes.roots.entry(domain.clone()).or_default().extend(own);
        identity.install_bundle(believes).unwrap();
        let id = format!("spiffe://{domain}/ns/shop/sa/web").parse().unwrap();
        identity.install_leaf(signer.leaf_of(&id, Duration::from_hours(1))).unwrap();
        let caller = Proxy::start(identity, self.mesh.app, self.mesh.service);
        let server = one_service(Protocol::Detect, vec![meshed(self.mesh.server.inbound, "api")]);
        caller.shared.destinations.slot(self.mesh.service).store(server.into());
        caller
    }

    fn allow(&self, domain: &TrustDomain) {
        let source = Source::Workload {
            trust_domain: domain.clone(),
            namespace: "shop".into(),
            service_account: Some("web".into()),
        };
        let rule = Rule { sources: vec![source], ports: Ports::All, http: vec![] };
        let policy = Policy {
            name: ObjectName::new("shop", "who-may"),
            action: Action::Allow,
            enforcement: Enforcement::Enforced,
            ports: Ports::All,
            rules: vec![rule],
        };
        self.mesh.server.policy(InboundPolicy { mtls: Mtls::default(), policies: vec![policy] });
    }
}

#[tokio::test]
async fn a_foreign_caller_needs_federation_and_a_rule() {
    let world = World::new().await;
    let caller = world.caller(&world.other, &world.foreign);
    let call = async || get(caller.outbound, "/", "").await;
    let answer = call().await;
    assert!(!answer.contains(" 200 ") && !answer.contains("body 0"), "not federated: {answer}");
    world.federate(true);
    let answer = call().await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("byrnie-reason: foreign-peer"),
        "{answer}"
    );
    world.allow(&"cluster.local".parse().unwrap());
    let answer = call().await;
    assert!(answer.contains("byrnie-reason: no-rule-allows"), "shop/web of ours is another: {answer}");
    world.allow(&world.other);
    let answer = call().await;
    assert!(answer.contains("byrnie-client-id: spiffe://other.org/ns/shop/sa/web"), "{answer}");
    let ours = get(world.mesh.client.outbound, "/", "").await;
    assert!(ours.contains("byrnie-reason: no-rule-allows"), "the rule is about theirs: {ours}");
}

#[tokio::test]
async fn roots_vouch_for_their_own_domain_alone() {
    let world = World::new().await;
    world.federate(true);
    let third: TrustDomain = "third.org".parse().unwrap();
    let home: TrustDomain = "cluster.local".parse().unwrap();
    for (domain, signer) in
        [(&home, &world.foreign), (&third, &world.foreign), (&world.other, &world.mesh.authority)]
    {
        world.allow(domain);
        let caller = world.caller(domain, signer);
        let answer = get(caller.outbound, "/", "").await;
        assert!(!answer.contains(" 200 ") && !answer.contains("body 0"), "{domain}: {answer}");
    }
    assert!(world.mesh.server.metrics().contains("byrnie_handshake_failures_total{direction=\"inbound\""));
}

#[tokio::test]
async fn open_connections_end_with_the_federation() {
    let world = World::new().await;
    world.federate(true);
    world.allow(&world.other);
    let caller = world.caller(&world.other, &world.foreign);
    let mut tcp = TcpStream::connect(caller.outbound).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_until(&mut tcp, "body 0\n").await.starts_with("HTTP/1.1 200 "));
    let open = |count: u32| {
        let line = format!("byrnie_connections{{direction=\"inbound\",kind=\"mtls-http1\"}} {count}");
        world.mesh.server.metrics().contains(&line)
    };
    assert!(open(1), "{}", world.mesh.server.metrics());
    world.federate(false);
    within(LIMIT, "the connection stays", async || open(0).then_some(())).await;
    sleep(Duration::from_millis(50)).await;
    let answer = get(caller.outbound, "/", "").await;
    assert!(!answer.contains(" 200 "), "{answer}");
}
