//! The fake part of the cluster: nodes, Services and pods that only the API server and KWOK know. Pods are injected by
//! the real webhook, their endpoints are made by the real controller.

use std::{collections::HashMap, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use byrnie_crds::names;
use byrnie_identity::TrustBundle;
use byrnie_model::TrustDomain;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::proxy::{self, ControlPlane};

/// Services in a namespace.
const CROWD: usize = 100;
/// Pods on a node, which has 254 addresses, from this network on.
const PODS: usize = 200;
const FIRST_NETWORK: usize = 128;
/// Requests at a time.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_mins(8);

/// A Service that proxies call.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// The pod whose proxy is simulated.
    pub(crate) pod: String,
    pub(crate) pod_address: String,
}

/// See the module.
pub(crate) struct Cluster {
    client: Client,
    pods: usize,
    nodes: usize,
    namespaces: usize,
    pub(crate) services: Vec<Target>,
    pub(crate) control_plane: Option<Arc<ControlPlane>>,
}

impl Cluster {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, pods: 0, nodes: 0, namespaces: 0, services: Vec::new(), control_plane: None }
    }

    /// Until there are so many Services of so many pods each, all ready.
    pub(crate) async fn grow(&mut self, services: usize, each: usize) -> Result<()> {
        let (nodes, namespaces) = ((services * each).div_ceil(PODS), services.div_ceil(CROWD));
        let client = &self.client;
        create(&Api::<Node>::all(client.clone()), (self.nodes..nodes).map(node)).await?;
        create(&Api::<Namespace>::all(client.clone()), (self.namespaces..namespaces).map(namespace)).await?;
        let new: Vec<_> = (self.services.len()..services).collect();
        let mut made: Vec<(usize, Service)> = stream::iter(new.clone())
            .map(|index| async move {
                let api = Api::<Service>::namespaced(client.clone(), &space(index));
                Ok::<_, anyhow::Error>((index, create_one(&api, &service(index)).await?))
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        made.sort_by_key(|(index, _)| *index);
        if self.control_plane.is_none() {
            // without trust a pod is injected, but cannot start
            self.control_plane = Some(Arc::new(self.read_control_plane().await?));
        }
        stream::iter(self.pods..services * each)
            .map(|index| async move {
                let of = index / each;
                let pod = pod(index, of);
                create_one(&Api::<Pod>::namespaced(client.clone(), &space(of)), &pod).await.map(|_| ())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        self.wait_until_ready(services * each).await?;
        for (index, service) in made {
            let address = service.spec.and_then(|spec| spec.cluster_ip).context("Service without address")?;
            let api = Api::<Pod>::namespaced(self.client.clone(), &space(index));
            let pod = api.get(&pod_name(index * each)).await?;
            self.services.push(Target {
                namespace: space(index),
                name: service_name(index),
                address: SocketAddr::new(address.parse()?, 80),
                pod: pod.name_any(),
                pod_address: pod.status.and_then(|s| s.pod_ip).context("pod without address")?,
            });
        }
        (self.pods, self.nodes, self.namespaces) = (services * each, nodes, namespaces);
        Ok(())
    }

    /// Proxies of all Services from this one on, with their tokens.
    pub(crate) async fn fleet(&self, from: usize) -> Result<Vec<proxy::Pod>> {
        let domain = &self.control_plane.as_ref().context("no trust yet")?.trust_domain;
        let audience = &names::audience(domain.as_str());
        stream::iter(&self.services[from..])
            .map(|target| async move {
                let pods = Api::<Pod>::namespaced(self.client.clone(), &target.namespace);
                let uid = pods.get(&target.pod).await?.uid().context("pod without UID")?;
                let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": target.pod, "uid": uid});
                let spec =
                    json!({"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound});
                let request: TokenRequest = object(json!({"spec": spec}))?;
                let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &target.namespace);
                let made = accounts.create_token_request("default", &PostParams::default(), &request).await?;
                Ok(proxy::Pod {
                    namespace: target.namespace.clone(),
                    name: target.pod.clone(),
                    uid,
                    address: target.pod_address.parse()?,
                    token: made.status.and_then(|status| status.token).context("no token")?,
                })
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    /// What a proxy calls: its own Service and those that follow.
    pub(crate) fn wanted(&self, proxy: usize, destinations: usize) -> HashMap<SocketAddr, usize> {
        let all = self.services.len();
        let indices = (0..destinations.min(all)).map(|step| (proxy + step) % all);
        indices.map(|index| (self.services[index].address, index)).collect()
    }

    async fn wait_until_ready(&self, endpoints: usize) -> Result<()> {
        let slices = Api::<EndpointSlice>::all(self.client.clone());
        let ours = ListParams::default().labels(
            "byrnie-scale=true,endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io",
        );
        let until = Instant::now() + PATIENCE;
        loop {
            let ready: usize = slices.list(&ours).await?.items.iter().map(ready).sum();
            if ready == endpoints {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "only {ready} of {endpoints} endpoints are ready; does KWOK run?"
            );
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn read_control_plane(&self) -> Result<ControlPlane> {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &space(0));
        let until = Instant::now() + Duration::from_secs(30);
        let map = loop {
            if let Some(map) = api.get_opt("byrnie-trust").await? {
                break map.data.unwrap_or_default();
            }
            ensure!(Instant::now() < until, "there is no ConfigMap byrnie-trust; is the mesh installed?");
            sleep(Duration::from_millis(200)).await;
        };
        let trust_domain: TrustDomain = parsed(&map, "trust-domain")?;
        let pem = map.get("roots.pem").context("no roots")?;
        Ok(ControlPlane {
            roots: TrustBundle::from_pem(&trust_domain, pem.as_bytes())?,
            trust_domain,
            operator: parsed(&map, "operator-id")?,
            identity: parsed(&map, "identity-address")?,
            discovery: parsed(&map, "discovery-address")?,
        })
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(
    map: &std::collections::BTreeMap<String, String>,
    key: &str,
) -> Result<T> {
    let text = map.get(key).with_context(|| format!("ConfigMap byrnie-trust has no {key}"))?;
    text.trim().parse().map_err(|error: T::Err| anyhow!("ConfigMap byrnie-trust, {key}: {error}"))
}

fn ready(slice: &EndpointSlice) -> usize {
    let ready =
        |conditions: &k8s_openapi::api::discovery::v1::EndpointConditions| conditions.ready == Some(true);
    slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| endpoint.conditions.as_ref().is_some_and(ready))
        .count()
}

fn space(service: usize) -> String {
    format!("scale-{}", service / CROWD)
}

fn service_name(index: usize) -> String {
    format!("service-{index}")
}

fn pod_name(index: usize) -> String {
    format!("pod-{index}")
}

fn node(index: usize) -> Value {
    let network = format!("10.244.{}.0/24", FIRST_NETWORK + index);
    json!({
        "metadata": {"name": format!("fake-{index}"), "labels": {"type": "kwok"}},
        "spec": {
            "podCIDR": network, "podCIDRs": [network],
            // nothing that is real comes here
            "taints": [{"key": "byrnie.dev/scale", "effect": "NoSchedule"}],
        },
    })
}

fn namespace(index: usize) -> Value {
    json!({"metadata": {"name": format!("scale-{index}"), "labels": {"byrnie.dev/inject": "enabled"}}})
}

/// kube-proxy leaves it alone: nobody dials it, and its rules are not what is measured.
fn service(index: usize) -> Value {
    json!({
        "metadata": {
            "name": service_name(index),
            "labels": {"byrnie-scale": "true", "service.kubernetes.io/service-proxy-name": "none"},
        },
        "spec": {
            "selector": {"app": service_name(index)},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}],
        },
    })
}

fn pod(index: usize, service: usize) -> Value {
    json!({
        "metadata": {
            "name": pod_name(index),
            "labels": {"app": service_name(service)},
        },
        "spec": {
            "nodeName": format!("fake-{}", index / PODS),
            "containers": [{"name": "app", "image": "none", "ports": [{"containerPort": 8080}]}],
        },
    })
}

fn object<K: DeserializeOwned>(value: Value) -> Result<K> {
    Ok(serde_json::from_value(value)?)
}

async fn create<K>(api: &Api<K>, objects: impl Iterator<Item = Value>) -> Result<()>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    for value in objects {
        create_one(api, &value).await?;
    }
    Ok(())
}

/// A new namespace has no ServiceAccount for a moment.
async fn create_one<K>(api: &Api<K>, value: &Value) -> Result<K>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let object: K = object(value.clone())?;
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match api.create(&PostParams::default(), &object).await {
            Ok(made) => return Ok(made),
            Err(error) if Instant::now() > until => {
                return Err(error).with_context(|| format!("cannot create {}", object.name_any()));
            }
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}
