//! Meshed namespaces: is every pod in the mesh, its proxy ready and of this version?

use byrnie_crds::{cluster, names};
use futures::{StreamExt, TryStreamExt, stream, try_join};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod},
};
use kube::{Api, Client, ResourceExt, api::ListParams};

use super::finding::Seen;
use crate::{api::Doing, output::count};

/// So many namespaces are read at a time.
const AT_ONCE: usize = 8;

/// What selects them.
pub(super) fn meshed() -> String {
    format!("{} in ({},{})", names::INJECT_LABEL, names::INJECT_ENABLED, names::INJECT_ENFORCED)
}

pub(super) async fn all(client: &Client, system: &str) -> anyhow::Result<Vec<Seen>> {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespaces = api.list(&ListParams::default().labels(&meshed())).await.doing("list namespaces")?;
    if namespaces.items.is_empty() {
        let advice =
            format!("kubectl label namespace NAMESPACE {}={}", names::INJECT_LABEL, names::INJECT_ENABLED);
        return Ok(vec![Seen::warning("none", "no namespace is in the mesh", advice)]);
    }
    let version = version(client, system).await;
    let version = version.as_deref();
    let seen = stream::iter(namespaces.items)
        .map(|namespace| async move {
            let name = namespace.name_any();
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
            let pods: Api<Pod> = Api::namespaced(client.clone(), &name);
            let (map, pods) = try_join!(
                async {
                    maps.get_opt(names::TRUST_CONFIG_MAP).await.doing(&format!("read configmaps of {name}"))
                },
                async { pods.list(&ListParams::default()).await.doing(&format!("list pods in {name}")) },
            )?;
            anyhow::Ok(one(&Facts {
                namespace: &namespace,
                trusted: map.is_some(),
                pods: &pods.items,
                version,
                system,
            }))
        })
        .buffered(AT_ONCE);
    Ok(seen.try_collect::<Vec<_>>().await?.concat())
}

/// What is known of one namespace.
pub(super) struct Facts<'a> {
    pub(super) namespace: &'a Namespace,
    /// It has the trust bundle.
    pub(super) trusted: bool,
    pub(super) pods: &'a [Pod],
    /// Of the proxies that are injected now, where it is known.
    pub(super) version: Option<&'a str>,
    pub(super) system: &'a str,
}

pub(super) fn one(facts: &Facts<'_>) -> Vec<Seen> {
    let name = facts.namespace.name_any();
    let mut seen = vec![];
    let level = facts.namespace.labels().get("pod-security.kubernetes.io/enforce").map(String::as_str);
    if let Some(level @ ("baseline" | "restricted")) = level {
        seen.push(Seen::failed(
            &name,
            format!("PodSecurity level {level} is enforced, which refuses injected pods (NET_ADMIN)"),
            format!("kubectl label --overwrite namespace {name} pod-security.kubernetes.io/enforce=privileged (warn and audit may stay)"),
        ));
    }
    if !facts.trusted {
        seen.push(Seen::failed(
            &name,
            format!("configmap {} is missing; new pods wait for it", names::TRUST_CONFIG_MAP),
            format!(
                "the operator writes it; see: kubectl -n {} logs deployment/{}",
                facts.system,
                names::OPERATOR
            ),
        ));
    }
    let live: Vec<&Pod> = facts.pods.iter().filter(|pod| cluster::is_live(pod)).collect();
    let names_of = |wanted: &dyn Fn(&Pod) -> bool| -> Vec<String> {
        live.iter().filter(|pod| wanted(pod)).map(|pod| pod.name_any()).collect()
    };
    let restart = format!("kubectl -n {name} rollout restart deployment,statefulset,daemonset");
    let outside = names_of(&|pod| cluster::lacks_proxy(pod, facts.namespace));
    if !outside.is_empty() {
        let are = if outside.len() == 1 { "has" } else { "have" };
        seen.push(Seen::warning(
            &name,
            format!("{} {are} no proxy: {}", count(outside.len(), "pod"), few(&outside)),
            format!("made before the label or past the webhook; make them anew: {restart}"),
        ));
    }
    let waiting = names_of(&|pod| cluster::is_meshed(pod) && !proxy_is_ready(pod));
    if let Some(first) = waiting.first() {
        let are = if waiting.len() == 1 { "proxy is" } else { "proxies are" };
        seen.push(Seen::failed(
            &name,
            format!("{} {are} not ready: {}", waiting.len(), few(&waiting)),
            format!(
                "kubectl -n {name} logs {first} -c {0}; kubectl -n {name} describe pod {first}",
                names::PROXY_CONTAINER
            ),
        ));
    }
    let old = names_of(&|pod| {
        let of = pod.annotations().get(names::PROXY_VERSION_ANNOTATION);
        of.zip(facts.version).is_some_and(|(of, now)| of != now)
    });
    if let Some(version) = facts.version.filter(|_| !old.is_empty()) {
        let are = if old.len() == 1 { "proxy is" } else { "proxies are" };
        seen.push(Seen::warning(
            &name,
            format!("{} {are} not of version {version}: {}", old.len(), few(&old)),
            format!("when it suits: {restart}"),
        ));
    }
    if seen.is_empty() {
        let meshed = live.iter().filter(|pod| cluster::is_meshed(pod)).count();
        seen.push(Seen::ok(&name, format!("{} in the mesh", count(meshed, "pod"))));
    }
    seen
}

/// The version of the proxies that are injected now.
async fn version(client: &Client, system: &str) -> Option<String> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), system);
    let injector = api.get(names::INJECTOR).await.ok()?;
    injector.labels().get("app.kubernetes.io/version").cloned()
}

fn proxy_is_ready(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    statuses.into_iter().any(|status| status.name == names::PROXY_CONTAINER && status.ready)
}

fn few(pods: &[String]) -> String {
    let more = if pods.len() > 3 { ", ..." } else { "" };
    format!("{}{more}", pods[..pods.len().min(3)].join(", "))
}
