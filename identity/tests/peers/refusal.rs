//! Connections that end before they begin, and what the errors say.

use std::{error::Error, time::Duration};

use byrnie_identity::{Alpn, CertificateFault, HandshakeError, NotReady, Side};
use byrnie_model::SpiffeId;
use rustls::AlertDescription;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::{
    authority::{Authority, Chain, Clock, HOME, bundle, id, peer, stranger},
    raw,
};

#[tokio::test]
async fn another_server_than_the_expected_one_gets_no_byte() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let roots = bundle(1, &[(HOME, &[&home])]);
    let caller = peer(&clock, &roots, &home.leaf(&id("web")));
    let server = peer(&clock, &roots, &home.leaf(&id("pay")));
    let (near, far) = raw::sockets().await;
    let expected = id("stock");
    let (connected, accepted) =
        tokio::join!(caller.connect(near, &expected, Alpn::Http1), server.accept(far));
    let error = connected.unwrap_err();
    assert_eq!(error.reason(), "unexpected-peer");
    assert_eq!(
        error.to_string(),
        "certificate of server spiffe://cluster.local/ns/shop/sa/stock is refused: \
         spiffe://cluster.local/ns/shop/sa/pay answers in the place of spiffe://cluster.local/ns/shop/sa/stock; \
         check what listens at the address"
    );
    let mut received = Vec::new();
    let _ = accepted.unwrap().stream.read_to_end(&mut received).await;
    assert_eq!(received, b"");
}

#[tokio::test]
async fn a_caller_without_certificate_is_refused() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let server = peer(&clock, &bundle(1, &[(HOME, &[&home])]), &home.leaf(&id("pay")));
    let error = accept_raw(&server, None, &[Alpn::Tcp.as_bytes()]).await.unwrap_err();
    assert!(matches!(error, HandshakeError::NoCertificate(Side::Caller)), "{error:?}");
}

#[tokio::test]
async fn the_caller_chooses_among_our_protocols_only() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let roots = bundle(1, &[(HOME, &[&home])]);
    let server = peer(&clock, &roots, &home.leaf(&id("pay")));
    let chain = home.leaf(&id("web"));
    let caller = peer(&clock, &roots, &chain);
    for alpn in Alpn::ALL {
        let (near, far) = raw::sockets().await;
        let pay = id("pay");
        let (connected, accepted) = tokio::join!(caller.connect(near, &pay, alpn), server.accept(far));
        assert_eq!((connected.unwrap().alpn, accepted.unwrap().alpn), (alpn, alpn));
    }
    for foreign in [&[b"h2".as_slice()][..], &[b"byrnie/2+h2"], &[b"byrnie/1+h"], &[]] {
        let error = accept_raw(&server, Some(&chain), foreign).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Alpn(Side::Caller)), "{error:?}");
    }
    let mixed = accept_raw(&server, Some(&chain), &[b"h2", Alpn::Tcp.as_bytes()]).await;
    assert_eq!(mixed.unwrap(), Alpn::Tcp);
}

#[tokio::test]
async fn a_server_that_chooses_no_protocol_is_refused() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let caller = peer(&clock, &bundle(1, &[(HOME, &[&home])]), &home.leaf(&id("web")));
    let (near, far) = raw::sockets().await;
    let server = tokio_rustls::TlsAcceptor::from(raw::server(&home.leaf(&id("pay")), &[]));
    let pay = id("pay");
    let (connected, _) = tokio::join!(caller.connect(near, &pay, Alpn::Http2), server.accept(far));
    assert!(matches!(connected, Err(HandshakeError::Alpn(Side::Server(_)))), "{connected:?}");
}

#[tokio::test]
async fn bytes_that_are_not_tls_are_named() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let server = peer(&clock, &bundle(1, &[(HOME, &[&home])]), &home.leaf(&id("pay")));
    let (mut near, far) = raw::sockets().await;
    near.write_all(b"GET / HTTP/1.1\r\nhost: pay\r\n\r\n").await.unwrap();
    let error = server.accept(far).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Protocol(Side::Caller, _)), "{error:?}");
    let (near, far) = raw::sockets().await;
    drop(near);
    let error = server.accept(far).await.unwrap_err();
    assert_eq!(error.reason(), "handshake-broken");
    assert!(error.source().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_five_seconds() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let identity = peer(&clock, &bundle(1, &[(HOME, &[&home])]), &home.leaf(&id("pay")));
    let pay = id("pay");
    let started = tokio::time::Instant::now();
    let (near, far) = tokio::io::duplex(1024);
    let error = identity.accept(near).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Timeout(Side::Caller)), "{error:?}");
    let (near, _far) = (tokio::io::duplex(1024), far);
    let error = identity.connect(near.0, &pay, Alpn::Tcp).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Timeout(Side::Server(_))), "{error:?}");
    assert_eq!((tokio::time::Instant::now() - started).as_secs(), 10);
    assert!(error.to_string().contains("within 5 s"), "{error}");
}

#[tokio::test]
async fn without_a_valid_leaf_of_our_own_nothing_is_tried() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let roots = bundle(1, &[(HOME, &[&home])]);
    let not_yet = stranger(&clock);
    assert!(not_yet.install_bundle(roots.clone()).unwrap());
    assert!(!not_yet.ready());
    let (near, far) = raw::sockets().await;
    assert!(matches!(not_yet.accept(near).await, Err(HandshakeError::NotReady(NotReady::NoLeaf))));
    let no_longer = peer(&clock, &roots, &home.leaf(&id("web")));
    assert!(no_longer.ready());
    clock.forward(Duration::from_secs(86_401));
    assert!(!no_longer.ready());
    let pay = id("pay");
    let refused = no_longer.connect(far, &pay, Alpn::Tcp).await;
    assert!(matches!(refused, Err(HandshakeError::NotReady(NotReady::Expired))));
    assert!(no_longer.server_config(&[b"h2"]).is_err());
}

/// A TLS 1.3 client has finished its handshake before the server judges its certificate.
#[tokio::test]
async fn a_late_alert_is_put_into_words() {
    let (clock, home, old) = (Clock::new(), Authority::root("home"), Authority::root("old"));
    let server = peer(&clock, &bundle(2, &[(HOME, &[&home])]), &home.leaf(&id("pay")));
    let caller = peer(&clock, &bundle(1, &[(HOME, &[&home, &old])]), &old.leaf(&id("web")));
    let (near, far) = raw::sockets().await;
    let pay = id("pay");
    let (connected, accepted) = tokio::join!(caller.connect(near, &pay, Alpn::Tcp), server.accept(far));
    let refused = accepted.unwrap_err();
    assert!(matches!(refused, HandshakeError::Certificate(Side::Caller, CertificateFault::UnknownIssuer)));
    let error = connected.unwrap().stream.read_u8().await.unwrap_err();
    let error = HandshakeError::from_io(Side::Server(pay), error);
    assert!(matches!(error, HandshakeError::Alert(_, AlertDescription::UnknownCA)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "server spiffe://cluster.local/ns/shop/sa/pay refused the handshake: it does not trust the root of our \
         certificate (unknown_ca); compare both sides' trust bundles"
    );
}

/// What a raw client ends up speaking with one of ours.
async fn accept_raw(
    server: &byrnie_identity::Identity,
    chain: Option<&Chain>,
    alpn: &[&[u8]],
) -> Result<Alpn, HandshakeError> {
    let (near, far) = raw::sockets().await;
    let client = TlsConnector::from(raw::client(chain, alpn));
    let (_, accepted) =
        tokio::join!(client.connect(byrnie_identity::server_name(), near), server.accept(far));
    let accepted = accepted?;
    let web: SpiffeId = id("web");
    assert_eq!(accepted.peer, web);
    Ok(accepted.alpn)
}
