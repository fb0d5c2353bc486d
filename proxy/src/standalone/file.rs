//! The configuration file as it is written. The comments on the fields are what its JSON Schema says (schema.rs), and
//! examples/standalone.yaml shows them in use.
//!
//! Strict like the CRDs: a field that is not known is an error, because a misspelled one could widen access.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use byrnie_model::{Action, Enforcement, MtlsMode, SpiffeId, TrustDomain};
#[cfg(test)]
use schemars::JsonSchema;
use serde::Deserialize;

#[cfg(test)]
use super::schema;
use super::traffic;
use crate::metrics::Direction;

/// Configuration of `byrnie-proxy run --config FILE`.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    /// Trust domain of this proxy: 1 to 255 of a-z, 0-9, '-' and '.'. Its certificate and its peers' belong to it. Takes a restart to change.
    #[cfg_attr(test, schemars(schema_with = "schema::trust_domain"))]
    pub(super) trust_domain: TrustDomain,
    /// Certificate, key and roots. They are read again when they change.
    pub(super) identity: IdentityFiles,
    /// Where /ready, /live, /metrics and /config are served, as ADDRESS:PORT. Left out: nowhere. Takes a restart to change.
    pub(super) admin: Option<SocketAddr>,
    /// Threads that carry traffic: 1 to 64. Default: 1. Takes a restart to change.
    #[serde(default = "one")]
    #[cfg_attr(test, schemars(range(min = 1, max = 64)))]
    pub(super) workers: usize,
    /// What gets a line on standard output: all, denied (what was refused or failed) or off. Default: denied. Takes a restart to change.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::access_log"))]
    pub(super) access_log: Option<String>,
    /// Whose proxy this is. Takes a restart to change.
    #[serde(default)]
    pub(super) pod: Pod,
    /// Which name servers are asked. Default: those of /etc/resolv.conf.
    #[serde(default)]
    pub(super) dns: Dns,
    /// Where connections are taken. Listeners come and go without a restart.
    pub(super) listeners: Vec<Listener>,
    /// What can be called. Default: none.
    #[serde(default)]
    pub(super) services: Vec<Service>,
    /// How calls to the application are taken. Default: mutual TLS only.
    #[serde(default)]
    pub(super) inbound: Inbound,
    /// Who may call the application. Default: everybody with an identity that a root vouches for.
    #[serde(default)]
    pub(super) policies: Vec<Policy>,
}

/// PEM files; relative names are relative to the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityFiles {
    /// The certificate, with one SPIFFE id of the trust domain, and intermediates behind it.
    pub(super) chain: PathBuf,
    /// The certificate's private key (PKCS#8).
    pub(super) key: PathBuf,
    /// For each trust domain that is trusted, a file with its roots. The proxy's own trust domain must be among them.
    #[cfg_attr(test, schemars(with = "BTreeMap<String, PathBuf>"))]
    pub(super) roots: BTreeMap<TrustDomain, PathBuf>,
}

/// Name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Dns {
    /// ADDRESS:PORT of each, over UDP and TCP. Default: those of /etc/resolv.conf, with its search domains.
    #[serde(default)]
    pub(super) servers: Vec<SocketAddr>,
}

/// Names for logs, and addresses to know oneself by.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Pod {
    /// For logs. Default: empty.
    #[serde(default)]
    pub(super) name: String,
    /// For logs. Default: empty.
    #[serde(default)]
    pub(super) namespace: String,
    /// Tells two incarnations of one pod apart. Default: empty.
    #[serde(default)]
    pub(super) uid: String,
    /// Topology zone, for services that prefer endpoints in it. Default: empty.
    #[serde(default)]
    pub(super) zone: String,
    /// IP addresses of this host at which the proxy itself can be reached; it never forwards to its own ports there. Loopback always counts. Default: none.
    #[serde(default)]
    pub(super) addresses: Vec<std::net::IpAddr>,
}

/// Exactly one of service, application, redirected and forwardProxy says where its connections go.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Listener {
    /// Outbound: calls that the application makes. Inbound: calls to the application.
    #[cfg_attr(test, schemars(schema_with = "schema::direction"))]
    pub(super) direction: Direction,
    /// ADDRESS:PORT to listen on.
    pub(super) listen: SocketAddr,
    /// Outbound: every connection is a call to this service, by its name.
    pub(super) service: Option<String>,
    /// Inbound: every connection is a call to this ADDRESS:PORT.
    pub(super) application: Option<SocketAddr>,
    /// The kernel redirected the connection here (`byrnie-proxy init`) and says where it was going. Default: false.
    #[serde(default)]
    pub(super) redirected: bool,
    /// Outbound, on loopback only: applications were told by http_proxy and https_proxy to ask here for hosts.
    pub(super) forward_proxy: Option<ForwardProxy>,
}

/// What applications may ask a forward proxy for: services by NAME.NAMESPACE (or NAME, in the pod's own namespace), by one of their hosts, or by one of their addresses.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardProxy {
    /// What becomes of hosts that are no service. Pass: they are let through, without mutual TLS. Refuse: they are answered 403. Default: Refuse.
    #[serde(default)]
    pub(super) unknown: Unknown,
}

/// Pass or Refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) enum Unknown {
    Pass,
    #[default]
    Refuse,
}

/// Something that can be called.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Service {
    /// NAMESPACE/NAME:PORT, once per file.
    pub(super) name: String,
    /// ADDRESS:PORT that redirected connections were for. Default: none.
    #[serde(default)]
    pub(super) addresses: Vec<SocketAddr>,
    /// DNS names in lower case by which it can be asked for at a forward proxy, besides NAME.NAMESPACE, at the service's port. Default: none.
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    /// What is spoken. Left out: told by the first bytes, for which a second is waited.
    pub(super) protocol: Option<Protocol>,
    /// Limits for calls. Default: none.
    #[serde(default)]
    pub(super) timeouts: Timeouts,
    /// How calls are made: retries, circuit breaking, balancing. Default: as docs/resilience.md says.
    #[serde(default)]
    pub(super) traffic: traffic::Spec,
    /// Services that serve while no endpoint of this one can, in order, by their names. Default: none.
    #[serde(default)]
    pub(super) failover: Vec<String>,
    /// Services that a request may ask for instead, by `baggage: byrnie-route=NAMESPACE/NAME:OTHER`. Default: none.
    #[serde(default)]
    pub(super) overrides: Vec<String>,
    /// Who gets copies of requests; what is answered to those is thrown away. At most 4. Default: nobody.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = 4)))]
    pub(super) mirrors: Vec<Mirror>,
    /// What is done to requests on purpose. Default: nothing.
    #[serde(default)]
    pub(super) faults: traffic::Faults,
    /// Where it runs. Default: nowhere, so that calls are answered 503.
    #[serde(default)]
    pub(super) endpoints: Vec<Endpoint>,
    /// Where else to learn where it runs. Default: nowhere.
    #[serde(default)]
    pub(super) endpoints_from: Vec<EndpointsFrom>,
    /// The first route that matches a request decides. Default: everything goes to the service's own endpoints.
    #[serde(default)]
    pub(super) routes: Vec<Route>,
}

/// Who gets copies of requests.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Mirror {
    /// Name of another service in this file.
    pub(super) service: String,
    /// Percent of the requests, by chance: 1 to 100. Default: 100.
    #[cfg_attr(test, schemars(range(min = 1, max = 100)))]
    pub(super) percent: Option<u32>,
}

/// HTTP2 and GRPC are the same: HTTP/2 without an upgrade. TLS is the application's own, and passes as it is, like Opaque bytes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
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

/// Durations are written 10s, 250ms, 1h30m; 0s is no limit.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Timeouts {
    /// From the request's last header to the response's last byte. Default: no limit.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::duration"))]
    pub(super) request: Option<String>,
    /// From sending a request to one endpoint to the first byte of its response. Default: no limit.
    #[cfg_attr(test, schemars(schema_with = "schema::duration"))]
    #[serde(default)]
    pub(super) backend_request: Option<String>,
    /// Without a byte in either direction. Default: no limit.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::duration"))]
    pub(super) idle: Option<String>,
}

/// One place where a service runs.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    /// ADDRESS:PORT.
    pub(super) address: SocketAddr,
    /// Who must answer there, as spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT: mutual TLS, and nobody else is spoken to. Left out: plaintext.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::spiffe_id"))]
    pub(super) identity: Option<SpiffeId>,
    /// Name of the pod, for logs. Default: empty.
    #[serde(default)]
    pub(super) pod: String,
    /// Tells two incarnations of one address apart: connections to the old one are not used for the new one. Default: empty.
    #[serde(default)]
    pub(super) uid: String,
    /// Topology zone, for services that prefer their callers' own. Default: empty.
    #[serde(default)]
    pub(super) zone: String,
    /// Its share of the requests relative to the other endpoints': 1 to 65535. Default: 1.
    #[serde(default = "weight_of_one")]
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub(super) weight: u16,
}

/// Exactly one of file, dns and srv.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointsFrom {
    /// A file, relative to this one, with a YAML or JSON list of endpoints; read again when it changes.
    pub(super) file: Option<PathBuf>,
    /// A name with A and AAAA records, as NAME:PORT; asked again when the answer's time to live is over, after 1 s at the least and 5 min at the most.
    pub(super) dns: Option<String>,
    /// A name with SRV records, as in _http._tcp.example.com. The lowest priority that has an address counts; its weights are the endpoints'.
    pub(super) srv: Option<String>,
    /// Who must answer at the addresses that DNS knows, as spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT. Left out: plaintext. In a file each endpoint has its own.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::spiffe_id"))]
    pub(super) identity: Option<SpiffeId>,
}

/// Where requests of a kind go.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Any of them must match. Default: every request, and connections that are not HTTP.
    #[serde(default)]
    pub(super) http: Vec<HttpMatch>,
    /// Services that share the requests.
    pub(super) split: Vec<Share>,
    /// Limits for these requests; what is left out is the service's.
    #[serde(default)]
    pub(super) timeouts: Timeouts,
}

/// A share of a route.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    /// Name of a service in this file.
    pub(super) service: String,
    /// Relative to the other weights: 0 to 4294967295; 0 gets nothing.
    pub(super) weight: u32,
}

/// How calls to the application are taken.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Inbound {
    /// Whether plaintext is taken. Default: it is not.
    #[serde(default)]
    pub(super) mtls: Mtls,
    /// What ports of the application speak. Default: told by the first bytes.
    #[serde(default)]
    pub(super) protocols: Vec<PortProtocol>,
    /// What the application takes of all its callers together. Default: everything.
    #[serde(default)]
    pub(super) limits: traffic::Limits,
}

/// Whether callers must prove who they are.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Mtls {
    /// Strict: mutual TLS only. Permissive: plaintext too, whose callers have no identity. Default: Strict.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::mtls_mode"))]
    pub(super) mode: MtlsMode,
    /// Ports with a mode of their own. Default: none.
    #[serde(default)]
    pub(super) ports: Vec<PortMtls>,
}

/// The mode of one port.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct PortMtls {
    /// A port of the application: 1 to 65535.
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub(super) port: u16,
    /// Strict or Permissive.
    #[cfg_attr(test, schemars(schema_with = "schema::mtls_mode"))]
    pub(super) mode: MtlsMode,
}

/// The protocol of one port.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct PortProtocol {
    /// A port of the application: 1 to 65535.
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub(super) port: u16,
    /// What is spoken there.
    pub(super) protocol: Protocol,
}

/// Who may call: a MeshPolicy's `spec.authorization`, with a name and ports.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    /// NAMESPACE/NAME, for logs and metrics.
    pub(super) name: String,
    /// Ports of the application that it governs, 1 to 65535. Left out: all.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::ports"))]
    pub(super) ports: Option<Vec<u16>>,
    /// Allow: on its ports, what no rule allows is refused. Deny: what a rule matches is refused, whatever else allows it. Default: Allow.
    #[serde(default = "allow")]
    #[cfg_attr(test, schemars(schema_with = "schema::action"))]
    pub(super) action: Action,
    /// Enforced, or Audit: decide, record, let pass. Default: Enforced.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::enforcement"))]
    pub(super) enforcement: Enforcement,
    /// Any of them may match. Empty: nothing is allowed.
    pub(super) rules: Vec<Rule>,
}

/// All that it says must hold.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// For people. Default: none.
    #[serde(rename = "name")]
    pub(super) _name: Option<String>,
    /// Callers, any of them. Empty: nobody.
    pub(super) sources: Vec<Source>,
    /// Ports of the application, 1 to 65535. Left out: all that the policy governs.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::ports"))]
    pub(super) ports: Option<Vec<u16>>,
    /// Requests, any of them. Left out: every request, and connections that are not HTTP.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub(super) http: Option<Vec<HttpMatch>>,
}

/// Exactly one of serviceAccount and anyone.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Source {
    /// A caller with this identity.
    pub(super) service_account: Option<ServiceAccount>,
    /// Every caller, also without identity where plaintext is taken: only true can be written.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::only_true"))]
    pub(super) anyone: Option<bool>,
}

/// spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceAccount {
    /// Left out: the proxy's own.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::trust_domain"))]
    pub(super) trust_domain: Option<TrustDomain>,
    /// A DNS label.
    pub(super) namespace: String,
    /// A DNS label, or "*" for everybody in the namespace.
    pub(super) name: String,
}

/// All that it says must hold.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct HttpMatch {
    /// Any of them, in upper case as on the wire. Default: every method.
    #[serde(default)]
    pub(super) methods: Vec<String>,
    /// The path without its query. Left out: every path.
    pub(super) path: Option<PathMatch>,
    /// Any of them: a DNS name in lower case, perhaps with "*." in front. Default: every host.
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    /// All of them. Default: none.
    #[serde(default)]
    pub(super) headers: Vec<HeaderMatch>,
}

/// A path as it is on the wire.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct PathMatch {
    /// PathPrefix matches whole segments: /a is a prefix of /a/b and not of /ab.
    #[serde(rename = "type")]
    pub(super) kind: PathType,
    /// Begins with '/'.
    pub(super) value: String,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) enum PathType {
    Exact,
    PathPrefix,
}

/// One header.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderMatch {
    /// Its name, in any case.
    pub(super) name: String,
    /// How its value is compared. Default: Exact.
    #[serde(rename = "type", default)]
    pub(super) kind: HeaderType,
    /// What it is compared with; Present has none.
    pub(super) value: Option<String>,
}

/// How a header's value is compared.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(super) enum HeaderType {
    #[default]
    Exact,
    Prefix,
    Present,
}

fn one() -> usize {
    1
}

fn weight_of_one() -> u16 {
    1
}

fn allow() -> Action {
    Action::Allow
}
