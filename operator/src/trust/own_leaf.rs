//! The operator's own identity: installs each new bundle, signs itself a leaf in memory, and only then tells others.
//!
//! The order matters: whoever is told of a new epoch can already be answered under it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use byrnie_api::v1;
use byrnie_identity::{Identity, KeyPair, Leaf, TrustBundle};
use byrnie_model::SpiffeId;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Authority, AuthorityId, csr, current::Trusted};
use crate::metrics::Metrics;

/// After a failure; nothing but a bug or the end of an authority makes one.
const RETRY: Duration = Duration::from_secs(10);

/// The trust that proxies are told of; `None` until there is some.
pub type Published = watch::Sender<Option<Arc<v1::Trust>>>;

/// See the module.
pub struct OwnLeaf {
    /// Where bundle and leaf go.
    pub identity: Identity,
    /// The operator's name.
    pub id: SpiffeId,
    /// Who is told.
    pub published: Published,
    /// Counts failures.
    pub metrics: Metrics,
}

impl OwnLeaf {
    /// Follows `trust` until `stopping`.
    pub async fn run(
        self,
        mut trust: watch::Receiver<Option<Arc<Trusted>>>,
        mut restored: watch::Receiver<bool>,
        stopping: CancellationToken,
    ) {
        let mut signed_by = None;
        let mut renew = Instant::now() + Duration::from_hours(24);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                changed = trust.changed() => if changed.is_err() { return stopping.cancelled().await },
                changed = restored.changed() => if changed.is_err() { return stopping.cancelled().await },
                () = sleep_until(renew) => signed_by = None,
            }
            if *restored.borrow_and_update() {
                // What is held is later than MeshTrust: no proxy may hear of it before all is in line again.
                self.published.send_replace(None);
                continue;
            }
            let Some(trusted) = trust.borrow_and_update().clone() else { continue };
            if let Err(e) = self.identity.install_bundle(bundle(&trusted)) {
                error!(error = %e, "MeshTrust names roots that cannot be trusted");
                self.metrics.failed("OwnLeaf");
                continue;
            }
            // Without a key the leaf that there is must do, and proxies hear of the root that will sign.
            let signer = trusted.authority.as_ref().map(Authority::id);
            if signer.is_some() && signed_by != signer {
                match self.leaf(&trusted) {
                    Ok(lifetime) => {
                        signed_by = signer;
                        renew = Instant::now() + lifetime / 2;
                    }
                    Err(e) => {
                        error!(error = %e, "the operator has no certificate of its own");
                        self.metrics.failed("OwnLeaf");
                        renew = Instant::now() + RETRY;
                    }
                }
            }
            self.published.send_replace(Some(Arc::new(trusted.message())));
        }
    }

    fn leaf(&self, trusted: &Trusted) -> anyhow::Result<Duration> {
        let key = KeyPair::generate()?;
        let public = csr::public_key(&key.certificate_request()?)?;
        let now = SystemTime::now();
        let issued = trusted.signer()?.sign(&public, &self.id, trusted.leaf_lifetime, now)?;
        let (serial, not_after) = (issued.serial, issued.not_after);
        self.identity.install_leaf(Leaf::new(issued.chain, key)?)?;
        info!(serial, id = %self.id, not_after = %time::OffsetDateTime::from(not_after), "own certificate signed");
        Ok(not_after.duration_since(now).unwrap_or_default())
    }
}

fn bundle(trusted: &Trusted) -> TrustBundle {
    let roots = trusted.state.trusted().cloned().collect();
    TrustBundle {
        epoch: trusted.state.epoch,
        roots: [(trusted.state.domain.clone(), roots)].into(),
        signer: Some(*AuthorityId::as_bytes(&trusted.state.signer)),
    }
}
