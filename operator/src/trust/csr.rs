//! Reads the public key out of a certificate request, and nothing else. Names, extensions and attributes are never
//! looked at: what a certificate says comes from the token and the pod.

use rcgen::SubjectPublicKeyInfo;
use thiserror::Error;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

/// The longest request, in bytes; ours has about 200.
pub const MAX_LEN: usize = 4096;

/// Why a request gives no key.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CsrError {
    /// Longer than [`MAX_LEN`].
    #[error("certificate request has {0} bytes, at most {MAX_LEN} are read")]
    TooLong(usize),
    /// Not a PKCS#10 request, or more than one.
    #[error("certificate request is not PKCS#10 in DER")]
    NotPkcs10,
    /// RSA, another curve, or a compressed point.
    #[error("certificate request's key is not on P-256 in uncompressed form")]
    KeyType,
    /// Not signed by the key in it.
    #[error("certificate request is not signed by its own key")]
    Signature,
}

/// The key, once the request proves that its sender holds it.
pub fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if der.len() > MAX_LEN {
        return Err(CsrError::TooLong(der.len()));
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(der) else { return Err(CsrError::NotPkcs10) };
    let spki = &request.certification_request_info.subject_pki;
    let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| CsrError::KeyType)?;
    let point = &spki.subject_public_key.data;
    let p256 = *rcgen::PublicKeyData::algorithm(&key) == rcgen::PKCS_ECDSA_P256_SHA256;
    if !p256 || point.len() != 65 || point[0] != 4 {
        return Err(CsrError::KeyType);
    }
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use byrnie_model::SpiffeId;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        KeyUsagePurpose, PublicKeyData, SanType,
    };
    use x509_parser::prelude::{GeneralName, X509Certificate};

    use super::*;
    use crate::trust::{Authority, AuthorityId};

    fn key() -> KeyPair {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    /// What the mesh would answer to a request.
    fn issue(request: &[u8]) -> Result<Vec<u8>, CsrError> {
        let key = public_key(request)?;
        let now = SystemTime::now();
        let domain = "cluster.local".parse().unwrap();
        let authority = Authority::generate(&domain, Duration::from_hours(24), now).unwrap();
        let id = SpiffeId::new(&domain, "shop", "web").unwrap();
        Ok(authority.sign(&key, &id, Duration::from_hours(1), now).unwrap().chain[0].to_vec())
    }

    fn assert_only_our_names(leaf: &[u8], key: &KeyPair) {
        let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
        assert_eq!(leaf.subject().iter().count(), 0);
        assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && extended.server_auth && !extended.any && !extended.code_signing);
        assert_eq!(AuthorityId::of_spki(leaf.public_key().raw), AuthorityId::of_key(key));
    }

    #[test]
    fn what_a_request_asks_for_is_ignored() {
        let with = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = CertificateParams::default();
            change(&mut params);
            params
        };
        let wishes: Vec<CertificateParams> = vec![
            with(&|_| {}),
            with(&|p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/kube-system/sa/admin")]),
            with(&|p| p.subject_alt_names = vec![SanType::DnsName("*.example.org".try_into().unwrap())]),
            with(&|p| p.subject_alt_names = (0..100).map(|i| uri(&format!("spiffe://td/{i}"))).collect()),
            with(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            with(&|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            with(&|p| {
                p.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
            }),
            with(&|p| p.distinguished_name.push(DnType::CommonName, "spiffe://cluster.local/ns/a/sa/b\0")),
            with(&|p| {
                p.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3], vec![0xff; 100])];
            }),
        ];
        for params in wishes {
            let key = key();
            let request = params.serialize_request(&key).unwrap();
            assert_only_our_names(&issue(request.der()).unwrap(), &key);
        }
    }

    #[test]
    fn a_thousand_names_are_too_long() {
        let mut params = CertificateParams::default();
        params.subject_alt_names = (0..1000).map(|i| uri(&format!("spiffe://td/{i}"))).collect();
        let request = params.serialize_request(&key()).unwrap();
        assert_eq!(issue(request.der()), Err(CsrError::TooLong(request.der().len())));
    }

    #[test]
    fn other_keys_are_refused() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateParams::default().serialize_request(&key).unwrap();
            assert_eq!(issue(request.der()), Err(CsrError::KeyType), "{algorithm:?}");
        }
    }

    #[test]
    fn a_key_that_the_sender_does_not_hold_is_refused() {
        struct Borrowed(KeyPair, KeyPair);
        impl PublicKeyData for Borrowed {
            fn der_bytes(&self) -> &[u8] {
                self.0.der_bytes()
            }
            fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
                &rcgen::PKCS_ECDSA_P256_SHA256
            }
        }
        impl rcgen::SigningKey for Borrowed {
            fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
                self.1.sign(message)
            }
        }
        let request = CertificateParams::default().serialize_request(&Borrowed(key(), key())).unwrap();
        assert_eq!(issue(request.der()), Err(CsrError::Signature));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let key = key();
        let request = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        for at in 0..request.len() {
            for bit in [0x01, 0x80] {
                let mut changed = request.clone();
                changed[at] ^= bit;
                // The signature has a second form for the same proof; any other success would be a forged request.
                if let Ok(leaf) = issue(&changed) {
                    assert_only_our_names(&leaf, &key);
                }
            }
            assert_eq!(issue(&request[..at]), Err(CsrError::NotPkcs10), "cut at {at}");
        }
        let two = [request.clone(), request].concat();
        assert_eq!(issue(&two), Err(CsrError::NotPkcs10));
        assert_eq!(issue(b""), Err(CsrError::NotPkcs10));
        assert_eq!(issue(&[0x30; 4096]), Err(CsrError::NotPkcs10));
        assert_eq!(issue(&[0xff; 100]), Err(CsrError::NotPkcs10));
    }
}
