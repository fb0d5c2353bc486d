//! What MeshTrust, MeshPolicies and TrafficSplits say of themselves.

use byrnie_crds::{
    MeshPolicy, MeshTrust, TrafficSplit, compile, names,
    status::{ACCEPTED, PROGRAMMED, READY, RESOLVED_REFS},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client, ResourceExt, api::ListParams};

use super::finding::Seen;
use crate::api::Doing;

/// A root that ends within this time is somebody's business; of a short-lived one, its last tenth.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

pub(super) async fn trust(client: &Client, system: &str) -> anyhow::Result<Vec<Seen>> {
    let api: Api<MeshTrust> = Api::all(client.clone());
    let trust = api.get_opt(names::MESH_TRUST).await.doing("read MeshTrust default")?;
    Ok(vec![trust_seen(trust.as_ref(), Timestamp::now(), system)])
}

pub(super) fn trust_seen(trust: Option<&MeshTrust>, now: Timestamp, system: &str) -> Seen {
    let subject = format!("meshtrust {}", names::MESH_TRUST);
    let look = format!("kubectl describe meshtrust; kubectl -n {system} logs deployment/{}", names::OPERATOR);
    let Some(trust) = trust else {
        return Seen::failed(subject, "there is none; the operator makes it at its first start", look);
    };
    let Some(status) = &trust.status else {
        return Seen::failed(subject, "no status yet", no_leader(system));
    };
    if let Some(condition) = wrong(&status.conditions, READY) {
        return Seen::failed(subject, says(condition), look);
    }
    let proxies = status.proxies.unwrap_or_default();
    let held = format!(
        "{:?}, {}/{} proxies hold the bundle",
        status.phase.unwrap_or_default(),
        proxies.current,
        proxies.total
    );
    let Some(expires) = &status.expires else {
        return Seen::warning(subject, format!("{held}; when the root ends is not said"), look);
    };
    let left = expires.0.duration_since(now);
    let lifetime =
        compile::mesh_trust(trust).ok().and_then(|plan| SignedDuration::try_from(plan.root_lifetime).ok());
    let soon = lifetime.map_or(SOON, |lifetime| SOON.min(lifetime / 10));
    let detail = format!("{held}; the root ends in {}", span(left));
    if left <= soon {
        return Seen::warning(subject, detail, format!("it should have been replaced by now; see: {look}"));
    }
    if proxies.current < proxies.total {
        let advice = format!(
            "should it stay so, a proxy cannot reach the operator; see: kubectl -n {system} get pods"
        );
        return Seen::warning(subject, detail, advice);
    }
    Seen::ok(subject, detail)
}

pub(super) async fn policies(client: &Client, system: &str) -> anyhow::Result<Vec<Seen>> {
    let api: Api<MeshPolicy> = Api::all(client.clone());
    let policies = api.list(&ListParams::default()).await.doing("list meshpolicies")?;
    let objects = policies.items.iter().map(|policy| {
        let conditions = policy.status.as_ref().map(|status| status.conditions.as_slice());
        object("meshpolicy", policy, conditions, system)
    });
    Ok(summary("meshpolicies", objects.collect()))
}

pub(super) async fn splits(client: &Client, system: &str) -> anyhow::Result<Vec<Seen>> {
    let api: Api<TrafficSplit> = Api::all(client.clone());
    let splits = api.list(&ListParams::default()).await.doing("list trafficsplits")?;
    let objects = splits.items.iter().map(|split| {
        let conditions = split.status.as_ref().map(|status| status.conditions.as_slice());
        object("trafficsplit", split, conditions, system)
    });
    Ok(summary("trafficsplits", objects.collect()))
}

/// One line for all that are in order, one for each that is not.
fn summary(kind: &str, seen: Vec<Option<Seen>>) -> Vec<Seen> {
    let total = seen.len();
    let odd: Vec<Seen> = seen.into_iter().flatten().collect();
    let fine = match total - odd.len() {
        0 if total == 0 => Some("none".to_owned()),
        0 => None,
        fine => Some(format!("{fine} of {total} in force")),
    };
    fine.map(|detail| Seen::ok(kind, detail)).into_iter().chain(odd).collect()
}

/// `None`: in order.
pub(super) fn object(
    kind: &str,
    object: &impl ResourceExt,
    conditions: Option<&[Condition]>,
    system: &str,
) -> Option<Seen> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let subject = format!("{kind} {namespace}/{name}");
    let look = format!("kubectl -n {namespace} describe {kind} {name}");
    let seen = |condition: Option<&Condition>| {
        condition.is_some_and(|c| c.observed_generation == object.meta().generation)
    };
    let conditions = conditions.unwrap_or_default();
    if !seen(conditions.iter().find(|condition| condition.type_ == ACCEPTED)) {
        return Some(Seen::warning(subject, "the operator has not looked at it yet", no_leader(system)));
    }
    if let Some(condition) = wrong(conditions, ACCEPTED) {
        return Some(Seen::failed(subject, says(condition), look));
    }
    let condition = wrong(conditions, RESOLVED_REFS).or_else(|| wrong(conditions, PROGRAMMED))?;
    Some(Seen::warning(subject, says(condition), look))
}

/// The condition, where it is there and not True.
fn wrong<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status != "True")
}

fn says(condition: &Condition) -> String {
    let not = if condition.status == "False" { "not " } else { "maybe not " };
    format!("{not}{} ({}): {}", condition.type_, condition.reason, condition.message)
}

fn no_leader(system: &str) -> String {
    format!("does an operator lead? kubectl -n {system} get pods,lease")
}

/// As people say it: days, or hours where it is less than two.
fn span(left: SignedDuration) -> String {
    match left.as_hours() {
        hours if hours >= 48 => format!("{} days", hours / 24),
        hours => format!("{hours} hours"),
    }
}
