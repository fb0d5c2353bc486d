//! From nothing, or from the keys alone where MeshTrust was lost, to a first state.

use std::time::SystemTime;

use byrnie_crds::meshtrust::{Phase, RootState};

use super::{Decision, Key, Root, Seen, TrustState};

/// Takes the keys that are there, or asks for one.
///
/// A key is removed as soon as its root is out of the bundle. So where several are there a rotation was under way, and
/// the oldest one is of the root that everybody trusted before it began: it signs, and the others stay trusted, as
/// if a rotation had been taken back.
pub(super) fn begin(seen: &Seen<'_>) -> Decision {
    let good = |key: &&Key| {
        key.root.not_after > seen.now + seen.wishes.leaf_lifetime
            && !seen.wishes.compromised.contains(&key.root.id)
    };
    let mut keys: Vec<&Key> = seen.keys.iter().filter(good).collect();
    keys.sort_by_key(|key| (key.made, key.root.id));
    let Some(signer) = keys.first() else { return Decision::MakeKey };
    let phase = if keys.len() > 1 { Phase::Signing } else { Phase::Stable };
    let roots = keys.iter().map(|key| Root {
        state: if key.root.id == signer.root.id { RootState::Active } else { RootState::Draining },
        ..key.root.clone()
    });
    Decision::Write(TrustState {
        domain: seen.wishes.domain.clone(),
        epoch: epoch_at(seen.now),
        phase,
        since: seen.now,
        request: seen.wishes.request.clone(),
        restored: None,
        roots: roots.collect(),
        signer: signer.root.id,
    })
}

/// Seconds since 1970: later than every epoch of an earlier MeshTrust of this cluster, which proxies may have seen.
pub fn epoch_at(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
