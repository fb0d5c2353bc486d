//! Discovery over a real gRPC connection in memory; only watches and TLS are missing.

mod crowd;

use std::time::Duration;

use byrnie_api::{
    decode, encode,
    v1::{
        self, Ack, Hello, HoldingsRequest, Nack, PolicyGeneration, Roots, ToOperator, ToProxy, Trust,
        discovery_client::DiscoveryClient, to_operator::Message, to_proxy::Resource,
    },
};
use byrnie_model::{Destination, SpiffeId};
use hyper_util::rt::TokioIo;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tonic::{
    Code, Request, Status, Streaming,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Server},
};
use tower::service_fn;

use super::{Discovery, content};
use crate::{
    index::fixture::{self, domain, pod, policy, service, slice},
    serve::{PeerAddress, PeerIdentity},
};

const OPERATOR: &str = "spiffe://cluster.local/ns/byrnie-system/sa/byrnie-operator";
const LIMIT: Duration = Duration::from_secs(10);

struct Rig {
    discovery: Discovery,
    ready: watch::Sender<bool>,
}

impl Rig {
    fn new() -> Self {
        let (ready, is_ready) = watch::channel(false);
        Self { discovery: Discovery::idle(domain(), OPERATOR.parse().unwrap(), is_ready), ready }
    }

    /// Two pods of `pay` behind their Service, one of `web`.
    fn shop() -> Self {
        let rig = Self::new();
        rig.apply(&pod("pay-1", "pay", "10.1.0.1"));
        rig.apply(&pod("pay-2", "pay", "10.1.0.2"));
        rig.apply(&pod("web-1", "web", "10.1.1.1"));
        rig.apply(&service("pay", "pay", "10.96.0.1"));
        rig.apply(&slice("pay", &[("pay-1", "10.1.0.1", "ready"), ("pay-2", "10.1.0.2", "ready")]));
        rig.ready.send_replace(true);
        rig
    }

    fn apply(&self, yaml: &str) {
        self.discovery.core.board.apply(fixture::changes(yaml), Instant::now());
    }

    fn trust(&self, epoch: u64) {
        let roots = Roots { trust_domain: "cluster.local".into(), certificates: vec![vec![1]] };
        let trust = Trust { epoch, roots: vec![roots], signer: vec![7; 32], federated: vec![] };
        self.discovery.core.board.pin_trust(Some(content::trust(&trust)), Instant::now());
    }

    async fn client(&self, peer: &str) -> DiscoveryClient<Channel> {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let peer: SpiffeId = peer.parse().unwrap();
        let of_web = PeerAddress("10.1.1.1:40000".parse().unwrap());
        let who = move |mut request: Request<()>| {
            request.extensions_mut().insert(PeerIdentity(peer.clone()));
            if peer.service_account() == "web" {
                request.extensions_mut().insert(of_web);
            }
            Ok::<_, Status>(request)
        };
        let service = InterceptedService::new(self.discovery.clone().server(), who);
        let incoming = futures::stream::iter([Ok::<DuplexStream, std::io::Error>(far)]);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        let mut near = Some(TokioIo::new(near));
        let connect = service_fn(move |_: http::Uri| {
            let near = near.take().ok_or(std::io::ErrorKind::NotConnected);
            async move { Ok::<_, std::io::Error>(near?) }
        });
        let channel = Endpoint::from_static("http://byrnie")
            .initial_stream_window_size(1 << 16)
            .initial_connection_window_size(1 << 16)
            .connect_with_connector(connect)
            .await
            .unwrap();
        DiscoveryClient::new(channel)
    }

    async fn proxy(&self, name: &str) -> Proxy {
        let account = name.split('-').next().unwrap();
        let peer = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        self.proxy_as(&peer, hello(name)).await.unwrap()
    }

    async fn proxy_as(&self, peer: &str, hello: Hello) -> Result<Proxy, Status> {
        let (says, said) = mpsc::channel(256);
        says.send(ToOperator { message: Some(Message::Hello(hello)) }).await.unwrap();
        let said = tokio_stream::wrappers::ReceiverStream::new(said);
        let hears = self.client(peer).await.connect(said).await?.into_inner();
        Ok(Proxy { says, hears })
    }
}

fn hello(name: &str) -> Hello {
    Hello {
        pod_namespace: "shop".into(),
        pod_name: name.into(),
        pod_uid: format!("uid-{name}"),
        proxy_version: "0.1.0".into(),
        features: Vec::new(),
    }
}

#[derive(Debug)]
struct Proxy {
    says: mpsc::Sender<ToOperator>,
    hears: Streaming<ToProxy>,
}

impl Proxy {
    async fn say(&self, message: Message) {
        self.says.send(ToOperator { message: Some(message) }).await.unwrap();
    }

    async fn subscribe(&self, address: &str) {
        self.say(Message::Subscribe(encode::address(address.parse().unwrap()))).await;
    }

    async fn hear(&mut self) -> ToProxy {
        timeout(LIMIT, self.hears.message()).await.expect("nothing came").unwrap().expect("the stream ended")
    }

    /// What comes next, acknowledged.
    async fn take(&mut self) -> Resource {
        let ToProxy { version, resource } = self.hear().await;
        self.say(Message::Ack(Ack { version })).await;
        resource.unwrap()
    }

    async fn workload(&mut self) -> Vec<PolicyGeneration> {
        match self.take().await {
            Resource::Workload(workload) => {
                let generations = workload.generations.clone();
                decode::workload(workload).unwrap();
                generations
            }
            other => panic!("{other:?}"),
        }
    }

    /// How many endpoints there are at the address that is told of.
    async fn endpoints(&mut self) -> usize {
        match self.take().await {
            Resource::Destination(destination) => count(destination),
            other => panic!("{other:?}"),
        }
    }

    async fn quiet(&mut self) {
        let heard = timeout(Duration::from_millis(100), self.hears.message()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    async fn end(&mut self) -> Option<Status> {
        loop {
            match timeout(LIMIT, self.hears.message()).await.expect("the stream goes on") {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }
}

fn count(destination: v1::Destination) -> usize {
    match decode::destination(destination).unwrap().1 {
        Destination::Service(service) => service.backends[0].endpoints.len(),
        other => panic!("{other:?}"),
    }
}

/// Waits until something holds.
async fn until(holds: impl Fn() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, held).await.expect("it never held");
}

const NOBODY: &str = "{authorization: {rules: [{sources: []}]}}";

#[tokio::test]
async fn trust_first_then_the_pod_then_where_it_calls() {
    let rig = Rig::shop();
    rig.trust(1);
    let mut proxy = rig.proxy("web-1").await;
    assert!(matches!(proxy.take().await, Resource::Trust(Trust { epoch: 1, .. })));
    assert_eq!(proxy.workload().await, []);
    proxy.subscribe("10.96.0.1:80").await;
    assert_eq!(proxy.endpoints().await, 2);
    proxy.subscribe("8.8.8.8:53").await;
    assert!(matches!(proxy.take().await, Resource::Destination(_)));
    rig.trust(2);
    assert!(matches!(proxy.take().await, Resource::Trust(Trust { epoch: 2, .. })));
    proxy.quiet().await;
}

#[tokio::test]
async fn only_what_changed_is_told() {
    let rig = Rig::shop();
    let mut proxy = rig.proxy("web-1").await;
    proxy.workload().await;
    proxy.subscribe("10.96.0.1:80").await;
    proxy.endpoints().await;
    rig.apply(&slice("pay", &[("pay-1", "10.1.0.1", "ready")]));
    assert_eq!(proxy.endpoints().await, 1);
    rig.apply(&slice("pay", &[("pay-1", "10.1.0.1", "ready")]));
    rig.apply(&slice("other", &[("pay-1", "10.1.0.1", "ready")]));
    rig.apply(&pod("web-9", "web", "10.1.1.9"));
    rig.apply(&policy("elsewhere", 0, "{targetRefs: [{kind: Service, name: pay}], mtls: {mode: Strict}}"));
    proxy.quiet().await;
    rig.apply(&policy("here", 0, NOBODY));
    assert_eq!(proxy.workload().await[0].name, "here");
    proxy.say(Message::Unsubscribe(encode::address("10.96.0.1:80".parse().unwrap()))).await;
    until(|| rig.discovery.core.metrics.snapshots.get() == 1).await;
    rig.apply(&slice("pay", &[]));
    proxy.quiet().await;
}

#[tokio::test]
async fn what_is_in_force_is_what_was_acknowledged() {
    let rig = Rig::shop();
    let holdings = rig.discovery.holdings();
    let mut proxy = rig.proxy("web-1").await;
    proxy.workload().await;
    rig.apply(&policy("p", 0, NOBODY));
    let first = proxy.hear().await;
    let only = || holdings.all().into_iter().next().unwrap();
    assert_eq!((only().generations.len(), only().pending.len()), (0, 1));
    proxy.say(Message::Ack(Ack { version: first.version })).await;
    until(|| only().generations.iter().any(|g| g.uid == "uid-p" && g.generation == 1)).await;
    assert_eq!((only().pending.len(), only().pod_uid.as_str()), (0, "uid-web-1"));

    rig.apply(&policy("p", 0, "{mtls: {mode: Permissive}}").replace("generation: 1", "generation: 2"));
    let second = proxy.hear().await;
    proxy.say(Message::Nack(Nack { version: second.version, error: "é".repeat(1000) })).await;
    until(|| !only().refusals.is_empty()).await;
    let held = only();
    assert_eq!(held.generations[0].generation, 1, "what was before is still in force");
    assert_eq!(held.refusals[0].policy.as_ref().unwrap().generation, 2);
    assert!(held.refusals[0].error.len() <= 512 && held.pending.is_empty());

    rig.apply(&policy("p", 0, NOBODY).replace("generation: 1", "generation: 3"));
    let third = proxy.hear().await;
    proxy.say(Message::Ack(Ack { version: first.version })).await;
    proxy.say(Message::Ack(Ack { version: third.version })).await;
    until(|| only().generations[0].generation == 3).await;
    assert!(only().refusals.is_empty());
    rig.trust(5);
    proxy.take().await;
    until(|| only().trust_epoch == 5).await;
    drop(proxy);
    until(|| holdings.all().is_empty()).await;
    until(|| rig.discovery.core.metrics.snapshots.get() == 0).await;
}

#[tokio::test]
async fn a_proxy_is_heard_for_its_own_pod_alone() {
    let rig = Rig::shop();
    let (web, pay) = ("spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/pay");
    let other_uid = Hello { pod_uid: "another".into(), ..hello("web-1") };
    for (peer, hello, code, says) in [
        (pay, hello("web-1"), Code::PermissionDenied, "ServiceAccount pay, the pod runs as web"),
        (web, hello("pay-1"), Code::PermissionDenied, "ServiceAccount web, the pod runs as pay"),
        (
            "spiffe://cluster.local/ns/evil/sa/web",
            hello("web-1"),
            Code::PermissionDenied,
            "of namespace evil",
        ),
        (
            "spiffe://other.domain/ns/shop/sa/web",
            hello("web-1"),
            Code::PermissionDenied,
            "trust domain other.domain",
        ),
        (web, hello("web-7"), Code::NotFound, "no pod shop/web-7"),
        (web, other_uid, Code::NotFound, "UID another"),
    ] {
        let refused = rig.proxy_as(peer, hello).await.expect_err("it was let in");
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "{refused}");
    }
    rig.apply(&pod("web-2", "web", "10.1.1.2"));
    let refused = rig.proxy_as(web, hello("web-2")).await.expect_err("it was let in");
    assert!(refused.message().contains("comes from 10.1.1.1"), "{refused}");
    let refused = rig.client(web).await.holdings(HoldingsRequest {}).await.expect_err("it was let in");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn before_everything_is_known_nothing_is_told() {
    let rig = Rig::shop();
    rig.ready.send_replace(false);
    let (proxy, ()) = tokio::join!(rig.proxy("web-1"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.apply(&policy("late", 0, NOBODY));
        rig.ready.send_replace(true);
    });
    let mut proxy = proxy;
    assert_eq!(proxy.workload().await[0].name, "late");
}

#[tokio::test]
async fn one_stream_for_each_pod_and_none_without() {
    let rig = Rig::shop();
    let (mut first, mut other) = (rig.proxy("web-1").await, rig.proxy("pay-1").await);
    first.workload().await;
    other.workload().await;
    let mut second = rig.proxy("web-1").await;
    assert!(first.end().await.is_none());
    second.workload().await;
    assert_eq!(rig.discovery.holdings().all().len(), 2);
    rig.apply(&pod("web-1", "web", "10.1.1.1").replace("uid: uid-web-1", "uid: reborn"));
    assert_eq!(second.end().await.unwrap().code(), Code::NotFound);
    other.quiet().await;
    until(|| rig.discovery.holdings().all().len() == 1).await;
}

#[tokio::test]
async fn a_proxy_that_breaks_the_contract_is_cut_off() {
    let rig = Rig::shop();
    let mut proxy = rig.proxy("web-1").await;
    proxy.say(Message::Hello(hello("web-1"))).await;
    assert!(proxy.end().await.is_none());
    let mut proxy = rig.proxy("web-1").await;
    proxy.say(Message::Nack(Nack { version: 1, error: "x".repeat(100_000) })).await;
    assert!(proxy.end().await.is_none());
    let mut proxy = rig.proxy("web-1").await;
    for i in 0..=super::subscriber::MAX_DESTINATIONS {
        let message =
            Message::Subscribe(encode::address(format!("10.2.{}.{}:80", i / 256, i % 256).parse().unwrap()));
        if proxy.says.send(ToOperator { message: Some(message) }).await.is_err() {
            break;
        }
    }
    assert!(proxy.end().await.is_none());
    until(|| rig.discovery.core.metrics.snapshots.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_proxy_delays_nobody_and_gets_the_latest() {
    const ROUNDS: usize = 2000;
    let rig = Rig::shop();
    let stalled = rig.proxy("pay-1").await;
    stalled.subscribe("10.96.0.1:80").await;
    let mut brisk = rig.proxy("web-1").await;
    brisk.workload().await;
    brisk.subscribe("10.96.0.1:80").await;
    brisk.endpoints().await;
    until(|| rig.discovery.core.metrics.snapshots.get() == 3).await;
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let both = [("pay-1", "10.1.0.1", "ready"), ("pay-2", "10.1.0.2", "ready")];
        let began = Instant::now();
        rig.apply(&slice("pay", &both[(round + 1) % 2..]));
        assert_eq!(brisk.endpoints().await, 1 + round % 2);
        slowest = slowest.max(Instant::now().saturating_duration_since(began));
    }
    println!("slowest of {ROUNDS} pushes beside a stalled stream: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // What fits into the connection's buffers, and then the latest: not two thousand messages.
    let mut stalled = stalled;
    let (mut heard, mut latest) = (0, 0);
    loop {
        let patience = if latest == 2 { Duration::from_millis(300) } else { LIMIT };
        let Ok(message) = timeout(patience, stalled.hears.message()).await else { break };
        heard += 1;
        if let Some(Resource::Destination(destination)) = message.unwrap().unwrap().resource {
            latest = count(destination);
        }
    }
    assert_eq!(latest, 2, "the latest never came");
    println!("the stalled one was told {heard} times of {ROUNDS} changes");
    assert!(heard < ROUNDS / 2, "{heard}");
}

#[tokio::test]
async fn replicas_tell_each_other() {
    let rig = Rig::shop();
    let mut updates = rig.client(OPERATOR).await.holdings(HoldingsRequest {}).await.unwrap().into_inner();
    assert_eq!(updates.message().await.unwrap().unwrap().proxies, []);
    let mut proxy = rig.proxy("web-1").await;
    proxy.workload().await;
    let told = timeout(LIMIT, async {
        loop {
            let update = updates.message().await.unwrap().unwrap();
            if let [proxy] = update.proxies.as_slice() {
                break proxy.pod_name.clone();
            }
        }
    });
    assert_eq!(told.await.unwrap(), "web-1");
}
