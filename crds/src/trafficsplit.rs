//! TrafficSplit: SMI's own kind, read as v1alpha4.
//!
//! The group is SMI's, so that existing YAML, Flagger and Argo Rollouts work unchanged. Older versions are
//! other spellings of the same thing ([`crate::convert`]).

#![expect(clippy::duplicated_attributes, reason = "every printcolumn has a type_")]
#![expect(unreachable_pub, reason = "derive(KubeSchema) copies each struct into a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    meshpolicy::ProxyCount,
    section::{Section, Unread},
};

/// The largest weight. 64 of them add up without overflow.
pub const MAX_WEIGHT: u32 = 1_000_000_000;

/// Shares of the calls to a Service, for other Services of its namespace.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "split.smi-spec.io",
    version = "v1alpha4",
    kind = "TrafficSplit",
    plural = "trafficsplits",
    shortname = "ts",
    category = "byrnie",
    namespaced,
    status = "TrafficSplitStatus",
    derive = "PartialEq",
    doc = "TrafficSplit sends shares of the calls to a Service to other Services of its namespace (Service Mesh Interface).",
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.service"),
    printcolumn(name = "Backends", type_ = "string", json_path = ".status.summary.backends"),
    printcolumn(name = "Proxies", type_ = "string", json_path = ".status.summary.proxies"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Resolved",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"ResolvedRefs\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(inline)]
pub struct TrafficSplitSpec(pub Section<Split>);

/// What a TrafficSplit says.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct Split {
    /// The Service that applications call (the apex): its name, or its name with the namespace behind it.
    #[schemars(length(min = 1, max = 253))]
    pub service: String,
    /// The Services that its calls go to. The apex itself may be one of them.
    #[schemars(length(min = 1, max = 64))]
    pub backends: Vec<SplitBackend>,
    /// Split only requests that these HTTPRouteGroups match; the others go to the apex itself. HTTPRouteGroup is not
    /// served here, so with any of them every request goes to the apex itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub matches: Vec<MatchRef>,
}

/// A share.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct SplitBackend {
    /// A Service of the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub service: String,
    /// Its share, relative to the other weights; 0 gets nothing.
    #[schemars(range(min = 0, max = MAX_WEIGHT))]
    pub weight: u32,
}

/// An HTTPRouteGroup of the same namespace.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(inline)]
pub struct MatchRef {
    /// API group: specs.smi-spec.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub api_group: Option<String>,
    /// HTTPRouteGroup.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What has become of the split.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSplitStatus {
    /// Accepted, ResolvedRefs, Programmed.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// How many live proxies of callers have it in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxyCount>,
    /// What `kubectl get` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<TrafficSplitSummary>,
}

/// A split in a line.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct TrafficSplitSummary {
    /// As in `v1:90 v2:10`.
    #[serde(default)]
    pub backends: String,
    /// As in `12/12`.
    #[serde(default)]
    pub proxies: String,
}

impl TrafficSplitSpec {
    /// What it says, where that was understood.
    pub fn read(&self) -> Result<&Split, &Unread> {
        self.0.as_ref()
    }
}

impl From<Split> for TrafficSplitSpec {
    fn from(split: Split) -> Self {
        Self(Section::Read(split))
    }
}
