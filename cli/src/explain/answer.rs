//! The answer, as `--output json` prints it: docs/command.md describes it, and its fields keep their names and meaning.

use serde::Serialize;
use serde_json::Value;

/// What becomes of a call, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    /// Refused: at least one pod that the call may reach refuses it.
    pub(super) verdict: Verdict,
    pub(super) from: From,
    pub(super) to: Target,
    /// Absent: bytes that are no HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<Request>,
    /// The TrafficSplit that divides the calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) split: Option<String>,
    /// Where calls go. One, except behind a split.
    pub(super) backends: Vec<Backend>,
    /// What else somebody should know; for people.
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Allowed,
    Refused,
}

/// Exactly one of its fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum From {
    /// A SPIFFE id.
    Identity(String),
    /// True.
    Plaintext(bool),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Target {
    /// Service or Pod.
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    /// The Service's port, or the Pod's.
    pub(super) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) host: String,
    /// Names and values.
    pub(super) headers: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Backend {
    /// Absent: a pod was called by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<String>,
    /// As the split says; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u32>,
    /// The part of the calls that come here, 0 to 1.
    pub(super) share: f64,
    /// Its pods, by what they answer.
    pub(super) groups: Vec<Group>,
}

/// Pods that answer alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Group {
    pub(super) verdict: Verdict,
    #[serde(flatten)]
    pub(super) ground: Ground,
    /// Of a refusal: what the caller gets. Absent: its connection is reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    /// Why the policies under audit would refuse what is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) audit: Option<Ground>,
    /// The container port.
    pub(super) port: u16,
    pub(super) pods: Vec<String>,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ground {
    /// Kebab-case. Of a refusal the same as in `byrnie-reason`, logs and metrics.
    pub(super) reason: &'static str,
    /// The same for people.
    pub(super) because: String,
    /// The MeshPolicy that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<String>,
    /// Its rule that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<Rule>,
    /// Where no rule allows: every rule that could have, and where it does not match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) considered: Vec<Considered>,
}

/// A rule as it was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    /// Its place in `spec.authorization.rules`, from 0.
    pub(super) index: usize,
    pub(super) text: Value,
}

/// A rule that does not match.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Considered {
    pub(super) policy: String,
    pub(super) rule: Rule,
    /// Fields of the rule, as in `sources` or `http[0].methods`.
    pub(super) mismatches: Vec<String>,
}
