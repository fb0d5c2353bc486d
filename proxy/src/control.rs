//! The control stream: subscribes to what the pod talks to, puts what comes in force, and says so.
//!
//! Whatever happens to the stream, the last good state stays in force: only a newer one that was understood replaces
//! it. Must not know what a worker does with it.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use byrnie_api::{FEATURES, decode, encode, v1};
use byrnie_identity::{BundleError, Leaf, NotReady};
use thiserror::Error;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tonic::Streaming;
use v1::{to_operator::Message, to_proxy::Resource};

use crate::{
    backoff::Backoff,
    bootstrap::{BootstrapError, ControlPlane},
    certificate::{self, News},
    control_channel,
    state::Shared,
};

const SWEEP: Duration = Duration::from_mins(1);
/// Connections that stand on another root than the certificate's are looked for this often.
const LOOK: Duration = Duration::from_secs(1);
/// A stream that lived this long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// After a renewal the stream is opened anew with the new certificate, within this time.
const SPREAD: Duration = Duration::from_secs(10);
/// After an operator went away, its proxies come back within this time, not all at once.
const HERD: Duration = Duration::from_secs(2);
const OPEN: Duration = Duration::from_secs(10);
/// Messages that may wait to be sent.
const WAITING: usize = 256;

/// Why a stream ended or did not begin.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The kubelet's files.
    #[error(transparent)]
    Files(#[from] BootstrapError),
    /// No certificate to show.
    #[error(transparent)]
    Identity(#[from] NotReady),
    /// No connection.
    #[error("cannot reach the operator at {address}: {problem}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        problem: String,
    },
    /// No stream in time.
    #[error("the operator did not open the stream within {} s", OPEN.as_secs())]
    Timeout,
    /// The operator ended it.
    #[error("the operator ended the stream: {0}")]
    Ended(String),
}

/// Keeps a stream open; does not return.
pub async fn keep(shared: Arc<Shared>, directory: PathBuf, news: News) {
    let mut backoff = Backoff::default();
    while !shared.identity.ready() {
        news.leaf_changed().await;
    }
    loop {
        let began = Instant::now();
        let ended = stream(&shared, &directory, &news).await;
        shared.metrics.control_connected.set(0);
        // our own wish: open the next one at once
        let Err(error) = ended else { continue };
        let problem = error.to_string();
        if news.stream_problem(Some(problem.clone())) {
            tracing::warn!(%problem, "no control stream; the last good state stays in force");
        }
        if Instant::now().saturating_duration_since(began) > GOOD {
            // everybody's stream ended just now
            backoff.reset();
            sleep(HERD.mul_f64(fastrand::f64())).await;
        }
        sleep(backoff.next()).await;
    }
}

/// One stream, from Hello to its end. `Ok` when it shall be opened anew.
async fn stream(shared: &Shared, directory: &Path, news: &News) -> Result<(), StreamError> {
    let plane = ControlPlane::read(directory)?;
    let leaf = shared.identity.leaf();
    let config = shared.identity.client_config(&plane.operator, control_channel::ALPN)?;
    let (sender, mut waiting) = mpsc::channel(WAITING);
    let outgoing = futures::stream::poll_fn(move |cx| waiting.poll_recv(cx));
    let opening = async {
        let channel = control_channel::connect(plane.discovery, config).await.map_err(|error| {
            StreamError::Connect { address: plane.discovery, problem: control_channel::in_full(&error) }
        })?;
        let mut client =
            v1::discovery_client::DiscoveryClient::new(channel).max_decoding_message_size(64 << 20);
        send(&sender, Message::Hello(hello(shared))).await?;
        client.connect(outgoing).await.map_err(|status| StreamError::Ended(status.message().to_owned()))
    };
    let incoming = timeout(OPEN, opening).await.map_err(|_| StreamError::Timeout)??.into_inner();
    tracing::info!(address = %plane.discovery, "control stream open");
    news.stream_problem(None);
    shared.metrics.control_connected.set(1);
    Conversation { shared, news, leaf, sender, subscribed: HashSet::new(), told: v1::Credentials::default() }
        .run(incoming)
        .await
}

fn hello(shared: &Shared) -> v1::Hello {
    v1::Hello {
        pod_namespace: shared.pod.namespace.clone(),
        pod_name: shared.pod.name.clone(),
        pod_uid: shared.pod.uid.clone(),
        proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        features: FEATURES.iter().map(|&name| name.to_owned()).collect(),
    }
}

async fn send(sender: &mpsc::Sender<v1::ToOperator>, message: Message) -> Result<(), StreamError> {
    let sent = sender.send(v1::ToOperator { message: Some(message) }).await;
    sent.map_err(|_| StreamError::Ended("it is closed".to_owned()))
}

/// What is said on one open stream.
struct Conversation<'a> {
    shared: &'a Shared,
    news: &'a News,
    /// What this stream was opened with.
    leaf: Option<Arc<Leaf>>,
    sender: mpsc::Sender<v1::ToOperator>,
    subscribed: HashSet<SocketAddr>,
    told: v1::Credentials,
}

impl Conversation<'_> {
    async fn run(mut self, mut incoming: Streaming<v1::ToProxy>) -> Result<(), StreamError> {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reopen = pin!(sleep_until(far_away()));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tell_credentials().await?;
        self.subscribe().await?;
        loop {
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(message)) => self.receive(message).await?,
                    Ok(None) => return Err(StreamError::Ended("it stops, or another stream of this pod came".into())),
                    Err(status) => return Err(StreamError::Ended(status.message().to_owned())),
                },
                () = self.shared.destinations.changed() => self.subscribe().await?,
                _ = look.tick() => self.tell_credentials().await?,
                _ = sweep.tick() => self.shared.destinations.sweep(),
                () = self.news.leaf_changed() => {
                    self.tell_credentials().await?;
                    if !self.has_current_leaf() {
                        reopen.as_mut().reset(Instant::now() + SPREAD.mul_f64(fastrand::f64()));
                    }
                },
                () = &mut reopen => return Ok(()),
            }
        }
    }

    /// Says what this proxy shows and whom it believes, where it has not said so already.
    async fn tell_credentials(&mut self) -> Result<(), StreamError> {
        let credentials = certificate::credentials(self.shared);
        if credentials == self.told {
            return Ok(());
        }
        self.told = credentials.clone();
        send(&self.sender, Message::Credentials(credentials)).await
    }

    fn has_current_leaf(&self) -> bool {
        match (&self.leaf, self.shared.identity.leaf()) {
            (Some(own), Some(current)) => Arc::ptr_eq(own, &current),
            (own, current) => own.is_none() == current.is_none(),
        }
    }

    /// Tells the operator about addresses that came and went.
    async fn subscribe(&mut self) -> Result<(), StreamError> {
        let wanted: HashSet<SocketAddr> = self.shared.destinations.addresses().into_iter().collect();
        for address in &wanted - &self.subscribed {
            send(&self.sender, Message::Subscribe(encode::address(address))).await?;
        }
        for address in &self.subscribed - &wanted {
            send(&self.sender, Message::Unsubscribe(encode::address(address))).await?;
        }
        self.subscribed = wanted;
        Ok(())
    }

    /// Puts a message in force and says so, or refuses it whole.
    async fn receive(&mut self, message: v1::ToProxy) -> Result<(), StreamError> {
        let version = message.version;
        let is_trust = matches!(message.resource, Some(Resource::Trust(_)));
        let answer = match apply(self.shared, self.news, message.resource) {
            Ok(()) => Message::Ack(v1::Ack { version }),
            Err(refusal) => {
                let error = refusal.to_string();
                tracing::error!(version, %error, "refused what the operator sent; what was before stays in force");
                self.shared.metrics.nacks.inc();
                Message::Nack(v1::Nack { version, error })
            }
        };
        send(&self.sender, answer).await?;
        if is_trust { self.tell_credentials().await } else { Ok(()) }
    }
}

/// Why a message is not put in force.
#[derive(Debug, Error)]
enum Refusal {
    #[error("{0}: {1}")]
    NotUnderstood(&'static str, decode::DecodeError),
    #[error("trust: {0}")]
    Trust(#[from] BundleError),
    #[error("trust: epoch {sent} is older than epoch {held}, which is in force")]
    OldTrust { sent: u64, held: u64 },
    #[error("a kind of resource that this proxy does not know; upgrade it")]
    Unknown,
}

fn apply(shared: &Shared, news: &News, resource: Option<Resource>) -> Result<(), Refusal> {
    match resource.ok_or(Refusal::Unknown)? {
        Resource::Workload(message) => {
            let workload = decode::workload(message).map_err(|e| Refusal::NotUnderstood("workload", e))?;
            shared.store_workload(workload);
        }
        Resource::Destination(message) => {
            let understood = decode::destination(message);
            let (address, destination) = understood.map_err(|e| Refusal::NotUnderstood("destination", e))?;
            // one that nobody wants any more is as good as in force
            if let Some(slot) = shared.destinations.get(address) {
                slot.store(Arc::new(destination));
            }
        }
        Resource::Trust(message) => {
            let trust = decode::trust(message).map_err(|e| Refusal::NotUnderstood("trust", e))?;
            let sent = trust.epoch;
            if !shared.identity.install_bundle(certificate::bundle(trust))? {
                let held = shared.identity.bundle().map_or(0, |bundle| bundle.epoch);
                return Err(Refusal::OldTrust { sent, held });
            }
            news.trust_changed();
        }
    }
    Ok(())
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_hours(24 * 365)
}
