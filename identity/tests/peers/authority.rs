//! Authorities that sign whatever a test asks for, and a clock that a test turns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use byrnie_identity::{Identity, KeyPair, Leaf, TrustBundle};
use byrnie_model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) const HOME: &str = "cluster.local";
pub(crate) const AWAY: &str = "other.example";

/// Noon of a day in 2026.
pub(crate) const NOON: u64 = 1_780_000_000;

/// Seconds since 1970.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(NOON)))
    }

    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&domain(HOME), "shop", account).unwrap()
}

/// A certificate with the key that belongs to it, and what lies between it and the root.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) key_pem: String,
}

impl Chain {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        rustls_pki_types::pem::PemObject::from_pem_slice(self.key_pem.as_bytes()).unwrap()
    }

    pub(crate) fn leaf(&self) -> Leaf {
        Leaf::new(self.certificates.clone(), KeyPair::from_pem(&self.key_pem).unwrap()).unwrap()
    }
}

/// Something that signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    /// Itself and what lies above it, without the root.
    below_root: Vec<CertificateDer<'static>>,
    pub(crate) certificate: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let key = p256();
        let params = authority(name);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), below_root: vec![], certificate }
    }

    /// An intermediate, otherwise than usual.
    pub(crate) fn intermediate(&self, name: &str, otherwise: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = p256();
        let mut params = authority(name);
        otherwise(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let below_root = [vec![certificate.clone()], self.below_root.clone()].concat();
        Self { issuer: Issuer::new(params, key), below_root, certificate }
    }

    /// A good leaf.
    pub(crate) fn leaf(&self, id: &SpiffeId) -> Chain {
        self.sign(&leaf(id.as_str()))
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Chain {
        let key = p256();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let certificates = [vec![leaf], self.below_root.clone()].concat();
        Chain { certificates, key_pem: key.serialize_pem() }
    }
}

/// What the control has: each hostile certificate differs from it in one property.
pub(crate) fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = at(NOON - 600).into();
    params.not_after = at(NOON + 86_400).into();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(name)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

pub(crate) fn uri(name: &str) -> SanType {
    SanType::URI(name.to_owned().try_into().unwrap())
}

/// Nobody yet.
pub(crate) fn stranger(clock: &Arc<Clock>) -> Identity {
    Identity::with_clock(domain(HOME), clock.clone())
}

/// A peer that trusts these roots and shows this chain.
pub(crate) fn peer(clock: &Arc<Clock>, roots: &TrustBundle, chain: &Chain) -> Identity {
    let identity = stranger(clock);
    assert!(identity.install_bundle(roots.clone()).unwrap());
    identity.install_leaf(chain.leaf()).unwrap();
    identity
}

pub(crate) fn bundle(epoch: u64, roots: &[(&str, &[&Authority])]) -> TrustBundle {
    let certificates = |list: &[&Authority]| list.iter().map(|a| a.certificate.clone()).collect();
    TrustBundle {
        epoch,
        roots: roots.iter().map(|(name, list)| (domain(name), certificates(list))).collect(),
        signer: None,
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = at(NOON - 86_400).into();
    params.not_after = at(NOON + 31_536_000).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn p256() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}
