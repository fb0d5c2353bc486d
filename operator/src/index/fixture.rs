//! Worlds by hand, for tests: Kubernetes objects in YAML, one document each.

use byrnie_crds::cluster;
use byrnie_model::{ObjectName, TrustDomain};
use serde_json::Value;

use super::{
    World,
    facts::{self, Pod, Policy, Service, Slice, Split},
    world::Change,
};

pub(crate) fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

/// The objects as changes, in order.
pub(crate) fn changes(yaml: &str) -> Vec<Change> {
    let documents = yaml.split("\n---\n").filter(|document| !document.trim().is_empty());
    documents
        .map(|document| {
            change(&serde_saphyr::from_str(document).unwrap_or_else(|e| panic!("{e}: {document}")))
        })
        .collect()
}

fn change(object: &Value) -> Change {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = ObjectName::new(text("/metadata/namespace"), text("/metadata/name"));
    let read = object.clone();
    match text("/kind").as_str() {
        "Namespace" => {
            let namespace = serde_json::from_value(read).unwrap();
            Change::Namespace(name.name, Some(cluster::mtls_default(&namespace)))
        }
        "Node" => Change::Node(name.name, Some(facts::zone(&serde_json::from_value(read).unwrap()))),
        "Pod" => Change::Pod(name, Some(Pod::read(&serde_json::from_value(read).unwrap(), &domain()))),
        "Service" => Change::Service(name, Some(Service::read(&serde_json::from_value(read).unwrap()))),
        "EndpointSlice" => Change::Slice(name, Slice::read(&serde_json::from_value(read).unwrap())),
        "MeshPolicy" => {
            Change::Policy(name, Some(Policy::read(&serde_json::from_value(read).unwrap(), &domain())))
        }
        "TrafficSplit" => Change::Split(name, Some(Split::read(&serde_json::from_value(read).unwrap()))),
        other => panic!("no fixture of kind {other:?}"),
    }
}

/// A world of these objects.
pub(crate) fn world(yaml: &str) -> World {
    let mut world = World::new(domain());
    apply(&mut world, yaml);
    world
}

/// The world with these objects, or these in place of what they were.
pub(crate) fn apply(world: &mut World, yaml: &str) {
    for change in changes(yaml) {
        world.apply(change);
    }
}

/// A meshed pod of namespace `shop`: port `http` is 8080, `admin` 9090; its ServiceAccount is its app.
pub(crate) fn pod(name: &str, app: &str, ip: &str) -> String {
    format!(
        "
kind: Pod
metadata:
  namespace: shop
  name: {name}
  uid: uid-{name}
  creationTimestamp: 2026-01-01T00:00:00Z
  labels: {{app: {app}, byrnie.dev/injected: \"true\"}}
spec:
  serviceAccountName: {app}
  nodeName: n1
  initContainers: [{{name: byrnie-proxy}}]
  containers: [{{name: app, ports: [{{name: http, containerPort: 8080}}, {{name: admin, containerPort: 9090}}]}}]
status: {{phase: Running, podIPs: [{{ip: {ip}}}]}}
---
"
    )
}

/// A Service of namespace `shop` that selects its app: 80 is `http`, 9090 is `admin`.
pub(crate) fn service(name: &str, app: &str, ip: &str) -> String {
    format!(
        "
kind: Service
metadata: {{namespace: shop, name: {name}}}
spec:
  clusterIPs: [{ip}]
  selector: {{app: {app}}}
  ports: [{{name: http, port: 80, targetPort: http}}, {{name: admin, port: 9090, appProtocol: example.org/own}}]
---
"
    )
}

/// A Service's endpoints: pods with their addresses and conditions (`ready`, `ending` or `down`).
pub(crate) fn slice(service: &str, endpoints: &[(&str, &str, &str)]) -> String {
    let endpoints = endpoints.iter().map(|(pod, ip, how)| {
        let (ready, serving) = (*how == "ready", *how != "down");
        format!(
            "{{addresses: [{ip}], conditions: {{ready: {ready}, serving: {serving}, terminating: {}}}, targetRef: {{kind: Pod, name: {pod}, uid: uid-{pod}}}}}",
            *how == "ending"
        )
    });
    format!(
        "
kind: EndpointSlice
metadata: {{namespace: shop, name: {service}-abc, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}, {{name: admin, port: 9090, protocol: TCP}}]
endpoints: [{}]
---
",
        endpoints.collect::<Vec<_>>().join(", ")
    )
}

/// A policy of namespace `shop`, made `second` seconds into 2026.
pub(crate) fn policy(name: &str, second: u32, spec: &str) -> String {
    object("MeshPolicy", "byrnie.dev/v1alpha1", name, second, spec)
}

/// A split of namespace `shop`.
pub(crate) fn split(name: &str, second: u32, spec: &str) -> String {
    object("TrafficSplit", "split.smi-spec.io/v1alpha4", name, second, spec)
}

fn object(kind: &str, version: &str, name: &str, second: u32, spec: &str) -> String {
    format!(
        "
apiVersion: {version}
kind: {kind}
metadata:
  namespace: shop
  name: {name}
  uid: uid-{name}
  generation: 1
  creationTimestamp: 2026-01-01T00:00:{second:02}Z
spec: {spec}
---
"
    )
}
