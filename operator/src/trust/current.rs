//! The trust that this replica holds: MeshTrust's status with the key of its signer, loaded from the Secret.
//!
//! Every replica holds the same. Issuance reads MeshTrust anew for each certificate, so that no replica signs with
//! a key that the mesh has left (reliability.md section 3.4, "issuer-replica freshness").
//!
//! RBAC: `meshtrusts.byrnie.dev` get, list, watch.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use byrnie_api::v1;
use byrnie_crds::{MeshTrust, compile::RootSource, names};
use byrnie_model::TrustDomain;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, Resource, ResourceExt, runtime::watcher::Event};
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Authority, AuthorityId, MeshTrustError, TrustState,
    federation::Federation,
    root_secret::{RootSecrets, SecretError},
};
use crate::{
    api_call::{self, ApiError},
    metrics::Metrics,
    watch::{Heard, Selection, follow},
};

/// MeshTrust and the key that signs for it.
pub struct Trusted {
    /// Whom to trust, and who signs.
    pub state: TrustState,
    /// The signer; `None` where its key is lost.
    pub authority: Option<Authority>,
    /// How long leaves live.
    pub leaf_lifetime: Duration,
    /// Other trust domains.
    pub federation: Federation,
    /// UID of MeshTrust.
    pub mesh_trust: String,
}

/// Why nothing can be signed now.
#[derive(Debug, Error)]
pub enum Stale {
    /// MeshTrust cannot be read.
    #[error("cannot read MeshTrust default: {0}")]
    Api(ApiError),
    /// MeshTrust makes no sense.
    #[error(transparent)]
    MeshTrust(#[from] MeshTrustError),
    /// No leader has been at work yet.
    #[error("no trust has been established yet; is a replica of the operator leading?")]
    NotEstablished,
    /// The signer's key cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The signer's Secret is gone.
    #[error("the key of root {} that signs is lost; another root will sign when all proxies trust it", .0.short())]
    NoKey(AuthorityId),
    /// Waits until MeshTrust is in line with what proxies have.
    #[error("an older MeshTrust was restored; nothing is signed before it is in line with what proxies have")]
    Frozen,
    /// The Secret of an external authority was replaced.
    #[error("Secret {0} does not hold the authority that MeshTrust names as signer")]
    OtherSigner(String),
    /// MeshTrust was replaced by one of another domain.
    #[error("MeshTrust is of trust domain {found}, this process of {own}; it ends and starts anew")]
    OtherDomain {
        /// What the object says.
        found: TrustDomain,
        /// What this process began with.
        own: TrustDomain,
    },
    /// Time ran backwards.
    #[error("MeshTrust is at epoch {stored} after {held}; was an old state restored?")]
    Regression {
        /// What the object says.
        stored: u64,
        /// What this replica has seen.
        held: u64,
    },
}

impl Trusted {
    /// Whoever signs.
    pub fn signer(&self) -> Result<&Authority, Stale> {
        self.authority.as_ref().ok_or(Stale::NoKey(self.state.signer))
    }

    /// MeshTrust owns what is made for it, so that nothing is left when the mesh is uninstalled.
    pub fn owners(&self) -> Vec<OwnerReference> {
        vec![OwnerReference {
            api_version: MeshTrust::api_version(&()).into(),
            kind: MeshTrust::kind(&()).into(),
            name: names::MESH_TRUST.into(),
            uid: self.mesh_trust.clone(),
            ..OwnerReference::default()
        }]
    }

    /// What proxies are told.
    pub fn message(&self) -> v1::Trust {
        v1::Trust { federated: self.federation.message(), ..self.state.message() }
    }
}

/// See the module. Cloning shares.
#[derive(Clone)]
pub struct Current {
    api: Api<MeshTrust>,
    secrets: RootSecrets,
    domain: TrustDomain,
    held: Arc<watch::Sender<Option<Arc<Trusted>>>>,
    restored: Arc<watch::Sender<bool>>,
    loading: Arc<Mutex<()>>,
    metrics: Metrics,
}

impl Current {
    /// Holds nothing yet.
    pub fn new(client: Client, secrets: RootSecrets, domain: TrustDomain, metrics: Metrics) -> Self {
        let (held, restored) = (Arc::new(watch::Sender::new(None)), Arc::new(watch::Sender::new(false)));
        Self { api: Api::all(client), secrets, domain, held, restored, loading: Arc::default(), metrics }
    }

    /// What is held, and every change of it.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Trusted>>> {
        self.held.subscribe()
    }

    /// Whether MeshTrust is older than what is held: an older state was restored.
    pub fn restored(&self) -> watch::Receiver<bool> {
        self.restored.subscribe()
    }

    /// What MeshTrust says at this moment.
    pub async fn fresh(&self) -> Result<Arc<Trusted>, Stale> {
        let object = match api_call::call(self.api.get(names::MESH_TRUST)).await {
            Ok(object) => object,
            Err(ApiError::NotFound) => return Err(Stale::NotEstablished),
            Err(e) => return Err(Stale::Api(e)),
        };
        let trusted = self.load(&object).await?;
        if trusted.state.restored.is_some_and(|restored| restored.frozen) {
            return Err(Stale::Frozen);
        }
        Ok(trusted)
    }

    /// Follows MeshTrust until `stopping`.
    pub async fn follow(self, stopping: CancellationToken) {
        let (seen, mut sees) = watch::channel(None);
        let hear = |heard: Heard<MeshTrust>| match heard {
            Heard::Event(Event::Apply(object) | Event::InitApply(object)) => {
                seen.send_replace(Some(object));
            }
            Heard::Trouble(problem) => {
                warn!(problem, "cannot watch MeshTrust");
                self.metrics.failed("MeshTrust");
            }
            Heard::Event(_) | Heard::Alive | Heard::StillTrouble => {}
        };
        let only = Selection { fields: Some(format!("metadata.name={}", names::MESH_TRUST)), labels: None };
        tokio::select! {
            () = stopping.cancelled() => {}
            never = follow(self.api.clone(), only, hear) => match never {},
            () = self.load_each(&mut sees) => {}
        }
    }

    /// Loads what is seen; ends when it is of another domain.
    async fn load_each(&self, sees: &mut watch::Receiver<Option<MeshTrust>>) {
        while sees.changed().await.is_ok() {
            let Some(object) = sees.borrow_and_update().clone() else { continue };
            match self.load(&object).await {
                Ok(_) | Err(Stale::NotEstablished) => {}
                Err(e @ Stale::OtherDomain { .. }) => {
                    error!(error = %e, "MeshTrust was replaced");
                    return;
                }
                Err(e) => {
                    warn!(error = %e, "MeshTrust changed and cannot be followed");
                    self.metrics.failed("MeshTrust");
                }
            }
        }
    }

    async fn load(&self, object: &MeshTrust) -> Result<Arc<Trusted>, Stale> {
        let plan = super::plan(object)?;
        if plan.trust_domain != self.domain {
            return Err(Stale::OtherDomain { found: plan.trust_domain, own: self.domain.clone() });
        }
        let state = TrustState::read(object, plan.trust_domain.clone())?.ok_or(Stale::NotEstablished)?;
        let mesh_trust = object.uid().unwrap_or_default();
        let federation = Federation::read(&plan.federation, SystemTime::now());
        let _one_at_a_time = self.loading.lock().await;
        let held = self.held.borrow().clone();
        if let Some(held) = &held {
            let restored = state.epoch < held.state.epoch;
            self.restored.send_if_modified(|before| std::mem::replace(before, restored) != restored);
            if restored {
                return Err(Stale::Regression { stored: state.epoch, held: held.state.epoch });
            }
            if held.state == state
                && held.authority.is_some()
                && held.leaf_lifetime == plan.leaf_lifetime
                && held.federation == federation
                && held.mesh_trust == mesh_trust
            {
                return Ok(held.clone());
            }
        }
        let authority = match &plan.source {
            RootSource::SelfManaged => match self.secrets.root(state.signer).await {
                Ok(authority) => Some(authority),
                // The bundle must reach the proxies all the same: the root that will sign is in it.
                Err(SecretError::Api { error: ApiError::NotFound, .. }) => None,
                Err(e) => return Err(e.into()),
            },
            RootSource::Secret(name) => {
                let authority = self.secrets.authority(name).await?;
                if authority.id() != state.signer {
                    return Err(Stale::OtherSigner(name.clone()));
                }
                Some(authority)
            }
        };
        let leaf_lifetime = plan.leaf_lifetime;
        let trusted = Arc::new(Trusted { state, authority, leaf_lifetime, federation, mesh_trust });
        info!(
            epoch = trusted.state.epoch,
            phase = ?trusted.state.phase,
            signer = %trusted.state.signer.short(),
            roots = trusted.state.roots.len(),
            "trust loaded"
        );
        self.metrics.trust_epoch.set(trusted.state.epoch);
        if let Some(authority) = &trusted.authority {
            let expiry = authority.not_after().duration_since(SystemTime::UNIX_EPOCH);
            self.metrics.authority_expiry.set(expiry.unwrap_or_default().as_secs_f64());
        }
        self.held.send_replace(Some(trusted.clone()));
        Ok(trusted)
    }
}
