//! Is the control plane there, and does the API server reach it?

use byrnie_crds::names;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        apps::v1::Deployment,
        core::v1::{Namespace, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::json;

use super::finding::{Report, Seen};
use crate::api::{Doing, reason};

pub(super) const INJECTION: &str = "injection (dry run)";
const OLDEST_MINOR: u32 = 29;
const ABSENT: &str = "not installed";
const INSTALL: &str = "helm install byrnie deploy/chart -n byrnie-system --create-namespace";

/// Whether a kind is missing, so that nothing can be in order.
pub(super) fn is_absent(report: &Report) -> bool {
    report.findings.iter().any(|finding| finding.detail == ABSENT)
}

pub(super) async fn api_server(client: &Client) -> anyhow::Result<Vec<Seen>> {
    let version = client.apiserver_version().await.doing("ask for its version")?;
    Ok(vec![server(&version.major, &version.minor, version.git_version)])
}

pub(super) fn server(major: &str, minor: &str, version: String) -> Seen {
    let subject = "kubernetes api server";
    // Some providers write `29+`.
    let number = minor.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    if major == "1" && number < OLDEST_MINOR {
        let advice =
            format!("native sidecars need Kubernetes 1.{OLDEST_MINOR} or newer: upgrade the cluster");
        Seen::failed(subject, version, advice)
    } else {
        Seen::ok(subject, version)
    }
}

pub(super) async fn kinds(client: &Client) -> anyhow::Result<Vec<Seen>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut seen = vec![];
    for name in ["meshpolicies.byrnie.dev", "meshtrusts.byrnie.dev", "trafficsplits.split.smi-spec.io"] {
        let definition = api.get_opt(name).await.doing(&format!("read the definition of {name}"))?;
        seen.push(kind(name, definition.as_ref()));
    }
    Ok(seen)
}

pub(super) fn kind(name: &str, definition: Option<&CustomResourceDefinition>) -> Seen {
    let subject = format!("kind {name}");
    let Some(definition) = definition else { return Seen::failed(subject, ABSENT, INSTALL) };
    let served: Vec<&str> =
        definition.spec.versions.iter().filter(|v| v.served).map(|v| v.name.as_str()).collect();
    if definition.labels().get(names::PART_OF_LABEL).is_some_and(|part| part == names::PART_OF) {
        return Seen::ok(subject, served.join(", "));
    }
    let newest = definition.spec.versions.iter().find(|version| version.name == "v1alpha4" && version.served);
    match newest {
        Some(version) if version.subresources.as_ref().is_some_and(|s| s.status.is_some()) => {
            Seen::ok(subject, format!("{}; somebody else's definition", served.join(", ")))
        }
        Some(_) => Seen::warning(
            subject,
            "somebody else's definition, without a status",
            "splits work; what becomes of them is not written down. Add the status subresource to v1alpha4 to see it",
        ),
        None => Seen::failed(
            subject,
            format!("somebody else's definition; serves {}", served.join(", ")),
            "Byrnie reads v1alpha4: serve it there, or remove that definition (this deletes its objects) and upgrade the chart",
        ),
    }
}

pub(super) async fn deployments(client: &Client, system: &str) -> anyhow::Result<Vec<Seen>> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), system);
    let mut seen = vec![];
    for name in [names::OPERATOR, names::INJECTOR] {
        let found = api.get_opt(name).await.doing(&format!("read deployment {system}/{name}"))?;
        seen.push(deployment(system, name, found.as_ref()));
    }
    Ok(seen)
}

pub(super) fn deployment(system: &str, name: &str, found: Option<&Deployment>) -> Seen {
    let subject = format!("deployment {system}/{name}");
    let Some(found) = found else {
        let advice = format!(
            "{INSTALL}; or, where it is installed elsewhere: byrnie check --system-namespace NAMESPACE"
        );
        return Seen::failed(subject, "not found", advice);
    };
    let wanted = found.spec.replicas.unwrap_or(1);
    let ready = found.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let detail = format!("{ready}/{wanted} replicas ready");
    let look = format!("kubectl -n {system} get pods; kubectl -n {system} logs deployment/{name}");
    match ready {
        0 if wanted == 0 => {
            let advice = format!("kubectl -n {system} scale deployment {name} --replicas=1");
            Seen::failed(subject, "scaled to 0 replicas", advice)
        }
        0 => Seen::failed(subject, detail, look),
        some if some < wanted => Seen::warning(subject, detail, look),
        _ => Seen::ok(subject, detail),
    }
}

pub(super) async fn webhooks(client: &Client, system: &str) -> anyhow::Result<Vec<Seen>> {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mutating = mutating.get_opt(names::INJECTOR).await.doing("read the mutating webhooks")?;
    let validating = validating.get_opt(names::INJECTOR).await.doing("read the validating webhooks")?;
    let mutating = mutating.map(|c| c.webhooks.into_iter().flatten().map(|w| w.client_config).collect());
    let validating = validating.map(|c| c.webhooks.into_iter().flatten().map(|w| w.client_config).collect());
    Ok(vec![webhook("mutating", mutating, system), webhook("validating", validating, system)])
}

pub(super) fn webhook(kind: &str, clients: Option<Vec<WebhookClientConfig>>, system: &str) -> Seen {
    let subject = format!("{kind} webhook");
    let Some(clients) = clients.filter(|clients| !clients.is_empty()) else {
        return Seen::failed(
            subject,
            "not found",
            format!("put it back: {}", INSTALL.replace("install", "upgrade --install")),
        );
    };
    if clients.iter().all(|client| client.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty())) {
        Seen::ok(subject, "the api server knows its CA")
    } else {
        let log = format!("kubectl -n {system} logs deployment/{}", names::INJECTOR);
        Seen::failed(
            subject,
            "the api server does not know its CA",
            format!("the injector writes it within seconds of its start; see: {log}"),
        )
    }
}

/// Makes a pod without making it: a dry run goes through the webhook like a real one.
pub(super) async fn injection(client: &Client) -> anyhow::Result<Vec<Seen>> {
    let namespace = dry_run_namespace(client).await?;
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"generateName": "byrnie-check-", "labels": {names::INJECT_LABEL: names::INJECT_ENABLED}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }))?;
    let answer = api.create(&PostParams { dry_run: true, field_manager: None }, &pod).await;
    if let Err(kube::Error::Api(status)) = &answer
        && status.code == 403
        && status.message.contains("cannot create resource")
    {
        return answer.map(|_| vec![]).doing(&format!("try a pod in {namespace}"));
    }
    Ok(vec![match answer {
        Ok(pod) if is_injected(&pod) => {
            Seen::ok(INJECTION, format!("a pod in {namespace} would get its proxy"))
        }
        Ok(_) => Seen::failed(
            INJECTION,
            format!("a pod in {namespace} would get no proxy"),
            format!(
                "does something change webhook {0}? kubectl get mutatingwebhookconfiguration {0} -o yaml",
                names::INJECTOR
            ),
        ),
        Err(error) => Seen::failed(
            INJECTION,
            format!("a pod in {namespace} would be refused: {}", reason(&error)),
            format!(
                "where it says \"failed calling webhook\", the api server must reach service {}: check network policies and its log",
                names::INJECTOR
            ),
        ),
    }])
}

fn is_injected(pod: &Pod) -> bool {
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    inits.into_iter().any(|container| container.name == names::PROXY_CONTAINER)
}

/// A meshed namespace, or else `default`.
async fn dry_run_namespace(client: &Client) -> anyhow::Result<String> {
    let api: Api<Namespace> = Api::all(client.clone());
    let meshed = ListParams::default().labels(&super::namespaces::meshed()).limit(1);
    let found = api.list(&meshed).await.doing("list namespaces")?;
    Ok(found.items.first().map_or_else(|| "default".to_owned(), ResourceExt::name_any))
}
