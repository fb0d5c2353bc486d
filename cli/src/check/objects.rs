//! What MeshTrust, MeshPolicies and TrafficSplits say of themselves.

use anyhow::Context;
use byrnie_crds::{
    MeshPolicy, MeshTrust, TrafficSplit,
    status::{ACCEPTED, PROGRAMMED, READY, RESOLVED_REFS},
};
use jiff::{Timestamp, Unit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client, ResourceExt, api::ListParams};

use super::Finding;

const TRUST: &str = "trust";
const POLICIES: &str = "policies and splits";
/// Days of a root's life below which somebody should look.
const SOON: f64 = 30.0;

pub(super) async fn trust(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let api: Api<MeshTrust> = Api::all(client.clone());
    let trusts = api.list(&ListParams::default()).await.context("cannot list MeshTrusts")?;
    if trusts.items.is_empty() {
        let advice = "the operator makes it at its first start; see: kubectl -n byrnie-system logs deployment/byrnie-operator";
        return Ok(vec![Finding::failed(TRUST, "meshtrust", "there is none", advice)]);
    }
    Ok(trusts.items.iter().map(trust_finding).collect())
}

fn trust_finding(trust: &MeshTrust) -> Finding {
    let subject = format!("meshtrust {}", trust.name_any());
    let Some(status) = &trust.status else {
        return Finding::failed(
            TRUST,
            subject,
            "no status yet",
            "is an operator running and leader? kubectl -n byrnie-system get lease",
        );
    };
    if let Some(condition) = wrong(&status.conditions, READY) {
        return Finding::failed(
            TRUST,
            subject,
            says(condition),
            "see the message; kubectl describe meshtrust",
        );
    }
    let proxies = status.proxies.unwrap_or_default();
    let days = status
        .expires
        .as_ref()
        .and_then(|t| t.0.since(Timestamp::now()).ok())
        .and_then(|s| s.total(Unit::Hour).ok())
        .map(|h| h / 24.0);
    let detail = format!(
        "{:?}, bundle held by {}/{} proxies, root ends in {:.0} days",
        status.phase.unwrap_or_default(),
        proxies.current,
        proxies.total,
        days.unwrap_or(0.0)
    );
    match days {
        Some(days) if days > SOON && proxies.current == proxies.total => Finding::ok(TRUST, subject, detail),
        Some(days) if days > SOON => Finding::warning(
            TRUST,
            subject,
            detail,
            "some proxies do not hold the current bundle; see kubectl describe meshtrust",
        ),
        _ => Finding::warning(
            TRUST,
            subject,
            detail,
            "the root is about to end; see kubectl describe meshtrust",
        ),
    }
}

pub(super) async fn policies(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let api: Api<MeshPolicy> = Api::all(client.clone());
    let policies = api.list(&ListParams::default()).await.context("cannot list MeshPolicies")?;
    let objects = policies.items.iter().map(|policy| {
        let conditions = policy.status.as_ref().map(|status| status.conditions.as_slice());
        object("meshpolicy", policy, conditions)
    });
    Ok(summary("meshpolicies", objects.collect()))
}

pub(super) async fn splits(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let api: Api<TrafficSplit> = Api::all(client.clone());
    let splits = api.list(&ListParams::default()).await.context("cannot list TrafficSplits")?;
    let objects = splits.items.iter().map(|split| {
        let conditions = split.status.as_ref().map(|status| status.conditions.as_slice());
        object("trafficsplit", split, conditions)
    });
    Ok(summary("trafficsplits", objects.collect()))
}

/// Findings of objects with a problem, and one line for all others.
fn summary(kind: &str, findings: Vec<Option<Finding>>) -> Vec<Finding> {
    let (total, bad): (usize, Vec<Finding>) = (findings.len(), findings.into_iter().flatten().collect());
    let mut all = vec![Finding::ok(POLICIES, kind, format!("{} of {total} in order", total - bad.len()))];
    all.extend(bad);
    all
}

fn object(kind: &str, object: &impl ResourceExt, conditions: Option<&[Condition]>) -> Option<Finding> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let subject = format!("{kind} {namespace}/{name}");
    let look = format!("kubectl -n {namespace} describe {kind} {name}");
    let Some(conditions) = conditions else {
        return Some(Finding::warning(
            POLICIES,
            subject,
            "no status yet",
            "is an operator running and leader? kubectl -n byrnie-system get lease",
        ));
    };
    let problem = |type_| wrong(conditions, type_).map(says);
    if let Some(text) = problem(ACCEPTED) {
        return Some(Finding::failed(POLICIES, subject, text, look));
    }
    let text = problem(RESOLVED_REFS).or_else(|| problem(PROGRAMMED))?;
    Some(Finding::warning(POLICIES, subject, text, look))
}

/// The condition, where it is there and not True.
fn wrong<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status != "True")
}

fn says(condition: &Condition) -> String {
    format!("{} is {} ({}): {}", condition.type_, condition.status, condition.reason, condition.message)
}
