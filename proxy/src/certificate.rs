//! The proxy's certificate: the first one, and a new one with a new key at half of its life, or as soon as another
//! authority signs.
//!
//! It comes from the kubelet, where that asks for the pod's certificates and has a newer one; else from the operator.
//! Owns when and from whom. A certificate that expires is not replaced by anything: connections then end.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use byrnie_api::{DecodeError, decode, v1};
use byrnie_identity::{BundleError, Identity, KeyError, KeyPair, Leaf, LeafError, TrustBundle, spki_sha256};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{
    backoff::Backoff,
    bootstrap::{self, BootstrapError, ControlPlane},
    control_channel,
    state::Shared,
};

/// An issuer that takes longer is asked again.
const ISSUE: Duration = Duration::from_secs(10);
/// The wall clock is looked at this often, since it may jump.
const LOOK: Duration = Duration::from_secs(30);
/// A change of the authority makes everybody renew: within this time, not at once.
const SPREAD: Duration = Duration::from_secs(2);

/// Tells the certificate's task and the control stream about each other's news, and everybody who asks about their
/// problems.
#[derive(Clone, Debug, Default)]
pub struct News(Arc<Notices>);

#[derive(Debug, Default)]
struct Notices {
    trust: Notify,
    leaf: Notify,
    certificate: ArcSwapOption<String>,
    stream: ArcSwapOption<String>,
}

/// Why there is no new certificate.
#[derive(Debug, Error)]
pub enum RenewalError {
    /// The kubelet's files.
    #[error(transparent)]
    Files(#[from] BootstrapError),
    /// No key.
    #[error("cannot make a key: {0}")]
    Key(#[from] KeyError),
    /// Roots that are none.
    #[error("cannot use the roots: {0}")]
    Bundle(#[from] BundleError),
    /// No connection.
    #[error("cannot reach the operator's identity service at {address}: {problem}")]
    Connect {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        problem: String,
    },
    /// No answer in time.
    #[error("the operator's identity service did not answer within {} s", ISSUE.as_secs())]
    Timeout,
    /// A refusal.
    #[error("the operator refuses to issue a certificate: {0}")]
    Refused(String),
    /// An answer that makes no sense.
    #[error("the operator's answer is malformed: {0}")]
    Answer(#[from] DecodeError),
    /// An answer without trust.
    #[error("the operator's answer has no trust in it")]
    NoTrust,
    /// A certificate that does not fit.
    #[error("the issued certificate cannot be used: {0}")]
    Leaf(#[from] LeafError),
}

impl News {
    /// Trust has changed: is the certificate still of the right authority?
    pub fn trust_changed(&self) {
        self.0.trust.notify_one();
    }

    /// Returns after a new certificate was installed (one waiter).
    pub async fn leaf_changed(&self) {
        self.0.leaf.notified().await;
    }

    /// What keeps the proxy from a certificate or from the operator just now.
    pub fn problems(&self) -> Vec<Arc<String>> {
        [&self.0.certificate, &self.0.stream].into_iter().filter_map(ArcSwapOption::load_full).collect()
    }

    /// The control stream's problem, or `None` when it is up. Says whether this is another one than before.
    pub(crate) fn stream_problem(&self, problem: Option<String>) -> bool {
        said(&self.0.stream, problem)
    }
}

fn said(slot: &ArcSwapOption<String>, problem: Option<String>) -> bool {
    let problem = problem.map(Arc::new);
    slot.swap(problem.clone()) != problem
}

/// Keeps the identity's certificate valid; does not return.
pub async fn keep(identity: Identity, directory: PathBuf, news: News) {
    let mut backoff = Backoff::default();
    loop {
        let by_kubelet = from_kubelet(&identity, &directory).unwrap_or_else(|error| {
            tracing::warn!(%error, "the kubelet's certificate cannot be used; asking the operator");
            false
        });
        let source = if by_kubelet { "kubelet" } else { "operator" };
        let renewed = if by_kubelet { Ok(()) } else { renew(&identity, &directory).await };
        match renewed {
            Ok(()) => {
                let expires = identity.leaf().map_or(Duration::ZERO, |leaf| left(leaf.not_after));
                tracing::info!(valid_for_seconds = expires.as_secs(), source, "certificate installed");
                said(&news.0.certificate, None);
                news.0.leaf.notify_one();
                if signed_by_another(&identity) {
                    // issuers change one after the other: one that lags is asked again, more and more patiently
                    sleep(backoff.next()).await;
                    continue;
                }
                backoff.reset();
                until_renewal(&identity, &news).await;
            }
            Err(error) => {
                let problem = error.to_string();
                if said(&news.0.certificate, Some(problem.clone())) {
                    tracing::warn!(%problem, "no new certificate; trying again");
                }
                sleep(backoff.next()).await;
            }
        }
    }
}

/// Installs what the kubelet has, if it is of use: whether it was.
fn from_kubelet(identity: &Identity, directory: &Path) -> Result<bool, RenewalError> {
    let Some(pem) = bootstrap::credential(directory)? else { return Ok(false) };
    let leaf = Leaf::from_pem(pem.as_bytes(), KeyPair::from_pem(&pem)?)?;
    if identity.leaf().is_some_and(|held| leaf.not_after <= held.not_after) {
        return Ok(false);
    }
    if identity.bundle().is_none() {
        identity.install_bundle(ControlPlane::read(directory)?.roots)?;
    }
    let signer = identity.bundle().and_then(|bundle| bundle.signer);
    if signer.is_some_and(|signer| identity.issuer_of(&leaf).ok() != Some(signer)) {
        return Ok(false);
    }
    identity.install_leaf(leaf)?;
    Ok(true)
}

/// One new key, one request, one certificate.
async fn renew(identity: &Identity, directory: &Path) -> Result<(), RenewalError> {
    let plane = ControlPlane::read(directory)?;
    let token = bootstrap::token(directory)?;
    let key = KeyPair::generate()?;
    let csr = key.certificate_request()?;
    let trust_epoch = identity.bundle().map_or(0, |bundle| bundle.epoch);
    // the pushed roots may be newer than the file, and after a reinstallation the file is newer than they
    let roots = union(plane.roots, identity.bundle().as_deref());
    let config = identity.client_without_certificate(&roots, &plane.operator, control_channel::ALPN)?;
    let request = v1::IssueRequest { csr, token, trust_epoch };
    let issue = async {
        let channel = control_channel::connect(plane.identity, config).await.map_err(|error| {
            RenewalError::Connect { address: plane.identity, problem: control_channel::in_full(&error) }
        })?;
        let mut client = v1::identity_client::IdentityClient::new(channel);
        let answer = client
            .issue(request)
            .await
            .map_err(|status| RenewalError::Refused(status.message().to_owned()))?;
        Ok::<_, RenewalError>(answer.into_inner())
    };
    let answer = timeout(ISSUE, issue).await.map_err(|_| RenewalError::Timeout)??;
    identity.install_bundle(bundle(decode::trust(answer.trust.ok_or(RenewalError::NoTrust)?)?))?;
    let chain = answer.chain.into_iter().map(CertificateDer::from).collect();
    identity.install_leaf(Leaf::new(chain, key)?)?;
    Ok(())
}

/// Trust as it travelled, as identity knows it.
pub(crate) fn bundle(trust: byrnie_api::Trust) -> TrustBundle {
    let certificates = |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect();
    let roots = trust.roots.into_iter().map(|(domain, ders)| (domain, certificates(ders))).collect();
    TrustBundle { epoch: trust.epoch, roots, signer: trust.signer }
}

/// What this proxy shows and whom it believes.
pub(crate) fn credentials(shared: &Shared) -> v1::Credentials {
    let identity = &shared.identity;
    let besides = shared.standings.besides(identity.root());
    let bundle = identity.bundle();
    let own = bundle.iter().filter_map(|bundle| bundle.roots.get(identity.trust_domain())).flatten();
    // a rotation is about the own roots: those of other domains are none of its business, and may be many
    let others = bundle.iter().flat_map(|bundle| &bundle.roots);
    let others = others.filter(|(domain, _)| *domain != identity.trust_domain());
    let others: Vec<_> =
        others.flat_map(|(_, roots)| roots).filter_map(|root| spki_sha256(root).ok()).collect();
    v1::Credentials {
        trust_epoch: bundle.as_ref().map_or(0, |bundle| bundle.epoch),
        trusted_roots: own.filter_map(|root| Some(spki_sha256(root).ok()?.to_vec())).collect(),
        leaf_issuer: identity.leaf().and_then(|leaf| leaf.issuer).map_or_else(Vec::new, |id| id.to_vec()),
        connection_roots: besides.iter().filter(|id| !others.contains(id)).map(|id| id.to_vec()).collect(),
    }
}

fn union(mut roots: TrustBundle, installed: Option<&TrustBundle>) -> TrustBundle {
    for (domain, certificates) in installed.into_iter().flat_map(|bundle| &bundle.roots) {
        let known = roots.roots.entry(domain.clone()).or_default();
        known.extend(certificates.iter().filter(|c| !known.contains(c)).cloned().collect::<Vec<_>>());
    }
    roots
}

/// Whether the authority that signs now is not the one that signed our certificate.
fn signed_by_another(identity: &Identity) -> bool {
    let signer = identity.bundle().and_then(|bundle| bundle.signer);
    signer.is_some_and(|signer| identity.leaf().is_some_and(|leaf| leaf.issuer != Some(signer)))
}

/// Returns at half of the certificate's remaining life, give or take a tenth, or when the authority has changed.
async fn until_renewal(identity: &Identity, news: &News) {
    let life = identity.leaf().map_or(Duration::ZERO, |leaf| left(leaf.not_after));
    let due = SystemTime::now() + life.mul_f64(0.45 + 0.1 * fastrand::f64());
    loop {
        let pause = left(due).min(LOOK);
        if pause.is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = news.0.trust.notified() => {
                if signed_by_another(identity) {
                    sleep(SPREAD.min(life / 10).mul_f64(fastrand::f64())).await;
                    return;
                }
            }
        }
    }
}

fn left(until: SystemTime) -> Duration {
    until.duration_since(SystemTime::now()).unwrap_or_default()
}
