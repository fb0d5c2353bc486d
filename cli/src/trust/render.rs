//! MeshTrust for people and for programs.

use anyhow::{anyhow, bail};
use byrnie_crds::{
    MeshTrust,
    meshtrust::{MeshTrustStatus, Phase, RootState},
    status::{FEDERATED, READY, ROTATING},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use crate::output::{bad, bold, dim, doubtful, good, line};

/// As much of an id as tells roots apart.
const SHORT: usize = 16;

/// For programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    trust_domain: Option<String>,
    phase: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase_since: Option<String>,
    epoch: u64,
    ready: bool,
    rotating: bool,
    /// What is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    proxies: Proxies,
    roots: Vec<Root>,
}

#[derive(Debug, Serialize)]
struct Proxies {
    current: u32,
    total: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Root {
    id: String,
    state: RootState,
    signs: bool,
    not_after: String,
}

impl Report {
    pub(super) fn of(object: &MeshTrust) -> Self {
        let status = object.status.clone().unwrap_or_default();
        let rotation = condition(&status, ROTATING);
        let proxies = status.proxies.unwrap_or_default();
        Self {
            trust_domain: object.spec.read().ok().map(|trust| trust.trust_domain.clone()),
            phase: status.phase.unwrap_or_default(),
            phase_since: status.phase_since.as_ref().map(|since| since.0.to_string()),
            epoch: status.epoch,
            ready: is_ready(object),
            rotating: rotation.is_some_and(|condition| condition.status == "True"),
            reason: rotation.map(|condition| condition.reason.clone()),
            message: rotation.map(|condition| condition.message.clone()),
            proxies: Proxies { current: proxies.current, total: proxies.total },
            roots: status
                .roots
                .iter()
                .map(|root| Root {
                    id: root.id.clone(),
                    state: root.state,
                    signs: Some(&root.id) == status.signer.as_ref(),
                    not_after: root.not_after.0.to_string(),
                })
                .collect(),
        }
    }
}

/// For people.
pub(super) fn status(object: &MeshTrust, now: Timestamp) -> String {
    let mut out = String::new();
    let status = object.status.clone().unwrap_or_default();
    let domain = object.spec.read().map_or("?", |trust| trust.trust_domain.as_str());
    let phase = status.phase.unwrap_or_default();
    let since =
        status.phase_since.as_ref().map(|since| format!(" for {}", span(now.duration_since(since.0))));
    let proxies = status.proxies.unwrap_or_default();
    let colour =
        if phase == Phase::Stable { good(format!("{phase:?}")) } else { doubtful(format!("{phase:?}")) };
    line(&mut out, &format!("trust domain  {}", bold(domain)));
    line(&mut out, &format!("phase         {colour}{}, epoch {}", since.unwrap_or_default(), status.epoch));
    line(&mut out, &format!("proxies       {}/{} hold the current bundle", proxies.current, proxies.total));
    match condition(&status, READY) {
        Some(ready) if ready.status == "True" => line(&mut out, &format!("certificates  {}", ready.message)),
        Some(ready) => line(&mut out, &format!("certificates  {}", bad(&ready.message))),
        None => line(
            &mut out,
            &format!("certificates  {}", bad("the operator has not said anything yet; see: byrnie check")),
        ),
    }
    if let Some(rotation) = condition(&status, ROTATING) {
        line(&mut out, &format!("rotation      {}", rotation.message));
    }
    if let Some(federated) = condition(&status, FEDERATED) {
        let good = federated.status == "True";
        let message = if good { federated.message.clone() } else { bad(&federated.message) };
        line(&mut out, &format!("federation    {message}"));
    }
    if !status.roots.is_empty() {
        line(
            &mut out,
            &format!("\n{}", bold(format!("{:SHORT$}  {:8}  {:5}  ENDS", "ROOT", "STATE", "SIGNS"))),
        );
        for root in &status.roots {
            let signs = if Some(&root.id) == status.signer.as_ref() { "yes" } else { "" };
            let ends = root.not_after.0.strftime("%Y-%m-%d %H:%M UTC");
            let text =
                format!("{:SHORT$}  {:8}  {signs:5}  {ends}", short(&root.id), format!("{:?}", root.state));
            line(&mut out, &if root.state == RootState::Tainted { dim(text) } else { text });
        }
    }
    out
}

/// Whether certificates are issued.
pub(super) fn is_ready(object: &MeshTrust) -> bool {
    let status = object.status.as_ref();
    status.and_then(|status| condition(status, READY)).is_some_and(|ready| ready.status == "True")
}

pub(super) fn condition<'a>(status: &'a MeshTrustStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

pub(super) fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// The one root whose id begins so.
pub(super) fn find(object: &MeshTrust, beginning: &str) -> anyhow::Result<String> {
    let roots = object.status.iter().flat_map(|status| &status.roots);
    let mut found = roots.map(|root| &root.id).filter(|id| id.starts_with(beginning));
    let root =
        found.next().ok_or_else(|| anyhow!("there is no root {beginning}; see: byrnie trust status"))?;
    if found.next().is_some() {
        bail!("more than one root begins with {beginning}; write more of its id");
    }
    Ok(root.clone())
}

fn span(time: jiff::SignedDuration) -> String {
    let seconds = time.as_secs().max(0);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
