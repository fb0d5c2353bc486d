//! A certificate of our own with its key.

use std::{fmt, sync::Arc, time::SystemTime};

use byrnie_model::SpiffeId;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use thiserror::Error;

use crate::{
    key::KeyPair,
    tls,
    verify::{CertificateFault, Claim, MAX_CHAIN, MAX_INTERMEDIATES, read_leaf},
};

/// What this process presents to its peers.
pub struct Leaf {
    /// Leaf first, then intermediates; never the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The one name in it.
    pub id: SpiffeId,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity; connections end with it.
    pub not_after: SystemTime,
    /// [`crate::spki_sha256`] of the authority that signed it. Known once the leaf is installed, because a root is not
    /// part of the chain; compare with [`crate::TrustBundle::signer`].
    pub issuer: Option<[u8; 32]>,
    pub(crate) certified: Arc<CertifiedKey>,
}

/// Why a chain and a key are not a leaf.
#[derive(Debug, Error)]
pub enum LeafError {
    /// Not PEM.
    #[error("certificate chain is not PEM; check the file")]
    Pem,
    /// No certificate.
    #[error("certificate chain is empty")]
    Empty,
    /// A rule is broken that every peer would apply.
    #[error("peers would refuse it: {0}")]
    Fault(#[from] CertificateFault),
    /// Chain and key belong to different requests.
    #[error("the key does not belong to the certificate of {0}")]
    OtherKey(SpiffeId),
    /// The provider does not take the key.
    #[error("cannot use the private key: {0}")]
    Key(rustls::Error),
    /// The id is of a trust domain that is not ours.
    #[error("certificate of {found} does not belong to trust domain {expected}")]
    OtherTrustDomain {
        /// The identity's trust domain.
        expected: byrnie_model::TrustDomain,
        /// The leaf's name.
        found: SpiffeId,
    },
    /// Without roots nothing can vouch for it.
    #[error("no trust bundle is installed; install the bundle before the leaf")]
    NoBundle,
}

impl Leaf {
    /// Puts chain and key together.
    ///
    /// The chain must fit the key and its leaf must keep the rules for peers in both roles. Who signed it is looked at
    /// when it is installed.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: KeyPair) -> Result<Self, LeafError> {
        let leaf = chain.first().ok_or(LeafError::Empty)?;
        if chain.len() > MAX_INTERMEDIATES + 1 || chain.iter().map(|c| c.len()).sum::<usize>() > MAX_CHAIN {
            return Err(CertificateFault::TooLong.into());
        }
        let Claim { id, not_before, not_after } = read_leaf(leaf, None)?;
        let signer =
            tls::provider().key_provider.load_private_key(key.private_der()).map_err(LeafError::Key)?;
        drop(key);
        let certified = Arc::new(CertifiedKey::new(chain.clone(), signer));
        match certified.keys_match() {
            Ok(()) => Ok(Self { chain, id, not_before, not_after, issuer: None, certified }),
            Err(rustls::Error::InconsistentKeys(_)) => Err(LeafError::OtherKey(id)),
            Err(error) => Err(LeafError::Key(error)),
        }
    }

    /// The same from PEM, for use without Kubernetes.
    pub fn from_pem(chain: &[u8], key: KeyPair) -> Result<Self, LeafError> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|_| LeafError::Pem)?;
        Self::new(chain, key)
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, not_before, not_after, .. } = self;
        f.debug_struct("Leaf")
            .field("id", id)
            .field("not_before", not_before)
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}
