//! An authority: a root, the certificates below it and the key that signs leaves.
//!
//! Self-made authorities have one tier: the root signs. Those from a `kubernetes.io/tls` Secret are an intermediate
//! under somebody's root. Owns what a leaf looks like; knows neither requests nor Kubernetes.

use std::time::{Duration, SystemTime};

use byrnie_model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::AuthorityId;

/// How far a certificate's start lies in the past, for clocks that are behind (reliability.md section 3.2).
pub const BACKDATE: Duration = Duration::from_mins(10);

/// An authority with less than this left signs nothing: such a leaf would end before it is of use.
const SHORTEST_LEAF: Duration = Duration::from_mins(1);

/// See the module.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    id: AuthorityId,
    root: CertificateDer<'static>,
    root_id: AuthorityId,
    chain: Vec<CertificateDer<'static>>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// A signed leaf.
#[derive(Debug)]
pub struct Issued {
    /// Leaf first, then what lies between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// 128 random bits in hexadecimal.
    pub serial: String,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it expires.
    pub not_after: SystemTime,
}

/// Why there is no authority, or no leaf.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// Not PEM, or not what the PEM says it is.
    #[error("{0} is not readable PEM; check the Secret")]
    Pem(&'static str),
    /// No certificate.
    #[error("tls.crt has no certificate; check the Secret")]
    NoCertificate,
    /// Not an X.509 certificate.
    #[error("certificate {0} of tls.crt or ca.crt is not X.509")]
    NotX509(usize),
    /// A leaf in the place of an authority.
    #[error(
        "certificate \"{0}\" may not sign others (basicConstraints CA and keyUsage keyCertSign are required)"
    )]
    NotAnAuthority(String),
    /// The chain has no end.
    #[error("no self-signed root above \"{0}\"; put it into ca.crt of the Secret")]
    NoRoot(String),
    /// Certificate and key are not a pair.
    #[error("tls.key does not belong to the first certificate of tls.crt")]
    WrongKey,
    /// Nothing valid is left to sign with.
    #[error("authority {id} is valid until {not_after}, which is too soon to sign; renew it")]
    Expired {
        /// Which.
        id: AuthorityId,
        /// Its end, or the first end in its chain.
        not_after: OffsetDateTime,
    },
    /// The signer refused.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
    /// No random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

impl Authority {
    /// A new root with a key of its own.
    pub fn generate(
        domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let id = AuthorityId::of_key(&key);
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        params.not_after = OffsetDateTime::from(now + lifetime);
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, domain.as_str());
        params.distinguished_name.push(DnType::CommonName, format!("byrnie root {}", id.short()));
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root: CertificateDer<'static> = params.self_signed(&key)?.into();
        Self::new(&[root], key)
    }

    /// Reads `tls.crt` (the signing certificate first), `tls.key` and `ca.crt`.
    pub fn from_pem(certificates: &[u8], key: &[u8], roots: Option<&[u8]>) -> Result<Self, AuthorityError> {
        let mut chain = pem_certificates(certificates, "tls.crt")?;
        if let Some(roots) = roots {
            for root in pem_certificates(roots, "ca.crt")? {
                if !chain.contains(&root) {
                    chain.push(root);
                }
            }
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| AuthorityError::Pem("tls.key"))?;
        let key = KeyPair::try_from(&key).map_err(|_| AuthorityError::Pem("tls.key"))?;
        Self::new(&chain, key)
    }

    /// `certificates`: the signing one first; its issuers in any order.
    fn new(certificates: &[CertificateDer<'static>], key: KeyPair) -> Result<Self, AuthorityError> {
        let parsed = certificates
            .iter()
            .enumerate()
            .map(|(at, der)| match X509Certificate::from_der(der) {
                Ok(([], certificate)) => Ok(certificate),
                _ => Err(AuthorityError::NotX509(at)),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let signing = parsed.first().ok_or(AuthorityError::NoCertificate)?;
        let id = AuthorityId::of_spki(signing.public_key().raw);
        if id != AuthorityId::of_key(&key) {
            return Err(AuthorityError::WrongKey);
        }

        // From the signing certificate upwards: each is signed by the next; the last by itself.
        let mut path = vec![0];
        let mut at = 0;
        while parsed[at].verify_signature(None).is_err() || parsed[at].subject() != parsed[at].issuer() {
            let above = (0..parsed.len()).find(|&i| {
                !path.contains(&i)
                    && parsed[i].subject() == parsed[at].issuer()
                    && parsed[at].verify_signature(Some(parsed[i].public_key())).is_ok()
            });
            at = above.ok_or_else(|| AuthorityError::NoRoot(parsed[at].subject().to_string()))?;
            path.push(at);
        }
        for &i in &path {
            may_sign(&parsed[i])?;
        }
        let not_before = path.iter().map(|&i| parsed[i].validity().not_before.to_datetime()).max();
        let not_after = path.iter().map(|&i| parsed[i].validity().not_after.to_datetime()).min();
        let (Some(not_before), Some(not_after)) = (not_before, not_after) else {
            return Err(AuthorityError::NoCertificate);
        };
        let root_id = AuthorityId::of_spki(parsed[at].public_key().raw);
        let below_root = path.iter().filter(|&&i| i != at).map(|&i| certificates[i].clone()).collect();
        let root = certificates[at].clone();
        let issuer = Issuer::from_ca_cert_der(&certificates[0], key)?;
        Ok(Self { issuer, id, root, root_id, chain: below_root, not_before, not_after })
    }

    /// The key that signs.
    pub fn id(&self) -> AuthorityId {
        self.id
    }

    /// The root's key; the same as [`Self::id`] where the root signs itself.
    pub fn root_id(&self) -> AuthorityId {
        self.root_id
    }

    /// What peers must trust.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The first end among root and chain: nothing that is signed lasts longer.
    pub fn not_after(&self) -> SystemTime {
        self.not_after.into()
    }

    /// Whether it can sign now.
    pub fn usable(&self) -> bool {
        let now = OffsetDateTime::now_utc();
        self.not_before <= now && now + SHORTEST_LEAF < self.not_after
    }

    /// The key in PKCS#8 PEM, for its Secret and nothing else.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a leaf that carries one public key and one name, and nothing that anybody asked for.
    pub fn sign(
        &self,
        key: &impl PublicKeyData,
        name: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let not_after = self.not_after.min(OffsetDateTime::from(now + lifetime));
        if not_after < OffsetDateTime::from(now + SHORTEST_LEAF) {
            return Err(AuthorityError::Expired { id: self.id, not_after: self.not_after });
        }
        self.sign_between(key, name, now - BACKDATE, not_after.into())
    }

    /// The same from one moment to another, as far as this authority is valid then. In whole seconds.
    pub fn sign_between(
        &self,
        key: &impl PublicKeyData,
        name: &SpiffeId,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let whole = |at: OffsetDateTime| at.replace_nanosecond(0).unwrap_or(at);
        let not_before = whole(self.not_before.max(not_before.into()));
        let not_after = whole(self.not_after.min(not_after.into()));
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        params.not_before = not_before;
        params.not_after = not_after;
        params.serial_number = Some(serial.clone());
        // An empty subject makes the subject alternative name critical (RFC 5280 section 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(name.as_str().to_owned().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf: CertificateDer<'static> = params.signed_by(key, &self.issuer)?.into();
        let chain = std::iter::once(leaf).chain(self.chain.iter().cloned()).collect();
        Ok(Issued {
            chain,
            serial: hex(serial.as_ref()),
            not_before: not_before.into(),
            not_after: not_after.into(),
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn pem_certificates(pem: &[u8], name: &'static str) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| AuthorityError::Pem(name))
}

fn may_sign(certificate: &X509Certificate<'_>) -> Result<(), AuthorityError> {
    let authority = certificate.is_ca();
    let signs = certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    if authority && signs {
        Ok(())
    } else {
        Err(AuthorityError::NotAnAuthority(certificate.subject().to_string()))
    }
}

fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| AuthorityError::Random)?;
    // Positive and of constant length (RFC 5280 section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

fn hex(bytes: &[u8]) -> String {
    super::Hex(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use byrnie_identity::{Identity, Leaf, TrustBundle};

    use super::*;
    use crate::trust::{csr, pem};

    fn domain() -> TrustDomain {
        "cluster.local".parse().unwrap()
    }

    fn generate(lifetime: Duration) -> Authority {
        Authority::generate(&domain(), lifetime, SystemTime::now()).unwrap()
    }

    fn key() -> KeyPair {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
    }

    fn name() -> SpiffeId {
        "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
    }

    /// Somebody's root and an intermediate under it, as `(tls.crt, tls.key, ca.crt)`.
    fn external(change: impl FnOnce(&mut CertificateParams)) -> (String, String, String) {
        let named = |text: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, text);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params
        };
        let root = rcgen::CertifiedIssuer::self_signed(named("somebody's root"), key()).unwrap();
        let mut params = named("the mesh");
        params.not_after = OffsetDateTime::now_utc() + Duration::from_hours(10);
        change(&mut params);
        let signing = key();
        let intermediate: CertificateDer<'static> = params.signed_by(&signing, &root).unwrap().into();
        (pem(&intermediate), signing.serialize_pem(), pem(root.der()))
    }

    /// The peers' own judgement of a leaf.
    fn believed(authority: &Authority) -> Result<(), String> {
        let identity = Identity::new(domain());
        let roots = [(domain(), vec![authority.root().clone()])].into();
        let bundle = TrustBundle { epoch: 1, roots, signer: Some(*authority.id().as_bytes()) };
        identity.install_bundle(bundle).map_err(|e| e.to_string())?;
        let key = byrnie_identity::KeyPair::generate().unwrap();
        let public = csr::public_key(&key.certificate_request().unwrap()).unwrap();
        let issued = authority.sign(&public, &name(), Duration::from_hours(1), SystemTime::now()).unwrap();
        identity
            .install_leaf(Leaf::new(issued.chain, key).map_err(|e| e.to_string())?)
            .map_err(|e| e.to_string())?;
        let leaf = identity.leaf().unwrap();
        assert_eq!(leaf.issuer, Some(*authority.id().as_bytes()), "a proxy knows who signed");
        Ok(())
    }

    #[test]
    fn peers_believe_what_it_signs() {
        believed(&generate(Duration::from_hours(720))).unwrap();
        let (certificates, key, root) = external(|_| {});
        let chain = format!("{certificates}{root}");
        for authority in [
            Authority::from_pem(certificates.as_bytes(), key.as_bytes(), Some(root.as_bytes())).unwrap(),
            Authority::from_pem(chain.as_bytes(), key.as_bytes(), Some(root.as_bytes())).unwrap(),
            Authority::from_pem(chain.as_bytes(), key.as_bytes(), None).unwrap(),
        ] {
            assert_ne!(authority.id(), authority.root_id());
            assert_eq!(pem(authority.root()), root);
            believed(&authority).unwrap();
        }
    }

    #[test]
    fn a_secret_gives_back_the_same_authority() {
        let made = generate(Duration::from_hours(720));
        let read = Authority::from_pem(pem(made.root()).as_bytes(), made.key_pem().as_bytes(), None).unwrap();
        assert_eq!((read.id(), read.root()), (made.id(), made.root()));
        believed(&read).unwrap();
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }

    #[test]
    fn secrets_that_hold_no_authority() {
        let (certificates, secret, root) = external(|_| {});
        let error = |crt: &str, key: &str, ca: Option<&str>| {
            Authority::from_pem(crt.as_bytes(), key.as_bytes(), ca.map(str::as_bytes))
                .unwrap_err()
                .to_string()
        };
        assert!(error("", &secret, None).contains("no certificate"));
        assert!(error(&certificates, "", Some(&root)).contains("tls.key is not readable"));
        assert!(error(&certificates, &secret, None).contains("no self-signed root"));
        assert!(error(&certificates, &key().serialize_pem(), Some(&root)).contains("does not belong"));
        let (_, _, other_root) = external(|_| {});
        assert!(error(&certificates, &secret, Some(&other_root)).contains("no self-signed root"));
        for change in [
            |p: &mut CertificateParams| p.is_ca = IsCa::NoCa,
            |p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
        ] {
            let (certificates, secret, root) = external(change);
            assert!(error(&certificates, &secret, Some(&root)).contains("may not sign"));
        }
    }

    #[test]
    fn no_leaf_outlives_its_authority() {
        let (certificates, secret, root) = external(|_| {});
        let authority =
            Authority::from_pem(certificates.as_bytes(), secret.as_bytes(), Some(root.as_bytes())).unwrap();
        let now = SystemTime::now();
        let issued = authority.sign(&key(), &name(), Duration::from_hours(24), now).unwrap();
        assert_eq!(issued.not_after, authority.not_after());
        let young = generate(Duration::from_hours(720));
        let issued = young.sign(&key(), &name(), Duration::from_hours(24), now).unwrap();
        let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        let (_, root) = X509Certificate::from_der(young.root()).unwrap();
        assert!(leaf.validity().not_before >= root.validity().not_before);
        let backdated = OffsetDateTime::from(now) - leaf.validity().not_before.to_datetime();
        assert!(
            backdated <= BACKDATE + Duration::from_secs(1) && backdated + Duration::from_secs(5) > BACKDATE
        );
        let later = now + Duration::from_hours(720);
        assert!(matches!(
            young.sign(&key(), &name(), Duration::from_hours(24), later),
            Err(AuthorityError::Expired { .. })
        ));
    }

    #[test]
    fn serials_are_long_and_never_the_same() {
        let authority = generate(Duration::from_hours(24));
        let serials: std::collections::BTreeSet<String> = (0..100)
            .map(|_| {
                authority.sign(&key(), &name(), Duration::from_hours(1), SystemTime::now()).unwrap().serial
            })
            .collect();
        assert_eq!(serials.len(), 100);
        assert!(serials.iter().all(|serial| serial.len() == 32));
    }
}
