//! Certificates for pods: a proof of who asks and a key in, a leaf with the pod's name out. Two ways lead here: proxies
//! show a token ([`service`]); and kubelets ask for their pods, where Kubernetes knows that ([`pod_certificates`]).
//!
//! Every name comes from what the API server vouches for and from the pod itself, never from the request.

pub mod facts;
pub mod limit;
pub mod pod_certificates;
pub mod service;
pub mod token;

use std::{future::Future, sync::Arc};

use byrnie_model::SpiffeId;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use tracing::info;

use self::token::Claim;
use crate::{
    api_call::ApiError,
    index::facts::Pod,
    metrics::Metrics,
    trust::{
        Issued,
        current::{Stale, Trusted},
    },
};

pub use facts::ClusterFacts;
pub use service::Issuance;

/// What issuance must find out elsewhere; the tests have one of their own.
pub trait Facts: Send + Sync + 'static {
    /// What the API server says of a token, for one audience.
    fn review(
        &self,
        token: &str,
        audience: &str,
    ) -> impl Future<Output = Result<TokenReviewStatus, ApiError>> + Send;
    /// The pod of that UID once it has an address, or as it is after a moment.
    fn pod(&self, namespace: &str, name: &str, uid: &str) -> impl Future<Output = Option<Pod>> + Send;
    /// Who signs now, read anew.
    fn trust(&self) -> impl Future<Output = Result<Arc<Trusted>, Stale>> + Send;
}

/// What is kept of each certificate: a line in the log, and when the last one of its signer ends.
fn record(metrics: &Metrics, claim: &Claim, id: &SpiffeId, issued: &Issued, trusted: &Trusted) {
    metrics.signed(trusted.state.signer, issued.not_after);
    info!(
        serial = issued.serial,
        id = %id,
        pod = format!("{}/{}", claim.namespace, claim.pod_name),
        uid = claim.pod_uid,
        node = claim.node,
        not_after = %time::OffsetDateTime::from(issued.not_after),
        signer = %trusted.state.signer.short(),
        epoch = trusted.state.epoch,
        "certificate issued"
    );
}

#[cfg(test)]
mod tests;
