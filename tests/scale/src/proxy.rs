//! One proxy without its traffic: gets a certificate as a pod does, opens the stream, subscribes, understands and
//! acknowledges, and comes back after an end with the proxy's own pauses. Must not know what is measured.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use byrnie_api::{FEATURES, decode, encode, v1};
use byrnie_identity::{Identity, KeyPair, Leaf, TrustBundle, spki_sha256};
use byrnie_model::{SpiffeId, TrustDomain};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use v1::{to_operator::Message, to_proxy::Resource};

use crate::{
    channel::{self, ALPN},
    churn::FIRST_PORT,
    journal::{Journal, Sight, since},
};

/// As in proxy/src/control.rs and proxy/src/backoff.rs.
const HERD: Duration = Duration::from_secs(2);
const GOOD: Duration = Duration::from_secs(10);
const OPEN: Duration = Duration::from_secs(10);
const ISSUE: Duration = Duration::from_secs(10);
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Where the control plane is, as the ConfigMap of each namespace says.
pub(crate) struct ControlPlane {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) roots: TrustBundle,
    pub(crate) operator: SpiffeId,
    pub(crate) identity: SocketAddr,
    pub(crate) discovery: SocketAddr,
}

/// Whose proxy.
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) address: IpAddr,
    pub(crate) token: String,
}

/// See the module.
pub(crate) struct Proxy {
    pub(crate) index: usize,
    pub(crate) pod: Pod,
    /// What it calls, and which Service that is.
    pub(crate) wanted: HashMap<SocketAddr, usize>,
    pub(crate) journal: Journal,
}

impl Proxy {
    /// Does not return.
    pub(crate) async fn live(self, plane: Arc<ControlPlane>) {
        let mut attempt = 0;
        let identity = Identity::new(plane.trust_domain.clone());
        while let Err(error) = self.issue(&identity, &plane).await {
            self.journal.note(self.index, Sight::Trouble(format!("no certificate: {error:#}")));
            sleep(pause(&mut attempt)).await;
        }
        attempt = 0;
        loop {
            let began = Instant::now();
            if let Err(error) = self.stream(&identity, &plane).await {
                self.journal.note(self.index, Sight::Trouble(format!("no stream: {error:#}")));
            }
            self.journal.note(self.index, Sight::Down);
            if since(began) > GOOD {
                attempt = 0;
                sleep(HERD.mul_f64(fastrand::f64())).await;
            }
            sleep(pause(&mut attempt)).await;
        }
    }

    async fn issue(&self, identity: &Identity, plane: &ControlPlane) -> Result<()> {
        let key = KeyPair::generate()?;
        let (csr, token) = (key.certificate_request()?, self.pod.token.clone());
        let config = identity.client_without_certificate(&plane.roots, &plane.operator, ALPN)?;
        let request = v1::IssueRequest { csr, token, trust_epoch: 0 };
        let issue = async {
            let channel = channel::connect(self.pod.address, plane.identity, config).await?;
            let answer = v1::identity_client::IdentityClient::new(channel).issue(request).await;
            answer.map_err(|status| anyhow!("refused: {}", status.message()))
        };
        let answer = timeout(ISSUE, issue).await??.into_inner();
        identity.install_bundle(bundle(decode::trust(answer.trust.context("answer without trust")?)?))?;
        identity.install_leaf(Leaf::new(answer.chain.into_iter().map(Into::into).collect(), key)?)?;
        Ok(())
    }

    async fn stream(&self, identity: &Identity, plane: &ControlPlane) -> Result<()> {
        let config = identity.client_config(&plane.operator, ALPN)?;
        let (sender, waiting) = mpsc::channel(256);
        let opening = async {
            let channel = channel::connect(self.pod.address, plane.discovery, config).await?;
            let mut client =
                v1::discovery_client::DiscoveryClient::new(channel).max_decoding_message_size(64 << 20);
            send(&sender, Message::Hello(self.hello())).await?;
            let opened = client.connect(ReceiverStream::new(waiting)).await;
            opened.map_err(|status| anyhow!("refused: {}", status.message()))
        };
        let mut incoming = timeout(OPEN, opening).await??.into_inner();
        send(&sender, Message::Credentials(credentials(identity))).await?;
        for address in self.wanted.keys() {
            send(&sender, Message::Subscribe(encode::address(*address))).await?;
        }
        let mut seen = Seen::default();
        loop {
            let message =
                incoming.message().await.map_err(|status| anyhow!("ended: {}", status.message()))?;
            let message = message.context("ended")?;
            let version = message.version;
            self.take(identity, message, &mut seen)?;
            send(&sender, Message::Ack(v1::Ack { version })).await?;
            if !seen.complete && seen.trust && seen.workload && seen.destinations.len() == self.wanted.len() {
                seen.complete = true;
                self.journal.note(self.index, Sight::Up);
            }
        }
    }

    /// Understands a message as a proxy does.
    fn take(&self, identity: &Identity, message: v1::ToProxy, seen: &mut Seen) -> Result<()> {
        match message.resource.context("unknown resource")? {
            Resource::Trust(trust) => {
                identity.install_bundle(bundle(decode::trust(trust)?))?;
                seen.trust = true;
            }
            Resource::Workload(workload) => {
                decode::workload(workload)?;
                seen.workload = true;
            }
            Resource::Destination(destination) => {
                let change = change(&destination);
                let (address, _) = decode::destination(destination)?;
                let &service = self.wanted.get(&address).context("nobody asked for this destination")?;
                seen.destinations.insert(address);
                if let Some(number) = change {
                    self.journal.note(self.index, Sight::Change { service, number });
                }
            }
        }
        Ok(())
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            pod_namespace: self.pod.namespace.clone(),
            pod_name: self.pod.name.clone(),
            pod_uid: self.pod.uid.clone(),
            proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
            features: FEATURES.iter().map(|&name| name.to_owned()).collect(),
        }
    }
}

/// What came on one stream.
#[derive(Default)]
struct Seen {
    trust: bool,
    workload: bool,
    destinations: HashSet<SocketAddr>,
    complete: bool,
}

/// Changes are numbered by the port of an endpoint.
fn change(destination: &v1::Destination) -> Option<u16> {
    let Some(v1::destination::Kind::Service(service)) = &destination.kind else { return None };
    let ports = service.backends.iter().flat_map(|backend| &backend.endpoints).map(|endpoint| endpoint.port);
    let ports = ports.filter_map(|port| u16::try_from(port).ok()?.checked_sub(FIRST_PORT));
    ports.max()
}

async fn send(sender: &mpsc::Sender<v1::ToOperator>, message: Message) -> Result<()> {
    if sender.send(v1::ToOperator { message: Some(message) }).await.is_err() {
        bail!("the stream is closed");
    }
    Ok(())
}

fn bundle(trust: byrnie_api::Trust) -> TrustBundle {
    let roots = trust.roots.into_iter();
    let roots = roots.map(|(domain, ders)| (domain, ders.into_iter().map(Into::into).collect())).collect();
    TrustBundle { epoch: trust.epoch, roots, signer: trust.signer }
}

fn credentials(identity: &Identity) -> v1::Credentials {
    let bundle = identity.bundle();
    let own = bundle.iter().filter_map(|bundle| bundle.roots.get(identity.trust_domain())).flatten();
    v1::Credentials {
        trust_epoch: bundle.as_ref().map_or(0, |bundle| bundle.epoch),
        trusted_roots: own.filter_map(|root| Some(spki_sha256(root).ok()?.to_vec())).collect(),
        leaf_issuer: identity.leaf().and_then(|leaf| leaf.issuer).map_or_else(Vec::new, |id| id.to_vec()),
        connection_roots: Vec::new(),
    }
}

fn pause(attempt: &mut u32) -> Duration {
    let (first, longest) = PAUSES;
    let bound = first.saturating_mul(1 << (*attempt).min(10)).min(longest);
    *attempt += 1;
    first + bound.saturating_sub(first).mul_f64(fastrand::f64())
}
