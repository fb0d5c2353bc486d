//! Certificates for pods: a token and a key in, a leaf with the pod's name out.
//!
//! Every name comes from the API server's review of the token and from the pod itself, never from the request.

pub mod facts;
pub mod limit;
pub mod service;
pub mod token;

use std::{future::Future, sync::Arc};

use k8s_openapi::api::authentication::v1::TokenReviewStatus;

use crate::{
    api_call::ApiError,
    index::facts::Pod,
    trust::current::{Stale, Trusted},
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

#[cfg(test)]
mod tests;
