//! How TLS is spoken: 1.3 only, one provider, AES-128-GCM and X25519 first, no resumption, no early data.
//!
//! A resumed session would carry on an identity that has expired or lost its root, because TLS does not verify the
//! certificate again; so neither side stores sessions and the server sends no tickets. Knows verifiers as trait
//! objects, not their rules.

use std::sync::{Arc, LazyLock};

use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
    version::TLS13,
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// Bytes of a TLS record: a receiver holds a whole one, as it came and in clear, for a reader that does not read.
const RECORD: usize = 4 * 1024;
const ONLY_TLS13: &str = "the provider has suites and groups for TLS 1.3";

/// The one provider. Passed to every configuration, so that no process-wide default is needed.
pub fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

pub(crate) fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

/// A server; `clients` is `None` where callers have no certificate (and prove themselves otherwise).
pub(crate) fn server(
    clients: Option<Arc<dyn ClientCertVerifier>>,
    own: &Arc<CertifiedKey>,
    alpn: &[&[u8]],
    clock: &Arc<dyn TimeProvider>,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_details(provider(), clock.clone())
        .with_protocol_versions(&[&TLS13])
        .expect(ONLY_TLS13)
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_fragment_size = Some(RECORD);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A client; `own` is `None` before it has a certificate.
pub(crate) fn client(
    servers: Arc<dyn ServerCertVerifier>,
    own: Option<&Arc<CertifiedKey>>,
    alpn: &[&[u8]],
    clock: &Arc<dyn TimeProvider>,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_details(provider(), clock.clone())
        .with_protocol_versions(&[&TLS13])
        .expect(ONLY_TLS13)
        .dangerous()
        .with_custom_certificate_verifier(servers);
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.max_fragment_size = Some(RECORD);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}
