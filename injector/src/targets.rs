//! Whether what a MeshPolicy or TrafficSplit points to is there. Missing targets are a warning, never a refusal: a
//! canary's split is written before its Services are.

use std::time::Duration;

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client};
use serde_json::Value;

use crate::watch::Watched;

const PATIENCE: Duration = Duration::from_millis(500);

/// Looks Services up.
///
/// RBAC: services get, list, watch.
#[derive(Clone)]
pub struct Targets {
    client: Client,
    watched: Watched<Service>,
}

impl Targets {
    /// Starts the watch; the future runs it for ever.
    pub fn watch(client: &Client) -> (Self, impl Future<Output = ()> + Send) {
        let name_alone = |metadata: &mut ObjectMeta| {
            (metadata.labels, metadata.annotations, metadata.owner_references) = (None, None, None);
        };
        let (watched, watch) = Watched::start(client.clone(), name_alone);
        (Self { client: client.clone(), watched }, watch)
    }

    /// A warning for each Service that the object names and that does not exist. Those that the watch does not know
    /// (yet) are looked up; when the API server does not answer soon, nothing is said: a warning is not worth a slow
    /// admission.
    pub async fn missing(&self, object: &Value, namespace: Option<&str>) -> Vec<String> {
        let Some(namespace) = namespace else { return vec![] };
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let look_up = async {
            let mut warnings = vec![];
            for (path, name) in services(object) {
                if self.watched.get(namespace, &name).is_some() {
                    continue;
                }
                if matches!(api.get_metadata_opt(&name).await, Ok(None)) {
                    warnings.push(format!("{path}: service {namespace}/{name} does not exist (yet)"));
                }
            }
            warnings
        };
        tokio::time::timeout(PATIENCE, look_up).await.unwrap_or_default()
    }
}

/// The Services that an object names, each with the path of the field.
fn services(object: &Value) -> Vec<(String, String)> {
    let spec = &object["spec"];
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let mut found = vec![];
    for (index, target) in spec["targetRefs"].as_array().into_iter().flatten().enumerate() {
        if let (Some("Service"), Some(name)) = (target["kind"].as_str(), target["name"].as_str()) {
            found.push((format!("spec.targetRefs[{index}]"), name.to_owned()));
        }
    }
    if let Some(name) = spec["service"].as_str() {
        found.push(("spec.service".to_owned(), short(name)));
    }
    for (index, backend) in spec["backends"].as_array().into_iter().flatten().enumerate() {
        if let Some(name) = backend["service"].as_str() {
            found.push((format!("spec.backends[{index}].service"), short(name)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::services;

    #[test]
    fn services_are_found_where_users_name_them() {
        let policy = json!({"spec": {"targetRefs": [{"kind": "Pod"}, {"kind": "Service", "name": "pay"}]}});
        assert_eq!(services(&policy), [("spec.targetRefs[1]".to_owned(), "pay".to_owned())]);
        let split =
            json!({"spec": {"service": "web.shop.svc", "backends": [{"service": "web-v1", "weight": 1}]}});
        let names: Vec<String> = services(&split).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["web", "web-v1"]);
    }
}
