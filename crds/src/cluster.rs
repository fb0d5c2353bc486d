//! Kubernetes' own objects, as far as the mesh's decisions look at them. Pure; what the API server says is believed.

use byrnie_model::MtlsMode;
use k8s_openapi::{
    api::core::v1::{Container, Namespace, Pod, Service},
    apimachinery::pkg::{apis::meta::v1::APIResourceList, util::intstr::IntOrString},
};
use kube::ResourceExt;

use crate::{
    govern::{ServicePort, TargetPort},
    names, protocol,
};

/// A namespace's own default for plaintext.
pub fn mtls_default(namespace: &Namespace) -> MtlsMode {
    match namespace.annotations().get(names::MTLS_ANNOTATION).map(String::as_str) {
        Some("Permissive") => MtlsMode::Permissive,
        _ => MtlsMode::Strict,
    }
}

/// Whether a pod has its proxy.
pub fn is_meshed(pod: &Pod) -> bool {
    let labelled = pod.labels().get(names::INJECTED_LABEL).is_some_and(|value| value == "true");
    labelled && init_containers(pod).iter().any(|container| container.name == names::PROXY_CONTAINER)
}

/// Whether a namespace's pods are to be in the mesh.
pub fn is_meshed_namespace(namespace: &Namespace) -> bool {
    matches!(inject_label(namespace), Some(names::INJECT_ENABLED | names::INJECT_ENFORCED))
}

/// Whether a pod of a meshed namespace runs past the mesh: without a proxy, though it could have one and may not opt
/// out. With its node's network it cannot; a node's own (static) pods are nobody else's to change.
pub fn lacks_proxy(pod: &Pod, namespace: &Namespace) -> bool {
    let allowed =
        namespace.annotations().get(names::ALLOW_OPT_OUT_ANNOTATION).is_some_and(|value| value == "true")
            && inject_label(namespace) != Some(names::INJECT_ENFORCED);
    let asked = pod.labels().get(names::INJECT_LABEL).is_some_and(|value| value == names::INJECT_DISABLED);
    let on_its_node = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let of_its_node = pod.owner_references().iter().any(|owner| owner.kind == "Node");
    !(is_meshed(pod) || on_its_node || of_its_node || allowed && asked)
}

/// Whether a pod has come to its end: its addresses may be another's already.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod is to stay: neither ended nor being deleted.
pub fn is_live(pod: &Pod) -> bool {
    !has_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// The ServiceAccount that a pod runs as.
pub fn service_account(pod: &Pod) -> &str {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    account.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// Container ports that have a name, those of init containers (so of sidecars) too.
pub fn named_ports(pod: &Pod) -> Vec<(String, u16)> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ports = containers.iter().chain(init_containers(pod)).flat_map(|c| c.ports.iter().flatten());
    ports.filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?))).collect()
}

/// A pod's share of the requests relative to the others' of its Services: 1 where it does not say. `None`: what it says
/// is no such number.
pub fn weight(pod: &Pod) -> Option<u16> {
    match pod.annotations().get(names::WEIGHT_ANNOTATION) {
        Some(text) => text.parse().ok().filter(|weight| *weight > 0),
        None => Some(1),
    }
}

/// A Service's TCP ports, each with its name; empty where it has none.
pub fn service_ports(service: &Service) -> Vec<(String, ServicePort)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        let target = match &port.target_port {
            Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
            Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(*target).ok()?),
            None => TargetPort::Number(number),
        };
        let protocol = protocol::declared(port.app_protocol.as_deref(), port.name.as_deref());
        Some((port.name.clone().unwrap_or_default(), ServicePort { port: number, target, protocol }))
    })
    .collect()
}

fn inject_label(namespace: &Namespace) -> Option<&str> {
    namespace.labels().get(names::INJECT_LABEL).map(String::as_str)
}

fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

/// Group and version of the certificates that Kubernetes itself knows.
pub const CERTIFICATES: &str = "certificates.k8s.io/v1";

/// Whether kubelets can ask for certificates, and mount roots to check them with (Kubernetes 1.37 and later), as the
/// API server's list of [`CERTIFICATES`] says.
pub fn serves_pod_certificates(served: &APIResourceList) -> bool {
    let has = |kind| served.resources.iter().any(|resource| resource.name == kind);
    has("podcertificaterequests") && has("clustertrustbundles")
}

#[cfg(test)]
mod tests {
    use byrnie_model::Protocol;

    use super::*;

    #[test]
    fn a_pod_is_meshed_when_it_has_both_label_and_proxy() {
        let pod = |label: &str, container: &str| -> Pod {
            let yaml = format!(
                "{{metadata: {{labels: {{byrnie.dev/injected: '{label}'}}}}, spec: {{serviceAccountName: '',
                containers: [{{name: app, ports: [{{name: web, containerPort: 80}}, {{containerPort: 81}}]}}],
                initContainers: [{{name: {container}, ports: [{{name: side, containerPort: 90}}]}}]}}}}"
            );
            serde_saphyr::from_str(&yaml).unwrap()
        };
        assert!(is_meshed(&pod("true", names::PROXY_CONTAINER)));
        assert!(!is_meshed(&pod("true", "migrate")) && !is_meshed(&pod("false", names::PROXY_CONTAINER)));
        let pod = pod("true", "migrate");
        assert_eq!(named_ports(&pod), [("web".to_owned(), 80), ("side".to_owned(), 90)]);
        assert_eq!((service_account(&pod), is_live(&pod)), ("default", true));
        let ended: Pod = serde_saphyr::from_str("{status: {phase: Succeeded}}").unwrap();
        assert!(!is_live(&ended));
    }

    #[test]
    fn a_services_ports_are_those_of_tcp() {
        let yaml = "{spec: {ports: [{name: http, port: 80, targetPort: web}, {port: 81}, {port: 82, targetPort: 8082},
            {port: 53, protocol: UDP}, {port: 83, targetPort: -1}]}}";
        let ports = service_ports(&serde_saphyr::from_str(yaml).unwrap());
        let port = |port, target, protocol| ServicePort { port, target, protocol };
        assert_eq!(
            ports,
            [
                ("http".to_owned(), port(80, TargetPort::Name("web".into()), Protocol::Http1)),
                (String::new(), port(81, TargetPort::Number(81), Protocol::Detect)),
                (String::new(), port(82, TargetPort::Number(8082), Protocol::Detect)),
            ]
        );
    }

    #[test]
    fn only_permissive_is_permissive() {
        let of = |value: &str| {
            let yaml = format!("{{metadata: {{annotations: {{byrnie.dev/mtls: '{value}'}}}}}}");
            mtls_default(&serde_saphyr::from_str(&yaml).unwrap())
        };
        assert_eq!((of("Permissive"), of("permissive")), (MtlsMode::Permissive, MtlsMode::Strict));
    }

    #[test]
    fn who_lacks_a_proxy() {
        let space = |label: &str, allows: &str| -> Namespace {
            serde_saphyr::from_str(&format!(
                "{{metadata: {{labels: {{byrnie.dev/inject: {label}}}, annotations: {{byrnie.dev/allow-opt-out: '{allows}'}}}}}}"
            ))
            .unwrap()
        };
        let pod = |metadata: &str, spec: &str| -> Pod {
            serde_saphyr::from_str(&format!("{{metadata: {{{metadata}}}, spec: {{containers: [], {spec}}}}}"))
                .unwrap()
        };
        let (enabled, lenient, enforced) =
            (space("enabled", "false"), space("enabled", "true"), space("enforced", "true"));
        assert!(is_meshed_namespace(&enabled) && is_meshed_namespace(&enforced));
        assert!(!is_meshed_namespace(&space("disabled", "true")));
        let bare = pod("", "");
        let opted_out = pod("labels: {byrnie.dev/inject: disabled}", "");
        let meshed = pod("labels: {byrnie.dev/injected: 'true'}", "initContainers: [{name: byrnie-proxy}]");
        let forged = pod("labels: {byrnie.dev/injected: 'true'}", "");
        let of_node = pod("ownerReferences: [{kind: Node, name: n, apiVersion: v1, uid: u}]", "");
        for (pod, lacks) in [
            (&bare, [true, true, true]),
            (&opted_out, [true, false, true]),
            (&forged, [true, true, true]),
            (&meshed, [false; 3]),
            (&of_node, [false; 3]),
            (&pod("", "hostNetwork: true"), [false; 3]),
        ] {
            assert_eq!(
                [&enabled, &lenient, &enforced].map(|space| lacks_proxy(pod, space)),
                lacks,
                "{pod:?}"
            );
        }
    }
}
