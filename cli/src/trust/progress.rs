//! A rotation as it goes on: a line for everything new, until it has come to its end.

use std::{process::ExitCode, time::Duration};

use byrnie_crds::{
    MeshTrust,
    meshtrust::{Phase, RootState},
    names,
    status::ROTATING,
};
use kube::Api;
use tokio::time::{Instant, sleep};

use super::render;
use crate::{
    api::Doing,
    output::{self, dim, doubtful, good},
};

const LOOK: Duration = Duration::from_secs(1);

/// Another root than before signs, alone.
pub(super) fn is_rotated(before: &MeshTrust, now: &MeshTrust) -> bool {
    let signer = |object: &MeshTrust| object.status.as_ref().and_then(|status| status.signer.clone());
    signer(now) != signer(before) && phase(now) == Phase::Stable
}

/// This root is in no bundle any more.
pub(super) fn is_out_of_force(id: String) -> impl Fn(&MeshTrust, &MeshTrust) -> bool {
    move |_, now| {
        let roots = now.status.iter().flat_map(|status| &status.roots);
        roots.filter(|root| root.id == id).all(|root| root.state == RootState::Tainted)
    }
}

/// Shows what happens until it is done, or is taken back by somebody.
pub(super) async fn show(
    api: &Api<MeshTrust>,
    before: &MeshTrust,
    done: impl Fn(&MeshTrust, &MeshTrust) -> bool,
) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let mut said = String::new();
    loop {
        let now = api.get(names::MESH_TRUST).await.doing("read MeshTrust default")?;
        let text = words(&now);
        if text != said {
            let seconds = Instant::now().saturating_duration_since(begin).as_secs();
            output::print(&format!("{} {text}\n", dim(format!("{:>3}:{:02}", seconds / 60, seconds % 60))))?;
            said = text;
        }
        if done(before, &now) {
            output::print(&format!("{}\n", good("done")))?;
            return Ok(ExitCode::SUCCESS);
        }
        if now.spec.read().is_ok_and(|trust| trust.rotation.as_ref().is_some_and(|wish| wish.abort)) {
            output::print(&format!("{}\n", doubtful("somebody takes it back (spec.rotation.abort)")))?;
            return Ok(ExitCode::FAILURE);
        }
        sleep(LOOK).await;
    }
}

fn phase(object: &MeshTrust) -> Phase {
    object.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

fn words(object: &MeshTrust) -> String {
    let status = object.status.clone().unwrap_or_default();
    let message = render::condition(&status, ROTATING).map(|condition| condition.message.clone());
    format!("{:?}: {}", phase(object), message.unwrap_or_default())
}
