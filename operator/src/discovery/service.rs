//! The gRPC side: who may open which stream, and what proxies say on it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use byrnie_api::{
    decode,
    v1::{
        Ack, Hello, HoldingsRequest, HoldingsUpdate, Nack, ToOperator, ToProxy, discovery_server,
        to_operator::Message,
    },
};
use byrnie_model::{ObjectName, SpiffeId};
use futures::{Stream, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    board::Board,
    content::{PodKey, Topic},
    holdings::Holdings,
    metrics::Metrics,
    subscriber::{End, MAX_DESTINATIONS, Subscriber},
};
use crate::serve::{HangUp, PeerAddress, PeerIdentity};

/// A proxy says who it is at once.
const HELLO: Duration = Duration::from_secs(5);
/// How long a proxy waits until everything is known: after a start of the operator.
const NOT_READY: Duration = Duration::from_secs(5);
/// How long a proxy waits until its pod is known: word of it may be slower than the pod.
const UNKNOWN_POD: Duration = Duration::from_secs(3);
/// Holdings are told at most this often.
const HOLDINGS: Duration = Duration::from_millis(100);
/// What a proxy may say within [`PACE`]: more must wait.
const BURST: u32 = 8192;
const PACE: Duration = Duration::from_secs(4);
/// Who does not listen is looked for this often.
const LOOK: Duration = Duration::from_secs(5);
/// Roots that a proxy may say it trusts; more than MeshTrust can have.
const MAX_ROOTS: usize = 64;

/// The service, shared by all calls.
pub(super) struct Core {
    pub(super) board: Arc<Board>,
    pub(super) holdings: Holdings,
    pub(super) metrics: Metrics,
    pub(super) operator_id: SpiffeId,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) streams: AtomicU64,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl discovery_server::Discovery for super::Discovery {
    type ConnectStream = Messages<ToProxy>;
    type HoldingsStream = Messages<HoldingsUpdate>;

    async fn connect(
        &self,
        request: Request<Streaming<ToOperator>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = peer(&request)?;
        let address = request.extensions().get::<PeerAddress>().copied();
        let hang_up = request.extensions().get::<HangUp>().cloned().unwrap_or_default();
        let mut said = request.into_inner();
        let hello = match timeout(HELLO, said.message()).await {
            Ok(Ok(Some(ToOperator { message: Some(Message::Hello(hello)) }))) => hello,
            Ok(Err(status)) => return Err(status),
            Ok(Ok(_)) => return Err(Status::invalid_argument("the first message must be Hello")),
            Err(_) => return Err(Status::deadline_exceeded("no Hello came")),
        };
        let pod = self.core.admit(&hello, &peer, address).await?;
        info!(pod = %pod.name, version = hello.proxy_version, "proxy connected");
        let stream = Stay::begin(self.core.clone(), pod, hello.proxy_version);
        tokio::spawn(listen(self.core.clone(), stream.subscriber.clone(), said, hang_up));
        let messages =
            stream::unfold(stream, async |stay| stay.subscriber.next().await.map(|message| (message, stay)));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn holdings(
        &self,
        request: Request<HoldingsRequest>,
    ) -> Result<Response<Self::HoldingsStream>, Status> {
        let peer = peer(&request)?;
        if peer != self.core.operator_id {
            return Err(Status::permission_denied(format!("{peer} is not a replica of this operator")));
        }
        let holdings = self.core.holdings.clone();
        let (changes, last) = (holdings.changes(), None);
        let updates = stream::unfold((holdings, changes, last), async |(holdings, mut changes, last)| {
            if let Some(last) = last {
                sleep_until(last + HOLDINGS).await;
                changes.changed().await.ok()?;
            }
            changes.borrow_and_update();
            let update = HoldingsUpdate { proxies: holdings.own() };
            Some((Ok(update), (holdings, changes, Some(Instant::now()))))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

fn peer<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let peer = request.extensions().get::<PeerIdentity>();
    peer.map(|PeerIdentity(id)| id.clone())
        .ok_or_else(|| Status::unauthenticated("a client certificate is needed"))
}

impl Core {
    /// The pod that a proxy speaks for, where it may.
    async fn admit(
        &self,
        hello: &Hello,
        peer: &SpiffeId,
        address: Option<PeerAddress>,
    ) -> Result<PodKey, Status> {
        let mut ready = self.ready.clone();
        match timeout(NOT_READY, ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => {}
            _ => {
                return Err(Status::unavailable(
                    "the operator has not read everything from the API server yet",
                ));
            }
        }
        let name = ObjectName::new(&hello.pod_namespace, &hello.pod_name);
        let pod = PodKey { name, uid: hello.pod_uid.clone() };
        let until = Instant::now() + UNKNOWN_POD;
        loop {
            match self.check(&pod, peer, address) {
                Err(status) if status.code() == tonic::Code::NotFound && Instant::now() < until => {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(status) => {
                    warn!(pod = %pod.name, %peer, problem = status.message(), "refused a proxy");
                    return Err(status);
                }
                Ok(()) => return Ok(pod),
            }
        }
    }

    fn check(&self, pod: &PodKey, peer: &SpiffeId, address: Option<PeerAddress>) -> Result<(), Status> {
        self.board.world(|world| {
            let known = world.pod(&pod.name).filter(|known| known.uid == pod.uid);
            let Some(known) = known else {
                return Err(Status::not_found(format!("there is no pod {} with UID {}", pod.name, pod.uid)));
            };
            let problem = if peer.trust_domain() != world.trust_domain.as_str() {
                format!(
                    "the certificate is of trust domain {}, not {}",
                    peer.trust_domain(),
                    world.trust_domain
                )
            } else if peer.namespace() != pod.name.namespace {
                format!(
                    "the certificate is of namespace {}, the pod of {}",
                    peer.namespace(),
                    pod.name.namespace
                )
            } else if peer.service_account() != known.service_account {
                let (of, runs) = (peer.service_account(), &known.service_account);
                format!("the certificate is of ServiceAccount {of}, the pod runs as {runs}")
            } else if let Some(PeerAddress(address)) = address
                && !known.addresses.is_empty()
                && !known.addresses.contains(&address.ip())
            {
                format!("the stream comes from {}, which is none of the pod's addresses", address.ip())
            } else {
                return Ok(());
            };
            Err(Status::permission_denied(format!("pod {}: {problem}", pod.name)))
        })
    }

    fn hear(&self, subscriber: &Arc<Subscriber>, message: Message) -> Result<(), String> {
        match message {
            Message::Hello(_) => return Err("Hello comes once".into()),
            Message::Subscribe(address) => {
                let topic = Topic::Destination(decode::address(&address).map_err(|e| e.to_string())?);
                if !subscriber.add(&topic) {
                    return Err(format!("more than {MAX_DESTINATIONS} destinations"));
                }
                self.board.follow(&topic, subscriber);
                // The stream may have ended meanwhile, and with it all that it followed until then.
                if subscriber.has_ended() {
                    self.board.leave(&topic, subscriber);
                }
            }
            Message::Unsubscribe(address) => {
                let topic = Topic::Destination(decode::address(&address).map_err(|e| e.to_string())?);
                subscriber.remove(&topic);
                self.board.leave(&topic, subscriber);
            }
            Message::Ack(Ack { version }) => subscriber.ack(version),
            Message::Nack(Nack { version, error }) => {
                warn!(pod = %subscriber.pod.name, version, %error, "a proxy refused what it was told");
                subscriber.nack(version, error);
            }
            Message::Credentials(said)
                if said.trusted_roots.len().max(said.connection_roots.len()) > MAX_ROOTS =>
            {
                return Err(format!("it names more than {MAX_ROOTS} roots"));
            }
            Message::Credentials(credentials) => subscriber.believes(credentials),
        }
        Ok(())
    }
}

/// Hears what a proxy says until it or its stream ends. Who does not listen is hung up on: what waits in the connection
/// for one that does not read would wait for ever.
async fn listen(
    core: Arc<Core>,
    subscriber: Arc<Subscriber>,
    mut said: Streaming<ToOperator>,
    HangUp(hang_up): HangUp,
) {
    let (mut heard, mut since) = (0, Instant::now());
    let mut look = since + LOOK;
    while !subscriber.has_ended() {
        let next = timeout_at(look, said.message()).await;
        let now = Instant::now();
        if now >= look {
            look = now + LOOK;
            if subscriber.is_deaf(now) {
                warn!(pod = %subscriber.pod.name, "a proxy does not listen; it may come again");
                core.metrics.hung_up.inc();
                hang_up.cancel();
                break;
            }
        }
        let Ok(next) = next else { continue };
        let message = match next {
            Ok(Some(ToOperator { message: Some(message) })) => message,
            // What a newer proxy may say is of no harm.
            Ok(Some(ToOperator { message: None })) => continue,
            Ok(None) => break,
            Err(status) => {
                debug!(pod = %subscriber.pod.name, problem = status.message(), "proxy's stream broke");
                break;
            }
        };
        heard += 1;
        if heard > BURST {
            sleep_until(since + PACE).await;
            (heard, since) = (0, Instant::now());
        }
        if let Err(problem) = core.hear(&subscriber, message) {
            warn!(pod = %subscriber.pod.name, problem, "ended the stream of a proxy that does not keep to the contract");
            break;
        }
    }
    subscriber.end(End::Over);
}

/// A proxy's stay: when it is dropped, nobody follows anything for it any more.
struct Stay {
    core: Arc<Core>,
    subscriber: Arc<Subscriber>,
}

impl Stay {
    fn begin(core: Arc<Core>, pod: PodKey, proxy_version: String) -> Self {
        let id = core.streams.fetch_add(1, Ordering::Relaxed);
        let (held, metrics) = (core.holdings.changed(), core.metrics.clone());
        let workload = Topic::Workload(pod.clone());
        let subscriber = Arc::new(Subscriber::new(id, pod, proxy_version, held, metrics));
        core.metrics.streams.inc();
        core.holdings.join(&subscriber);
        for topic in [Topic::Trust, workload] {
            subscriber.add(&topic);
            core.board.follow(&topic, &subscriber);
        }
        Self { core, subscriber }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.subscriber.end(End::Over);
        for topic in self.subscriber.topics() {
            self.core.board.leave(&topic, &self.subscriber);
        }
        self.core.holdings.leave(&self.subscriber);
        self.core.metrics.streams.dec();
        debug!(pod = %self.subscriber.pod.name, "proxy left");
    }
}
