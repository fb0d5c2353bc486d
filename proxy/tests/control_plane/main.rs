//! The proxy's edges against an operator: first certificate, renewals, subscriptions, refusals, outages.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod operator;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use byrnie_api::{encode, v1};
use byrnie_identity::Identity;
use byrnie_model::{Destination, Workload};
use byrnie_proxy::{
    access_log::AccessLog,
    admin::Admin,
    bootstrap::CREDENTIAL_FILE,
    certificate::{self, News},
    control,
    metrics::Metrics,
    run,
    state::{PodInfo, Shared},
};
use http::{Request, StatusCode};
use operator::{Authority, Operator, TOKEN, domain, proxy_id};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use v1::{to_operator::Message, to_proxy::Resource};

const LIMIT: Duration = Duration::from_secs(20);

/// A proxy without its data path.
struct Proxy {
    shared: Arc<Shared>,
    news: News,
    files: TempDir,
}

impl Proxy {
    fn start(operator: &Operator, authority: &Authority) -> Self {
        Self::with_token(TOKEN, operator, authority)
    }

    fn with_token(token: &str, operator: &Operator, authority: &Authority) -> Self {
        Self::with_files(&[("token", token)], operator, authority)
    }

    /// With what the kubelet asked for.
    fn with_credential(credential: &str, operator: &Operator, authority: &Authority) -> Self {
        Self::with_files(&[("token", TOKEN), (CREDENTIAL_FILE, credential)], operator, authority)
    }

    fn with_files(besides: &[(&str, &str)], operator: &Operator, authority: &Authority) -> Self {
        let files = TempDir::new().unwrap();
        operator.write_files(files.path(), authority);
        for (name, text) in besides {
            std::fs::write(files.path().join(name), text).unwrap();
        }
        let pod = PodInfo {
            name: "web-1".into(),
            namespace: "shop".into(),
            uid: "1234".into(),
            ..PodInfo::default()
        };
        let shared = run::shared(Identity::new(domain()), pod, Metrics::default(), AccessLog::off());
        let news = News::default();
        let directory = files.path().to_owned();
        tokio::spawn(certificate::keep(shared.identity.clone(), directory.clone(), news.clone()));
        tokio::spawn(control::keep(shared.clone(), directory, news.clone()));
        Self { shared, news, files }
    }

    /// Waits for the proxy's first stream.
    async fn connected(&self, operator: &Operator) {
        until("Hello", || operator.state.heard.lock().iter().any(|m| matches!(m, Message::Hello(_)))).await;
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(LIMIT, waiting).await.is_ok(), "did not happen: {what}");
}

fn address() -> SocketAddr {
    "10.96.0.7:80".parse().unwrap()
}

#[tokio::test]
async fn a_proxy_becomes_ready() {
    let authority = Authority::new("one");
    let operator = Operator::start(&authority).await;
    let proxy = Proxy::start(&operator, &authority);
    let admin = Admin {
        shared: proxy.shared.clone(),
        news: proxy.news.clone(),
        probes: Vec::new(),
        configuration: None,
    };
    let ready = Request::get("/ready?verbose").body(()).unwrap();
    assert_eq!(admin.answer(&ready).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    proxy.connected(&operator).await;
    assert_eq!(proxy.shared.identity.leaf().unwrap().id, proxy_id());
    assert_eq!(proxy.shared.missing().len(), 1, "the policy is missing");
    let version = operator.state.say(Resource::Workload(encode::workload(&Workload::default()))).await;
    until("the policy is acknowledged", || operator.state.heard(&Message::Ack(v1::Ack { version }))).await;
    assert_eq!(admin.answer(&ready).await.status(), StatusCode::OK);
    let metrics = admin.answer(&Request::get("/metrics").body(()).unwrap()).await;
    assert_eq!(metrics.status(), StatusCode::OK);
    let shutdown = Request::post("/shutdown").body(()).unwrap();
    assert_eq!(admin.answer(&shutdown).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_is_not_understood_changes_nothing() {
    let authority = Authority::new("one");
    let operator = Operator::start(&authority).await;
    let proxy = Proxy::start(&operator, &authority);
    let slot = proxy.shared.destinations.slot(address());
    let subscribe = Message::Subscribe(encode::address(address()));
    until("the address is subscribed to", || operator.state.heard(&subscribe)).await;
    let good = encode::destination(address(), &Destination::Passthrough);
    operator.state.say(Resource::Destination(good.clone())).await;
    assert_eq!(slot.wait(LIMIT).await.as_deref(), Some(&Destination::Passthrough));

    let newer = v1::Destination { required_features: vec!["from-the-future".into()], ..good };
    let version = operator.state.say(Resource::Destination(newer)).await;
    let refused = |heard: &Message| matches!(heard, Message::Nack(n) if n.version == version && n.error.contains("from-the-future"));
    until("it is refused by name", || operator.state.heard.lock().iter().any(refused)).await;
    assert_eq!(slot.load().as_deref(), Some(&Destination::Passthrough));

    let version = operator.state.say(Resource::Workload(v1::Workload::default())).await;
    until("a policy without mtls is refused", || {
        operator.state.heard.lock().iter().any(|m| matches!(m, Message::Nack(n) if n.version == version))
    })
    .await;
    assert!(proxy.shared.workload.load().is_none());
    assert_eq!(proxy.shared.metrics.nacks.get(), 2);
}

#[tokio::test]
async fn an_outage_changes_nothing_and_ends_well() {
    let authority = Authority::new("one");
    let first = Operator::start(&authority).await;
    let proxy = Proxy::start(&first, &authority);
    let slot = proxy.shared.destinations.slot(address());
    proxy.connected(&first).await;
    first.state.say(Resource::Workload(encode::workload(&Workload::default()))).await;
    first.state.say(Resource::Destination(encode::destination(address(), &Destination::Passthrough))).await;
    assert!(slot.wait(LIMIT).await.is_some());
    until("the policy is in force", || proxy.shared.workload.load().is_some()).await;
    first.stop();
    until("the stream is down", || proxy.shared.metrics.control_connected.get() == 0).await;
    assert!(slot.load().is_some() && proxy.shared.missing().is_empty(), "the last good state stays");
    let meanwhile: SocketAddr = "10.96.0.8:80".parse().unwrap();
    let _used = proxy.shared.destinations.slot(meanwhile);

    // reinstalled, at another address
    let second = Operator::start(&authority).await;
    second.write_files(proxy.files.path(), &authority);
    proxy.connected(&second).await;
    for address in [address(), meanwhile] {
        let again = Message::Subscribe(encode::address(address));
        until("what is in use is subscribed to again", || second.state.heard(&again)).await;
    }
}

#[tokio::test]
async fn a_new_authority_is_followed_at_once() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let operator = Operator::start(&old).await;
    let proxy = Proxy::start(&operator, &old);
    proxy.connected(&operator).await;
    assert_eq!(proxy.shared.identity.leaf().unwrap().issuer, Some(old.name()));
    // staged: both are trusted, the old one still signs
    let both = [old.clone(), new.clone()];
    operator.state.trust(2, &both, &old);
    let version = operator.state.say(Resource::Trust(operator.state.trust_message())).await;
    until("the bundle is acknowledged", || operator.state.heard(&Message::Ack(v1::Ack { version }))).await;
    assert_eq!(proxy.shared.identity.bundle().unwrap().epoch, 2);
    let told = |trust_epoch, roots: &[Arc<Authority>], issuer: &Authority| {
        Message::Credentials(v1::Credentials {
            trust_epoch,
            trusted_roots: roots.iter().map(|root| root.name().to_vec()).collect(),
            leaf_issuer: issuer.name().to_vec(),
            connection_roots: Vec::new(),
        })
    };
    let first = told(1, std::slice::from_ref(&old), &old);
    assert!(operator.state.heard(&first), "it is told at the beginning");
    until("the operator hears of it", || operator.state.heard(&told(2, &both, &old))).await;
    // signing
    operator.state.trust(3, &both, &new);
    operator.state.say(Resource::Trust(operator.state.trust_message())).await;
    let issuer = || proxy.shared.identity.leaf().unwrap().issuer;
    until("the leaf is of the new authority", || issuer() == Some(new.name())).await;
    until("the operator hears of that", || operator.state.heard(&told(3, &both, &new))).await;
    // drained
    operator.state.trust(4, std::slice::from_ref(&new), &new);
    operator.state.say(Resource::Trust(operator.state.trust_message())).await;
    until("only the new one is trusted", || proxy.shared.identity.bundle().unwrap().epoch == 4).await;
    assert!(proxy.shared.identity.ready());
    // an operator that was set back
    let old = v1::Trust { epoch: 3, ..operator.state.trust_message() };
    let version = operator.state.say(Resource::Trust(old)).await;
    until("older trust is refused", || {
        operator.state.heard.lock().iter().any(|m| matches!(m, Message::Nack(n) if n.version == version))
    })
    .await;
    let keys = operator.state.keys.lock().clone();
    assert!(keys.len() >= 2 && keys[0] != keys[1], "every certificate has a key of its own");
}

#[tokio::test]
async fn certificates_are_renewed_at_half_of_their_life() {
    let authority = Authority::new("one");
    let operator = Operator::start(&authority).await;
    *operator.state.ttl.lock() = Duration::from_secs(6);
    let began = std::time::Instant::now();
    let proxy = Proxy::start(&operator, &authority);
    until("a second certificate", || operator.state.keys.lock().len() >= 2).await;
    let took = began.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(5), "{took:?}");
    assert!(proxy.shared.identity.ready());
}

#[tokio::test]
async fn the_kubelets_certificate_is_enough_until_another_authority_signs() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let operator = Operator::start(&old).await;
    let credential = old.credential(&proxy_id(), Duration::from_hours(1));
    let proxy = Proxy::with_credential(&credential, &operator, &old);
    proxy.connected(&operator).await;
    assert_eq!(operator.state.keys.lock().len(), 0, "the operator was not asked");
    operator.state.trust(2, &[old.clone(), new.clone()], &new);
    operator.state.say(Resource::Trust(operator.state.trust_message())).await;
    let issuer = || proxy.shared.identity.leaf().unwrap().issuer;
    until("the leaf is of the new authority", || issuer() == Some(new.name())).await;
    assert_eq!(operator.state.keys.lock().len(), 1, "the kubelet's is of the old one");
}

#[tokio::test]
async fn the_kubelets_next_certificate_is_taken_at_half_of_the_firsts_life() {
    let authority = Authority::new("one");
    let operator = Operator::start(&authority).await;
    let first = authority.credential(&proxy_id(), Duration::from_secs(8));
    let proxy = Proxy::with_credential(&first, &operator, &authority);
    proxy.connected(&operator).await;
    let next = authority.credential(&proxy_id(), Duration::from_hours(1));
    std::fs::write(proxy.files.path().join(CREDENTIAL_FILE), next).unwrap();
    let soon = std::time::SystemTime::now() + Duration::from_mins(1);
    until("the next one", || proxy.shared.identity.leaf().unwrap().not_after > soon).await;
    assert_eq!(operator.state.keys.lock().len(), 0, "the operator was not asked");
}

#[tokio::test]
async fn the_operator_is_asked_where_the_kubelets_certificate_is_of_no_use() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let hour = Duration::from_hours(1);
    let of_another_domain = "spiffe://elsewhere.example/ns/shop/sa/web".parse().unwrap();
    for credential in [
        String::new(),
        "-----BEGIN PRIVATE KEY-----".into(),
        theirs.credential(&proxy_id(), hour),
        ours.credential(&of_another_domain, hour),
        ours.credential(&proxy_id(), Duration::ZERO),
    ] {
        let operator = Operator::start(&ours).await;
        let proxy = Proxy::with_credential(&credential, &operator, &ours);
        proxy.connected(&operator).await;
        assert_eq!(operator.state.keys.lock().len(), 1);
    }
}

#[tokio::test]
async fn a_refused_token_is_tried_again_when_the_kubelet_renews_it() {
    let authority = Authority::new("one");
    let operator = Operator::start(&authority).await;
    let proxy = Proxy::with_token("of another pod", &operator, &authority);
    until("it is refused", || *operator.state.refused.lock() >= 2).await;
    assert!(proxy.shared.identity.leaf().is_none());
    let problems = proxy.news.problems();
    assert!(
        problems[0].contains("refuses to issue a certificate: the token is not this pod's"),
        "{problems:?}"
    );
    std::fs::write(proxy.files.path().join("token"), TOKEN).unwrap();
    until("a certificate", || proxy.shared.identity.ready()).await;
}

#[tokio::test]
async fn nobody_else_can_be_the_operator() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let impostor = Operator::start(&theirs).await;
    let proxy = Proxy::start(&impostor, &ours);
    sleep(Duration::from_secs(1)).await;
    assert!(proxy.shared.identity.leaf().is_none());
    assert_eq!(impostor.state.keys.lock().len(), 0, "not a byte of the token was sent");
}
