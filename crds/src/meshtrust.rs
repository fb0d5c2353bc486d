//! MeshTrust: the trust domain, where its root comes from, how long certificates live and how far a rotation is.

#![expect(clippy::duplicated_attributes, reason = "every printcolumn has a type_")]
#![expect(unreachable_pub, reason = "derive(KubeSchema) copies each struct into a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    duration,
    section::{Section, Unread},
};

/// The trust domain and its roots.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "byrnie.dev",
    version = "v1alpha1",
    kind = "MeshTrust",
    plural = "meshtrusts",
    singular = "meshtrust",
    shortname = "mt",
    category = "byrnie",
    status = "MeshTrustStatus",
    derive = "PartialEq",
    doc = "MeshTrust is a trust domain: where its root comes from, how long certificates live, and how far a rotation is.",
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.trustDomain"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Proxies", type_ = "string", json_path = ".status.summary.proxies"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expires"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(inline)]
pub struct MeshTrustSpec(pub Section<Trust>);

/// What a MeshTrust says.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("duration(self.leafLifetime) >= duration('1m') && duration(self.leafLifetime) <= duration('168h')")
        .message("leafLifetime must be 1m to 168h").field_path(".leafLifetime"),
    validation = Rule::new("duration(self.leafLifetime) + duration(self.leafLifetime) <= duration(self.rootLifetime)")
        .message("rootLifetime must be at least twice leafLifetime").field_path(".rootLifetime"),
    validation = Rule::new("self.trustDomain == oldSelf.trustDomain")
        .message("the trust domain cannot change: every identity contains it").field_path(".trustDomain"),
    validation = Rule::new("!has(self.federation) || self.federation.all(other, other.trustDomain != self.trustDomain)")
        .message("federation is with other trust domains; this one is the mesh's own").field_path(".federation"),
    validation = Rule::new("has(self.source.selfManaged) || (!has(self.rotation) && (!has(self.compromised) || size(self.compromised) == 0))")
        .message("rotation and compromised are for selfManaged roots; one from a Secret is rotated by whoever makes it")
)]
pub struct Trust {
    /// The domain in every identity, spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT.
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub trust_domain: String,
    /// How long a workload's certificate lives; it is renewed at half of that.
    #[serde(default = "a_day")]
    #[schemars(length(max = 24), regex(pattern = duration::PATTERN))]
    pub leaf_lifetime: String,
    /// How long a root that is made here lives; it is rotated at half of that.
    #[serde(default = "a_year")]
    #[schemars(length(max = 24), regex(pattern = duration::PATTERN))]
    pub root_lifetime: String,
    /// Where the root comes from.
    #[serde(default)]
    pub source: SourceOfRoot,
    /// What is wanted of the root's rotation, beyond what happens by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Ids (as in status.roots) of roots whose key somebody else may have. Such a root is out of force within two
    /// minutes, also where that ends connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 64, max = 64), regex(pattern = "^[0-9a-f]{64}$")))]
    pub compromised: Vec<String>,
    /// Other trust domains whose workloads may call ours, where a MeshPolicy names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["trustDomain".into()]))]
    pub federation: Vec<Federated>,
}

/// Another trust domain.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct Federated {
    /// Its name, as in its identities.
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub trust_domain: String,
    /// Its roots in PEM, all of them while it rotates. They vouch for its identities and for no others.
    #[schemars(length(min = 1, max = 65536))]
    pub roots: String,
}

/// What is wanted of the root's rotation.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct Rotation {
    /// A value that was not there before (such as a date) starts a rotation; what it says has no meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub request: Option<String>,
    /// Takes back a rotation that is under way, and while it is true none begins. Not for compromised or lost keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abort: bool,
}

/// Exactly one of its fields.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.selfManaged) != has(self.secret)")
    .message("the source is exactly one of selfManaged and secret"))]
pub struct SourceOfRoot {
    /// The operator makes roots and rotates them by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_managed: Option<SelfManaged>,
    /// A Secret of type kubernetes.io/tls in the control plane's namespace, such as cert-manager writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
}

/// Nothing to choose yet.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct SelfManaged {}

/// A Secret in the control plane's namespace.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How far things are.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshTrustStatus {
    /// Where a rotation stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// When that phase began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Time>,
    /// The last spec.rotation.request that was carried out, or is beyond its half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub request: Option<String>,
    /// Proxies hold a later epoch than this: an older state was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// Counts the changes of the trust bundle; never decreases.
    #[serde(default)]
    pub epoch: u64,
    /// The roots of the bundle, and those that once were in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub roots: Vec<Root>,
    /// Id of the root that signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub signer: Option<String>,
    /// Proxies that hold the current bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<BundleCount>,
    /// When the signing root ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// Ready, and what stands in the way.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What `kubectl get` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<MeshTrustSummary>,
}

/// An older state was restored.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Restored {
    /// When that was noticed.
    pub since: Time,
    /// No certificate is issued: most proxies say so.
    pub frozen: bool,
}

/// Where a rotation stands.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(inline)]
pub enum Phase {
    /// One root, which signs.
    #[default]
    Stable,
    /// The next root is in the bundle and does not sign yet.
    Staged,
    /// The next root signs; certificates of the old one are still in use.
    Signing,
    /// No proxy shows a certificate of the old root any more; it goes when no connection stands on it.
    Draining,
}

/// A root.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Root {
    /// SHA-256 of its public key (SPKI), in hexadecimal.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// The certificate in PEM, which peers trust.
    #[schemars(length(max = 16384))]
    pub certificate: String,
    /// When it ends.
    pub not_after: Time,
    /// What it is there for.
    pub state: RootState,
}

/// What a root is there for.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[schemars(inline)]
pub enum RootState {
    /// In the bundle, does not sign yet.
    Staged,
    /// Signs.
    Active,
    /// In the bundle, does not sign any more.
    Draining,
    /// Compromised or retired: never in a bundle again.
    Tainted,
}

/// Proxies and the current bundle.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct BundleCount {
    /// Those that hold it.
    pub current: u32,
    /// All of them.
    pub total: u32,
}

/// A MeshTrust in a line.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct MeshTrustSummary {
    /// As in `41/41`.
    #[serde(default)]
    pub proxies: String,
}

impl MeshTrustSpec {
    /// What it says, where that was understood.
    pub fn read(&self) -> Result<&Trust, &Unread> {
        self.0.as_ref()
    }
}

impl From<Trust> for MeshTrustSpec {
    fn from(trust: Trust) -> Self {
        Self(Section::Read(trust))
    }
}

impl Default for SourceOfRoot {
    fn default() -> Self {
        Self { self_managed: Some(SelfManaged {}), secret: None }
    }
}

fn a_day() -> String {
    "24h".into()
}

fn a_year() -> String {
    "8760h".into()
}
