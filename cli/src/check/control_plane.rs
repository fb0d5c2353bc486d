//! Is the control plane there, and does the API server reach it?

use anyhow::Context;
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

use super::Finding;

const AREA: &str = "control plane";
const OLDEST_MINOR: u32 = 29;
const INSTALL: &str =
    "install the mesh: helm install byrnie deploy/chart -n byrnie-system --create-namespace";

pub(super) async fn api_server(client: &Client) -> anyhow::Result<Finding> {
    let version = client
        .apiserver_version()
        .await
        .context("the api server does not answer; check the kubeconfig and the network")?;
    let minor: u32 =
        version.minor.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    let subject = "kubernetes api server";
    Ok(if version.major == "1" && minor < OLDEST_MINOR {
        Finding::failed(
            AREA,
            subject,
            version.git_version,
            format!("native sidecars need Kubernetes 1.{OLDEST_MINOR} or newer: upgrade the cluster"),
        )
    } else {
        Finding::ok(AREA, subject, version.git_version)
    })
}

pub(super) async fn kinds(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut findings = vec![];
    for name in ["meshpolicies.byrnie.dev", "meshtrusts.byrnie.dev", "trafficsplits.split.smi-spec.io"] {
        let subject = format!("kind {name}");
        let Some(definition) = api.get_opt(name).await.with_context(|| format!("cannot read {name}"))? else {
            findings.push(Finding::failed(AREA, subject, "not installed", INSTALL));
            continue;
        };
        let served: Vec<&str> =
            definition.spec.versions.iter().filter(|v| v.served).map(|v| v.name.as_str()).collect();
        let ours = definition.labels().get("app.kubernetes.io/part-of").is_some_and(|part| part == "byrnie");
        findings.push(if ours {
            Finding::ok(AREA, subject, served.join(", "))
        } else if served.contains(&"v1alpha4") {
            Finding::warning(AREA, subject, "installed by somebody else", "it works as it is; its status is not written if the definition has no status subresource")
        } else {
            Finding::failed(
                AREA,
                subject,
                format!("installed by somebody else; serves {}", served.join(", ")),
                "Byrnie reads v1alpha4: remove the other definition (this deletes its objects) and upgrade the chart, or serve v1alpha4 in it",
            )
        });
    }
    Ok(findings)
}

pub(super) async fn deployments(client: &Client, namespace: &str) -> anyhow::Result<Vec<Finding>> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let mut findings = vec![];
    for name in [names::OPERATOR, names::INJECTOR] {
        let subject = format!("deployment {namespace}/{name}");
        let Some(deployment) = api.get_opt(name).await.with_context(|| format!("cannot read {subject}"))?
        else {
            findings.push(Finding::failed(
                AREA,
                subject,
                "not found",
                format!("{INSTALL} (elsewhere? see --system-namespace)"),
            ));
            continue;
        };
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let detail = format!("{ready}/{wanted} replicas ready");
        let look = format!(
            "kubectl -n {namespace} describe deployment {name}; kubectl -n {namespace} logs deployment/{name}"
        );
        findings.push(match ready {
            0 => Finding::failed(AREA, subject, detail, look),
            some if some < wanted => Finding::warning(AREA, subject, detail, look),
            _ => Finding::ok(AREA, subject, detail),
        });
    }
    Ok(findings)
}

pub(super) async fn webhooks(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mutating =
        mutating.get_opt(names::INJECTOR).await.context("cannot read the webhook configurations")?;
    let validating =
        validating.get_opt(names::INJECTOR).await.context("cannot read the webhook configurations")?;
    let mutating = mutating.map(|c| c.webhooks.into_iter().flatten().map(|w| w.client_config).collect());
    let validating = validating.map(|c| c.webhooks.into_iter().flatten().map(|w| w.client_config).collect());
    Ok(vec![webhook("mutating", mutating), webhook("validating", validating)])
}

fn webhook(kind: &str, clients: Option<Vec<WebhookClientConfig>>) -> Finding {
    let subject = format!("{kind} webhook {}", names::INJECTOR);
    let Some(clients) = clients else { return Finding::failed(AREA, subject, "not found", INSTALL) };
    if clients.iter().all(|client| client.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty())) {
        Finding::ok(AREA, subject, format!("{} webhook(s), CA known to the api server", clients.len()))
    } else {
        Finding::failed(
            AREA,
            subject,
            "the api server does not know its CA",
            "the injector writes it within seconds of its start; see: kubectl -n byrnie-system logs deployment/byrnie-injector",
        )
    }
}

/// Creates a pod without creating it: a dry run goes through the webhook like a real one.
pub(super) async fn injection(client: &Client) -> Finding {
    let subject = "injection (dry run)";
    let namespace = match dry_run_namespace(client).await {
        Ok(namespace) => namespace,
        Err(error) => {
            return Finding::failed(AREA, subject, error.to_string(), "check the rights of this kubeconfig");
        }
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod = json!({
        "metadata": {"generateName": "byrnie-check-", "labels": {names::INJECT_LABEL: "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    let pod: Pod = match serde_json::from_value(pod) {
        Ok(pod) => pod,
        Err(error) => return Finding::failed(AREA, subject, error.to_string(), "please report this"),
    };
    match api.create(&PostParams { dry_run: true, field_manager: None }, &pod).await {
        Ok(pod) => {
            let inits = pod.spec.and_then(|spec| spec.init_containers).unwrap_or_default();
            if inits.iter().any(|container| container.name == names::PROXY_CONTAINER) {
                Finding::ok(AREA, subject, format!("a pod in {namespace} would get its proxy"))
            } else {
                Finding::failed(
                    AREA,
                    subject,
                    "the pod came back without a proxy",
                    "check the selectors of mutating webhook byrnie-injector",
                )
            }
        }
        Err(error) => Finding::failed(
            AREA,
            subject,
            error.to_string(),
            "the api server must reach service byrnie-injector: check network policies and the injector's log",
        ),
    }
}

/// A meshed namespace, or else `default`.
async fn dry_run_namespace(client: &Client) -> Result<String, kube::Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let selector =
        ListParams::default().labels(&format!("{} in (enabled,enforced)", names::INJECT_LABEL)).limit(1);
    Ok(api.list(&selector).await?.items.first().map_or_else(|| "default".to_owned(), ResourceExt::name_any))
}
