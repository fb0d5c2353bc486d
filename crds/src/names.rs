//! The names, labels, annotations and ports that the control plane's parts share with users and with each other.

/// Namespace of the control plane.
pub const SYSTEM_NAMESPACE: &str = "byrnie-system";
/// Deployment, Service and ServiceAccount of the operator.
pub const OPERATOR: &str = "byrnie-operator";
/// Deployment, Service and ServiceAccount of the webhooks.
pub const INJECTOR: &str = "byrnie-injector";
/// Group of MeshPolicy and MeshTrust.
pub const GROUP: &str = "byrnie.dev";
/// Group of TrafficSplit.
pub const SPLIT_GROUP: &str = "split.smi-spec.io";
/// Group of HTTPRouteGroup, which a TrafficSplit may name and nobody here serves.
pub const ROUTE_GROUP_GROUP: &str = "specs.smi-spec.io";
/// Value of `app.kubernetes.io/part-of` on everything that is ours.
pub const PART_OF: &str = "byrnie";
/// The label that says so.
pub const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";
/// Field manager of the operator's server-side applies.
pub const FIELD_MANAGER: &str = "byrnie-operator";

/// Trust domain when none is configured.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// Name of the one MeshTrust.
pub const MESH_TRUST: &str = "default";
/// A token's audience is this, a slash and the trust domain.
pub const AUDIENCE_PREFIX: &str = "byrnie.dev";

/// Label: whether pods are meshed. On a namespace [`INJECT_ENABLED`] or [`INJECT_ENFORCED`], on a pod
/// [`INJECT_ENABLED`] or [`INJECT_DISABLED`].
pub const INJECT_LABEL: &str = "byrnie.dev/inject";
/// Mesh this pod, or every pod of this namespace.
pub const INJECT_ENABLED: &str = "enabled";
/// Namespace: mesh every pod and admit no other.
pub const INJECT_ENFORCED: &str = "enforced";
/// Pod: stay out, where the namespace has [`ALLOW_OPT_OUT_ANNOTATION`].
pub const INJECT_DISABLED: &str = "disabled";
/// Namespace annotation: `"true"` lets its pods opt out and skip ports.
pub const ALLOW_OPT_OUT_ANNOTATION: &str = "byrnie.dev/allow-opt-out";
/// Namespace annotation: the mTLS mode where no MeshPolicy names one (`Strict` or `Permissive`).
pub const MTLS_ANNOTATION: &str = "byrnie.dev/mtls";
/// Label of injected pods, `"true"`.
pub const INJECTED_LABEL: &str = "byrnie.dev/injected";
/// Annotation of injected pods: the version of their proxy.
pub const PROXY_VERSION_ANNOTATION: &str = "byrnie.dev/proxy-version";
/// Pod annotation: inbound ports that pass by the proxy, with commas.
pub const SKIP_INBOUND_PORTS_ANNOTATION: &str = "byrnie.dev/skip-inbound-ports";
/// Pod annotation: outbound ports that pass by the proxy, with commas.
pub const SKIP_OUTBOUND_PORTS_ANNOTATION: &str = "byrnie.dev/skip-outbound-ports";
/// Pod annotation: log filter of the proxy.
pub const LOG_LEVEL_ANNOTATION: &str = "byrnie.dev/log-level";
/// Pod: which requests the proxy logs: `all`, `denied` (what was refused or failed) or `off`.
pub const ACCESS_LOG_ANNOTATION: &str = "byrnie.dev/access-log";
/// Pod annotation: worker threads of the proxy.
pub const WORKERS_ANNOTATION: &str = "byrnie.dev/workers";
/// Pod annotation: share of the requests relative to the other pods of its Services, 1 to 65535. May change at any time.
pub const WEIGHT_ANNOTATION: &str = "byrnie.dev/weight";
/// Pod annotation: CPU request of the proxy.
pub const PROXY_CPU_REQUEST_ANNOTATION: &str = "byrnie.dev/proxy-cpu-request";
/// Pod annotation: CPU limit of the proxy.
pub const PROXY_CPU_LIMIT_ANNOTATION: &str = "byrnie.dev/proxy-cpu-limit";
/// Pod annotation: memory request of the proxy.
pub const PROXY_MEMORY_REQUEST_ANNOTATION: &str = "byrnie.dev/proxy-memory-request";
/// Pod annotation: memory limit of the proxy.
pub const PROXY_MEMORY_LIMIT_ANNOTATION: &str = "byrnie.dev/proxy-memory-limit";

/// The sidecar (an init container with restartPolicy Always).
pub const PROXY_CONTAINER: &str = "byrnie-proxy";
/// The init container that lays the redirect.
pub const INIT_CONTAINER: &str = "byrnie-init";
/// Image of both, without version.
pub const PROXY_IMAGE: &str = "byrnie/proxy";
/// Image of operator and injector, without version.
pub const CONTROL_PLANE_IMAGE: &str = "byrnie/control-plane";
/// User and group of the proxy; the redirect exempts it.
pub const PROXY_UID: i64 = 14100;

/// Projected volume with token and trust bundle.
pub const IDENTITY_VOLUME: &str = "byrnie-identity";
/// Where it is mounted.
pub const IDENTITY_PATH: &str = "/var/run/byrnie";
/// ConfigMap with the trust bundle, in every namespace that has meshed pods.
pub const TRUST_CONFIG_MAP: &str = "byrnie-trust";

/// Signer of PodCertificateRequests and of the ClusterTrustBundle (Kubernetes 1.37 and later).
pub const SIGNER: &str = "byrnie.dev/mesh";
/// ClusterTrustBundle with the roots; its name begins with the signer's, as Kubernetes demands.
pub const CLUSTER_TRUST_BUNDLE: &str = "byrnie.dev:mesh:roots";
/// Label of the ClusterTrustBundle, `"true"` where the operator answers PodCertificateRequests.
pub const POD_CERTIFICATES_LABEL: &str = "byrnie.dev/pod-certificates";
/// File with the key and the certificate that the kubelet asked for, beside the token.
pub const CREDENTIAL_FILE: &str = "credential.pem";
/// File with the mesh's roots, also a key of [`TRUST_CONFIG_MAP`].
pub const ROOTS_FILE: &str = "roots.pem";

/// Proxy: where the application's connections arrive.
pub const OUTBOUND_PORT: u16 = 14140;
/// Proxy: where connections to the application arrive.
pub const INBOUND_PORT: u16 = 14143;
/// Proxy: readiness, liveness, metrics, rewritten probes.
pub const PROXY_ADMIN_PORT: u16 = 14191;
/// Of that port: answers when callers have turned to other pods.
pub const PARTED_PATH: &str = "/parted";
/// Operator: certificates (server TLS and a token).
pub const IDENTITY_PORT: u16 = 14200;
/// Operator: discovery (mutual TLS).
pub const DISCOVERY_PORT: u16 = 14201;
/// Operator and injector: readiness, liveness, metrics.
pub const ADMIN_PORT: u16 = 14291;
/// Injector: webhooks (Service port 443).
pub const WEBHOOK_PORT: u16 = 8443;
/// Webhook path: sidecar injection.
pub const MUTATE_PATH: &str = "/mutate";
/// Webhook path: validation of our kinds.
pub const VALIDATE_PATH: &str = "/validate";
/// Webhook path: conversion of TrafficSplit.
pub const CONVERT_PATH: &str = "/convert";

/// The audience that a pod's token must carry, `byrnie.dev/TRUST-DOMAIN`.
pub fn audience(trust_domain: &str) -> String {
    format!("{AUDIENCE_PREFIX}/{trust_domain}")
}
