//! Writes what differs: server-side apply of the status subresource, each object with a back-off of its own.

use std::{collections::HashMap, time::Duration};

use byrnie_crds::names;
use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    api_call::{self, ApiError},
    lease::Fence,
    metrics::Metrics,
};

const CONCURRENCY: usize = 8;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: &'static str,
    namespace: Option<String>,
    name: String,
}

/// What is to be written in this round.
struct Planned {
    key: Key,
    resource: ApiResource,
    version: Option<String>,
    status: Value,
}

/// What was written last, and to which version of the object: until the watch shows the result, it is not repeated.
struct Written {
    version: Option<String>,
    status: Value,
}

struct Failure {
    wait: Duration,
    until: Instant,
}

/// See the module.
pub(super) struct Writer {
    client: Client,
    fence: Fence,
    metrics: Metrics,
    planned: Vec<Planned>,
    written: HashMap<Key, Written>,
    failures: HashMap<Key, Failure>,
}

impl Writer {
    pub(super) fn new(client: Client, fence: Fence, metrics: Metrics) -> Self {
        Self {
            client,
            fence,
            metrics,
            planned: Vec::new(),
            written: HashMap::new(),
            failures: HashMap::new(),
        }
    }

    /// Notes that an object's status is to be this, if it is not.
    pub(super) fn plan<K: Resource<DynamicType = ()>>(
        &mut self,
        kind: &'static str,
        object: &K,
        current: &Value,
        wanted: Value,
    ) {
        let key = Key { kind, namespace: object.namespace(), name: object.name_any() };
        if *current == wanted {
            self.written.remove(&key);
            self.failures.remove(&key);
            return;
        }
        let version = object.resource_version();
        if self.written.get(&key).is_some_and(|w| w.version == version && w.status == wanted) {
            return;
        }
        if self.failures.get(&key).is_some_and(|failure| failure.until > Instant::now()) {
            return;
        }
        self.planned.push(Planned { key, resource: ApiResource::erase::<K>(&()), version, status: wanted });
    }

    /// Writes what was planned; when to come again for what failed.
    pub(super) async fn carry_out(&mut self) -> Option<Instant> {
        let planned = std::mem::take(&mut self.planned);
        let (client, fence) = (&self.client, &self.fence);
        let results: Vec<(Planned, Result<(), ApiError>)> = futures::stream::iter(planned)
            .filter(|_| std::future::ready(fence.open()))
            .map(|planned| async move {
                let result = write(client, &planned).await;
                (planned, result)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (Planned { key, version, status, .. }, result) in results {
            match result {
                Ok(()) => {
                    self.metrics.wrote(key.kind);
                    self.failures.remove(&key);
                    self.written.insert(key, Written { version, status });
                }
                Err(ApiError::NotFound) => {
                    debug!(
                        kind = key.kind,
                        namespace = key.namespace,
                        name = key.name,
                        "gone before its status"
                    );
                    self.written.remove(&key);
                    self.failures.remove(&key);
                }
                Err(e) => {
                    self.metrics.failed(key.kind);
                    warn!(kind = key.kind, namespace = key.namespace, name = key.name, error = %e, "status not written");
                    let wait = self.failures.get(&key).map_or(FIRST_RETRY, |f| (f.wait * 2).min(LAST_RETRY));
                    self.failures.insert(key, Failure { wait, until: Instant::now() + wait });
                }
            }
        }
        // Objects that are gone while they failed are forgotten with time.
        let long_ago = Instant::now() - LAST_RETRY;
        self.failures.retain(|_, failure| failure.until > long_ago);
        self.failures.values().map(|failure| failure.until).min()
    }

    /// Forgets objects that are no more.
    pub(super) fn keep_only(&mut self, count: usize) {
        if self.written.len() > 2 * count + 100 {
            self.written.clear();
        }
    }
}

async fn write(client: &Client, planned: &Planned) -> Result<(), ApiError> {
    let Planned { key, resource, status, .. } = planned;
    let api: Api<DynamicObject> = match &key.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    };
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": { "name": key.name },
        "status": status,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    api_call::call(api.patch_status(&key.name, &params, &Patch::Apply(&patch))).await.map(|_| ())
}
