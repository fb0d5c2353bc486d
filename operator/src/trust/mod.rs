//! Whom the mesh trusts and who signs: the state that MeshTrust's status holds, as plain data.
//!
//! MeshTrust "default" is the only mutable truth, changed by compare-and-swap; each root's key lies in a Secret of
//! its own, made before it is referenced. The types carry what rotation needs (reliability.md section 3.2).

pub mod announce;
pub mod authority;
pub mod csr;
pub mod current;
pub mod establish;
pub mod federation;
pub mod fleet;
pub mod own_leaf;
pub mod root_secret;
pub mod rotation;

use std::{fmt, str::FromStr, time::SystemTime};

use byrnie_api::v1;
use byrnie_crds::{
    MeshTrust,
    compile::{self, TrustPlan},
    meshtrust::{self, MeshTrustStatus, Phase, RootState},
    problem::in_one_line,
};
use byrnie_model::TrustDomain;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use rcgen::PublicKeyData;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use thiserror::Error;

pub use authority::{Authority, AuthorityError, Issued};

/// SHA-256 of a public key (its SubjectPublicKeyInfo): names roots and signers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AuthorityId([u8; 32]);

/// One root of the own trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Root {
    /// Of its key.
    pub id: AuthorityId,
    /// What peers trust.
    pub certificate: CertificateDer<'static>,
    /// What it is for.
    pub state: RootState,
    /// Its end.
    pub not_after: SystemTime,
}

/// An older state was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Restored {
    /// When that was noticed.
    pub since: SystemTime,
    /// Nothing is signed.
    pub frozen: bool,
}

/// The whole state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrustState {
    /// The first part of every identity.
    pub domain: TrustDomain,
    /// Grows with every change; proxies ignore a lower one.
    pub epoch: u64,
    /// Where a rotation is.
    pub phase: Phase,
    /// When that phase began.
    pub since: SystemTime,
    /// The last request for a rotation that was answered.
    pub request: Option<String>,
    /// Proxies know of a later epoch.
    pub restored: Option<Restored>,
    /// The roots of the own domain.
    pub roots: Vec<Root>,
    /// Whose key signs.
    pub signer: AuthorityId,
}

/// What is wrong with MeshTrust.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MeshTrustError {
    /// A spec that is not understood.
    #[error("MeshTrust default is not understood: {0}")]
    Spec(String),
    /// A status that nobody of ours wrote.
    #[error(
        "MeshTrust status.{0} is not as the operator writes it; restore it from a backup or delete the object"
    )]
    Status(&'static str),
}

/// What the spec asks for.
pub fn plan(object: &MeshTrust) -> Result<TrustPlan, MeshTrustError> {
    compile::mesh_trust(object).map_err(|problems| MeshTrustError::Spec(in_one_line(&problems)))
}

impl Root {
    /// Of an authority that signs or will.
    pub fn of(authority: &Authority, state: RootState) -> Self {
        let not_after = authority.not_after();
        Self { id: authority.root_id(), certificate: authority.root().clone(), state, not_after }
    }
}

impl AuthorityId {
    /// Of a SubjectPublicKeyInfo in DER.
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }

    /// Of a key.
    pub fn of_key(key: &impl PublicKeyData) -> Self {
        Self::of_spki(&key.subject_public_key_info())
    }

    /// As it travels to proxies.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 hexadecimal digits: for names of objects and for people.
    pub fn short(&self) -> String {
        Hex(&self.0[..8]).to_string()
    }
}

impl TrustState {
    /// Reads the status; `None` where no trust has been established yet.
    pub fn read(object: &MeshTrust, domain: TrustDomain) -> Result<Option<Self>, MeshTrustError> {
        let Some(status) = &object.status else { return Ok(None) };
        let Some(signer) = &status.signer else { return Ok(None) };
        let root = |root: &meshtrust::Root| {
            Some(Root {
                id: root.id.parse().ok()?,
                certificate: CertificateDer::from_pem_slice(root.certificate.as_bytes()).ok()?,
                state: root.state,
                not_after: root.not_after.0.into(),
            })
        };
        let roots =
            status.roots.iter().map(root).collect::<Option<_>>().ok_or(MeshTrustError::Status("roots"))?;
        let signer = signer.parse().map_err(|_| MeshTrustError::Status("signer"))?;
        let phase = status.phase.ok_or(MeshTrustError::Status("phase"))?;
        Ok(Some(Self {
            domain,
            epoch: status.epoch,
            phase,
            since: status.phase_since.as_ref().map_or(SystemTime::UNIX_EPOCH, |at| at.0.into()),
            request: status.request.clone(),
            restored: status
                .restored
                .as_ref()
                .map(|restored| Restored { since: restored.since.0.into(), frozen: restored.frozen }),
            roots,
            signer,
        }))
    }

    /// Puts the state into a status and leaves the rest of it alone.
    pub fn write(&self, status: &mut MeshTrustStatus) {
        status.phase = Some(self.phase);
        status.phase_since = Some(time(self.since));
        status.request.clone_from(&self.request);
        status.restored = self
            .restored
            .map(|restored| meshtrust::Restored { since: time(restored.since), frozen: restored.frozen });
        status.epoch = self.epoch;
        status.signer = Some(self.signer.to_string());
        let root = |root: &Root| meshtrust::Root {
            id: root.id.to_string(),
            certificate: pem(&root.certificate),
            not_after: time(root.not_after),
            state: root.state,
        };
        status.roots = self.roots.iter().map(root).collect();
    }

    /// The trusted certificates in PEM.
    pub fn trusted_pem(&self) -> String {
        self.trusted().map(|root| pem(root)).collect()
    }

    /// One of the roots, in or out of the bundle.
    pub fn root(&self, id: AuthorityId) -> Option<&Root> {
        self.roots.iter().find(|root| root.id == id)
    }

    /// The root that is to sign next.
    pub fn staged(&self) -> Option<&Root> {
        self.roots.iter().find(|root| root.state == RootState::Staged)
    }

    /// Roots that signed before, the oldest first.
    pub fn draining(&self) -> impl Iterator<Item = &Root> {
        self.roots.iter().filter(|root| root.state == RootState::Draining)
    }

    /// The certificates to trust.
    pub fn trusted(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().filter(|root| root.state != RootState::Tainted).map(|root| &root.certificate)
    }

    /// As it is sent to proxies.
    pub fn message(&self) -> v1::Trust {
        let certificates = self.trusted().map(|root| root.to_vec()).collect();
        v1::Trust {
            epoch: self.epoch,
            roots: vec![v1::Roots { trust_domain: self.domain.as_str().to_owned(), certificates }],
            signer: self.signer.as_bytes().to_vec(),
            federated: Vec::new(),
        }
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for AuthorityId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str = "an authority's id is 64 hexadecimal digits in lower case";
        let mut id = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(PROBLEM);
        }
        for (byte, at) in id.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| PROBLEM)?;
        }
        Ok(Self(id))
    }
}

/// A moment as Kubernetes writes it, in whole seconds.
pub fn time(at: SystemTime) -> Time {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Time(i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX))
}

/// A certificate in PEM.
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    let format = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate.as_ref()), format)
}

/// Bytes in hexadecimal.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests;
