//! Asks the policy: about each request, and about a connection that carries none at its start and at each change.
//!
//! The server's own view of its port decides which check applies; what the caller says it speaks never chooses a
//! weaker one. Decides nothing itself: that is the model's evaluator.

use std::{sync::Arc, time::Duration};

use byrnie_model::{self as model, Decision, Limits, Peer, Protocol, SpiffeId, TrustDomain, Workload};
use http::Request;
use tokio::time::{Instant, sleep};

use crate::{
    exchange::Exchange,
    front_door,
    passage::Passage,
    reject::{self, Reject},
    state::Shared,
    worker::Worker,
};

/// Connections that arrive before the policy wait for it this long.
const POLICY_LIMIT: Duration = Duration::from_secs(10);

/// Whether a request may pass, by the policy that is in force now, and under which limits; tells its account.
pub async fn request<B>(
    shared: &Shared,
    port: u16,
    caller: Option<&SpiffeId>,
    request: &Request<B>,
    exchange: &mut Exchange,
) -> Result<Limits, Reject> {
    if shared.workload.load().is_none() {
        policy(shared).await;
    }
    let workload = shared.workload.load();
    let workload = workload.as_ref().ok_or(reject::POLICY_UNKNOWN)?;
    let opaque = matches!(workload.protocol(port), Protocol::Opaque | Protocol::Tls);
    let http = (!opaque).then(|| front_door::view(request));
    let peer = Peer::of(caller, shared.identity.trust_domain());
    let verdict = model::evaluate(&workload.inbound, &model::Request { port, peer, http });
    match verdict.decision {
        Decision::Allow(grant) => exchange.allowed(&grant),
        Decision::Deny(denial) => {
            exchange.refused(&denial, false);
            return Err(Reject::denied(&denial));
        }
    }
    if let Some(denial) = verdict.audit {
        exchange.refused(&denial, true);
    }
    Ok(workload.limits)
}

/// Whether a connection that carries no HTTP may be; tells its account.
pub fn connection(
    workload: &Workload,
    home: &TrustDomain,
    port: u16,
    caller: Option<&SpiffeId>,
    passage: &mut Passage,
) -> bool {
    let question = model::Request { port, peer: Peer::of(caller, home), http: None };
    let verdict = model::evaluate(&workload.inbound, &question);
    match verdict.decision {
        Decision::Allow(grant) => passage.allowed(&grant),
        Decision::Deny(denial) => {
            passage.refused(&denial, false);
            return false;
        }
    }
    if let Some(denial) = verdict.audit {
        passage.refused(&denial, true);
    }
    true
}

/// Returns when a new policy refuses what an older one let in.
pub async fn denied(
    worker: &Worker,
    mut decided: Arc<Workload>,
    port: u16,
    caller: Option<&SpiffeId>,
    passage: &mut Passage,
) {
    loop {
        let latest = worker.shared.workload.load_full().unwrap_or_else(|| decided.clone());
        if !Arc::ptr_eq(&latest, &decided) {
            decided = latest;
            if !connection(&decided, worker.shared.identity.trust_domain(), port, caller, passage) {
                return;
            }
        }
        worker.policy_changed().await;
    }
}

/// The policy, waiting for the first one.
pub async fn policy(shared: &Shared) -> Option<Arc<Workload>> {
    let deadline = Instant::now() + POLICY_LIMIT;
    loop {
        if let Some(workload) = shared.workload.load_full() {
            return Some(workload);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
