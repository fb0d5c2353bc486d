//! Configurations for the control plane, which makes its handshakes itself.

use byrnie_identity::{CertificateFault, HandshakeError, Side, peer_of, server_name};
use rustls_pki_types::CertificateDer;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    authority::{Authority, Clock, HOME, NOON, at, bundle, id, peer, stranger},
    raw,
};

const H2: &[&[u8]] = &[b"h2"];

#[tokio::test]
async fn calls_to_the_control_plane_are_mutual() {
    let (clock, home) = (Clock::new(), Authority::root("home"));
    let roots = bundle(1, &[(HOME, &[&home])]);
    let proxy = peer(&clock, &roots, &home.leaf(&id("web")));
    let operator = peer(&clock, &roots, &home.leaf(&id("operator")));

    let (near, far) = raw::sockets().await;
    let connector = TlsConnector::from(proxy.client_config(&id("operator"), H2).unwrap());
    let acceptor = TlsAcceptor::from(operator.server_config(H2).unwrap());
    let (near, far) = tokio::join!(connector.connect(server_name(), near), acceptor.accept(far));
    let (near, far) = (near.unwrap(), far.unwrap());
    let caller = peer_of(far.get_ref().1).unwrap();
    assert_eq!((caller.id, caller.not_after), (id("web"), at(NOON + 86_400)));
    assert_eq!(peer_of(near.get_ref().1).unwrap().id, id("operator"));
    assert_eq!(near.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    let (near, far) = raw::sockets().await;
    let connector = TlsConnector::from(proxy.client_config(&id("injector"), H2).unwrap());
    let acceptor = TlsAcceptor::from(operator.server_config(H2).unwrap());
    let (near, far) = tokio::join!(connector.connect(server_name(), near), acceptor.accept(far));
    let refused = HandshakeError::from_io(Side::Server(id("injector")), near.unwrap_err());
    assert!(
        matches!(refused, HandshakeError::Certificate(_, CertificateFault::OtherPeer { .. })),
        "{refused:?}"
    );
    assert!(far.is_err());
}

#[tokio::test]
async fn a_first_call_needs_no_certificate_but_knows_whom_it_calls() {
    let (clock, home, other) = (Clock::new(), Authority::root("home"), Authority::root("other"));
    let roots = bundle(1, &[(HOME, &[&home])]);
    let operator = peer(&clock, &roots, &home.leaf(&id("operator")));
    let newcomer = stranger(&clock);
    let call = async |config| {
        let (near, far) = raw::sockets().await;
        let acceptor = TlsAcceptor::from(operator.server_without_client_auth(H2).unwrap());
        let (near, far) =
            tokio::join!(TlsConnector::from(config).connect(server_name(), near), acceptor.accept(far));
        near.map(|_| assert_eq!(peer_of(far.unwrap().get_ref().1), None))
            .map_err(|error| HandshakeError::from_io(Side::Server(id("operator")), error))
    };
    call(newcomer.client_without_certificate(&roots, &id("operator"), H2).unwrap()).await.unwrap();
    let elsewhere = newcomer.client_without_certificate(&roots, &id("web"), H2).unwrap();
    assert_eq!(call(elsewhere).await.unwrap_err().reason(), "unexpected-peer");
    let stale = bundle(1, &[(HOME, &[&other])]);
    let stale = newcomer.client_without_certificate(&stale, &id("operator"), H2).unwrap();
    assert_eq!(call(stale).await.unwrap_err().reason(), "unknown-issuer");
    assert!(newcomer.bundle().is_none());
    let mut broken = roots;
    broken.roots.values_mut().for_each(|list| list.push(CertificateDer::from(vec![1])));
    assert!(newcomer.client_without_certificate(&broken, &id("operator"), H2).is_err());
}
