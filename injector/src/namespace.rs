//! What the injector knows of a namespace: its labels and annotations, kept by a watch.

use std::collections::BTreeMap;

use byrnie_crds::names;
use k8s_openapi::api::core::v1::Namespace as KubeNamespace;
use kube::{Api, Client};

use crate::watch::Watched;

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
    api: Api<KubeNamespace>,
    watched: Watched<KubeNamespace>,
}

impl Namespace {
    /// Whether its pods are injected unless they opt out.
    pub fn is_meshed(&self) -> bool {
        self.is_enforced() || self.label(names::INJECT_LABEL) == Some("enabled")
    }

    /// Whether nothing in it may stay out of the mesh.
    pub fn is_enforced(&self) -> bool {
        self.label(names::INJECT_LABEL) == Some("enforced")
    }

    /// Whether its pods may leave the mesh, whole or by port.
    pub fn allows_opt_out(&self) -> bool {
        !self.is_enforced()
            && self.annotations.get(names::ALLOW_OPT_OUT_ANNOTATION).is_some_and(|value| value == "true")
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
    pub fn watch(client: &Client) -> (Self, impl Future<Output = ()> + Send) {
        let (watched, watch) = Watched::start(client.clone(), |_| {});
        (Self { api: Api::all(client.clone()), watched }, watch)
    }

    /// A namespace from the watch, or from the API server when it is too new for it.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn get(&self, name: &str) -> Result<Namespace, kube::Error> {
        let metadata = match self.watched.get("", name) {
            Some(known) => known,
            None => self.api.get_metadata(name).await?.metadata,
        };
        Ok(Namespace {
            name: name.to_owned(),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
        })
    }
}
