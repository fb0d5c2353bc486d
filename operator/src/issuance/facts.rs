//! What issuance must find out, from the API server and from what is watched anyway.
//!
//! RBAC: `authentication.k8s.io/tokenreviews` create; pods as the stores need them.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    core::v1::Pod,
};
use kube::{Api, Client, ResourceExt, api::PostParams, runtime::reflector::ObjectRef};
use tokio::time::timeout;

use super::{Facts, token};
use crate::{
    api_call::{self, ApiError},
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
}

impl ClusterFacts {
    /// Asks this API server.
    pub fn new(client: Client, stores: Stores, current: Current) -> Self {
        Self { reviews: Api::all(client), stores, current }
    }
}

impl Facts for ClusterFacts {
    async fn review(&self, token: &str, audience: &str) -> Result<TokenReviewStatus, ApiError> {
        let spec = TokenReviewSpec { token: Some(token.into()), audiences: Some(vec![audience.into()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = api_call::call(self.reviews.create(&PostParams::default(), &review)).await?;
        Ok(answer.status.unwrap_or_default())
    }

    async fn pod(&self, namespace: &str, name: &str, uid: &str) -> Option<Arc<Pod>> {
        let reference = ObjectRef::new(name).within(namespace);
        let find = || self.stores.pods.get(&reference).filter(|pod| pod.uid().as_deref() == Some(uid));
        let mut changes = self.stores.changes();
        let with_address = async {
            loop {
                if let Some(pod) = find()
                    && token::addresses(&pod).next().is_some()
                {
                    return;
                }
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
