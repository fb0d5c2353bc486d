//! Follows what the other replicas of the operator tell of their proxies: for the leader, which writes statuses.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    io,
    net::SocketAddr,
    time::Duration,
};

use byrnie_api::v1::{HoldingsRequest, discovery_client::DiscoveryClient};
use byrnie_crds::names;
use byrnie_identity::Identity;
use byrnie_model::SpiffeId;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use tokio::{
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Endpoint;
use tower::service_fn;
use tracing::{debug, info};

use super::holdings::Holdings;
use crate::store::Stores;

const CONNECT: Duration = Duration::from_secs(5);
/// Between attempts.
const RETRY: Duration = Duration::from_secs(2);
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
/// An update names every proxy of a replica.
const LARGEST: usize = 64 << 20;

/// Where the other replicas are, and how to know them.
#[derive(Clone)]
pub struct Replicas {
    /// Has the endpoints of the operator's Service.
    pub stores: Stores,
    /// The operator's own certificate.
    pub identity: Identity,
    /// Whom the other replicas must prove to be.
    pub operator_id: SpiffeId,
    /// The operator's Service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// This replica's own pod, which is not followed.
    pub replica: String,
}

impl Holdings {
    /// Follows every other replica. Does not return; what was told is forgotten when it is dropped.
    pub async fn follow(&self, replicas: &Replicas) -> Infallible {
        let mut changes = replicas.stores.changes();
        let mut followed: HashMap<SocketAddr, (Forget, AbortHandle)> = HashMap::new();
        let mut following = JoinSet::new();
        loop {
            let others = replicas.others();
            followed.retain(|address, (_, task)| {
                let stays = others.contains(address);
                if !stays {
                    task.abort();
                }
                stays
            });
            for address in others {
                followed.entry(address).or_insert_with(|| {
                    let forget = Forget { holdings: self.clone(), replica: address.to_string() };
                    let task = following.spawn(replicas.clone().keep_following(self.clone(), address));
                    (forget, task)
                });
            }
            while following.try_join_next().is_some() {}
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_millis(500)).await;
            changes.borrow_and_update();
        }
    }
}

/// Forgets a replica that is not followed any more.
struct Forget {
    holdings: Holdings,
    replica: String,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.holdings.told(&self.replica, None);
    }
}

impl Replicas {
    /// Addresses of discovery on the other pods behind the operator's Service.
    fn others(&self) -> HashSet<SocketAddr> {
        let ours = |slice: &EndpointSlice| {
            slice.namespace().as_deref() == Some(&self.namespace)
                && slice.labels().get("kubernetes.io/service-name") == Some(&self.service)
        };
        let slices = self.stores.slices.state_filter(ours);
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).filter(|endpoint| {
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
            pod.is_some_and(|pod| pod != self.replica)
        });
        let addresses = endpoints.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
        addresses.map(|ip| SocketAddr::new(ip, names::DISCOVERY_PORT)).collect()
    }

    async fn keep_following(self, holdings: Holdings, address: SocketAddr) {
        let replica = address.to_string();
        loop {
            match self.follow_one(&holdings, address, &replica).await {
                Ok(()) => debug!(replica, "a replica ended its stream"),
                Err(problem) => {
                    info!(replica, problem, "cannot follow a replica; what its proxies hold is not known");
                }
            }
            holdings.told(&replica, None);
            sleep(RETRY).await;
        }
    }

    async fn follow_one(
        &self,
        holdings: &Holdings,
        address: SocketAddr,
        replica: &str,
    ) -> Result<(), String> {
        let dialling = self.clone();
        let connector = service_fn(move |_: http::Uri| {
            let replicas = dialling.clone();
            async move { replicas.dial(address).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://byrnie")
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map_err(|e| in_full(&e))?;
        let mut client = DiscoveryClient::new(channel).max_decoding_message_size(LARGEST);
        let asked =
            timeout(CONNECT, client.holdings(HoldingsRequest {})).await.map_err(|_| "no answer in time")?;
        let mut updates = asked.map_err(|status| status.message().to_owned())?.into_inner();
        while let Some(update) = updates.message().await.map_err(|status| status.message().to_owned())? {
            holdings.told(replica, Some(update.proxies));
        }
        Ok(())
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let config = self.identity.client_config(&self.operator_id, &[b"h2"]).map_err(io::Error::other)?;
        let dialled = timeout(CONNECT, async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(config).connect(byrnie_identity::server_name(), tcp).await
        });
        dialled.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// An error with what caused it: tonic keeps the interesting part for its sources.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
