//! Whether new pods get their certificates from the kubelet: where Kubernetes can (1.37 and later) and the operator
//! says, by a label of its ClusterTrustBundle, that it answers. Found out again and again, for clusters that are upgraded.

use std::time::Duration;

use byrnie_crds::{cluster, names};
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use kube::Client;

use crate::watch::Watched;

/// Whether the API server has the kinds is asked this often.
const LOOK: Duration = Duration::from_mins(1);

/// The watched ClusterTrustBundle.
///
/// RBAC: clustertrustbundles list, watch.
#[derive(Clone)]
pub struct PodCertificates {
    watched: Watched<ClusterTrustBundle>,
}

impl PodCertificates {
    /// Starts to look; the future does so for ever.
    pub fn watch(client: &Client) -> (Self, impl Future<Output = ()> + Send) {
        let (watched, watch) = Watched::only(client.clone(), names::CLUSTER_TRUST_BUNDLE);
        let client = client.clone();
        let watch = async move {
            while !served(&client).await {
                tokio::time::sleep(LOOK).await;
            }
            watch.await;
        };
        (Self { watched }, watch)
    }

    /// Whether a pod that is created now shall ask its kubelet.
    pub fn are_offered(&self) -> bool {
        let bundle = self.watched.get("", names::CLUSTER_TRUST_BUNDLE);
        let labels = bundle.and_then(|metadata| metadata.labels).unwrap_or_default();
        labels.get(names::POD_CERTIFICATES_LABEL).is_some_and(|offered| offered == "true")
    }
}

async fn served(client: &Client) -> bool {
    match client.list_api_group_resources(cluster::CERTIFICATES).await {
        Ok(list) => cluster::serves_pod_certificates(&list),
        Err(error) => {
            tracing::warn!(%error, "cannot ask the API server for its kinds of certificates; trying again");
            false
        }
    }
}
