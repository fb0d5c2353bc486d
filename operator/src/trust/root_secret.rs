//! Roots in Secrets: one immutable Secret per self-made root, or a `kubernetes.io/tls` Secret of somebody else.
//!
//! The only place that sees a root's key outside [`Authority`]. Made before it is referenced, never changed.
//!
//! They belong to the operator's `ServiceAccount`: uninstalling the mesh takes its keys away, losing MeshTrust does not.
//!
//! RBAC: `secrets` get, list, create in the operator's namespace only; `serviceaccounts` get of its own.

use std::collections::BTreeMap;

use byrnie_crds::names;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use thiserror::Error;

use super::{Authority, AuthorityError, AuthorityId, pem};
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

    /// The youngest usable root of a domain that lies here without being referenced, after a lost MeshTrust or a
    /// process that ended between two writes.
    pub async fn orphan(&self, domain: &str) -> Result<Option<Authority>, SecretError> {
        let of_our_type = ListParams::default().fields(&format!("type={TYPE}"));
        let secrets = api_call::call(self.api.list(&of_our_type))
            .await
            .map_err(|error| SecretError::Api { name: "byrnie-root-*".into(), error })?;
        let mut ours: Vec<&Secret> = secrets
            .items
            .iter()
            .filter(|secret| secret.annotations().get(DOMAIN_ANNOTATION).map(String::as_str) == Some(domain))
            .filter(|secret| secret.metadata.deletion_timestamp.is_none())
            .collect();
        ours.sort_by_key(|secret| (secret.creation_timestamp(), secret.name_any()));
        Ok(ours.iter().rev().find_map(|secret| {
            read(secret)
                .ok()
                .filter(|authority| secret.name_any() == Self::name(authority.id()) && authority.usable())
        }))
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
