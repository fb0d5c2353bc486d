//! Pods that ask for the mesh and cannot have it, each with what to do about it.

use byrnie_crds::names;
use serde_json::Value;
use thiserror::Error;

use super::containers;
use crate::namespace::Namespace;

/// Why a pod is refused. The text is the admission message.
#[derive(Debug, Error, PartialEq)]
pub enum Refusal {
    /// The pod shares its node's network.
    #[error(
        "byrnie: pod uses hostNetwork, so redirecting its traffic would redirect its node's; remove hostNetwork, run it in a namespace \
         without the label {}, or allow opting out with the namespace annotation {}=true and label the pod {}=disabled",
        names::INJECT_LABEL,
        names::ALLOW_OPT_OUT_ANNOTATION,
        names::INJECT_LABEL
    )]
    HostNetwork,
    /// The namespace's PodSecurity level would refuse the injected pod.
    #[error(
        "byrnie: namespace {namespace} enforces PodSecurity level {level:?}, which forbids the capability NET_ADMIN that the init container \
         byrnie-init needs to redirect the pod's traffic; set pod-security.kubernetes.io/enforce=privileged on the namespace (and keep \
         warn and audit at {level}), or take the label {} off it",
        names::INJECT_LABEL
    )]
    PodSecurity {
        /// The namespace.
        namespace: String,
        /// Its level.
        level: String,
    },
    /// Only namespaces decide about opting out.
    #[error(
        "byrnie: pod is labelled {}=disabled, but namespace {namespace} does not allow opting out; remove the label, or \
         annotate the namespace {}=true (which means nothing where {}=enforced)",
        names::INJECT_LABEL,
        names::ALLOW_OPT_OUT_ANNOTATION,
        names::INJECT_LABEL
    )]
    OptOut {
        /// The namespace.
        namespace: String,
    },
    /// As above, for an annotation that takes ports out.
    #[error(
        "byrnie: annotation {annotation} takes ports out of the mesh, but namespace {namespace} does not allow opting out; remove the \
         annotation, or annotate the namespace {}=true (which means nothing where {}=enforced)",
        names::ALLOW_OPT_OUT_ANNOTATION,
        names::INJECT_LABEL
    )]
    SkippedPorts {
        /// The annotation.
        annotation: &'static str,
        /// The namespace.
        namespace: String,
    },
    /// The label has a value that means nothing.
    #[error(
        "byrnie: label {}={value:?} on the pod means nothing; use \"enabled\" or \"disabled\"",
        names::INJECT_LABEL
    )]
    Label {
        /// The value.
        value: String,
    },
    /// An annotation cannot be understood.
    #[error("byrnie: annotation {annotation}={value:?} on the pod: {problem}")]
    Annotation {
        /// The annotation.
        annotation: &'static str,
        /// What it says.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A container would pass for the proxy.
    #[error(
        "byrnie: {what} runs as user {}, which is the proxy's own and would leave the mesh unseen; choose another user",
        names::PROXY_UID
    )]
    ProxyUser {
        /// Which security context.
        what: String,
    },
    /// A container listens where the proxy does.
    #[error(
        "byrnie: container {container:?} declares port {port}, which the proxy uses; choose another port"
    )]
    Port {
        /// The container.
        container: String,
        /// The port.
        port: u64,
    },
    /// Not Linux.
    #[error("byrnie: pod asks for operating system {os:?}; the proxy runs on linux only")]
    OperatingSystem {
        /// What it asks for.
        os: String,
    },
    /// A probe cannot be understood.
    #[error("byrnie: container {container:?}: {probe}: {problem}")]
    Probe {
        /// The container.
        container: String,
        /// The probe's or hook's field.
        probe: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Refuses what cannot be meshed.
pub(super) fn check(pod: &Value, namespace: &Namespace) -> Result<(), Refusal> {
    let spec = &pod["spec"];
    if spec["hostNetwork"].as_bool() == Some(true) {
        return Err(Refusal::HostNetwork);
    }
    if let Some(level) = namespace.forbids_net_admin() {
        return Err(Refusal::PodSecurity { namespace: namespace.name.clone(), level: level.to_owned() });
    }
    let os = spec["os"]["name"].as_str().or_else(|| spec["nodeSelector"]["kubernetes.io/os"].as_str());
    if let Some(os) = os.filter(|os| *os != "linux") {
        return Err(Refusal::OperatingSystem { os: os.to_owned() });
    }
    if is_proxy_user(&spec["securityContext"]) {
        return Err(Refusal::ProxyUser { what: "the pod".to_owned() });
    }
    for container in containers(pod) {
        let name = container["name"].as_str().unwrap_or_default();
        if is_proxy_user(&container["securityContext"]) {
            return Err(Refusal::ProxyUser { what: format!("container {name:?}") });
        }
        for port in
            container["ports"].as_array().into_iter().flatten().filter_map(|p| p["containerPort"].as_u64())
        {
            if [names::OUTBOUND_PORT, names::INBOUND_PORT, names::PROXY_ADMIN_PORT]
                .map(u64::from)
                .contains(&port)
            {
                return Err(Refusal::Port { container: name.to_owned(), port });
            }
        }
    }
    Ok(())
}

fn is_proxy_user(context: &Value) -> bool {
    context["runAsUser"].as_i64() == Some(names::PROXY_UID)
}
