//! Reads from the API server what an answer needs: the called namespace, the trust domain, and who may be calling.
//!
//! Needs the rights to get the namespace and MeshTrust (or the namespace's ConfigMap byrnie-trust, which says the
//! same), and to list meshpolicies, trafficsplits, services and pods there.

use anyhow::{Context, bail};
use byrnie_crds::{MeshTrust, names};
use byrnie_model::TrustDomain;
use futures::try_join;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;

use super::{
    question::{Caller, Question},
    world::Objects,
};
use crate::api::Doing;

/// Everything that the answer is made from.
pub(super) async fn objects(client: &Client, question: &Question) -> anyhow::Result<Objects> {
    let name = question.to.name.namespace.as_str();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get_opt(name).await.doing(&format!("read namespace {name}"))?;
    let Some(namespace) = namespace else {
        bail!("there is no namespace {name}; see: kubectl get namespaces")
    };
    let (trust_domain, policies, splits, services, pods, callers) = try_join!(
        trust_domain(client, name),
        list(client, name, "meshpolicies"),
        list(client, name, "trafficsplits"),
        list(client, name, "services"),
        list(client, name, "pods"),
        callers(client, &question.from),
    )?;
    Ok(Objects { trust_domain, namespace, policies, splits, services, pods, callers })
}

async fn list<K>(client: &Client, namespace: &str, what: &str) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default()).await;
    Ok(list.doing(&format!("list {what} in {namespace}"))?.items)
}

/// Who calls only helps to notice what was not asked: not being allowed to look is no error.
async fn callers(client: &Client, from: &Caller) -> anyhow::Result<Option<Vec<Pod>>> {
    let Caller::Account(name) = from else { return Ok(None) };
    Ok(list(client, &name.namespace, "pods").await.ok())
}

async fn trust_domain(client: &Client, namespace: &str) -> anyhow::Result<TrustDomain> {
    let trusts: Api<MeshTrust> = Api::all(client.clone());
    let said = match trusts.get_opt(names::MESH_TRUST).await {
        Ok(Some(trust)) => trust.spec.read().ok().map(|trust| trust.trust_domain.clone()),
        Ok(None) => None,
        // Who has rights in a namespace alone may not see it; each namespace of the mesh has a copy.
        Err(forbidden @ kube::Error::Api(_)) => {
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            match maps.get_opt(names::TRUST_CONFIG_MAP).await {
                Ok(Some(map)) => map.data.and_then(|mut data| data.remove("trust-domain")),
                _ => return Err(forbidden).doing("read MeshTrust default"),
            }
        }
        Err(error) => return Err(error).doing("read MeshTrust default"),
    };
    let said = said.context(
        "the trust domain is not known: MeshTrust default is missing or not understood; see: byrnie check",
    )?;
    said.trim().parse().with_context(|| format!("{said:?} of MeshTrust default is no trust domain"))
}
