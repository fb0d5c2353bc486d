//! Who may call a workload: the policies of one pod as plain data.
//!
//! The shape follows MeshPolicy (Gateway API policy attachment, GEP-713, and the east-west
//! AuthorizationPolicy, GEP-3779). How it is decided is in [`crate::evaluate`].

use http::HeaderName;
use serde::{Deserialize, Serialize};

use crate::{names::ObjectName, spiffe::TrustDomain};

/// Everything that governs the inbound side of one pod, complete.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct InboundPolicy {
    /// Whether plaintext is refused, per port.
    pub mtls: Mtls,
    /// All policies that select this pod. Rules of all policies unite; Deny wins.
    pub policies: Vec<Policy>,
}

/// Whether a port takes plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MtlsMode {
    /// Only mesh peers with a verified identity.
    #[default]
    Strict,
    /// Mesh peers, and plaintext peers without an identity.
    Permissive,
}

/// The mode of every port: a default and its exceptions.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Mtls {
    /// For ports that are not listed.
    pub default: MtlsMode,
    /// Exceptions by container port.
    pub ports: Vec<(u16, MtlsMode)>,
}

/// One MeshPolicy's authorization as it applies to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which MeshPolicy this is, for logs and `byrnie explain`.
    pub name: ObjectName,
    /// What a matching rule does.
    pub action: Action,
    /// Whether the decision is carried out or only recorded.
    pub enforcement: Enforcement,
    /// Container ports that the policy governs (the target ports of a targeted Service).
    pub ports: Ports,
    /// Any rule may match. No rules: an Allow allows nothing, a Deny denies nothing.
    pub rules: Vec<Rule>,
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Let the request pass; what no Allow rule matches is refused.
    Allow,
    /// Refuse the request, whatever is allowed elsewhere.
    Deny,
}

/// Whether a policy bites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Enforcement {
    /// Decide and enforce.
    #[default]
    Enforced,
    /// Decide, record and let pass.
    Audit,
}

/// A set of container ports.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Ports {
    /// Every port.
    #[default]
    All,
    /// These ports. Empty: none.
    Only(Vec<u16>),
}

/// Sources AND ports AND http must match.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rule {
    /// Any source may match. Empty: nobody.
    pub sources: Vec<Source>,
    /// Container ports the rule applies to.
    pub ports: Ports,
    /// Any may match. Empty: every request, and opaque connections too.
    pub http: Vec<HttpMatch>,
}

/// Who a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Every peer, also one without identity where plaintext is admitted.
    Anyone,
    /// Workloads of a namespace: all of them, or those of one ServiceAccount.
    Workload {
        /// The trust domain that must have vouched for the peer.
        trust_domain: TrustDomain,
        /// The namespace, compared whole.
        namespace: String,
        /// The ServiceAccount, compared whole; `None` is every one in the namespace.
        service_account: Option<String>,
    },
}

/// Methods AND path AND hosts AND headers must match; an empty list matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HttpMatch {
    /// Methods, case-sensitive (RFC 9110 section 9.1).
    pub methods: Vec<String>,
    /// The path without query.
    pub path: Option<PathMatch>,
    /// Hosts in lower case without port or trailing dot; `*.example.org` matches names below it.
    pub hosts: Vec<String>,
    /// All of them must match.
    pub headers: Vec<HeaderMatch>,
}

/// A path predicate (HTTPRoute's `Exact` and `PathPrefix`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole segments from the start: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
}

/// A header predicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// The header's name.
    pub name: HeaderName,
    /// What its values must be.
    pub value: ValueMatch,
}

/// A predicate over one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// The header is there, whatever it says.
    Present,
    /// Byte by byte.
    Exact(String),
    /// Starts with these bytes.
    Prefix(String),
}

impl Mtls {
    /// The mode of one port.
    pub fn mode(&self, port: u16) -> MtlsMode {
        self.ports.iter().find(|(p, _)| *p == port).map_or(self.default, |(_, mode)| *mode)
    }
}

impl Ports {
    /// Whether a port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(ports) => ports.contains(&port),
        }
    }
}
