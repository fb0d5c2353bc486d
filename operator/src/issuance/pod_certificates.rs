//! Certificates that kubelets ask for on behalf of their pods, by PodCertificateRequest (Kubernetes 1.37 and later).
//!
//! The API server vouches for pod, ServiceAccount, node and key: a kubelet may ask for pods on its own node alone, and
//! must hold the key. Looked at here is what it cannot know: that the pod belongs to the mesh. A denial is final for
//! its pod, so only what will not change is denied; everything else is tried again.
//!
//! RBAC: `podcertificaterequests` list, watch; their `status` update; `signers` sign, for our own name.

use std::{
    convert::Infallible,
    future,
    time::{Duration, SystemTime},
};

use byrnie_crds::{cluster, names};
use byrnie_model::{SpiffeId, TrustDomain};
use futures::StreamExt;
use k8s_openapi::{
    api::certificates::v1::{PodCertificateRequest, PodCertificateRequestStatus},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::PostParams,
    runtime::{reflector::ObjectRef, watcher::Event},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    record,
    token::{self, Claim},
};
use crate::{
    api_call::{self, ApiError},
    index::facts::Pod,
    lease::Fence,
    metrics::{Metrics, Outcome},
    store::Stores,
    trust::{
        self, Issued,
        csr::{self, CsrError},
        current::{Current, Trusted},
    },
    watch::{Heard, Selection, follow},
};

/// The shortest life of a pod's certificate that the API server takes.
pub const SHORTEST: Duration = Duration::from_hours(1);
/// The longest, where the request does not say.
const LONGEST: Duration = Duration::from_hours(24);
/// Earlier than now, for nodes whose clocks are behind; the API server takes five minutes.
const BACKDATE: Duration = Duration::from_mins(3);
/// The API server wants the refresh to begin so long after the start and before the end.
const MARGIN: Duration = Duration::from_mins(10);
/// A cluster that does not serve the kind may be upgraded.
const LOOK: Duration = Duration::from_mins(10);
/// Requests that are answered at the same time.
const CONCURRENCY: usize = 16;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Kubernetes removes a request after 15 minutes.
const PATIENCE: Duration = Duration::from_mins(15);

/// Answers what kubelets ask.
pub struct PodCertificates {
    /// To the API server.
    pub client: Client,
    /// Where the pods are.
    pub stores: Stores,
    /// Who signs.
    pub current: Current,
    /// Whose names are given.
    pub domain: TrustDomain,
    /// Until when this replica may write.
    pub fence: Fence,
    /// Counts.
    pub metrics: Metrics,
}

/// Why there is no certificate.
#[derive(Debug)]
enum Refusal {
    /// For ever.
    Final { kind: &'static str, reason: &'static str, message: String },
    /// For now.
    Later(String),
}

impl PodCertificates {
    /// Works for as long as this replica leads.
    pub async fn run(&self) -> Infallible {
        while !served(&self.client).await {
            sleep(LOOK).await;
        }
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let ours = Selection { fields: Some(format!("spec.signerName={}", names::SIGNER)), labels: None };
        let hear = |heard: Heard<PodCertificateRequest>| match heard {
            Heard::Event(Event::Apply(request) | Event::InitApply(request)) if is_open(&request) => {
                // The receiver lives as long as this does.
                let _ = sender.send(request);
            }
            Heard::Trouble(problem) => {
                warn!(problem, "cannot watch PodCertificateRequests");
                self.metrics.failed("PodCertificateRequest");
            }
            Heard::Event(_) | Heard::Alive | Heard::StillTrouble => {}
        };
        let asked = futures::stream::poll_fn(|cx| receiver.poll_recv(cx));
        tokio::select! {
            never = follow(Api::all(self.client.clone()), ours, hear) => never,
            () = asked.for_each_concurrent(CONCURRENCY, |request| self.answer(request)) => future::pending().await,
        }
    }

    async fn answer(&self, request: PodCertificateRequest) {
        let give_up = Instant::now() + PATIENCE;
        let (mut pause, mut said) = (FIRST_RETRY, None);
        while Instant::now() < give_up {
            let problem = match self.status(&request).await {
                Ok(status) => match self.write(&request, status).await {
                    // What cannot be written any more was answered by another, or is gone with its pod.
                    Ok(()) | Err(ApiError::Conflict | ApiError::NotFound) => return,
                    Err(error) => error.to_string(),
                },
                Err(problem) => problem,
            };
            if said.as_ref() != Some(&problem) {
                warn!(
                    pod = pod_of(&request),
                    problem, "a kubelet's request cannot be answered yet; trying again"
                );
                said = Some(problem);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
        self.metrics.issued(Outcome::Unavailable);
    }

    /// The answer, or why there is none yet.
    async fn status(&self, request: &PodCertificateRequest) -> Result<PodCertificateRequestStatus, String> {
        let claim = claim(request);
        let name = ObjectRef::new(&claim.pod_name).within(&claim.namespace);
        let pod = self.stores.pods.get(&name).map(|pod| Pod::read(&pod, &self.domain));
        let trusted = self.current.fresh().await.map_err(|stale| stale.to_string())?;
        match decide(request, &claim, pod.as_ref(), &trusted, SystemTime::now()) {
            Ok((id, issued)) => {
                record(&self.metrics, &claim, &id, &issued, &trusted);
                self.metrics.issued(Outcome::Issued);
                Ok(issued_status(&issued, SystemTime::now()))
            }
            Err(Refusal::Later(problem)) => Err(problem),
            Err(Refusal::Final { kind, reason, message }) => {
                info!(pod = pod_of(request), reason, message, "no certificate");
                self.metrics.issued(Outcome::Denied);
                let conditions = Some(vec![condition(kind, reason, message, SystemTime::now())]);
                Ok(PodCertificateRequestStatus { conditions, ..PodCertificateRequestStatus::default() })
            }
        }
    }

    async fn write(
        &self,
        request: &PodCertificateRequest,
        status: PodCertificateRequestStatus,
    ) -> Result<(), ApiError> {
        if !self.fence.open() {
            return Ok(());
        }
        let api: Api<PodCertificateRequest> =
            Api::namespaced(self.client.clone(), &request.namespace().unwrap_or_default());
        let answered = PodCertificateRequest { status: Some(status), ..request.clone() };
        let (name, params) = (request.name_any(), PostParams::default());
        api_call::call(api.replace_status(&name, &params, &answered)).await?;
        self.metrics.wrote("PodCertificateRequest");
        Ok(())
    }
}

/// Whether this API server has pod certificates and the bundle to check them with.
pub async fn served(client: &Client) -> bool {
    match api_call::call(client.list_api_group_resources(cluster::CERTIFICATES)).await {
        Ok(list) => cluster::serves_pod_certificates(&list),
        Err(error) => {
            warn!(%error, "cannot ask the API server for its kinds of certificates");
            false
        }
    }
}

fn is_open(request: &PodCertificateRequest) -> bool {
    request.status.as_ref().and_then(|status| status.conditions.as_ref()).is_none_or(Vec::is_empty)
}

fn pod_of(request: &PodCertificateRequest) -> String {
    format!("{}/{}", request.namespace().unwrap_or_default(), request.spec.pod_name)
}

fn claim(request: &PodCertificateRequest) -> Claim {
    Claim {
        namespace: request.namespace().unwrap_or_default(),
        service_account: request.spec.service_account_name.clone(),
        pod_name: request.spec.pod_name.clone(),
        pod_uid: request.spec.pod_uid.clone(),
        node: Some(request.spec.node_name.clone()),
    }
}

/// Whether the pod may have what its kubelet asks for, and the certificate if so.
fn decide(
    request: &PodCertificateRequest,
    claim: &Claim,
    pod: Option<&Pod>,
    trusted: &Trusted,
    now: SystemTime,
) -> Result<(SpiffeId, Issued), Refusal> {
    let denied = |reason, message: String| Refusal::Final { kind: "Denied", reason, message };
    let spec = &request.spec;
    if let Some(key) = spec.unverified_user_annotations.iter().flat_map(|map| map.keys()).next() {
        let message = format!("userAnnotations has {key}; this signer knows none");
        return Err(denied("InvalidUnverifiedUserAnnotations", message));
    }
    let key = csr::public_key(&spec.stub_pkc_s10_request.0).map_err(|problem| match problem {
        CsrError::KeyType => denied("UnsupportedKeyType", "keyType must be ECDSAP256".into()),
        other => denied("BadRequest", other.to_string()),
    })?;
    // What is watched may be behind: another pod of that name, or one without a node yet.
    let known = pod.filter(|pod| pod.uid == claim.pod_uid && !pod.node.is_empty());
    let pod = known.ok_or_else(|| Refusal::Later("the pod is not known yet".into()))?;
    token::check_pod(pod, claim).map_err(|problem| denied("NotInMesh", problem.to_string()))?;
    let id = SpiffeId::new(&trusted.state.domain, &claim.namespace, &claim.service_account)
        .map_err(|problem| denied("NotInMesh", problem.to_string()))?;
    let later = |problem: &dyn ToString| Refusal::Later(problem.to_string());
    let signer = trusted.signer().map_err(|problem| later(&problem))?;
    let not_before = now - BACKDATE;
    let seconds = |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let longest = not_before + spec.max_expiration_seconds.map_or(LONGEST, seconds);
    let not_after = longest.min(now + trusted.leaf_lifetime);
    let issued = signer.sign_between(&key, &id, not_before, not_after).map_err(|problem| later(&problem))?;
    if issued.not_after.duration_since(issued.not_before).unwrap_or_default() < SHORTEST {
        let message = "the mesh's certificates live for less than an hour, which Kubernetes does not take; \
                       delete the pod, its successor will ask the operator itself";
        return Err(Refusal::Final { kind: "Failed", reason: "LifetimeTooShort", message: message.into() });
    }
    Ok((id, issued))
}

fn issued_status(issued: &Issued, now: SystemTime) -> PodCertificateRequestStatus {
    let life = issued.not_after.duration_since(now).unwrap_or_default();
    // Before the proxy would ask the operator, at 45 % at the earliest; kubelets add up to five minutes.
    let refresh = (now + life.mul_f64(0.35)).max(issued.not_before + MARGIN).min(issued.not_after - MARGIN);
    let message = format!("serial {}", issued.serial);
    PodCertificateRequestStatus {
        certificate_chain: Some(issued.chain.iter().map(trust::pem).collect()),
        not_before: Some(trust::time(issued.not_before)),
        begin_refresh_at: Some(trust::time(refresh)),
        not_after: Some(trust::time(issued.not_after)),
        conditions: Some(vec![condition("Issued", "Issued", message, now)]),
    }
}

fn condition(kind: &str, reason: &str, message: String, now: SystemTime) -> Condition {
    Condition {
        type_: kind.into(),
        status: "True".into(),
        reason: reason.into(),
        message,
        last_transition_time: trust::time(now),
        observed_generation: None,
    }
}

#[cfg(test)]
mod tests;
