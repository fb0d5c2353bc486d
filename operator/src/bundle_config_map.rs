//! The ConfigMap `byrnie-trust` in every namespace that has, or may get, meshed pods: whom to trust at the first
//! connection and where the operator is. Pods wait for this mount, so a newly labelled namespace gets it at once.
//!
//! RBAC: `configmaps` get, list, watch (by label), create, patch, delete in all namespaces; `services` get in the
//! operator's own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use byrnie_crds::names;
use byrnie_model::SpiffeId;
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, Pod, Service},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::reflector::{self, ObjectRef, Store},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    api_call::{self, ApiError},
    lease::Fence,
    metrics::Metrics,
    store::Stores,
    trust::current::Trusted,
    watch::{Heard, Selection, follow},
};

/// Even when nothing seems to happen, everything is compared this often.
const RESYNC: Duration = Duration::from_mins(10);
/// Many events in a row are answered together.
const COALESCE: Duration = Duration::from_millis(50);
/// Writes at the same time.
const CONCURRENCY: usize = 8;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_mins(1);

/// Where proxies find the operator.
#[derive(Clone, Debug)]
pub struct Address {
    /// The Service whose cluster IP is told, in the operator's namespace.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// Told instead of the Service's cluster IP.
    pub advertise: Option<IpAddr>,
    /// Port of the identity service.
    pub identity_port: u16,
    /// Port of the discovery service.
    pub discovery_port: u16,
    /// The operator's name.
    pub operator_id: SpiffeId,
}

/// See the module.
pub struct BundleConfigMaps {
    client: Client,
    stores: Stores,
    trust: watch::Receiver<Option<Arc<Trusted>>>,
    address: Address,
    fence: Fence,
    metrics: Metrics,
}

impl BundleConfigMaps {
    /// Needs what is watched, the trust, and the permission to write.
    pub fn new(
        client: Client,
        stores: Stores,
        trust: watch::Receiver<Option<Arc<Trusted>>>,
        address: Address,
        fence: Fence,
        metrics: Metrics,
    ) -> Self {
        Self { client, stores, trust, address, fence, metrics }
    }

    /// Works for as long as this replica leads.
    pub async fn run(&self) -> Infallible {
        let (store, mut writer) = reflector::store::<ConfigMap>();
        // By name: so that the permission to watch can be limited to that name.
        let ours = Selection {
            fields: Some(format!("metadata.name={}", names::TRUST_CONFIG_MAP)),
            labels: Some(format!("{}={}", names::PART_OF_LABEL, names::PART_OF)),
        };
        let seen = watch::Sender::new(());
        let hear = |heard: Heard<ConfigMap>| match heard {
            Heard::Event(event) => {
                writer.apply_watcher_event(&event);
                seen.send_replace(());
            }
            Heard::Trouble(problem) => {
                warn!(problem, "cannot watch ConfigMaps");
                self.metrics.failed("ConfigMap");
            }
            Heard::Alive | Heard::StillTrouble => {}
        };
        tokio::select! {
            never = follow(Api::all(self.client.clone()), ours, hear) => never,
            never = self.keep(&store, seen.subscribe()) => never,
        }
    }

    async fn keep(&self, store: &Store<ConfigMap>, mut seen: watch::Receiver<()>) -> Infallible {
        self.stores.synced().await;
        if store.wait_until_ready().await.is_err() {
            return std::future::pending().await;
        }
        let mut changes = self.stores.changes();
        let mut trust = self.trust.clone();
        let mut failures: HashMap<String, (Duration, Instant)> = HashMap::new();
        loop {
            let next = self.round(store, &mut failures).await;
            tokio::select! {
                _ = changes.changed() => {}
                _ = trust.changed() => {}
                _ = seen.changed() => {}
                () = sleep_until(next) => {}
            }
            sleep(COALESCE).await;
            changes.borrow_and_update();
            trust.borrow_and_update();
            seen.borrow_and_update();
        }
    }

    /// Brings all namespaces in line; when to come again at the latest.
    async fn round(
        &self,
        store: &Store<ConfigMap>,
        failures: &mut HashMap<String, (Duration, Instant)>,
    ) -> Instant {
        let now = Instant::now();
        let Some(trusted) = self.trust.borrow().clone() else { return now + RESYNC };
        let data = match self.data(&trusted).await {
            Ok(data) => data,
            Err(e) => {
                warn!(error = %e, service = self.address.service, "the operator's own address is not known");
                self.metrics.failed("ConfigMap");
                return now + FIRST_RETRY * 4;
            }
        };
        let owners = trusted.owners();
        let wanted = wanted(&self.stores.namespaces.state(), &self.stores.pods.state());
        let existing = store.state();
        let mut work: Vec<Work> = existing
            .iter()
            .filter(|map| map.namespace().is_some_and(|namespace| !wanted.contains(&namespace)))
            .map(|map| Work::Remove(map.namespace().unwrap_or_default(), map.uid()))
            .collect();
        for namespace in wanted {
            let reference = ObjectRef::new(names::TRUST_CONFIG_MAP).within(&namespace);
            let in_line =
                |map: &ConfigMap| map.data.as_ref() == Some(&data) && map.owner_references() == owners;
            if !store.get(&reference).is_some_and(|map| in_line(&map)) {
                work.push(Work::Write(namespace));
            }
        }
        failures.retain(|namespace, _| work.iter().any(|work| work.namespace() == namespace));
        work.retain(|work| failures.get(work.namespace()).is_none_or(|(_, at)| *at <= now));
        let (data, owners) = (&data, &owners);
        let results: Vec<(String, Result<(), ApiError>)> = futures::stream::iter(work)
            .map(
                |work| async move { (work.namespace().to_owned(), self.carry_out(work, data, owners).await) },
            )
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (namespace, result) in results {
            match result {
                Ok(()) => {
                    failures.remove(&namespace);
                }
                Err(e) => {
                    self.metrics.failed("ConfigMap");
                    warn!(namespace, error = %e, "ConfigMap {} is not in line", names::TRUST_CONFIG_MAP);
                    let wait =
                        failures.get(&namespace).map_or(FIRST_RETRY, |(wait, _)| (*wait * 2).min(LAST_RETRY));
                    failures.insert(namespace, (wait, Instant::now() + wait));
                }
            }
        }
        failures.values().map(|(_, at)| *at).min().unwrap_or(now + RESYNC)
    }

    async fn carry_out(
        &self,
        work: Work,
        data: &BTreeMap<String, String>,
        owners: &[OwnerReference],
    ) -> Result<(), ApiError> {
        if !self.fence.open() {
            return Ok(());
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), work.namespace());
        match work {
            Work::Write(namespace) => {
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(names::TRUST_CONFIG_MAP.into()),
                        labels: Some(BTreeMap::from([(names::PART_OF_LABEL.into(), names::PART_OF.into())])),
                        owner_references: Some(owners.to_vec()),
                        ..ObjectMeta::default()
                    },
                    data: Some(data.clone()),
                    ..ConfigMap::default()
                };
                let params = PatchParams::apply(names::FIELD_MANAGER).force();
                match api_call::call(api.patch(names::TRUST_CONFIG_MAP, &params, &Patch::Apply(&map))).await {
                    Ok(_) => info!(namespace, "trust bundle written"),
                    // The namespace is on its way out.
                    Err(ApiError::NotFound) => debug!(namespace, "no such namespace any more"),
                    Err(e) => return Err(e),
                }
                self.metrics.wrote("ConfigMap");
            }
            Work::Remove(namespace, uid) => {
                let only_this = Preconditions { uid, ..Preconditions::default() };
                let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
                match api_call::call(api.delete(names::TRUST_CONFIG_MAP, &params)).await {
                    Ok(_) | Err(ApiError::NotFound | ApiError::Conflict) => {
                        info!(namespace, "trust bundle removed");
                    }
                    Err(e) => return Err(e),
                }
                self.metrics.wrote("ConfigMap");
            }
        }
        Ok(())
    }

    async fn data(&self, trusted: &Trusted) -> Result<BTreeMap<String, String>, ApiError> {
        let address = &self.address;
        let ip = match address.advertise {
            Some(ip) => ip,
            None => self.cluster_ip().await?,
        };
        let at = |port| std::net::SocketAddr::new(ip, port).to_string();
        Ok([
            ("trust-domain", trusted.state.domain.as_str().to_owned()),
            (names::ROOTS_FILE, trusted.state.trusted_pem()),
            ("identity-address", at(address.identity_port)),
            ("discovery-address", at(address.discovery_port)),
            ("operator-id", address.operator_id.as_str().to_owned()),
            ("cluster-networks", String::new()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
    }

    /// From what is watched; asked for where that does not have it yet.
    async fn cluster_ip(&self) -> Result<IpAddr, ApiError> {
        let Address { service, namespace, .. } = &self.address;
        let service =
            if let Some(service) = self.stores.services.get(&ObjectRef::new(service).within(namespace)) {
                service
            } else {
                let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
                Arc::new(api_call::call(api.get(service)).await?)
            };
        let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
        ip.and_then(|ip| ip.parse().ok()).ok_or(ApiError::NotFound)
    }
}

enum Work {
    Write(String),
    Remove(String, Option<String>),
}

impl Work {
    fn namespace(&self) -> &str {
        match self {
            Self::Write(namespace) | Self::Remove(namespace, _) => namespace,
        }
    }
}

/// Namespaces that are labelled, and those with a pod that opted in (or was injected before the label went).
fn wanted(namespaces: &[Arc<Namespace>], pods: &[Arc<Pod>]) -> BTreeSet<String> {
    let with_pods: BTreeSet<String> = pods
        .iter()
        .filter(|pod| {
            is(pod.labels(), names::INJECT_LABEL, names::INJECT_ENABLED)
                || is(pod.labels(), names::INJECTED_LABEL, "true")
        })
        .filter_map(|pod| pod.namespace())
        .collect();
    let staying = namespaces.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    let wanted = staying.filter(|namespace| {
        with_pods.contains(&namespace.name_any())
            || is(namespace.labels(), names::INJECT_LABEL, names::INJECT_ENABLED)
            || is(namespace.labels(), names::INJECT_LABEL, names::INJECT_ENFORCED)
    });
    wanted.map(|namespace| namespace.name_any()).collect()
}

fn is(labels: &BTreeMap<String, String>, label: &str, value: &str) -> bool {
    labels.get(label).is_some_and(|has| has == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(namespace: Option<&str>, name: &str, label: Option<(&str, &str)>) -> ObjectMeta {
        ObjectMeta {
            namespace: namespace.map(Into::into),
            name: Some(name.into()),
            labels: label.map(|(key, value)| BTreeMap::from([(key.into(), value.into())])),
            ..ObjectMeta::default()
        }
    }

    fn namespace(name: &str, label: Option<&str>) -> Arc<Namespace> {
        let metadata = metadata(None, name, label.map(|value| (names::INJECT_LABEL, value)));
        Arc::new(Namespace { metadata, ..Namespace::default() })
    }

    fn pod(namespace: &str, key: &str, value: &str) -> Arc<Pod> {
        Arc::new(Pod { metadata: metadata(Some(namespace), "pod", Some((key, value))), ..Pod::default() })
    }

    #[test]
    fn namespaces_that_may_get_meshed_pods() {
        let mut leaving = (*namespace("leaving", Some("enabled"))).clone();
        leaving.metadata.deletion_timestamp = Some(crate::trust::time(std::time::SystemTime::now()));
        let namespaces = [
            namespace("enabled", Some("enabled")),
            namespace("enforced", Some("enforced")),
            namespace("odd", Some("disabled")),
            Arc::new(leaving),
            namespace("plain", None),
            namespace("opted-in", None),
            namespace("label-removed", None),
            namespace("opted-out", None),
        ];
        let pods = [
            pod("opted-in", names::INJECT_LABEL, names::INJECT_ENABLED),
            pod("label-removed", names::INJECTED_LABEL, "true"),
            pod("opted-out", names::INJECT_LABEL, names::INJECT_DISABLED),
            pod("gone", names::INJECTED_LABEL, "true"),
        ];
        let wanted: Vec<String> = wanted(&namespaces, &pods).into_iter().collect();
        assert_eq!(wanted, ["enabled", "enforced", "label-removed", "opted-in"]);
    }
}
