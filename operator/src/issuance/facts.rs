//! What issuance must find out, from the API server and from what is watched anyway.
//!
//! RBAC: `authentication.k8s.io/tokenreviews` create; pods as the stores need them.

use std::{sync::Arc, time::Duration};

use byrnie_model::TrustDomain;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams, runtime::reflector::ObjectRef};
use tokio::time::timeout;

use super::Facts;
use crate::{
    api_call::{self, ApiError},
    index::facts::Pod,
    store::Stores,
    trust::current::{Current, Stale, Trusted},
};

/// How long a request waits for a pod's address to become known: the sidecar is often faster than the kubelet's
/// report about it.
const WAIT_FOR_ADDRESS: Duration = Duration::from_secs(3);

/// Facts of a real cluster.
pub struct ClusterFacts {
    reviews: Api<TokenReview>,
    stores: Stores,
    current: Current,
    domain: TrustDomain,
}

impl ClusterFacts {
    /// Asks this API server.
    pub fn new(client: Client, stores: Stores, current: Current, domain: TrustDomain) -> Self {
        Self { reviews: Api::all(client), stores, current, domain }
    }
}

impl Facts for ClusterFacts {
    async fn review(&self, token: &str, audience: &str) -> Result<TokenReviewStatus, ApiError> {
        let spec = TokenReviewSpec { token: token.into(), audiences: Some(vec![audience.into()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = api_call::call(self.reviews.create(&PostParams::default(), &review)).await?;
        Ok(answer.status.unwrap_or_default())
    }

    async fn pod(&self, namespace: &str, name: &str, uid: &str) -> Option<Pod> {
        let name = ObjectRef::new(name).within(namespace);
        let read = |pod: Arc<k8s_openapi::api::core::v1::Pod>| Pod::read(&pod, &self.domain);
        let find = || self.stores.pods.get(&name).map(read).filter(|pod| pod.uid == uid);
        let mut changes = self.stores.changes();
        let with_address = async {
            while find().is_none_or(|pod| pod.addresses.is_empty()) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(WAIT_FOR_ADDRESS, with_address).await;
        find()
    }

    async fn trust(&self) -> Result<Arc<Trusted>, Stale> {
        self.current.fresh().await
    }
}
