//! What has become of a MeshTrust, except epoch, phase, roots and signer: those are the truth itself and change by
//! compare-and-swap in [`crate::trust`] alone. Pure.

use std::time::{Duration, SystemTime};

use byrnie_crds::{
    MeshTrust,
    meshtrust::{BundleCount, MeshTrustStatus, MeshTrustSummary},
    problem::in_one_line,
    status::{self, Observed, READY},
    summary,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::held::{Progress, listed};
use crate::trust::{self, current::Trusted};

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
pub fn status(object: &MeshTrust, trusted: &Trusted, progress: &Progress, now: &Time) -> MeshTrustStatus {
    let mut status = object.status.clone().unwrap_or_default();
    status::set(
        &mut status.conditions,
        ready(object, trusted, &progress.waiting),
        object.metadata.generation,
        now.clone(),
    );
    status.expires = Some(trust::time(trusted.authority.not_after()));
    status.observed_generation = object.metadata.generation;
    status.proxies = Some(BundleCount { current: progress.count.programmed, total: progress.count.total });
    status.summary = Some(MeshTrustSummary { proxies: summary::count(Some(progress.count)) });
    status
}

fn ready(object: &MeshTrust, trusted: &Trusted, waiting: &[String]) -> Observed<'static> {
    let left = trusted.authority.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    let (status, reason, message) = match byrnie_crds::compile::mesh_trust(object) {
        Err(problems) => {
            let message = format!("{}; what was in force before still is", in_one_line(&problems));
            (false, "Invalid", message)
        }
        Ok(_) if !trusted.authority.usable() => {
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
