//! What changes while connections live: bundles, leaves and the time.

use std::time::Duration;

use byrnie_identity::{
    Alpn, CertificateFault, HandshakeError, Identity, KeyPair, Leaf, LeafError, Side, Standing, TrustBundle,
    spki_sha256,
};
use rustls::HandshakeKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    authority::{AWAY, Authority, Clock, HOME, NOON, at, bundle, domain, id, leaf, peer, stranger},
    raw,
};

type Pair =
    (byrnie_identity::Connected<tokio::net::TcpStream>, byrnie_identity::Accepted<tokio::net::TcpStream>);

async fn dial(caller: &Identity, server: &Identity) -> Result<Pair, HandshakeError> {
    let (near, far) = raw::sockets().await;
    let expected = server.leaf().unwrap().id.clone();
    let (connected, accepted) = tokio::join!(caller.connect(near, &expected, Alpn::Tcp), server.accept(far));
    Ok((connected?, accepted?))
}

async fn talk(pair: &mut Pair) {
    let (caller, server) = pair;
    caller.stream.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    server.stream.read_exact(&mut heard).await.unwrap();
    server.stream.write_all(&heard).await.unwrap();
    caller.stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
}

#[tokio::test]
async fn a_connection_knows_its_peer_and_its_end() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let roots = bundle(1, &[(HOME, &[&home])]);
    let mut short = leaf(id("web").as_str());
    short.not_after = at(NOON + 100).into();
    let caller = peer(&clock, &roots, &home.sign(&short));
    let server = peer(&clock, &roots, &home.leaf(&id("pay")));
    let mut pair = dial(&caller, &server).await.unwrap();
    talk(&mut pair).await;
    assert_eq!(pair.1.peer, id("web"));
    assert_eq!((pair.0.not_after, pair.1.not_after), (at(NOON + 100), at(NOON + 100)));
    assert_eq!(server.leaf().unwrap().issuer, Some(spki_sha256(&home.certificate).unwrap()));
    assert_eq!(pair.1.stream.get_ref().1.server_name(), Some("byrnie"));
    let suite = pair.0.stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let group = pair.0.stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519);
}

#[tokio::test]
async fn a_new_leaf_and_bundle_serve_the_next_connection_while_the_old_one_lives() {
    let (clock, old, new) = (Clock::new(), Authority::root("old"), Authority::root("new"));
    let first = bundle(1, &[(HOME, &[&old])]);
    let caller = peer(&clock, &first, &old.leaf(&id("web")));
    let server = peer(&clock, &first, &old.leaf(&id("pay")));
    let mut before = dial(&caller, &server).await.unwrap();
    talk(&mut before).await;

    let both = bundle(2, &[(HOME, &[&old, &new])]);
    assert!(caller.install_bundle(both.clone()).unwrap() && server.install_bundle(both).unwrap());
    let chain = new.leaf(&id("pay"));
    server.install_leaf(chain.leaf()).unwrap();
    let mut after = dial(&caller, &server).await.unwrap();
    let shown = |pair: &Pair| pair.0.stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(shown(&after), chain.certificates[0]);
    assert_ne!(shown(&before), shown(&after));
    assert_eq!(server.leaf().unwrap().issuer, Some(spki_sha256(&new.certificate).unwrap()));

    // The old root goes; a caller that did not renew is refused, its open connections live on.
    assert!(server.install_bundle(bundle(3, &[(HOME, &[&new])])).unwrap());
    let refused = dial(&caller, &server).await.unwrap_err();
    assert!(
        matches!(refused, HandshakeError::Certificate(Side::Caller, CertificateFault::UnknownIssuer)),
        "{refused:?}"
    );
    talk(&mut before).await;
    talk(&mut after).await;

    // Whoever wants to cut them is told which.
    let root = |of: &Authority| spki_sha256(&of.certificate).unwrap();
    assert_eq!(before.1.standing, Standing { own: root(&old), peer: root(&old) });
    assert_eq!(after.1.standing, Standing { own: root(&new), peer: root(&old) });
    assert_eq!(after.0.standing, Standing { own: root(&old), peer: root(&new) });
    assert!(!server.still_trusts(&before.1.standing) && !server.still_trusts(&after.1.standing));
    assert!(caller.still_trusts(&before.0.standing) && caller.still_trusts(&after.0.standing));
    caller.install_leaf(new.leaf(&id("web")).leaf()).unwrap();
    assert!(server.still_trusts(&dial(&caller, &server).await.unwrap().1.standing));
}

#[tokio::test]
async fn rotating_back_and_forth_loses_no_handshake() {
    let (clock, a, b) = (Clock::new(), Authority::root("a"), Authority::root("b"));
    let first = bundle(0, &[(HOME, &[&a])]);
    let caller = peer(&clock, &first, &a.leaf(&id("web")));
    let server = peer(&clock, &first, &a.leaf(&id("pay")));
    let (dialled, watching) = watch::channel(0);
    let dials = async {
        while dialled.receiver_count() > 0 {
            talk(&mut dial(&caller, &server).await.unwrap()).await;
            dialled.send_modify(|count| *count += 1);
        }
    };
    let rotate = async {
        let mut watching = watching;
        let (mut old, mut new, mut epoch) = (&a, &b, 0);
        // As the operator's guards have it: the next step begins when no handshake of the step before is under way.
        let mut settle = async || {
            let now = *watching.borrow();
            watching.wait_for(|count| *count > now + 1).await.unwrap();
        };
        for _ in 0..20 {
            epoch += 1;
            for identity in [&caller, &server] {
                assert!(identity.install_bundle(bundle(epoch, &[(HOME, &[old, new])])).unwrap());
                tokio::task::yield_now().await;
            }
            settle().await;
            for identity in [&server, &caller] {
                let own = identity.leaf().unwrap().id.clone();
                identity.install_leaf(new.leaf(&own).leaf()).unwrap();
                tokio::task::yield_now().await;
            }
            settle().await;
            epoch += 1;
            for identity in [&caller, &server] {
                assert!(identity.install_bundle(bundle(epoch, &[(HOME, &[new])])).unwrap());
                tokio::task::yield_now().await;
            }
            settle().await;
            (old, new) = (new, old);
        }
    };
    tokio::join!(dials, rotate);
    println!("{} handshakes during 20 rotations", *dialled.borrow());
    assert!(*dialled.borrow() >= 20 * 3 * 2);
}

#[test]
fn a_lower_epoch_is_ignored() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let identity = stranger(&Clock::new());
    assert!(identity.install_bundle(bundle(7, &[(HOME, &[&new])])).unwrap());
    assert!(!identity.install_bundle(bundle(6, &[(HOME, &[&old])])).unwrap());
    assert_eq!(*identity.bundle().unwrap(), bundle(7, &[(HOME, &[&new])]));
    assert!(identity.install_bundle(bundle(7, &[(HOME, &[&new, &old])])).unwrap());
    assert!(identity.install_bundle(bundle(8, &[(HOME, &[])])).is_err());
    assert!(identity.install_bundle(bundle(8, &[(HOME, &[&old])])).unwrap());
}

#[test]
fn a_leaf_is_installed_only_where_peers_would_take_it() {
    let (clock, home, away) = (Clock::new(), Authority::root("home"), Authority::root("away"));
    let identity = stranger(&clock);
    assert!(matches!(identity.install_leaf(home.leaf(&id("web")).leaf()), Err(LeafError::NoBundle)));
    assert!(identity.install_bundle(bundle(1, &[(HOME, &[&home]), (AWAY, &[&away])])).unwrap());
    let unknown = identity.install_leaf(away.leaf(&id("web")).leaf());
    assert!(matches!(unknown, Err(LeafError::Fault(CertificateFault::UnknownIssuer))));
    let foreign = away.sign(&leaf("spiffe://other.example/ns/shop/sa/web")).leaf();
    assert!(matches!(identity.install_leaf(foreign), Err(LeafError::OtherTrustDomain { .. })));
    let (web, other) = (home.leaf(&id("web")), KeyPair::generate().unwrap());
    assert!(matches!(Leaf::new(web.certificates.clone(), other), Err(LeafError::OtherKey(_))));
    let mut authority = leaf(id("web").as_str());
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = home.sign(&authority);
    let key = KeyPair::from_pem(&authority.key_pem).unwrap();
    let refused = Leaf::new(authority.certificates, key);
    assert!(matches!(refused, Err(LeafError::Fault(CertificateFault::Authority))));
    assert!(matches!(Leaf::new(vec![], KeyPair::generate().unwrap()), Err(LeafError::Empty)));
    clock.forward(Duration::from_secs(86_401));
    let late = identity.install_leaf(web.leaf());
    assert!(matches!(late, Err(LeafError::Fault(CertificateFault::Expired))));
    assert!(identity.leaf().is_none());
}

/// A resumed session would skip the verifier: the second connection must be a whole new handshake.
#[tokio::test]
async fn an_expired_caller_cannot_come_back_by_resumption() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let server = peer(&clock, &bundle(1, &[(HOME, &[&home])]), &home.leaf(&id("pay")));
    let mut short = leaf(id("web").as_str());
    short.not_after = at(NOON + 60).into();
    let client = raw::client(Some(&home.sign(&short)), &[Alpn::Tcp.as_bytes()]);
    let visit = async || {
        let (near, far) = raw::sockets().await;
        let connector = TlsConnector::from(client.clone());
        let (near, far) =
            tokio::join!(connector.connect(byrnie_identity::server_name(), near), server.accept(far));
        let (mut near, mut far) = (near.unwrap(), far?);
        far.stream.write_all(b"x").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x'); // tickets would have come first
        assert_eq!(near.get_ref().1.tls13_tickets_received(), 0);
        Ok::<_, HandshakeError>(far.stream.get_ref().1.handshake_kind())
    };
    for _ in 0..2 {
        assert_eq!(visit().await.unwrap(), Some(HandshakeKind::Full));
    }
    clock.forward(Duration::from_secs(61));
    let error = visit().await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Certificate(Side::Caller, CertificateFault::Expired)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_caller_of_ours_resumes_nothing_either() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let caller = peer(&clock, &bundle(1, &[(HOME, &[&home])]), &home.leaf(&id("web")));
    let server = raw::server(&home.leaf(&id("pay")), &[Alpn::Tcp.as_bytes()]);
    for _ in 0..2 {
        let (near, far) = raw::sockets().await;
        let acceptor = TlsAcceptor::from(server.clone());
        let pay = id("pay");
        let (near, far) = tokio::join!(caller.connect(near, &pay, Alpn::Tcp), acceptor.accept(far));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        far.write_all(b"x").await.unwrap();
        assert_eq!(near.stream.read_u8().await.unwrap(), b'x');
        assert!(near.stream.get_ref().1.tls13_tickets_received() > 0, "the server offers tickets");
        assert_eq!(far.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn keys_are_never_printed() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let chain = home.leaf(&id("web"));
    let key = KeyPair::from_pem(&chain.key_pem).unwrap();
    assert_eq!(format!("{key:?}"), "KeyPair(P-256)");
    let identity = peer(&clock, &bundle(1, &[(HOME, &[&home])]), &chain);
    let printed = format!("{identity:?} {:?}", chain.leaf());
    assert!(printed.contains("spiffe://cluster.local/ns/shop/sa/web"));
    assert!(!printed.contains("key") && printed.len() < 1000, "{printed}");
}

#[test]
fn a_bundle_survives_its_pem() {
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    let home = domain(HOME);
    let both = bundle(0, &[(HOME, &[&one, &two])]);
    let pem = both.to_pem(&home);
    assert_eq!(pem.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(TrustBundle::from_pem(&home, pem.as_bytes()).unwrap(), both);
    assert_eq!(both.to_pem(&domain(AWAY)), "");
    let empty = TrustBundle::from_pem(&home, b"").unwrap_err();
    assert_eq!(empty.to_string(), "trust domain cluster.local has no root; check its trust bundle");
    let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(
        TrustBundle::from_pem(&home, broken).unwrap_err().to_string().starts_with("root 0 of trust domain")
    );
}

#[test]
fn a_request_asks_for_no_name() {
    use x509_parser::prelude::{FromDer, X509CertificationRequest};
    let request = KeyPair::generate().unwrap().certificate_request().unwrap();
    assert!(request.len() < 4096);
    let (rest, request) = X509CertificationRequest::from_der(&request).unwrap();
    let info = &request.certification_request_info;
    assert!(rest.is_empty() && info.subject.iter().next().is_none() && info.attributes().is_empty());
    assert_eq!(info.subject_pki.subject_public_key.data.len(), 65);
    let again = KeyPair::generate().unwrap().certificate_request().unwrap();
    let (_, again) = X509CertificationRequest::from_der(&again).unwrap();
    assert_ne!(again.certification_request_info.subject_pki.raw, info.subject_pki.raw);
}
