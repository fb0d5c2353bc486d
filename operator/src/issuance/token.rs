//! Who asks for a certificate: what a TokenReview and a Pod must say. Pure; no I/O, and no token in any message.
//!
//! There is no memory of tokens and keys that came before. A token is taken from its own pod's addresses alone, and for
//! that pod alone, so whoever repeats one is the pod itself: after an answer that was lost, or for its next key while
//! the token is still good. The pod's limit holds for these too. A token that outlives its pod is refused by the API
//! server, which knows what it is bound to, and here, where no pod with its UID lives any more.

use std::net::IpAddr;

use byrnie_crds::names::PROXY_CONTAINER;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use thiserror::Error;

use crate::index::facts::Pod;

/// The pod that a token was made for, as the API server vouches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Of pod and ServiceAccount.
    pub namespace: String,
    /// The ServiceAccount.
    pub service_account: String,
    /// The pod.
    pub pod_name: String,
    /// Tells it from others of the same name.
    pub pod_uid: String,
    /// The node, where the API server says it (Kubernetes 1.30 and later).
    pub node: Option<String>,
}

/// Why a token proves nothing to us.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// The API server does not accept it: expired, forged, its pod deleted, or not for our audience.
    #[error("token is not valid for audience {audience}: {reason}")]
    Refused {
        /// What the token must be for.
        audience: String,
        /// As the API server says it.
        reason: String,
    },
    /// The API server accepts it, but did not say for our audience.
    #[error("token was not reviewed for audience {0}; the API server may not know audiences")]
    Audience(String),
    /// Not a ServiceAccount.
    #[error("token belongs to {0}, which is no ServiceAccount")]
    NotServiceAccount(String),
    /// Not bound to a pod.
    #[error("token is not bound to a pod; only a projected token of the pod itself is taken")]
    NotBound,
}

/// Why a pod gets no certificate.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PodError {
    /// Ended.
    #[error("pod has ended or is being deleted")]
    Finished,
    /// Not one of ours.
    #[error("pod has no container {PROXY_CONTAINER}; is its namespace labelled, and was it restarted since?")]
    NotInjected,
    /// Another ServiceAccount.
    #[error("pod runs as ServiceAccount {0}, not as the token's")]
    ServiceAccount(String),
    /// Another node.
    #[error("pod runs on node {0}, not on the token's")]
    Node(String),
    /// The caller is not that pod.
    #[error(
        "request comes from {0}, which is none of the pod's addresses; is there a NAT between pods and operator?"
    )]
    Address(IpAddr),
}

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Reads a TokenReview's answer.
pub fn claim(status: &TokenReviewStatus, audience: &str) -> Result<Claim, TokenError> {
    if status.authenticated != Some(true) {
        let reason = status.error.clone().unwrap_or_else(|| "not authenticated".into());
        return Err(TokenError::Refused { audience: audience.into(), reason });
    }
    if !status.audiences.iter().flatten().any(|a| a == audience) {
        return Err(TokenError::Audience(audience.into()));
    }
    let user = status.user.as_ref();
    let username = user.and_then(|user| user.username.as_deref()).unwrap_or_default();
    let mut parts = username.split(':');
    let (Some("system"), Some("serviceaccount"), Some(namespace), Some(account), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::NotServiceAccount(username.into()));
    };
    let extra = |key| match user
        .and_then(|user| user.extra.as_ref())
        .and_then(|extra| extra.get(key))
        .map(Vec::as_slice)
    {
        Some([one]) if !one.is_empty() => Some(one.clone()),
        _ => None,
    };
    Ok(Claim {
        namespace: namespace.into(),
        service_account: account.into(),
        pod_name: extra(POD_NAME).ok_or(TokenError::NotBound)?,
        pod_uid: extra(POD_UID).ok_or(TokenError::NotBound)?,
        node: extra(NODE_NAME),
    })
}

/// Whether the pod (already found by name and UID) may have a certificate.
pub fn check_pod(pod: &Pod, claim: &Claim) -> Result<(), PodError> {
    if !pod.live {
        return Err(PodError::Finished);
    }
    let account = pod.identity.as_ref().ok_or(PodError::NotInjected)?.service_account();
    if account != claim.service_account {
        return Err(PodError::ServiceAccount(account.into()));
    }
    if claim.node.as_ref().is_some_and(|node| *node != pod.node) {
        return Err(PodError::Node(pod.node.clone()));
    }
    Ok(())
}

/// Whether the pod is the one that asks. A pod in its node's network has no address of its own, so nobody can ask for it.
pub fn check_address(pod: &Pod, peer: IpAddr) -> Result<(), PodError> {
    if pod.addresses.contains(&peer) { Ok(()) } else { Err(PodError::Address(peer)) }
}
