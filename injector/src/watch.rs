//! A watch on the metadata of one kind of objects, for as long as the injector runs. Knows nothing of what it is for.

use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde::de::DeserializeOwned;

/// The objects of kind `K`, cut down to metadata.
#[derive(Clone)]
pub struct Watched<K: Resource<DynamicType = ()> + 'static> {
    store: reflector::Store<PartialObjectMeta<K>>,
}

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Starts the watch; the future runs it for ever. `cut` forgets what nobody asks for.
    ///
    /// RBAC: list, watch.
    pub fn start(client: Client, cut: fn(&mut ObjectMeta)) -> (Self, impl Future<Output = ()> + Send) {
        Self::select(client, watcher::Config::default(), cut)
    }

    /// The same for the one of that name.
    ///
    /// RBAC: list, watch.
    pub fn only(client: Client, name: &str) -> (Self, impl Future<Output = ()> + Send) {
        Self::select(client, watcher::Config::default().fields(&format!("metadata.name={name}")), |_| {})
    }

    fn select(
        client: Client,
        config: watcher::Config,
        cut: fn(&mut ObjectMeta),
    ) -> (Self, impl Future<Output = ()> + Send) {
        let api: Api<PartialObjectMeta<K>> = Api::all(client);
        let (store, writer) = reflector::store();
        let stream = watcher(api, config.any_semantic().timeout(60))
            .default_backoff()
            .modify(move |object| {
                object.metadata.managed_fields = None;
                cut(&mut object.metadata);
            })
            .reflect(writer)
            .for_each(|event| async move {
                if let Err(error) = event {
                    let kind = K::plural(&());
                    tracing::warn!(%error, "watching {kind} failed; trying again");
                }
            });
        (Self { store }, stream)
    }

    /// What is known of one; `namespace` is empty for kinds without.
    pub fn get(&self, namespace: &str, name: &str) -> Option<ObjectMeta> {
        let mut key = reflector::ObjectRef::<PartialObjectMeta<K>>::new(name);
        if !namespace.is_empty() {
            key = key.within(namespace);
        }
        self.store.get(&key).map(|object| object.metadata.clone())
    }
}
