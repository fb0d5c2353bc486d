//! Roots in Secrets: one immutable Secret per self-made root, or a `kubernetes.io/tls` Secret of somebody else.
//!
//! The only place that sees a root's key outside [`Authority`]. Made before it is referenced, never changed.
//!
//! They belong to the operator's `ServiceAccount`: uninstalling the mesh takes its keys away, losing MeshTrust does not.
//!
//! RBAC: `secrets` get, list, create, delete in the operator's namespace only; `serviceaccounts` get of its own.

use std::{collections::BTreeMap, time::SystemTime};

use byrnie_crds::{meshtrust::RootState, names};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use thiserror::Error;

use super::{Authority, AuthorityError, AuthorityId, Root, pem, rotation::Key};
use crate::api_call::{self, ApiError};

/// Type of our root Secrets.
const TYPE: &str = "byrnie.dev/root";
const DOMAIN_ANNOTATION: &str = "byrnie.dev/trust-domain";

/// The Secrets of the operator's namespace.
#[derive(Clone)]
pub struct RootSecrets {
    api: Api<Secret>,
    accounts: Api<ServiceAccount>,
    account: String,
}

/// Why there is no authority in a Secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// No answer.
    #[error("cannot read or write Secret {name}: {error}")]
    Api {
        /// Which.
        name: String,
        /// Why.
        error: ApiError,
    },
    /// There, but of no use.
    #[error("Secret {name} holds no authority: {error}")]
    Content {
        /// Which.
        name: String,
        /// Why.
        error: AuthorityError,
    },
    /// Another key than its name says.
    #[error("Secret {name} holds another root than its name says; delete it")]
    Misnamed {
        /// Which.
        name: String,
    },
}

impl RootSecrets {
    /// In one namespace, belonging to a `ServiceAccount` there.
    pub fn new(client: Client, namespace: &str, account: &str) -> Self {
        let accounts = Api::namespaced(client.clone(), namespace);
        Self { api: Api::namespaced(client, namespace), accounts, account: account.to_owned() }
    }

    /// The Secret of a self-made root.
    pub fn name(id: AuthorityId) -> String {
        format!("byrnie-root-{}", id.short())
    }

    /// Stores a new root. One that is there already is the same one.
    pub async fn create(&self, authority: &Authority, domain: &str) -> Result<(), SecretError> {
        let name = Self::name(authority.id());
        let api_error = |error| SecretError::Api { name: name.clone(), error };
        let data = BTreeMap::from([
            ("tls.crt".to_owned(), ByteString(pem(authority.root()).into_bytes())),
            ("tls.key".to_owned(), ByteString(authority.key_pem().into_bytes())),
        ]);
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(BTreeMap::from([(names::PART_OF_LABEL.into(), names::PART_OF.into())])),
                annotations: Some(BTreeMap::from([(DOMAIN_ANNOTATION.into(), domain.into())])),
                owner_references: self.owner().await.map_err(api_error)?.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.into()),
            immutable: Some(true),
            data: Some(data),
            ..Secret::default()
        };
        match api_call::call(self.api.create(&PostParams::default(), &secret)).await {
            Ok(_) | Err(ApiError::Conflict) => Ok(()),
            Err(error) => Err(api_error(error)),
        }
    }

    /// `None` for an operator that runs outside of the cluster.
    async fn owner(&self) -> Result<Option<OwnerReference>, ApiError> {
        let account = api_call::call(self.accounts.get_opt(&self.account)).await?;
        Ok(account.map(|account| OwnerReference {
            api_version: "v1".into(),
            kind: "ServiceAccount".into(),
            name: account.name_any(),
            uid: account.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        }))
    }

    /// The self-made root of that id.
    pub async fn root(&self, id: AuthorityId) -> Result<Authority, SecretError> {
        let authority = self.authority(&Self::name(id)).await?;
        if authority.id() == id { Ok(authority) } else { Err(SecretError::Misnamed { name: Self::name(id) }) }
    }

    /// The authority in a Secret of either kind.
    pub async fn authority(&self, name: &str) -> Result<Authority, SecretError> {
        let secret = api_call::call(self.api.get(name))
            .await
            .map_err(|error| SecretError::Api { name: name.to_owned(), error })?;
        read(&secret).map_err(|error| SecretError::Content { name: name.to_owned(), error })
    }

    /// All roots of a domain that were made here. What is in no state to be used is not among them.
    pub async fn keys(&self, domain: &str) -> Result<Vec<Key>, SecretError> {
        let of_our_type = ListParams::default().fields(&format!("type={TYPE}"));
        let secrets = api_call::call(self.api.list(&of_our_type))
            .await
            .map_err(|error| SecretError::Api { name: "byrnie-root-*".into(), error })?;
        let key = |secret: &Secret| {
            let ours = secret.annotations().get(DOMAIN_ANNOTATION).map(String::as_str) == Some(domain);
            if !ours || secret.metadata.deletion_timestamp.is_some() {
                return None;
            }
            let authority = read(secret).ok()?;
            let made = secret.creation_timestamp().map_or(SystemTime::UNIX_EPOCH, |at| at.0.into());
            let named = secret.name_any() == Self::name(authority.id());
            named.then(|| Key { root: Root::of(&authority, RootState::Staged), made })
        };
        Ok(secrets.items.iter().filter_map(key).collect())
    }

    /// Removes the Secret of a self-made root; one that is not there is as good.
    pub async fn remove(&self, id: AuthorityId) -> Result<(), SecretError> {
        let name = Self::name(id);
        match api_call::call(self.api.delete(&name, &DeleteParams::default())).await {
            Ok(_) | Err(ApiError::NotFound) => Ok(()),
            Err(error) => Err(SecretError::Api { name, error }),
        }
    }
}

fn read(secret: &Secret) -> Result<Authority, AuthorityError> {
    let entry = |key| secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
    Authority::from_pem(
        entry("tls.crt").unwrap_or_default(),
        entry("tls.key").unwrap_or_default(),
        entry("ca.crt"),
    )
}
