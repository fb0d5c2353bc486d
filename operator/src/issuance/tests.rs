//! One pod, one token, and everything that can be wrong with them, through the gRPC service.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use byrnie_api::v1::{IssueRequest, IssueResponse, identity_server::Identity};
use byrnie_crds::meshtrust::{Phase, RootState};
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use rcgen::{CertificateParams, KeyPair, SanType};
use tonic::{Code, Request, Status};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Facts, Issuance};
use crate::{
    api_call::ApiError,
    index::facts::Pod,
    metrics::Metrics,
    serve::PeerAddress,
    trust::{
        Authority, Root, TrustState,
        current::{Stale, Trusted},
        federation::Federation,
    },
};

const POD_IP: &str = "10.1.2.3";
const TOKEN: &str = "the-token";
const EPOCH: u64 = 7;

/// A cluster with one pod `shop/web-1`, ServiceAccount `web`, and one token that is bound to it.
#[derive(Clone)]
struct Fake {
    review: TokenReviewStatus,
    pod: Option<Pod>,
    api_is_down: bool,
    trusted: Option<Arc<Trusted>>,
}

impl Facts for Fake {
    async fn review(&self, token: &str, audience: &str) -> Result<TokenReviewStatus, ApiError> {
        if self.api_is_down {
            return Err(ApiError::TimedOut);
        }
        let known = token == TOKEN && audience == "byrnie.dev/cluster.local";
        Ok(if known { self.review.clone() } else { refused("unknown token") })
    }
    async fn pod(&self, namespace: &str, name: &str, uid: &str) -> Option<Pod> {
        let same = namespace == "shop" && name == "web-1";
        self.pod.clone().filter(|pod| same && pod.uid == uid)
    }
    async fn trust(&self) -> Result<Arc<Trusted>, Stale> {
        self.trusted.clone().ok_or(Stale::NotEstablished)
    }
}

fn refused(reason: &str) -> TokenReviewStatus {
    TokenReviewStatus {
        authenticated: Some(false),
        error: Some(reason.into()),
        ..TokenReviewStatus::default()
    }
}

fn fake() -> Fake {
    let extra = [("pod-name", "web-1"), ("pod-uid", "uid-1"), ("node-name", "node-1")]
        .map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
    let review = TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec!["byrnie.dev/cluster.local".into()]),
        user: Some(UserInfo {
            username: Some("system:serviceaccount:shop:web".into()),
            extra: Some(BTreeMap::from(extra)),
            ..UserInfo::default()
        }),
        error: None,
    };
    Fake { review, pod: Some(a_pod()), api_is_down: false, trusted: Some(Arc::new(trusted())) }
}

pub(super) fn a_pod() -> Pod {
    Pod {
        uid: "uid-1".into(),
        labels: BTreeMap::new(),
        named_ports: Vec::new(),
        addresses: vec![POD_IP.parse().unwrap(), "fd00::3".parse().unwrap()],
        identity: Some("spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()),
        service_account: "web".into(),
        created: k8s_openapi::jiff::Timestamp::MIN,
        live: true,
        containers_ready: true,
        node: "node-1".into(),
        weight: 1,
    }
}

pub(super) fn trusted() -> Trusted {
    let domain = "cluster.local".parse().unwrap();
    let authority = Authority::generate(&domain, Duration::from_hours(720), SystemTime::now()).unwrap();
    let roots = vec![Root::of(&authority, RootState::Active)];
    let signer = authority.id();
    let (phase, since) = (Phase::Stable, SystemTime::UNIX_EPOCH);
    let state =
        TrustState { domain, epoch: EPOCH, phase, since, request: None, restored: None, roots, signer };
    Trusted {
        state,
        authority: Some(authority),
        leaf_lifetime: Duration::from_hours(24),
        federation: Federation::default(),
        mesh_trust: String::new(),
    }
}

fn service(fake: Fake) -> Issuance<Fake> {
    Issuance::new(fake, "cluster.local".parse().unwrap(), Metrics::default())
}

fn request() -> IssueRequest {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut wishes = CertificateParams::default();
    wishes.subject_alt_names =
        vec![SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap())];
    let csr = wishes.serialize_request(&key).unwrap().der().to_vec();
    IssueRequest { csr, token: TOKEN.into(), trust_epoch: EPOCH }
}

async fn ask(service: &Issuance<Fake>, from: &str, request: IssueRequest) -> Result<IssueResponse, Status> {
    let mut request = Request::new(request);
    let address: IpAddr = from.parse().unwrap();
    request.extensions_mut().insert(PeerAddress((address, 40_000).into()));
    service.issue(request).await.map(tonic::Response::into_inner)
}

/// The answer to a good request, in a cluster that was changed.
async fn with(change: impl FnOnce(&mut Fake)) -> Result<IssueResponse, Status> {
    let mut fake = fake();
    change(&mut fake);
    ask(&service(fake), POD_IP, request()).await
}

fn pod(fake: &mut Fake) -> &mut Pod {
    fake.pod.as_mut().unwrap()
}

fn user(fake: &mut Fake) -> &mut UserInfo {
    fake.review.user.as_mut().unwrap()
}

#[tokio::test]
async fn a_pod_gets_its_own_name() {
    let fake = fake();
    let root = fake.trusted.as_ref().unwrap().signer().unwrap().root().clone();
    for address in [POD_IP, "fd00::3"] {
        let answer = ask(&service(fake.clone()), address, request()).await.unwrap();
        assert_eq!(answer.chain.len(), 1);
        let (_, leaf) = X509Certificate::from_der(&answer.chain[0]).unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
        let (_, issuer) = X509Certificate::from_der(&root).unwrap();
        leaf.verify_signature(Some(issuer.public_key())).unwrap();
        let trust = answer.trust.unwrap();
        assert_eq!(
            (trust.epoch, trust.roots[0].certificates.as_slice()),
            (EPOCH, [root.to_vec()].as_slice())
        );
        assert_eq!(trust.signer.len(), 32);
    }
}

#[tokio::test]
async fn tokens_that_prove_nothing() {
    type Change = fn(&mut Fake);
    let wrong: [(Change, &str); 10] = [
        (
            |f| f.review = refused("[invalid bearer token, service account token has been invalidated]"),
            "invalidated",
        ),
        (|f| f.review = refused("[invalid bearer token, token has expired]"), "expired"),
        (|f| f.review = refused("token audiences [https://kubernetes.default.svc] is invalid"), "audiences"),
        (|f| f.review.audiences = None, "not reviewed for audience"),
        (
            |f| f.review.audiences = Some(vec!["https://kubernetes.default.svc".into()]),
            "not reviewed for audience",
        ),
        (|f| user(f).username = Some("system:node:node-1".into()), "no ServiceAccount"),
        (|f| user(f).username = Some("system:serviceaccount:shop:web:x".into()), "no ServiceAccount"),
        (|f| user(f).username = None, "no ServiceAccount"),
        (|f| user(f).extra = None, "not bound to a pod"),
        (
            |f| {
                user(f).extra.as_mut().unwrap().remove("authentication.kubernetes.io/pod-uid");
            },
            "not bound to a pod",
        ),
    ];
    for (change, message) in wrong {
        let refusal = with(change).await.unwrap_err();
        assert_eq!(refusal.code(), Code::Unauthenticated, "{refusal:?}");
        assert!(refusal.message().contains(message), "{message}: {refusal:?}");
    }
    let mut forged = request();
    forged.token = "another".into();
    assert_eq!(ask(&service(fake()), POD_IP, forged).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn pods_that_get_none() {
    type Change = fn(&mut Fake);
    let wrong: [(Change, &str); 5] = [
        (|f| pod(f).live = false, "has ended"),
        (|f| pod(f).identity = None, "no container byrnie-proxy"),
        (
            |f| pod(f).identity = Some("spiffe://cluster.local/ns/shop/sa/other".parse().unwrap()),
            "ServiceAccount other",
        ),
        (|f| pod(f).node = "node-2".into(), "node node-2"),
        (|f| pod(f).addresses = vec!["10.1.2.4".parse().unwrap()], "none of the pod's addresses"),
    ];
    for (change, message) in wrong {
        let refusal = with(change).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal:?}");
        assert!(refusal.message().contains(message), "{message}: {refusal:?}");
    }
    let stolen = ask(&service(fake()), "10.9.9.9", request()).await.unwrap_err();
    assert_eq!(stolen.code(), Code::PermissionDenied, "another pod with this token");
}

#[tokio::test]
async fn what_may_be_well_in_a_moment_is_to_be_tried_again() {
    type Change = fn(&mut Fake);
    let unavailable: [(Change, &str); 6] = [
        (|f| f.pod = None, "no pod shop/web-1"),
        (|f| pod(f).uid = "uid-2".into(), "no pod shop/web-1"),
        (|f| pod(f).addresses.clear(), "no address of its own yet"),
        (|f| f.api_is_down = true, "cannot be reviewed now"),
        (|f| f.trusted = None, "no trust has been established"),
        (|f| f.trusted = Some(expiring()), "too soon to sign"),
    ];
    for (change, message) in unavailable {
        let refusal = with(change).await.unwrap_err();
        assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
        assert!(refusal.message().contains(message), "{message}: {refusal:?}");
    }
}

fn expiring() -> Arc<Trusted> {
    let old = fake().trusted.unwrap();
    let authority =
        Authority::generate(&old.state.domain, Duration::from_secs(30), SystemTime::now()).unwrap();
    let state = TrustState { signer: authority.id(), ..old.state.clone() };
    Arc::new(Trusted {
        state,
        authority: Some(authority),
        leaf_lifetime: old.leaf_lifetime,
        federation: Federation::default(),
        mesh_trust: String::new(),
    })
}

#[tokio::test]
async fn requests_that_are_no_requests() {
    type Change = fn(&mut IssueRequest);
    let wrong: [Change; 4] = [
        |r| r.csr = Vec::new(),
        |r| r.csr = vec![0x30; 5000],
        |r| r.token = String::new(),
        |r| r.token = "x".repeat(20_000),
    ];
    for change in wrong {
        let mut request = request();
        change(&mut request);
        let refusal = ask(&service(fake()), POD_IP, request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
    }
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82][..], &length, &content].concat()
}

/// A request with an RSA key of so many bytes, which nobody holds.
fn rsa(bytes: usize) -> Vec<u8> {
    const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    const RSA_SHA256: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";
    let number = vec![0x55; bytes];
    let key = tlv(0x30, &[&tlv(0x02, &[&number]), b"\x02\x03\x01\x00\x01"]);
    let spki = tlv(0x30, &[&tlv(0x30, &[RSA]), &tlv(0x03, &[b"\0", &key])]);
    let asked = tlv(0x30, &[b"\x02\x01\x00", b"\x30\x00", &spki, b"\xa0\x00"]);
    tlv(0x30, &[&asked, &tlv(0x30, &[RSA_SHA256]), &tlv(0x03, &[b"\0", &number])])
}

/// A request for a key, with these wishes.
fn csr(algorithm: &'static rcgen::SignatureAlgorithm, wish: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut wishes = CertificateParams::default();
    wish(&mut wishes);
    wishes.serialize_request(&key).unwrap().der().to_vec()
}

/// Whatever is asked for: the pod's own name and nothing else, or nothing.
#[tokio::test]
async fn no_request_gets_another_name() {
    use rcgen::{BasicConstraints, DnType, IsCa};
    const P256: &rcgen::SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let names = |names: Vec<SanType>| csr(P256, |wishes| wishes.subject_alt_names = names);
    let plain = csr(P256, |_| {});
    let mut unsigned = plain.clone();
    let last = unsigned.len() - 10;
    unsigned[last] ^= 1;
    let long = "x".repeat(5000);
    let matrix: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        ("nothing", plain.clone(), None),
        ("another namespace", names(vec![uri("spiffe://cluster.local/ns/kube-system/sa/web")]), None),
        ("another ServiceAccount", names(vec![uri("spiffe://cluster.local/ns/shop/sa/admin")]), None),
        ("another trust domain", names(vec![uri("spiffe://elsewhere/ns/shop/sa/web")]), None),
        (
            "the operator",
            names(vec![uri("spiffe://cluster.local/ns/byrnie-system/sa/byrnie-operator")]),
            None,
        ),
        (
            "two names",
            names(vec![
                uri("spiffe://cluster.local/ns/shop/sa/web"),
                uri("spiffe://cluster.local/ns/shop/sa/b"),
            ]),
            None,
        ),
        (
            "a wildcard",
            names(vec![
                SanType::DnsName("*".try_into().unwrap()),
                SanType::DnsName("*.svc.cluster.local".try_into().unwrap()),
            ]),
            None,
        ),
        ("a CA", csr(P256, |wishes| wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), None),
        ("a subject", csr(P256, |wishes| wishes.distinguished_name.push(DnType::CommonName, "admin")), None),
        (
            "a thousand names",
            names((0..1000).map(|n| uri(&format!("spiffe://cluster.local/ns/shop/sa/{n}"))).collect()),
            Some("at most 4096"),
        ),
        (
            "a long subject",
            csr(P256, |wishes| wishes.distinguished_name.push(DnType::CommonName, long.as_str())),
            Some("at most 4096"),
        ),
        ("RSA 2048", csr(&rcgen::PKCS_RSA_SHA256, |_| {}), Some("not on P-256")),
        ("RSA 8192", rsa(1024), Some("not on P-256")),
        ("RSA 16384", rsa(2048), Some("at most 4096")),
        ("P-384", csr(&rcgen::PKCS_ECDSA_P384_SHA384, |_| {}), Some("not on P-256")),
        ("Ed25519", csr(&rcgen::PKCS_ED25519, |_| {}), Some("not on P-256")),
        ("a key of somebody else", unsigned, Some("not signed by its own key")),
        ("two requests", [plain.clone(), plain.clone()].concat(), Some("not PKCS#10")),
        ("a byte too many", [&plain[..], b"\0"].concat(), Some("not PKCS#10")),
        ("a byte too few", plain[..plain.len() - 1].to_vec(), Some("not PKCS#10")),
        ("no request", b"GET / HTTP/1.1".to_vec(), Some("not PKCS#10")),
    ];
    for (what, csr, refused) in matrix {
        let answer = ask(&service(fake()), POD_IP, IssueRequest { csr, ..request() }).await;
        match (answer, refused) {
            (Ok(answer), None) => {
                let (_, leaf) = X509Certificate::from_der(&answer.chain[0]).unwrap();
                let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
                assert_eq!(*names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")], "{what}");
                assert!(!leaf.is_ca() && leaf.subject().iter().count() == 0, "{what}");
            }
            (Err(status), Some(message)) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
                assert!(status.message().contains(message), "{what}: {status:?}");
            }
            (answer, _) => panic!("{what}: {answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_token_serves_its_own_pod_alone() {
    let service = service(fake());
    let first = request();
    ask(&service, POD_IP, first.clone()).await.unwrap();
    ask(&service, POD_IP, first.clone()).await.expect("the same again, after an answer that was lost");
    ask(&service, POD_IP, request()).await.expect("another key: a renewal while the token is still good");
    for thief in ["10.1.2.4", "10.1.2.5", "fd00::4"] {
        for stolen in [first.clone(), request()] {
            let refusal = ask(&service, thief, stolen).await.unwrap_err();
            assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal:?}");
            assert!(refusal.message().contains(thief), "{refusal:?}");
        }
    }
    // Attempts of others cost the pod nothing: five at once are its own.
    ask(&service, POD_IP, request()).await.unwrap();
    ask(&service, POD_IP, request()).await.unwrap();
    assert_eq!(ask(&service, POD_IP, request()).await.unwrap_err().code(), Code::ResourceExhausted);
    let replaced = with(|fake| pod(fake).uid = "uid-2".into()).await.unwrap_err();
    assert!(replaced.message().contains("with UID uid-1"), "{replaced:?}");
}

#[tokio::test]
async fn a_proxy_that_has_seen_a_later_epoch_is_told_so() {
    let mut from_the_future = request();
    from_the_future.trust_epoch = EPOCH + 1;
    let refusal = ask(&service(fake()), POD_IP, from_the_future).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal:?}");
}

#[tokio::test]
async fn a_pod_that_asks_too_often_is_told_when_to_come_back() {
    let service = service(fake());
    for _ in 0..5 {
        ask(&service, POD_IP, request()).await.unwrap();
    }
    let refusal = ask(&service, POD_IP, request()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    let millis: u64 =
        refusal.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap();
    assert!((9_000..=14_000).contains(&millis), "{millis}");
}

#[tokio::test]
async fn no_answer_repeats_the_token() {
    let secret = "eyJhbGciOiJSUzI1NiJ9.secret";
    for change in [|_: &mut IssueRequest| {}, |r: &mut IssueRequest| r.csr.clear()] {
        let mut request = request();
        request.token = secret.into();
        change(&mut request);
        let refusal = ask(&service(fake()), POD_IP, request).await.unwrap_err();
        assert!(!format!("{refusal:?}").contains("secret"), "{refusal:?}");
    }
}
