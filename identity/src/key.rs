//! Key pairs: P-256, made in memory, never printed and never written anywhere.

use std::fmt;

use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

/// A private key and its public half. A proxy makes a new one for each certificate.
pub struct KeyPair(rcgen::KeyPair);

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The provider could not make one.
    #[error("cannot make a P-256 key: {0}")]
    Generate(rcgen::Error),
    /// The request could not be signed.
    #[error("cannot make a certificate request: {0}")]
    Request(rcgen::Error),
    /// Not a key in PEM.
    #[error("private key is not PKCS#8 in PEM; check the file (BEGIN PRIVATE KEY)")]
    Pem,
    /// A key of another kind.
    #[error(
        "private key is not on P-256; make one with openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
    )]
    NotP256,
}

impl KeyPair {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(KeyError::Generate)
    }

    /// Reads a key for use without Kubernetes, where certificates come from files.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = rcgen::KeyPair::from_pem(pem).map_err(|_| KeyError::Pem)?;
        if key.algorithm() == &PKCS_ECDSA_P256_SHA256 { Ok(Self(key)) } else { Err(KeyError::NotP256) }
    }

    /// A PKCS#10 request in DER. It has no name: names come from whoever signs.
    pub fn certificate_request(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(KeyError::Request)?;
        Ok(request.der().to_vec())
    }

    pub(crate) fn private_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(P-256)")
    }
}
