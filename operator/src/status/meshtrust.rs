//! What has become of a MeshTrust, except epoch, phase, roots and signer: those are the truth itself and change by
//! compare-and-swap in [`crate::trust`] alone. Pure.

use std::time::{Duration, SystemTime};

use byrnie_crds::{
    MeshTrust,
    meshtrust::{BundleCount, MeshTrustStatus, MeshTrustSummary},
    problem::in_one_line,
    status::{self, FEDERATED, Observed, READY, ROTATING},
    summary,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::held::{Progress, listed};
use crate::trust::{
    self, Authority,
    current::Trusted,
    federation::Federation,
    rotation::outlook::{Outlook, Words},
};

/// An authority that ends within this time is worth a word.
const SOON: Duration = Duration::from_hours(30 * 24);

/// The fields that are written here, in JSON: the others must not even be mentioned.
pub fn owned(status: &MeshTrustStatus) -> Value {
    json!({
        "conditions": status.conditions,
        "expires": status.expires,
        "observedGeneration": status.observed_generation,
        "proxies": status.proxies,
        "summary": status.summary,
    })
}

/// The status as it should be now.
pub fn status(
    object: &MeshTrust,
    trusted: &Trusted,
    progress: &Progress,
    outlook: Option<&Outlook>,
    now: &Time,
) -> MeshTrustStatus {
    let mut status = object.status.clone().unwrap_or_default();
    if let Some(outlook) = outlook {
        let Words { rotating, reason, message } = outlook.words(now.0.into());
        let observed = Observed { type_: ROTATING, status: Some(rotating), reason, message };
        status::set(&mut status.conditions, observed, object.metadata.generation, now.clone());
    } else {
        status.conditions.retain(|condition| condition.type_ != ROTATING);
    }
    if trusted.federation == Federation::default() {
        status.conditions.retain(|condition| condition.type_ != FEDERATED);
    } else {
        let observed = federated(&trusted.federation);
        status::set(&mut status.conditions, observed, object.metadata.generation, now.clone());
    }
    status::set(
        &mut status.conditions,
        ready(object, trusted, &progress.waiting),
        object.metadata.generation,
        now.clone(),
    );
    status.expires = end(trusted).map(trust::time);
    status.observed_generation = object.metadata.generation;
    status.proxies = Some(BundleCount { current: progress.count.programmed, total: progress.count.total });
    status.summary = Some(MeshTrustSummary { proxies: summary::count(Some(progress.count)) });
    status
}

/// When the root ends that signs.
fn end(trusted: &Trusted) -> Option<SystemTime> {
    let of_state = || trusted.state.root(trusted.state.signer).map(|root| root.not_after);
    trusted.authority.as_ref().map(Authority::not_after).or_else(of_state)
}

fn federated(federation: &Federation) -> Observed<'static> {
    let domains = federation.domains.iter().map(|(domain, roots)| {
        let until = trust::time(roots.until).0.strftime("%F").to_string();
        format!("{domain} until {until}")
    });
    let believed: Vec<String> = domains.collect();
    let believed = if believed.is_empty() { "nobody".to_owned() } else { believed.join(", ") };
    let (status, reason, message) = if federation.problems.is_empty() {
        (true, "Federated", format!("believed: {believed}"))
    } else {
        (false, "InvalidRoots", format!("{}; believed: {believed}", federation.problems.join("; ")))
    };
    Observed { type_: FEDERATED, status: Some(status), reason, message }
}

fn ready(object: &MeshTrust, trusted: &Trusted, waiting: &[String]) -> Observed<'static> {
    let left = end(trusted).and_then(|end| end.duration_since(SystemTime::now()).ok()).unwrap_or_default();
    let (status, reason, message) = match byrnie_crds::compile::mesh_trust(object) {
        Err(problems) => {
            let message = format!("{}; what was in force before still is", in_one_line(&problems));
            (false, "Invalid", message)
        }
        Ok(_) if trusted.authority.is_none() => (
            false,
            "KeyLost",
            "the key of the root that signs is lost: no certificate is issued until all proxies trust another".into(),
        ),
        Ok(_) if trusted.state.restored.is_some_and(|restored| restored.frozen) => {
            (false, "Restored", "an older state was restored: no certificate is issued".into())
        }
        Ok(_) if !trusted.authority.as_ref().is_some_and(Authority::usable) => {
            (false, "Expired", "the authority that signs has expired: no certificate can be issued".into())
        }
        Ok(_) if left < SOON => {
            let days = left.as_secs() / 86_400;
            (true, "ExpiresSoon", format!("the authority that signs ends in {days} days"))
        }
        Ok(_) if !waiting.is_empty() => (
            true,
            "Ready",
            format!("certificates are issued; without the current bundle: {}", listed(waiting)),
        ),
        Ok(_) => (true, "Ready", "certificates are issued; all proxies have the current bundle".into()),
    };
    Observed { type_: READY, status: Some(status), reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::federation::Roots;

    #[test]
    fn who_is_believed_is_said_and_who_is_not() {
        let roots = Roots { certificates: vec![], until: SystemTime::UNIX_EPOCH + Duration::from_hours(24) };
        let mut federation =
            Federation { domains: [("other.org".parse().unwrap(), roots)].into(), problems: vec![] };
        let said = federated(&federation);
        assert_eq!(
            (said.status, said.message.as_str()),
            (Some(true), "believed: other.org until 1970-01-02")
        );
        federation.domains.clear();
        federation.problems.push("other.org: no root is left".into());
        let said = federated(&federation);
        assert_eq!((said.status, said.reason), (Some(false), "InvalidRoots"));
        assert_eq!(said.message, "other.org: no root is left; believed: nobody");
    }
}
