//! The configuration file as it is written. examples/standalone.yaml says what everything means.
//!
//! Strict like the CRDs: a field that is not known is an error, because a misspelled one could widen access.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use byrnie_model::{Action, Enforcement, MtlsMode, SpiffeId, TrustDomain};
use serde::Deserialize;

use super::traffic;
use crate::metrics::Direction;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub(super) trust_domain: TrustDomain,
    pub(super) identity: IdentityFiles,
    pub(super) admin: Option<SocketAddr>,
    #[serde(default = "one")]
    pub(super) workers: usize,
    pub(super) access_log: Option<String>,
    #[serde(default)]
    pub(super) pod: Pod,
    pub(super) listeners: Vec<Listener>,
    #[serde(default)]
    pub(super) services: Vec<Service>,
    #[serde(default)]
    pub(super) inbound: Inbound,
    #[serde(default)]
    pub(super) policies: Vec<Policy>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityFiles {
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    pub(super) roots: BTreeMap<TrustDomain, PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pod {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) addresses: Vec<std::net::IpAddr>,
}

/// Exactly one of service, application and redirected says where its connections go.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) direction: Direction,
    pub(super) listen: SocketAddr,
    pub(super) service: Option<String>,
    pub(super) application: Option<SocketAddr>,
    #[serde(default)]
    pub(super) redirected: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) name: String,
    #[serde(default)]
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) protocol: Option<Protocol>,
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    #[serde(default)]
    pub(super) traffic: traffic::Spec,
    #[serde(default)]
    pub(super) failover: Vec<String>,
    #[serde(default)]
    pub(super) overrides: Vec<String>,
    #[serde(default)]
    pub(super) faults: traffic::Faults,
    #[serde(default)]
    pub(super) endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub(super) routes: Vec<Route>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum Protocol {
    #[serde(rename = "HTTP1")]
    Http1,
    #[serde(rename = "HTTP2")]
    Http2,
    #[serde(rename = "GRPC")]
    Grpc,
    #[serde(rename = "TLS")]
    Tls,
    Opaque,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Timeouts {
    pub(super) request: Option<String>,
    pub(super) backend_request: Option<String>,
    pub(super) idle: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) identity: Option<SpiffeId>,
    #[serde(default)]
    pub(super) pod: String,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) zone: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    #[serde(default)]
    pub(super) http: Vec<HttpMatch>,
    pub(super) split: Vec<Share>,
    #[serde(default)]
    pub(super) timeouts: Timeouts,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    pub(super) service: String,
    pub(super) weight: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Inbound {
    #[serde(default)]
    pub(super) mtls: Mtls,
    #[serde(default)]
    pub(super) protocols: Vec<PortProtocol>,
    #[serde(default)]
    pub(super) limits: traffic::Limits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mtls {
    #[serde(default)]
    pub(super) mode: MtlsMode,
    #[serde(default)]
    pub(super) ports: Vec<PortMtls>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortMtls {
    pub(super) port: u16,
    pub(super) mode: MtlsMode,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortProtocol {
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// MeshPolicy's `spec.authorization`, with a name and ports.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) ports: Option<Vec<u16>>,
    #[serde(default = "allow")]
    pub(super) action: Action,
    #[serde(default)]
    pub(super) enforcement: Enforcement,
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(rename = "name")]
    pub(super) _name: Option<String>,
    pub(super) sources: Vec<Source>,
    pub(super) ports: Option<Vec<u16>>,
    pub(super) http: Option<Vec<HttpMatch>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Source {
    pub(super) service_account: Option<ServiceAccount>,
    pub(super) anyone: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceAccount {
    /// Left out: the proxy's own.
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpMatch {
    #[serde(default)]
    pub(super) methods: Vec<String>,
    pub(super) path: Option<PathMatch>,
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    #[serde(default)]
    pub(super) headers: Vec<HeaderMatch>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PathMatch {
    #[serde(rename = "type")]
    pub(super) kind: PathType,
    pub(super) value: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum PathType {
    Exact,
    PathPrefix,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderMatch {
    pub(super) name: String,
    #[serde(rename = "type", default)]
    pub(super) kind: HeaderType,
    pub(super) value: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum HeaderType {
    #[default]
    Exact,
    Prefix,
    Present,
}

fn one() -> usize {
    1
}

fn allow() -> Action {
    Action::Allow
}
