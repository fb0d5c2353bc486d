//! Who a peer is: the rules for X.509-SVIDs, the same in both directions.
//!
//! A leaf has exactly one name, a strict SPIFFE id; it is no authority; it is meant for its role; and it chains to a
//! root *of the trust domain in its name*. Sources: SPIFFE X509-SVID sections 2 to 5, RFC 5280 section 4.2. Knows no
//! TLS; `verifier.rs` puts these rules into rustls.

use std::{sync::Arc, time::SystemTime};

use byrnie_model::{SpiffeId, spiffe::SpiffeError};
use rustls::{CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    bundle::{Anchors, RootId, root_id, sha256},
    certificate::Certificate,
    tls,
};

/// Intermediates between leaf and root, at most.
pub const MAX_INTERMEDIATES: usize = 2;
/// Bytes of a chain, at most.
pub const MAX_CHAIN: usize = 16 * 1024;

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It identifies who accepts connections.
    Server,
    /// It identifies who opens them.
    Client,
}

/// Why a certificate is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CertificateFault {
    /// More than [`MAX_CHAIN`] bytes or [`MAX_INTERMEDIATES`] intermediates.
    #[error("chain is longer than {MAX_INTERMEDIATES} intermediates or {MAX_CHAIN} bytes")]
    TooLong,
    /// Not X.509 version 3 in DER.
    #[error("certificate is not X.509v3 in strict DER")]
    Malformed,
    /// Not exactly one URI and nothing else.
    #[error("certificate must have one name, a SPIFFE id; it has {uris} URIs and {others} other names")]
    Names {
        /// How many URI SANs.
        uris: usize,
        /// How many SANs of other kinds.
        others: usize,
    },
    /// The one name is no SPIFFE id of a workload.
    #[error("certificate's name is no workload's SPIFFE id: {0}")]
    Name(#[from] SpiffeError),
    /// An authority presents itself as a workload.
    #[error("certificate is an authority's (basicConstraints CA:true), not a workload's")]
    Authority,
    /// keyUsage is absent, lacks digitalSignature, or may sign certificates.
    #[error("certificate's keyUsage must be there with digitalSignature and without keyCertSign and cRLSign")]
    KeyUsage,
    /// extendedKeyUsage lacks the role.
    #[error(
        "certificate's extendedKeyUsage must have serverAuth and clientAuth; it lacks one that is needed here"
    )]
    Purpose,
    /// An intermediate whose keyUsage does not let it sign.
    #[error("an intermediate's keyUsage lacks keyCertSign")]
    Intermediate,
    /// No root of the trust domain in the name signed it.
    #[error("certificate is not signed by a root of its own trust domain; compare both sides' trust bundles")]
    UnknownIssuer,
    /// Too late.
    #[error("certificate has expired; check the peer's renewal and both clocks")]
    Expired,
    /// Too early.
    #[error("certificate is not valid yet; check both clocks")]
    NotYetValid,
    /// A good certificate of somebody else.
    #[error("{found} answers in the place of {expected}; check what listens at the address")]
    OtherPeer {
        /// Who was called.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
    /// The chain is broken in another way.
    #[error("chain does not verify: {0}")]
    Chain(webpki::Error),
}

/// What a certificate that passed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) id: SpiffeId,
    /// [`crate::spki_sha256`] of whoever signed the leaf.
    pub(crate) issuer: [u8; 32],
    /// Where the chain ends.
    pub(crate) root: RootId,
}

/// What a leaf says about itself, before anybody vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// A verified peer, for servers that make their handshakes themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its one name.
    pub id: SpiffeId,
    /// The connection must not outlive it.
    pub not_after: SystemTime,
}

/// Reads the peer of a connection whose handshake was made with one of this crate's configurations, and so verified.
/// `None` where the peer has no certificate.
pub fn peer_of(connection: &rustls::CommonState) -> Option<Peer> {
    let leaf = connection.peer_certificates()?.first()?;
    let claim = [Role::Client, Role::Server].into_iter().find_map(|role| read_leaf(leaf, Some(role)).ok())?;
    Some(Peer { id: claim.id, not_after: claim.not_after })
}

/// Applies all rules.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &Anchors,
    role: Role,
    now: UnixTime,
) -> Result<Verified, CertificateFault> {
    let size = leaf.len() + intermediates.iter().map(|c| c.len()).sum::<usize>();
    if intermediates.len() > MAX_INTERMEDIATES || size > MAX_CHAIN {
        return Err(CertificateFault::TooLong);
    }
    let end_entity = EndEntityCert::try_from(leaf).map_err(chain_fault)?;
    let Claim { id, .. } = read_leaf(leaf, Some(role))?;
    for intermediate in intermediates {
        let intermediate = Certificate::read(intermediate).map_err(|_| CertificateFault::Malformed)?;
        if intermediate.usage.is_some_and(|usage| !usage.key_cert_sign) {
            return Err(CertificateFault::Intermediate);
        }
    }
    let usage = match role {
        Role::Server => KeyUsage::server_auth(),
        Role::Client => KeyUsage::client_auth(),
    };
    let roots = anchors.of(id.trust_domain());
    let algorithms = tls::signature_algorithms().all;
    let path = end_entity
        .verify_for_usage(algorithms, roots, intermediates, now, usage, None, None)
        .map_err(chain_fault)?;
    Ok(Verified { id, issuer: sha256(&path.issuer_spki()), root: root_id(path.anchor()) })
}

/// Applies the rules for a leaf alone; `role` is `None` for a leaf that must serve in both.
pub(crate) fn read_leaf(leaf: &CertificateDer<'_>, role: Option<Role>) -> Result<Claim, CertificateFault> {
    let leaf = Certificate::read(leaf).map_err(|_| CertificateFault::Malformed)?;
    let names = leaf.names;
    let (Some(uri), 1, 0) = (names.uri, names.uris, names.others) else {
        return Err(CertificateFault::Names { uris: names.uris, others: names.others });
    };
    let id = uri.parse()?;
    if leaf.is_ca {
        return Err(CertificateFault::Authority);
    }
    if !leaf.usage.is_some_and(|usage| usage.digital_signature && !usage.key_cert_sign && !usage.crl_sign) {
        return Err(CertificateFault::KeyUsage);
    }
    let fits = match role {
        Some(Role::Server) => leaf.server_auth,
        Some(Role::Client) => leaf.client_auth,
        None => leaf.server_auth && leaf.client_auth,
    };
    if !fits {
        return Err(CertificateFault::Purpose);
    }
    Ok(Claim { id, not_before: leaf.not_before, not_after: leaf.not_after })
}

fn chain_fault(error: webpki::Error) -> CertificateFault {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateFault::Malformed
        }
        // The second: a root of the same subject but another key.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            CertificateFault::UnknownIssuer
        }
        webpki::Error::CertExpired { .. } => CertificateFault::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateFault::NotYetValid,
        webpki::Error::CaUsedAsEndEntity => CertificateFault::Authority,
        other => CertificateFault::Chain(other),
    }
}

/// The rustls error whose TLS alert tells the peer as much as TLS can say; `fault_of` is the way back.
impl From<CertificateFault> for rustls::Error {
    fn from(fault: CertificateFault) -> Self {
        Self::InvalidCertificate(match fault {
            CertificateFault::Malformed => CertificateError::BadEncoding,
            CertificateFault::UnknownIssuer => CertificateError::UnknownIssuer,
            CertificateFault::Expired => CertificateError::Expired,
            CertificateFault::NotYetValid => CertificateError::NotValidYet,
            CertificateFault::Purpose => CertificateError::InvalidPurpose,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// The fault behind a rustls error, where one of ours is.
pub(crate) fn fault_of(error: &rustls::Error) -> Option<CertificateFault> {
    let rustls::Error::InvalidCertificate(error) = error else { return None };
    match error {
        CertificateError::BadEncoding => Some(CertificateFault::Malformed),
        CertificateError::UnknownIssuer => Some(CertificateFault::UnknownIssuer),
        CertificateError::Expired => Some(CertificateFault::Expired),
        CertificateError::NotValidYet => Some(CertificateFault::NotYetValid),
        CertificateError::InvalidPurpose => Some(CertificateFault::Purpose),
        CertificateError::Other(OtherError(other)) => other.downcast_ref().cloned(),
        _ => None,
    }
}
