//! The ClusterTrustBundle with the mesh's roots, where the API server has that kind (Kubernetes 1.37 and later). Its
//! label tells the injector whether kubelets may ask for certificates of new pods.
//!
//! RBAC: `clustertrustbundles` create, get, patch; `signers` attest, for our own name.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use byrnie_crds::names;
use k8s_openapi::{
    api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use crate::{
    api_call::{self, ApiError},
    issuance::pod_certificates,
    lease::Fence,
    metrics::Metrics,
    trust::current::Trusted,
};

/// Written again this often, should anybody have changed it.
const RESYNC: Duration = Duration::from_mins(1);
const RETRY: Duration = Duration::from_secs(2);

/// See the module.
pub struct ClusterTrustBundles {
    /// To the API server.
    pub client: Client,
    /// Whom to trust.
    pub trust: watch::Receiver<Option<Arc<Trusted>>>,
    /// Until when this replica may write.
    pub fence: Fence,
    /// Counts.
    pub metrics: Metrics,
}

impl ClusterTrustBundles {
    /// Works for as long as this replica leads.
    pub async fn run(&self) -> Infallible {
        let mut trust = self.trust.clone();
        let mut told = false;
        loop {
            let trusted = trust.borrow_and_update().clone();
            let mut next = RESYNC;
            if let Some(trusted) = trusted
                && self.fence.open()
                && pod_certificates::served(&self.client).await
            {
                match self.write(&trusted).await {
                    Ok(()) if !told => {
                        info!(name = names::CLUSTER_TRUST_BUNDLE, "ClusterTrustBundle written");
                        told = true;
                    }
                    Ok(()) => {}
                    Err(error) => {
                        warn!(%error, "ClusterTrustBundle {} is not in line", names::CLUSTER_TRUST_BUNDLE);
                        self.metrics.failed("ClusterTrustBundle");
                        next = RETRY;
                    }
                }
            }
            tokio::select! {
                _ = trust.changed() => {}
                () = sleep(next) => {}
            }
        }
    }

    async fn write(&self, trusted: &Trusted) -> Result<(), ApiError> {
        let api: Api<ClusterTrustBundle> = Api::all(self.client.clone());
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        let bundle = bundle(trusted);
        api_call::call(api.patch(names::CLUSTER_TRUST_BUNDLE, &params, &Patch::Apply(&bundle))).await?;
        self.metrics.wrote("ClusterTrustBundle");
        Ok(())
    }
}

fn bundle(trusted: &Trusted) -> ClusterTrustBundle {
    let offered = trusted.leaf_lifetime >= pod_certificates::SHORTEST;
    let labels = [
        (names::PART_OF_LABEL, names::PART_OF.to_owned()),
        (names::POD_CERTIFICATES_LABEL, offered.to_string()),
    ];
    ClusterTrustBundle {
        metadata: ObjectMeta {
            name: Some(names::CLUSTER_TRUST_BUNDLE.into()),
            labels: Some(BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value)))),
            owner_references: Some(trusted.owners()),
            ..ObjectMeta::default()
        },
        spec: ClusterTrustBundleSpec {
            signer_name: Some(names::SIGNER.into()),
            trust_bundle: trusted.state.trusted_pem(),
        },
    }
}
