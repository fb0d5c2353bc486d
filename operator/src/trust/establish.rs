//! The leader's part in trust: makes MeshTrust "default" where there is none, makes or adopts the first root, and
//! follows a renewed intermediate under the same root. Every change is a compare-and-swap of MeshTrust's status.
//!
//! RBAC: `meshtrusts.byrnie.dev` get, create; `meshtrusts/status` update.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use byrnie_crds::{
    MeshTrust, MeshTrustSpec,
    compile::{RootSource, TrustPlan},
    meshtrust::{MeshTrustStatus, Phase, RootState, SourceOfRoot, Trust},
    names,
};
use byrnie_model::TrustDomain;
use kube::{Api, Client, api::PostParams};
use thiserror::Error;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Authority, AuthorityError, MeshTrustError, Root, TrustState,
    root_secret::{RootSecrets, SecretError},
};
use crate::{
    api_call::{self, ApiError},
    lease::Fence,
    metrics::Metrics,
};

const INTERVAL: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(2);

/// Keeps MeshTrust and its first root in being.
pub struct Establish {
    api: Api<MeshTrust>,
    secrets: RootSecrets,
    domain: TrustDomain,
    fence: Fence,
    metrics: Metrics,
}

/// Why trust could not be established.
#[derive(Debug, Error)]
pub enum EstablishError {
    /// MeshTrust cannot be read or written.
    #[error("cannot read or write MeshTrust default: {0}")]
    Api(#[from] ApiError),
    /// MeshTrust makes no sense.
    #[error(transparent)]
    MeshTrust(#[from] MeshTrustError),
    /// A root's Secret cannot be read or written.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A root could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Another replica leads.
    #[error("this replica leads no more")]
    Fenced,
    /// An external root was exchanged.
    #[error("Secret {0} holds an authority under another root than the one in force; it stays unused")]
    OtherRoot(String),
}

impl Establish {
    /// `domain` is used only where there is no MeshTrust yet.
    pub fn new(
        client: Client,
        secrets: RootSecrets,
        domain: TrustDomain,
        fence: Fence,
        metrics: Metrics,
    ) -> Self {
        Self { api: Api::all(client), secrets, domain, fence, metrics }
    }

    /// Works for as long as this replica leads.
    pub async fn run(&self) -> Infallible {
        loop {
            let pause = match self.once().await {
                Ok(()) => INTERVAL,
                Err(e) => {
                    warn!(error = %e, "trust is not established");
                    self.metrics.failed("MeshTrust");
                    RETRY
                }
            };
            sleep(pause).await;
        }
    }

    /// Brings MeshTrust and its root in line, if anything is missing.
    pub async fn once(&self) -> Result<(), EstablishError> {
        let object = match api_call::call(self.api.get(names::MESH_TRUST)).await {
            Err(ApiError::NotFound) => self.create().await?,
            object => object?,
        };
        let plan = super::plan(&object)?;
        let Some(state) = TrustState::read(&object, plan.trust_domain.clone())? else {
            let authority = self.first_authority(&plan).await?;
            let state = TrustState {
                domain: plan.trust_domain,
                epoch: first_epoch(),
                phase: Phase::Stable,
                roots: vec![Root::of(&authority, RootState::Active)],
                signer: authority.id(),
            };
            return self.write(object, &state).await;
        };
        match &plan.source {
            RootSource::SelfManaged => self.with_a_key(object, state, &plan).await,
            RootSource::Secret(name) => self.with_external(object, state, name).await,
        }
    }

    async fn create(&self) -> Result<MeshTrust, EstablishError> {
        let trust = Trust {
            trust_domain: self.domain.as_str().to_owned(),
            leaf_lifetime: "24h".into(),
            root_lifetime: "8760h".into(),
            source: SourceOfRoot::default(),
        };
        let object = MeshTrust::new(names::MESH_TRUST, MeshTrustSpec::from(trust));
        self.fenced()?;
        match api_call::call(self.api.create(&PostParams::default(), &object)).await {
            Err(ApiError::Conflict) => Ok(api_call::call(self.api.get(names::MESH_TRUST)).await?),
            object => Ok(object?),
        }
    }

    async fn first_authority(&self, plan: &TrustPlan) -> Result<Authority, EstablishError> {
        if let RootSource::Secret(name) = &plan.source {
            return Ok(self.secrets.authority(name).await?);
        }
        if let Some(authority) = self.secrets.orphan(plan.trust_domain.as_str()).await? {
            info!(root = %authority.id().short(), "root adopted");
            return Ok(authority);
        }
        self.new_root(plan).await
    }

    async fn new_root(&self, plan: &TrustPlan) -> Result<Authority, EstablishError> {
        let authority = Authority::generate(&plan.trust_domain, plan.root_lifetime, SystemTime::now())?;
        self.fenced()?;
        self.secrets.create(&authority, plan.trust_domain.as_str()).await?;
        info!(root = %authority.id().short(), domain = %plan.trust_domain, "root made");
        Ok(authority)
    }

    /// A self-made root whose key is gone can sign no more: another one joins it and signs.
    async fn with_a_key(
        &self,
        object: MeshTrust,
        mut state: TrustState,
        plan: &TrustPlan,
    ) -> Result<(), EstablishError> {
        match self.secrets.root(state.signer).await {
            Ok(_) => return Ok(()),
            Err(SecretError::Api { error: ApiError::NotFound, name }) => {
                warn!(secret = name, "the signer's key is lost; a new root joins and signs");
            }
            Err(e) => return Err(e.into()),
        }
        let authority = self.first_authority(plan).await?;
        for root in state.roots.iter_mut().filter(|root| root.state == RootState::Active) {
            root.state = RootState::Draining;
        }
        state.roots.retain(|root| root.id != authority.root_id());
        state.roots.push(Root::of(&authority, RootState::Active));
        state.signer = authority.id();
        state.phase = Phase::Signing;
        state.epoch += 1;
        self.write(object, &state).await
    }

    /// An intermediate that was renewed under a root that everybody trusts may sign at once.
    async fn with_external(
        &self,
        object: MeshTrust,
        mut state: TrustState,
        name: &str,
    ) -> Result<(), EstablishError> {
        let authority = self.secrets.authority(name).await?;
        if authority.id() == state.signer {
            return Ok(());
        }
        let trusted = |root: &Root| root.id == authority.root_id() && root.state == RootState::Active;
        if !state.roots.iter().any(trusted) {
            return Err(EstablishError::OtherRoot(name.to_owned()));
        }
        state.signer = authority.id();
        state.epoch += 1;
        self.write(object, &state).await
    }

    async fn write(&self, mut object: MeshTrust, state: &TrustState) -> Result<(), EstablishError> {
        state.write(object.status.get_or_insert_with(MeshTrustStatus::default));
        self.fenced()?;
        api_call::call(self.api.replace_status(names::MESH_TRUST, &PostParams::default(), &object)).await?;
        self.metrics.wrote("MeshTrust");
        info!(epoch = state.epoch, phase = ?state.phase, signer = %state.signer.short(), "trust changed");
        Ok(())
    }

    fn fenced(&self) -> Result<(), EstablishError> {
        if self.fence.open() { Ok(()) } else { Err(EstablishError::Fenced) }
    }
}

/// Seconds since 1970: higher than every epoch of an earlier MeshTrust of this cluster, which proxies may have seen
/// before it was deleted.
fn first_epoch() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
