//! Tells the API server which CA the webhooks' certificate has: the two webhook configurations, and the conversion of
//! TrafficSplit, where that CRD is ours.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use thiserror::Error;

const SPLIT_CRD: &str = "trafficsplits.split.smi-spec.io";
const CALL: Duration = Duration::from_secs(10);

/// Keeps the CA bundles.
///
/// RBAC: get, update of the two webhook configurations; get, patch of the CRD; each by name.
pub struct CaBundles {
    mutating: Api<MutatingWebhookConfiguration>,
    validating: Api<ValidatingWebhookConfiguration>,
    definitions: Api<CustomResourceDefinition>,
    configuration: String,
}

/// Which object could not be brought up to date, and why.
#[derive(Debug, Error)]
#[error("{object}: {cause}")]
pub struct BundleError {
    object: &'static str,
    cause: String,
}

impl CaBundles {
    /// For the webhook configurations of this name.
    pub fn new(client: &Client, configuration: String) -> Self {
        Self {
            mutating: Api::all(client.clone()),
            validating: Api::all(client.clone()),
            definitions: Api::all(client.clone()),
            configuration,
        }
    }

    /// Writes the bundle where it differs.
    ///
    /// # Errors
    /// The first object that could not be written; the others were tried all the same.
    pub async fn keep(&self, bundle: &str) -> Result<(), BundleError> {
        let bundle = ByteString(bundle.as_bytes().to_vec());
        let results = [
            within("mutating webhook configuration", self.keep_mutating(&bundle)).await,
            within("validating webhook configuration", self.keep_validating(&bundle)).await,
            within("custom resource definition of TrafficSplit", self.keep_conversion(&bundle)).await,
        ];
        results.into_iter().collect()
    }

    async fn keep_mutating(&self, bundle: &ByteString) -> Result<(), kube::Error> {
        let Some(mut configuration) = self.mutating.get_opt(&self.configuration).await? else {
            return Ok(());
        };
        let clients =
            configuration.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config.ca_bundle);
        if set(clients, bundle) {
            self.mutating.replace(&self.configuration, &PostParams::default(), &configuration).await?;
        }
        Ok(())
    }

    async fn keep_validating(&self, bundle: &ByteString) -> Result<(), kube::Error> {
        let Some(mut configuration) = self.validating.get_opt(&self.configuration).await? else {
            return Ok(());
        };
        let clients =
            configuration.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config.ca_bundle);
        if set(clients, bundle) {
            self.validating.replace(&self.configuration, &PostParams::default(), &configuration).await?;
        }
        Ok(())
    }

    async fn keep_conversion(&self, bundle: &ByteString) -> Result<(), kube::Error> {
        let Some(definition) = self.definitions.get_opt(SPLIT_CRD).await? else { return Ok(()) };
        let labels = definition.metadata.labels.unwrap_or_default();
        let ours = labels.get("app.kubernetes.io/part-of").is_some_and(|part| part == "byrnie");
        let webhook = definition.spec.conversion.filter(|c| c.strategy == "Webhook").and_then(|c| c.webhook);
        let Some(client) = webhook.and_then(|webhook| webhook.client_config).filter(|_| ours) else {
            return Ok(());
        };
        if client.ca_bundle.as_ref() != Some(bundle) {
            let patch = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": bundle}}}}});
            self.definitions.patch(SPLIT_CRD, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }
}

/// Sets every bundle; whether one was different.
fn set<'a>(bundles: impl Iterator<Item = &'a mut Option<ByteString>>, wanted: &ByteString) -> bool {
    let mut changed = false;
    for bundle in bundles.filter(|bundle| bundle.as_ref() != Some(wanted)) {
        *bundle = Some(wanted.clone());
        changed = true;
    }
    changed
}

async fn within(
    object: &'static str,
    work: impl Future<Output = Result<(), kube::Error>>,
) -> Result<(), BundleError> {
    match tokio::time::timeout(CALL, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(BundleError { object, cause: error.to_string() }),
        Err(_) => Err(BundleError {
            object,
            cause: format!("the api server did not answer within {} s", CALL.as_secs()),
        }),
    }
}
