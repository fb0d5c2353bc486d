//! Trust bundles: which roots vouch for which trust domain, and at which epoch.

use std::{collections::BTreeMap, sync::Arc};

use byrnie_model::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};
use thiserror::Error;

/// All roots of one epoch. A root vouches for its own trust domain and no other.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TrustBundle {
    /// Grows with every change; a lower one is never installed.
    pub epoch: u64,
    /// Roots in DER.
    pub roots: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    /// [`spki_sha256`] of the authority that signs now; compare with [`crate::Leaf::issuer`] to know when to renew.
    pub signer: Option<[u8; 32]>,
}

/// [`spki_sha256`] of a root.
pub type RootId = [u8; 32];

/// Why roots are of no use.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BundleError {
    /// Not PEM.
    #[error("roots of trust domain {0} are not certificates in PEM")]
    Pem(TrustDomain),
    /// No certificate at all.
    #[error("trust domain {0} has no root; check its trust bundle")]
    Empty(TrustDomain),
    /// Not a certificate.
    #[error("root {index} of trust domain {trust_domain} is not an X.509 certificate: {problem}")]
    Root {
        /// Whose.
        trust_domain: TrustDomain,
        /// Counted from 0.
        index: usize,
        /// What webpki says.
        problem: webpki::Error,
    },
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, which names an authority.
pub fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<RootId, webpki::Error> {
    let anchor = webpki::anchor_from_trusted_cert(certificate)?;
    Ok(root_id(&anchor))
}

impl TrustBundle {
    /// One trust domain's roots from PEM, at epoch 0 and without a signer.
    pub fn from_pem(trust_domain: &TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|_| BundleError::Pem(trust_domain.clone()))?;
        let bundle = Self { roots: [(trust_domain.clone(), roots)].into(), ..Self::default() };
        Anchors::new(&bundle)?;
        Ok(bundle)
    }

    /// One trust domain's roots in PEM; empty when the bundle does not have it.
    pub fn to_pem(&self, trust_domain: &TrustDomain) -> String {
        let roots = self.roots.get(trust_domain).into_iter().flatten();
        pem::encode_many(&roots.map(|root| pem::Pem::new("CERTIFICATE", root.to_vec())).collect::<Vec<_>>())
    }
}

/// A bundle's roots, read once for all handshakes.
#[derive(Clone, Debug)]
pub(crate) struct Anchors(Arc<BTreeMap<Box<str>, Roots>>);

/// A trust domain's.
#[derive(Debug, Default)]
struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    ids: Vec<RootId>,
}

impl Anchors {
    pub(crate) fn new(bundle: &TrustBundle) -> Result<Self, BundleError> {
        let mut anchors = BTreeMap::new();
        for (trust_domain, roots) in &bundle.roots {
            if roots.is_empty() {
                return Err(BundleError::Empty(trust_domain.clone()));
            }
            let read =
                roots.iter().enumerate().map(|(index, root)| {
                    let anchor = webpki::anchor_from_trusted_cert(root).map_err(|problem| {
                        BundleError::Root { trust_domain: trust_domain.clone(), index, problem }
                    })?;
                    Ok(anchor.to_owned())
                });
            let read = read.collect::<Result<Vec<TrustAnchor<'static>>, _>>()?;
            let ids = read.iter().map(root_id).collect();
            anchors.insert(trust_domain.as_str().into(), Roots { anchors: read, ids });
        }
        Ok(Self(Arc::new(anchors)))
    }

    /// The roots that may vouch for a trust domain.
    pub(crate) fn of(&self, trust_domain: &str) -> &[TrustAnchor<'static>] {
        self.0.get(trust_domain).map_or(&[], |roots| &roots.anchors)
    }

    /// The one that must have vouched for a certificate of this trust domain that was verified, if there is but one.
    pub(crate) fn only(&self, trust_domain: &str) -> Option<RootId> {
        match self.0.get(trust_domain)?.ids[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether it is among them, of whichever trust domain.
    pub(crate) fn has(&self, root: &RootId) -> bool {
        self.0.values().any(|roots| roots.ids.contains(root))
    }
}

pub(crate) fn root_id(anchor: &TrustAnchor<'_>) -> RootId {
    sha256(&webpki::spki_for_anchor(anchor))
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
