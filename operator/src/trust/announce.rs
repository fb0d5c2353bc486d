//! Tells of a rotation in Events of MeshTrust, for `kubectl describe meshtrust`: each step when it is taken, and who
//! holds the next one up. Decides nothing; that an Event is lost changes nothing.
//!
//! RBAC: `events.events.k8s.io` create, patch (of a cluster-scoped object they are in namespace default).

use std::time::Duration;

use byrnie_crds::{
    MeshTrust,
    meshtrust::{Phase, RootState},
};
use kube::{
    Resource,
    runtime::events::{Event, EventType, Recorder},
};
use tokio::time::timeout;
use tracing::debug;

use super::{AuthorityId, TrustState};

const CALL: Duration = Duration::from_secs(5);
/// Kubernetes takes no longer notes.
const MAX_NOTE: usize = 1024;

/// See the module.
pub struct Announcer(Recorder);

/// Something to tell.
#[derive(Debug, PartialEq, Eq)]
struct News {
    warns: bool,
    reason: &'static str,
    note: String,
}

impl Announcer {
    /// Tells in the name of this recorder's reporter.
    pub fn new(recorder: Recorder) -> Self {
        Self(recorder)
    }

    /// A step was taken.
    pub async fn stepped(&self, object: &MeshTrust, before: Option<&TrustState>, after: &TrustState) {
        if let Some(news) = step(before, after) {
            self.tell(object, news).await;
        }
    }

    /// Nothing but proxies keeps the next step from being taken.
    pub async fn held_up(&self, object: &MeshTrust, why: String) {
        self.tell(object, News { warns: true, reason: "RotationHeldUp", note: why }).await;
    }

    async fn tell(&self, object: &MeshTrust, News { warns, reason, mut note }: News) {
        note.truncate(note.floor_char_boundary(MAX_NOTE));
        let event = Event {
            type_: if warns { EventType::Warning } else { EventType::Normal },
            reason: reason.into(),
            note: Some(note),
            action: "Rotate".into(),
            secondary: None,
        };
        match timeout(CALL, self.0.publish(&event, &object.object_ref(&()))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, reason, "an Event is lost"),
            Err(_) => debug!(reason, "an Event is lost: the API server did not answer in time"),
        }
    }
}

fn step(before: Option<&TrustState>, after: &TrustState) -> Option<News> {
    let normal = |reason, note| Some(News { warns: false, reason, note });
    let warning = |reason, note| Some(News { warns: true, reason, note });
    let signer = after.signer.short();
    let Some(before) = before else { return normal("TrustEstablished", format!("root {signer} signs")) };
    match (before.restored, after.restored) {
        (None, Some(_)) => {
            return warning("StateRestored", "MeshTrust is older than what the mesh knows".into());
        }
        (Some(_), None) => {
            return normal(
                "StateRecovered",
                format!("MeshTrust is what all proxies have again; root {signer} signs"),
            );
        }
        _ => {}
    }
    let gone = gone(before, after);
    match (before.phase, after.phase) {
        _ if before.signer != after.signer => {
            let before = before.signer.short();
            normal(
                "SignerChanged",
                format!("root {signer} signs in place of {before}; proxies get certificates of it"),
            )
        }
        (Phase::Stable, Phase::Staged) => {
            let next = after.staged().map(|root| root.id.short()).unwrap_or_default();
            normal("RotationStarted", format!("root {next} is to follow {signer}; proxies learn to trust it"))
        }
        (Phase::Signing, Phase::Draining) => normal(
            "RotationDraining",
            format!("all proxies show certificates of root {signer}; connections move"),
        ),
        (Phase::Staged, Phase::Stable) => {
            normal("RotationAborted", format!("root {signer} goes on to sign; {gone} will not follow it"))
        }
        (_, Phase::Stable) => {
            normal("RotationCompleted", format!("root {signer} is the only one; {gone} is trusted no more"))
        }
        _ => None,
    }
}

/// The roots that a step takes out of the bundle.
fn gone(before: &TrustState, after: &TrustState) -> String {
    let tainted = |state: &TrustState, id: AuthorityId| {
        state.root(id).is_none_or(|root| root.state == RootState::Tainted)
    };
    let gone = before.roots.iter().filter(|root| !tainted(before, root.id) && tainted(after, root.id));
    gone.map(|root| root.id.short()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls_pki_types::CertificateDer;

    use super::{super::Root, *};

    const A: AuthorityId = AuthorityId([0xaa; 32]);
    const B: AuthorityId = AuthorityId([0xbb; 32]);

    fn state(phase: Phase, signer: AuthorityId, roots: &[(AuthorityId, RootState)]) -> TrustState {
        let root = |&(id, state): &(AuthorityId, RootState)| Root {
            id,
            certificate: CertificateDer::from(vec![]),
            state,
            not_after: SystemTime::UNIX_EPOCH,
        };
        TrustState {
            domain: "cluster.local".parse().unwrap(),
            epoch: 1,
            phase,
            since: SystemTime::UNIX_EPOCH,
            request: None,
            restored: None,
            roots: roots.iter().map(root).collect(),
            signer,
        }
    }

    #[test]
    fn every_step_of_a_rotation_is_told() {
        use RootState::{Active, Draining, Staged, Tainted};
        let a = state(Phase::Stable, A, &[(A, Active)]);
        let staged = state(Phase::Staged, A, &[(A, Active), (B, Staged)]);
        let signing = state(Phase::Signing, B, &[(A, Draining), (B, Active)]);
        let draining = TrustState { phase: Phase::Draining, ..signing.clone() };
        let b = state(Phase::Stable, B, &[(A, Tainted), (B, Active)]);
        let aborted = state(Phase::Stable, A, &[(A, Active), (B, Tainted)]);
        let told: Vec<String> = [
            (None, &a),
            (Some(&a), &staged),
            (Some(&staged), &signing),
            (Some(&signing), &draining),
            (Some(&draining), &b),
            (Some(&staged), &aborted),
        ]
        .into_iter()
        .map(|(before, after)| {
            step(before, after).map(|news| format!("{}: {}", news.reason, news.note)).unwrap()
        })
        .collect();
        assert_eq!(
            told,
            [
                "TrustEstablished: root aaaaaaaaaaaaaaaa signs",
                "RotationStarted: root bbbbbbbbbbbbbbbb is to follow aaaaaaaaaaaaaaaa; proxies learn to trust it",
                "SignerChanged: root bbbbbbbbbbbbbbbb signs in place of aaaaaaaaaaaaaaaa; proxies get certificates of it",
                "RotationDraining: all proxies show certificates of root bbbbbbbbbbbbbbbb; connections move",
                "RotationCompleted: root bbbbbbbbbbbbbbbb is the only one; aaaaaaaaaaaaaaaa is trusted no more",
                "RotationAborted: root aaaaaaaaaaaaaaaa goes on to sign; bbbbbbbbbbbbbbbb will not follow it",
            ]
        );
        let restored = TrustState {
            restored: Some(super::super::Restored { since: SystemTime::UNIX_EPOCH, frozen: true }),
            ..a.clone()
        };
        assert!(step(Some(&a), &restored).is_some_and(|news| news.warns));
        assert_eq!(step(Some(&restored), &b).unwrap().reason, "StateRecovered");
    }
}
