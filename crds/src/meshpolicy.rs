//! MeshPolicy: who may call a workload, whether plaintext is admitted, and how calls to it are made.
//!
//! Policy attachment after GEP-713, sources after GEP-3779, durations after GEP-2257. What it means is in
//! [`crate::compile`]; here is only its shape. The doc comments are what `kubectl explain` shows.

#![expect(clippy::duplicated_attributes, reason = "every printcolumn has a type_")]
#![expect(unreachable_pub, reason = "derive(KubeSchema) copies each struct into a function")]

use std::collections::BTreeMap;

use byrnie_model::{Action, Enforcement, MtlsMode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    schema,
    section::{self, Section},
    traffic::TrafficSpec,
};

/// Who may call the targets, whether they take plaintext, and how calls to them are made.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "byrnie.dev",
    version = "v1alpha1",
    kind = "MeshPolicy",
    plural = "meshpolicies",
    shortname = "mp",
    category = "byrnie",
    namespaced,
    status = "MeshPolicyStatus",
    derive = "PartialEq",
    doc = "MeshPolicy says who may call workloads of its namespace, whether they take plaintext, and how calls to them are made.",
    printcolumn(name = "Targets", type_ = "string", json_path = ".status.summary.targets"),
    printcolumn(name = "mTLS", type_ = "string", json_path = ".status.summary.mtls"),
    printcolumn(name = "Rules", type_ = "string", json_path = ".status.summary.rules"),
    printcolumn(name = "Enforcement", type_ = "string", json_path = ".status.summary.enforcement"),
    printcolumn(name = "Proxies", type_ = "string", json_path = ".status.summary.proxies"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.mtls) || has(self.authorization) || has(self.traffic)")
    .message("at least one of mtls, authorization and traffic is needed"))]
pub struct MeshPolicySpec {
    /// What the policy is about, in its own namespace. Absent: the whole namespace.
    #[serde(default, deserialize_with = "section::present", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Option<Section<Vec<TargetRef>>>,
    /// Whether the targets take plaintext.
    #[serde(default, deserialize_with = "section::present", skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Section<MtlsSpec>>,
    /// Who may call the targets.
    #[serde(default, deserialize_with = "section::present", skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Section<AuthorizationSpec>>,
    /// How calls to the targets are made, by the callers' proxies.
    #[serde(default, deserialize_with = "section::present", skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Section<TrafficSpec>>,
    /// Fields that this version does not know: kept, so that they are refused instead of lost.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// A Service by name, or pods by their labels.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.kind == 'Service' || self.kind == 'Pod'")
        .message("kind must be Service or Pod; HTTPRoute and other kinds are not supported yet"),
    validation = Rule::new("!has(self.group) || self.group == ''")
        .message("group must be empty: Service and Pod are core kinds"),
    validation = Rule::new("self.kind != 'Service' || (has(self.name) && !has(self.selector))")
        .message("a Service is targeted by name, without selector"),
    validation = Rule::new("self.kind != 'Pod' || (has(self.selector) && !has(self.name))")
        .message("Pods are targeted by selector, without name")
)]
pub struct TargetRef {
    /// API group: empty, for Service and Pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Service (the pods it selects, on its target ports) or Pod.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Labels of the Pods. Empty: every pod of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PodSelector>,
}

/// Pods by their labels; all requirements must hold.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct PodSelector {
    /// Labels with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One requirement on one label.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(self.operator == 'In' || self.operator == 'NotIn') == (has(self.values) && size(self.values) > 0)")
    .message("In and NotIn need values; Exists and DoesNotExist have none"))]
pub struct LabelRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How it is compared.
    pub operator: LabelOperator,
    /// Values for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
pub enum LabelOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

/// Whether plaintext is refused.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MtlsSpec {
    /// Strict: only mesh peers. Permissive: plaintext too.
    #[serde(default)]
    #[schemars(schema_with = "schema::mtls_mode")]
    pub mode: MtlsMode,
    /// Container ports that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub ports: Vec<PortMtls>,
}

/// The mode of one port.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct PortMtls {
    /// Container port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Strict: only mesh peers. Permissive: plaintext too.
    #[schemars(schema_with = "schema::mtls_mode")]
    pub mode: MtlsMode,
}

/// Who may call.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.action) || self.action != 'Deny' || size(self.rules) > 0")
    .message("a Deny without rules denies nothing"))]
pub struct AuthorizationSpec {
    /// What a matching rule does. Where an Allow governs a port, what no rule allows is refused; a Deny wins.
    #[serde(default = "allow")]
    #[schemars(schema_with = "schema::action")]
    pub action: Action,
    /// Enforced, or Audit: decide and record, but let pass.
    #[serde(default)]
    #[schemars(schema_with = "schema::enforcement")]
    pub enforcement: Enforcement,
    /// Any rule may match. An Allow with an empty list allows nobody.
    #[schemars(length(max = 64))]
    pub rules: Vec<RuleSpec>,
}

/// Sources and ports and http must match.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct RuleSpec {
    /// A name for people to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Any source may match. Empty: nobody. Everyone is written out: `{anyone: true}`.
    #[schemars(length(max = 64))]
    pub sources: Vec<SourceSpec>,
    /// Container ports. Absent: every port that the policy governs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(range(min = 1, max = 65535)))]
    pub ports: Option<Vec<u16>>,
    /// Any may match. Absent: every request, and connections that are not HTTP too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub http: Option<Vec<HttpSpec>>,
}

/// Exactly one of its fields.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.serviceAccount) != has(self.anyone)")
        .message("a source is exactly one of serviceAccount and anyone")
)]
pub struct SourceSpec {
    /// Workloads that run as this ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountRef>,
    /// Everyone: all mesh peers, and plaintext peers where they are admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::only_true")]
    pub anyone: Option<bool>,
}

/// A ServiceAccount.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct ServiceAccountRef {
    /// The trust domain that it is of, one of MeshTrust's spec.federation. Absent: the mesh's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub trust_domain: Option<String>,
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name, or `*` for every one in the namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Methods and path and hosts and headers must match; what is absent or empty matches everything.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct HttpSpec {
    /// Methods, case-sensitive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 32)))]
    pub methods: Vec<String>,
    /// The path without query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathSpec>,
    /// Hosts without port; `*.example.org` is every name below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub hosts: Vec<String>,
    /// Headers; all must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderSpec>,
}

/// A path.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct PathSpec {
    /// Exact, or PathPrefix: by whole segments (`/a` matches `/a` and `/a/b`, not `/ab`).
    #[serde(rename = "type")]
    pub type_: PathType,
    /// The path. It must be one that every reader understands alike: no dot segments, no empty segments, no
    /// needless escapes.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/"))]
    pub value: String,
}

/// How a path is compared.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
pub enum PathType {
    Exact,
    PathPrefix,
}

/// A header.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.value) != (has(self.type) && self.type == 'Present')")
    .message("Exact and Prefix need a value; Present has none"))]
pub struct HeaderSpec {
    /// Its name.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// How its value is compared.
    #[serde(rename = "type", default)]
    pub type_: HeaderType,
    /// The value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
}

/// How a header's value is compared.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(inline)]
pub enum HeaderType {
    #[default]
    Exact,
    Prefix,
    Present,
}

/// What has become of the policy.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshPolicyStatus {
    /// Accepted, ResolvedRefs, Programmed.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// How many live proxies have it in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxyCount>,
    /// What `kubectl get` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<MeshPolicySummary>,
}

/// Live proxies that a generation concerns.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ProxyCount {
    /// Those that have acknowledged it.
    pub programmed: u32,
    /// All of them.
    pub total: u32,
}

/// A policy in a line.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct MeshPolicySummary {
    /// As in `Service/payments`.
    #[serde(default)]
    pub targets: String,
    /// As in `Strict`.
    #[serde(default)]
    pub mtls: String,
    /// As in `Allow 3`.
    #[serde(default)]
    pub rules: String,
    /// As in `Enforced`.
    #[serde(default)]
    pub enforcement: String,
    /// As in `12/12`.
    #[serde(default)]
    pub proxies: String,
}

fn allow() -> Action {
    Action::Allow
}
