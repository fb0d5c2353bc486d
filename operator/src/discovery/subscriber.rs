//! One proxy's stream, seen from the operator: what it follows, what was sent, what it has in force.
//!
//! A state and no queue: of each topic only the latest is kept, so that a proxy that reads slowly costs no more than
//! one that reads fast, and gets what holds when it reads.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use byrnie_api::v1::{self, Credentials, PolicyGeneration, ProxyHolding, Refusal, ToProxy};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tonic::Status;

use super::{
    content::{Content, PodKey, Topic},
    metrics::{Labels, Metrics},
};

/// Destinations that one proxy may follow.
pub const MAX_DESTINATIONS: usize = 4096;
/// Messages that a proxy may leave unanswered before it is told no more: what comes meanwhile replaces what waits.
const MAX_UNANSWERED: usize = 64;
/// A proxy that has left something unread, or unanswered, for so long does not listen any more.
const LONGEST_SILENCE: Duration = Duration::from_mins(1);
/// Of a proxy's explanation why it refused something.
const LONGEST_ERROR: usize = 512;

/// See the module.
pub struct Subscriber {
    /// Tells streams apart.
    pub id: u64,
    /// Whose proxy it is.
    pub pod: PodKey,
    proxy_version: String,
    state: Mutex<State>,
    wake: Notify,
    held: Arc<watch::Sender<u64>>,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    version: u64,
    topics: HashMap<Topic, Following>,
    /// Topics with something new, each once, in the order of sending.
    due: VecDeque<Topic>,
    /// Since when something is due and nothing was taken.
    waiting: Option<Instant>,
    /// What was sent and not answered, by version.
    unanswered: BTreeMap<u64, (Topic, Arc<Content>, Instant)>,
    credentials: Option<Credentials>,
    end: Option<End>,
}

#[derive(Default)]
struct Following {
    latest: Option<Arc<Content>>,
    sent: Option<Arc<Content>>,
    in_force: Option<(u64, Arc<Content>)>,
    refused: Option<(u64, Arc<Content>, String)>,
    /// It is among those that are due.
    queued: bool,
    /// When the event came that made it due.
    since: Option<Instant>,
}

/// Why a stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The proxy left, or another stream of its pod came, or the operator stops.
    Over,
    /// The pod does not exist any more.
    NoPod,
}

impl Subscriber {
    /// A new stream of a pod's proxy. `held` is bumped when what it has in force changes.
    pub fn new(
        id: u64,
        pod: PodKey,
        proxy_version: String,
        held: Arc<watch::Sender<u64>>,
        metrics: Metrics,
    ) -> Self {
        Self { id, pod, proxy_version, state: Mutex::default(), wake: Notify::new(), held, metrics }
    }

    /// Notes that the proxy wants to know about a topic; `false`: it follows too many already.
    pub fn add(&self, topic: &Topic) -> bool {
        let mut state = self.state.lock();
        // Trust and workload are two of the topics.
        let room = state.topics.len() < MAX_DESTINATIONS + 2;
        if room || state.topics.contains_key(topic) {
            state.topics.entry(topic.clone()).or_default();
            return true;
        }
        false
    }

    /// The proxy does not want to know about a topic any more.
    pub fn remove(&self, topic: &Topic) {
        let mut state = self.state.lock();
        state.topics.remove(topic);
        state.due.retain(|due| due != topic);
        if state.due.is_empty() {
            state.waiting = None;
        }
        drop(state);
        self.bump();
    }

    /// All that it follows.
    pub fn topics(&self) -> Vec<Topic> {
        self.state.lock().topics.keys().cloned().collect()
    }

    /// Takes the latest about a topic; `since` is when the event came that made it, if one did.
    pub fn hand(&self, topic: &Topic, content: &Arc<Content>, since: Option<Instant>) {
        let mut state = self.state.lock();
        let Some(following) = state.topics.get_mut(topic) else { return };
        following.latest = Some(content.clone());
        following.since = following.since.or(since);
        if !std::mem::replace(&mut following.queued, true) {
            // First trust: what comes after may be signed under it. Then who may call.
            let at = match topic {
                Topic::Trust => 0,
                Topic::Workload(_) => state.due.iter().take_while(|due| **due == Topic::Trust).count(),
                Topic::Destination(_) => state.due.len(),
            };
            state.due.insert(at, topic.clone());
            state.waiting.get_or_insert_with(Instant::now);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The pod is no more.
    pub fn gone(&self) {
        self.end(End::NoPod);
    }

    /// Ends the stream.
    pub fn end(&self, end: End) {
        self.state.lock().end.get_or_insert(end);
        self.wake.notify_one();
    }

    /// Whether the proxy has not listened for long.
    pub fn is_deaf(&self, now: Instant) -> bool {
        let state = self.state.lock();
        let unanswered = state.unanswered.first_key_value().map(|(_, (.., sent))| *sent);
        let long_ago = |since: Instant| now.saturating_duration_since(since) >= LONGEST_SILENCE;
        unanswered.into_iter().chain(state.waiting).any(long_ago)
    }

    /// Whether it was told to end.
    pub fn has_ended(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// The next message, when the connection has room for one; `None` at the end.
    pub async fn next(&self) -> Option<Result<ToProxy, Status>> {
        loop {
            {
                let mut state = self.state.lock();
                match state.end {
                    Some(End::Over) => return None,
                    Some(End::NoPod) => {
                        state.end = Some(End::Over);
                        let gone = format!("pod {} does not exist any more", self.pod.name);
                        return Some(Err(Status::not_found(gone)));
                    }
                    None => {}
                }
                if let Some(due) = state.take() {
                    drop(state);
                    self.count(&due);
                    return Some(Ok(due.message));
                }
            }
            self.wake.notified().await;
        }
    }

    fn count(&self, due: &Due) {
        self.metrics.pushes.get_or_create(&Labels { resource: due.content.sort() }).inc();
        if let Some(since) = due.since {
            let waited = Instant::now().saturating_duration_since(since);
            self.metrics.latency.observe(waited.as_secs_f64());
        }
    }

    /// A version is in force.
    pub fn ack(&self, version: u64) {
        let mut state = self.state.lock();
        let Some((topic, content)) = self.answered(&mut state, version) else { return };
        let Some(following) = state.topics.get_mut(&topic) else { return };
        if following.in_force.as_ref().is_none_or(|(before, _)| *before < version) {
            following.in_force = Some((version, content));
        }
        following.refused.take_if(|(refused, ..)| *refused < version);
        drop(state);
        self.bump();
    }

    /// A version was refused; what was in force before still is.
    pub fn nack(&self, version: u64, mut error: String) {
        let mut state = self.state.lock();
        let Some((topic, content)) = self.answered(&mut state, version) else { return };
        self.metrics.refusals.get_or_create(&Labels { resource: content.sort() }).inc();
        let Some(following) = state.topics.get_mut(&topic) else { return };
        error.truncate(error.floor_char_boundary(LONGEST_ERROR));
        if following.refused.as_ref().is_none_or(|(before, ..)| *before < version) {
            following.refused = Some((version, content, error));
        }
        drop(state);
        self.bump();
    }

    /// What the proxy shows to its peers and whom it believes.
    pub fn believes(&self, credentials: Credentials) {
        let mut state = self.state.lock();
        if state.credentials.as_ref() != Some(&credentials) {
            state.credentials = Some(credentials);
            drop(state);
            self.bump();
        }
    }

    fn answered(&self, state: &mut State, version: u64) -> Option<(Topic, Arc<Content>)> {
        let full = state.unanswered.len() >= MAX_UNANSWERED;
        let (topic, content, _) = state.unanswered.remove(&version)?;
        if full {
            // Now it may be told more, if it reads.
            state.waiting = (!state.due.is_empty()).then(Instant::now);
            self.wake.notify_one();
        }
        Some((topic, content))
    }

    fn bump(&self) {
        self.held.send_modify(|revision| *revision += 1);
    }

    /// What the proxy has in force, refused, and does not have yet.
    pub fn holding(&self) -> ProxyHolding {
        let state = self.state.lock();
        let mut in_force: BTreeMap<String, PolicyGeneration> = BTreeMap::new();
        let mut refusals: BTreeMap<String, Refusal> = BTreeMap::new();
        let mut pending: BTreeSet<Ordered> = BTreeSet::new();
        let mut trust_epoch = 0;
        for following in state.topics.values() {
            if let Some((_, content)) = &following.in_force {
                trust_epoch = content.epoch().unwrap_or(trust_epoch);
                for generation in content.generations() {
                    // An object is in force as far as its oldest part is.
                    let oldest = in_force.entry(generation.uid.clone()).or_insert_with(|| generation.clone());
                    if generation.generation < oldest.generation {
                        oldest.clone_from(generation);
                    }
                }
            }
            if let Some((_, content, error)) = &following.refused {
                for generation in content.generations() {
                    let refusal = Refusal { policy: Some(generation.clone()), error: error.clone() };
                    refusals.insert(generation.uid.clone(), refusal);
                }
            }
            if let Some(latest) = following.latest.as_ref().filter(|latest| !following.has_answered(latest)) {
                pending.extend(latest.generations().iter().cloned().map(Ordered));
            }
        }
        ProxyHolding {
            pod_namespace: self.pod.name.namespace.clone(),
            pod_name: self.pod.name.name.clone(),
            pod_uid: self.pod.uid.clone(),
            proxy_version: self.proxy_version.clone(),
            generations: in_force.into_values().collect(),
            refusals: refusals.into_values().collect(),
            trust_epoch,
            pending: pending.into_iter().map(|ordered| ordered.0).collect(),
            credentials: state.credentials.clone(),
        }
    }
}

impl Following {
    fn has_answered(&self, latest: &Arc<Content>) -> bool {
        let same =
            |content: &Arc<Content>| Arc::ptr_eq(content, latest) || content.resource == latest.resource;
        self.in_force.as_ref().is_some_and(|(_, content)| same(content))
            || self.refused.as_ref().is_some_and(|(_, content, _)| same(content))
    }
}

struct Due {
    message: ToProxy,
    content: Arc<Content>,
    since: Option<Instant>,
}

impl State {
    /// The next thing to say, if enough of what was said is answered; nothing is said twice.
    fn take(&mut self) -> Option<Due> {
        while self.unanswered.len() < MAX_UNANSWERED {
            let Some(topic) = self.due.pop_front() else {
                self.waiting = None;
                break;
            };
            let Some(following) = self.topics.get_mut(&topic) else { continue };
            following.queued = false;
            let since = following.since.take();
            let Some(content) = following.latest.clone() else { continue };
            if following.sent.as_ref().is_some_and(|sent| sent.resource == content.resource) {
                continue;
            }
            following.sent = Some(content.clone());
            self.version += 1;
            let now = Instant::now();
            self.unanswered.insert(self.version, (topic, content.clone(), now));
            self.waiting = (!self.due.is_empty()).then_some(now);
            let message = v1::ToProxy { version: self.version, resource: Some(content.resource.clone()) };
            return Some(Due { message, content, since });
        }
        None
    }
}

/// Generated messages have no order; these need one to be listed once.
#[derive(PartialEq)]
struct Ordered(PolicyGeneration);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |ordered: &Self| (ordered.0.uid.clone(), ordered.0.generation);
        key(self).cmp(&key(other))
    }
}
