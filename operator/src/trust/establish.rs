//! The leader's part in trust: makes MeshTrust "default" where there is none, carries out what [`rotation`] decides about
//! a root of our own, and follows a renewed intermediate of somebody else's. Every change is a compare-and-swap of
//! MeshTrust's status; the process may end between any two calls.
//!
//! RBAC: `meshtrusts.byrnie.dev` get, create; `meshtrusts/status` update; see [`super::announce`] for Events.

use std::{
    convert::Infallible,
    sync::Arc,
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
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    Authority, AuthorityError, MeshTrustError, Root, TrustState,
    announce::Announcer,
    current::Trusted,
    fleet::TakeCensus,
    root_secret::{RootSecrets, SecretError},
    rotation::{self, Decision, Outlook, Seen, Wishes},
};
use crate::{
    api_call::{self, ApiError},
    lease::Fence,
    metrics::Metrics,
};

/// Between looks: a compromised root must not wait for long, and a look is one GET and one LIST.
const INTERVAL: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(2);
/// Things to do in one go: a key, a write, and what follows from them.
const STEPS: usize = 8;

/// Keeps MeshTrust and its roots in being.
pub struct Establish {
    api: Api<MeshTrust>,
    secrets: RootSecrets,
    domain: TrustDomain,
    census: TakeCensus,
    trust: watch::Receiver<Option<Arc<Trusted>>>,
    dwell: Duration,
    outlook: watch::Sender<Option<Outlook>>,
    announcer: Option<Announcer>,
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
    /// `domain` is used only where there is no MeshTrust yet; `trust` is what this replica has read of it.
    pub fn new(
        client: Client,
        secrets: RootSecrets,
        domain: TrustDomain,
        census: TakeCensus,
        trust: watch::Receiver<Option<Arc<Trusted>>>,
        fence: Fence,
        metrics: Metrics,
    ) -> Self {
        let (api, outlook) = (Api::all(client), watch::Sender::new(None));
        let dwell = rotation::DWELL;
        Self { api, secrets, domain, census, trust, dwell, outlook, announcer: None, fence, metrics }
    }

    /// A phase of a rotation lasts for so long at least.
    #[must_use]
    pub fn with_dwell(self, dwell: Duration) -> Self {
        Self { dwell, ..self }
    }

    /// Every step is told in an Event, too.
    #[must_use]
    pub fn with_events(self, announcer: Announcer) -> Self {
        Self { announcer: Some(announcer), ..self }
    }

    /// What the rotation of a root of our own waits for.
    pub fn outlook(&self) -> watch::Receiver<Option<Outlook>> {
        self.outlook.subscribe()
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

    /// Does what there is to do now.
    pub async fn once(&self) -> Result<(), EstablishError> {
        for _ in 0..STEPS {
            let object = match api_call::call(self.api.get(names::MESH_TRUST)).await {
                Err(ApiError::NotFound) => self.create().await?,
                object => object?,
            };
            let plan = super::plan(&object)?;
            let state = TrustState::read(&object, plan.trust_domain.clone())?;
            if let RootSource::Secret(name) = &plan.source {
                self.outlook.send_replace(None);
                return self.with_external(object, state, &plan, name).await;
            }
            if !self.rotate(object, state.as_ref(), &plan).await? {
                break;
            }
        }
        Ok(())
    }

    /// One step of a root of our own; whether another one may follow at once.
    async fn rotate(
        &self,
        object: MeshTrust,
        state: Option<&TrustState>,
        plan: &TrustPlan,
    ) -> Result<bool, EstablishError> {
        let wishes = wishes(plan);
        let keys = self.secrets.keys(plan.trust_domain.as_str()).await?;
        let (census, now) = ((self.census)(), SystemTime::now());
        let held = self.trust.borrow().clone();
        let remembered = held.as_deref().map(|trusted| &trusted.state);
        let seen =
            Seen { state, wishes: &wishes, keys: &keys, census: &census, remembered, dwell: self.dwell, now };
        match rotation::step(&seen) {
            Decision::MakeKey => self.make_key(plan).await?,
            Decision::Write(next) => self.step(object, state, &next).await?,
            Decision::Wait(outlook, unneeded) => {
                let held_up = outlook.is_held_up(now).then(|| outlook.words(now).message);
                let news = self.outlook.send_if_modified(|before| {
                    let news = before.as_ref() != Some(&outlook);
                    *before = Some(outlook);
                    news
                });
                if let (Some(announcer), Some(why), true) = (&self.announcer, held_up, news) {
                    announcer.held_up(&object, why).await;
                }
                let Some(id) = unneeded else { return Ok(false) };
                self.fenced()?;
                self.secrets.remove(id).await?;
                info!(root = %id.short(), "key removed");
            }
        }
        Ok(true)
    }

    async fn create(&self) -> Result<MeshTrust, EstablishError> {
        let trust = Trust {
            trust_domain: self.domain.as_str().to_owned(),
            leaf_lifetime: "24h".into(),
            root_lifetime: "8760h".into(),
            source: SourceOfRoot::default(),
            rotation: None,
            compromised: Vec::new(),
            federation: Vec::new(),
        };
        let object = MeshTrust::new(names::MESH_TRUST, MeshTrustSpec::from(trust));
        self.fenced()?;
        match api_call::call(self.api.create(&PostParams::default(), &object)).await {
            Err(ApiError::Conflict) => Ok(api_call::call(self.api.get(names::MESH_TRUST)).await?),
            object => Ok(object?),
        }
    }

    async fn make_key(&self, plan: &TrustPlan) -> Result<(), EstablishError> {
        let authority = Authority::generate(&plan.trust_domain, plan.root_lifetime, SystemTime::now())?;
        self.fenced()?;
        self.secrets.create(&authority, plan.trust_domain.as_str()).await?;
        info!(root = %authority.id().short(), domain = %plan.trust_domain, "root made");
        Ok(())
    }

    /// An intermediate that was renewed under a root that everybody trusts may sign at once.
    async fn with_external(
        &self,
        object: MeshTrust,
        state: Option<TrustState>,
        plan: &TrustPlan,
        name: &str,
    ) -> Result<(), EstablishError> {
        let authority = self.secrets.authority(name).await?;
        let Some(mut state) = state else {
            return self.write(object, &first(&authority, plan)).await;
        };
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

    async fn step(
        &self,
        object: MeshTrust,
        before: Option<&TrustState>,
        next: &TrustState,
    ) -> Result<(), EstablishError> {
        self.write(object.clone(), next).await?;
        if let Some(announcer) = &self.announcer {
            announcer.stepped(&object, before, next).await;
        }
        Ok(())
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

fn wishes(plan: &TrustPlan) -> Wishes {
    Wishes {
        domain: plan.trust_domain.clone(),
        leaf_lifetime: plan.leaf_lifetime,
        root_lifetime: plan.root_lifetime,
        request: plan.request.clone(),
        abort: plan.abort,
        compromised: plan.compromised.iter().filter_map(|id| id.parse().ok()).collect(),
    }
}

/// Somebody else's authority signs from the beginning.
fn first(authority: &Authority, plan: &TrustPlan) -> TrustState {
    let now = SystemTime::now();
    TrustState {
        domain: plan.trust_domain.clone(),
        epoch: rotation::epoch_at(now),
        phase: Phase::Stable,
        since: now,
        request: None,
        restored: None,
        roots: vec![Root::of(authority, RootState::Active)],
        signer: authority.id(),
    }
}
