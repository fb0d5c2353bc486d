//! Trust as it travels: roots as bytes, because reading certificates is not this crate's business.

use std::collections::BTreeMap;

use byrnie_model::TrustDomain;

/// The roots of every trust domain at one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Trust {
    /// Never decreases; a lower one is ignored.
    pub epoch: u64,
    /// Certificates in DER, at least one for each trust domain.
    pub roots: BTreeMap<TrustDomain, Vec<Vec<u8>>>,
    /// SHA-256 of the public key of the authority that signs now: a leaf of another one is renewed.
    pub signer: Option<[u8; 32]>,
}
