//! Meshed namespaces: is every pod in the mesh, and its proxy ready?

use anyhow::Context;
use byrnie_crds::names;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{Api, Client, ResourceExt, api::ListParams};

use super::Finding;

const AREA: &str = "meshed namespaces";

pub(super) async fn all(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let api: Api<Namespace> = Api::all(client.clone());
    let selector = ListParams::default().labels(&format!("{} in (enabled,enforced)", names::INJECT_LABEL));
    let namespaces = api.list(&selector).await.context("cannot list namespaces")?;
    if namespaces.items.is_empty() {
        let advice = format!("kubectl label namespace NAMESPACE {}=enabled", names::INJECT_LABEL);
        return Ok(vec![Finding::warning(AREA, "none", "no namespace is in the mesh", advice)]);
    }
    let mut findings = vec![];
    for namespace in &namespaces.items {
        findings.extend(one(client, namespace).await?);
    }
    Ok(findings)
}

async fn one(client: &Client, namespace: &Namespace) -> anyhow::Result<Vec<Finding>> {
    let name = namespace.name_any();
    let mut findings = vec![];
    if let Some(level @ ("baseline" | "restricted")) =
        namespace.labels().get("pod-security.kubernetes.io/enforce").map(String::as_str)
    {
        findings.push(Finding::failed(
            AREA,
            &name,
            format!("enforces PodSecurity level {level}, which refuses injected pods"),
            "set pod-security.kubernetes.io/enforce=privileged on it (warn and audit may stay), or take it out of the mesh",
        ));
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
    if maps
        .get_opt(names::TRUST_CONFIG_MAP)
        .await
        .with_context(|| format!("cannot read configmaps of {name}"))?
        .is_none()
    {
        findings.push(Finding::failed(
            AREA,
            &name,
            format!("configmap {} is missing; new pods wait for it", names::TRUST_CONFIG_MAP),
            "the operator writes it; see: kubectl -n byrnie-system logs deployment/byrnie-operator",
        ));
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name);
    let pods =
        pods.list(&ListParams::default()).await.with_context(|| format!("cannot list pods of {name}"))?;
    let running: Vec<&Pod> = pods.items.iter().filter(|pod| is_live(pod)).collect();
    let outside: Vec<String> =
        running.iter().filter(|pod| !has_proxy(pod) && !opted_out(pod)).map(|pod| pod.name_any()).collect();
    let waiting: Vec<String> = running
        .iter()
        .filter(|pod| has_proxy(pod) && !proxy_is_ready(pod))
        .map(|pod| pod.name_any())
        .collect();
    let meshed = running.iter().filter(|pod| has_proxy(pod)).count();
    if !outside.is_empty() {
        findings.push(Finding::warning(
            AREA,
            &name,
            format!("{} pod(s) run without a proxy: {}", outside.len(), few(&outside)),
            format!("they are older than the label; restart them: kubectl -n {name} rollout restart deployment,statefulset,daemonset"),
        ));
    }
    if !waiting.is_empty() {
        findings.push(Finding::failed(
            AREA,
            &name,
            format!("{} proxies are not ready: {}", waiting.len(), few(&waiting)),
            format!("kubectl -n {name} logs {} -c {}", waiting[0], names::PROXY_CONTAINER),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(AREA, &name, format!("{meshed} pod(s) in the mesh")));
    }
    Ok(findings)
}

fn is_live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, "Succeeded" | "Failed")
}

fn opted_out(pod: &Pod) -> bool {
    pod.labels().get(names::INJECT_LABEL).is_some_and(|value| value == "disabled")
}

fn has_proxy(pod: &Pod) -> bool {
    let inits = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    inits.is_some_and(|inits| inits.iter().any(|container| container.name == names::PROXY_CONTAINER))
}

fn proxy_is_ready(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
    statuses.is_some_and(|all| all.iter().any(|status| status.name == names::PROXY_CONTAINER && status.ready))
}

fn few(pods: &[String]) -> String {
    let more = if pods.len() > 3 { ", ..." } else { "" };
    format!("{}{more}", pods[..pods.len().min(3)].join(", "))
}
