//! What a pod looks like with the proxy in it: a pure function over the pod's raw JSON.
//!
//! Raw JSON, because a typed Pod of this version's schema would drop the fields of a newer API server. Idempotent:
//! what an earlier call added is taken out first and put back, so a forged sidecar does not survive either.

pub mod containers;
pub mod probes;
pub mod refusal;

use byrnie_crds::names;
use serde_json::{Map, Value, json};

use self::{containers::Mesh, refusal::Refusal};
use crate::namespace::Namespace;

/// Settings of the pods to be, from the command line.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of proxy and init container.
    pub proxy_image: String,
    /// `IfNotPresent`, `Always` or `Never`.
    pub image_pull_policy: String,
    /// Version written to the pod's annotation.
    pub version: String,
    /// The trust domain, which is the token's audience.
    pub trust_domain: String,
    /// `RUST_LOG`-style filter of proxies that do not ask for another.
    pub log: String,
    /// Makes the secret part of the path at which the kubelet runs a hook; [`probes::random_key`].
    pub hook_key: fn() -> String,
    /// Resources of the sidecar where the pod's annotations do not say otherwise.
    pub resources: Resources,
}

/// Requests and limits as Kubernetes quantities; empty for none.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// CPU request.
    pub cpu_request: String,
    /// CPU limit.
    pub cpu_limit: String,
    /// Memory request.
    pub memory_request: String,
    /// Memory limit.
    pub memory_limit: String,
}

/// Where a pod's first certificate comes from. For the next ones it can always ask the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator, for a token.
    Operator,
    /// Its kubelet, with the roots of the ClusterTrustBundle.
    Kubelet,
}

impl Source {
    /// The kubelet where pod certificates are offered.
    pub fn of(pod_certificates: bool) -> Self {
        if pod_certificates { Self::Kubelet } else { Self::Operator }
    }
}

/// What happens to a pod.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// It becomes this.
    Injected(Box<Value>),
    /// It is left as it is, for this reason.
    Untouched(&'static str),
}

/// Decides what becomes of a pod that is about to be created in a namespace.
///
/// # Errors
/// A [`Refusal`] when the pod asks for the mesh and cannot have it; it says what to do.
pub fn inject(
    pod: &Value,
    namespace: &Namespace,
    settings: &Settings,
    source: Source,
) -> Result<Outcome, Refusal> {
    if !pod.is_object() {
        return Ok(Outcome::Untouched("it is no object; the api server says the rest"));
    }
    let wish = label(pod, names::INJECT_LABEL);
    if annotation(pod, "kubernetes.io/config.mirror").is_some() {
        return Ok(Outcome::Untouched("a mirror pod belongs to its node and cannot be changed"));
    }
    match wish {
        Some("disabled") if namespace.is_meshed() && !namespace.allows_opt_out() => {
            return Err(Refusal::OptOut { namespace: namespace.name.clone() });
        }
        Some("disabled") => return Ok(Outcome::Untouched("the pod opted out")),
        Some("enabled") => {}
        Some(other) => return Err(Refusal::Label { value: other.to_owned() }),
        None if namespace.is_meshed() => {}
        None => return Ok(Outcome::Untouched("neither the namespace nor the pod asks for it")),
    }
    let mut pod = pod.clone();
    let probes = containers::remove(&mut pod);
    refusal::check(&pod, namespace)?;
    let probes = probes::rewrite(&mut pod, probes, settings.hook_key)?;
    let mesh = Mesh::read(&pod, namespace, settings, source, probes)?;
    mesh.add(&mut pod);
    Ok(Outcome::Injected(Box::new(pod)))
}

/// A label of the pod.
pub(crate) fn label<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod["metadata"]["labels"][name].as_str()
}

/// An annotation of the pod.
pub(crate) fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod["metadata"]["annotations"][name].as_str()
}

/// The array at `spec.<field>`, created when missing.
pub(crate) fn list<'a>(pod: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    let spec = object(pod, "spec");
    let entry = spec.entry(field).or_insert_with(|| json!([]));
    if !entry.is_array() {
        *entry = json!([]);
    }
    entry.as_array_mut().expect("it was made an array one line above")
}

/// The object at `field`, created when missing.
pub(crate) fn object<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value[field].is_object() {
        value[field] = json!({});
    }
    value[field].as_object_mut().expect("it was made an object one line above")
}

/// The array at `spec.<field>`, if it is one.
pub(crate) fn list_if_any<'a>(pod: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    pod.get_mut("spec")?.get_mut(field)?.as_array_mut()
}

/// All containers of a pod, init containers first, as they start.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().filter_map(|field| pod["spec"][field].as_array()).flatten()
}
