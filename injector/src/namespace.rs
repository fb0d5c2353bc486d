//! What the injector knows of a namespace: its labels and annotations, kept by a watch.

use std::collections::BTreeMap;

use byrnie_crds::names;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace as KubeNamespace;
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, reflector, watcher},
};

/// A namespace's labels and annotations, as far as they matter here.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The watched namespaces.
///
/// RBAC: namespaces get, list, watch.
#[derive(Clone)]
pub struct Namespaces {
    api: Api<PartialObjectMeta<KubeNamespace>>,
    store: reflector::Store<PartialObjectMeta<KubeNamespace>>,
}

impl Namespace {
    /// Whether its pods are injected unless they opt out.
    pub fn is_meshed(&self) -> bool {
        matches!(self.label(names::INJECT_LABEL), Some("enabled" | "enforced"))
    }

    /// Whether its pods may leave the mesh, whole or by port.
    pub fn allows_opt_out(&self) -> bool {
        self.annotations.get(names::ALLOW_OPT_OUT_ANNOTATION).is_some_and(|value| value == "true")
    }

    /// The PodSecurity level that forbids NET_ADMIN here, if one does.
    pub fn forbids_net_admin(&self) -> Option<&str> {
        self.label("pod-security.kubernetes.io/enforce")
            .filter(|level| matches!(*level, "baseline" | "restricted"))
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

impl Namespaces {
    /// Starts the watch; the future runs it for ever.
    pub fn watch(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let api: Api<PartialObjectMeta<KubeNamespace>> = Api::all(client);
        let (store, writer) = reflector::store();
        let stream = watcher(api.clone(), watcher::Config::default().any_semantic().timeout(60))
            .default_backoff()
            .modify(|object| object.metadata.managed_fields = None)
            .reflect(writer)
            .for_each(|event| async move {
                if let Err(error) = event {
                    tracing::warn!(%error, "watching namespaces failed; trying again");
                }
            });
        (Self { api, store }, stream)
    }

    /// Waits for the first full list.
    pub async fn synced(&self) -> bool {
        self.store.wait_until_ready().await.is_ok()
    }

    /// A namespace from the watch, or from the API server when it is too new for it.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn get(&self, name: &str) -> Result<Namespace, kube::Error> {
        let known = self.store.get(&reflector::ObjectRef::new(name));
        let metadata = match known {
            Some(object) => object.metadata.clone(),
            None => self.api.get_metadata(name).await?.metadata,
        };
        Ok(Namespace {
            name: name.to_owned(),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
        })
    }
}
