//! Endpoints that DNS knows: asks again when an answer has lived its time, and keeps the last good one while there is
//! no new one (an empty answer is none: a name that says nothing must not empty a service).
//!
//! Asks name servers itself and never the C library, which a static binary cannot do. Knows nothing of services.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::RData,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{backoff::Backoff, metrics::Metrics};

/// However short an answer says that it lives, and however long.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// How long a new name may hold up what names it.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// One server's time to answer, before it or another one is asked again.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names behind one SRV answer.
const MAX_TARGETS: usize = 100;

/// What DNS is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// A and AAAA records, with a port that DNS does not know.
    Addresses { name: String, port: u16 },
    /// SRV records.
    Services { name: String },
}

/// A place, and its share relative to the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) weight: u16,
}

/// Follows names.
pub(super) struct Names {
    servers: Option<Vec<SocketAddr>>,
    resolver: Option<TokioResolver>,
    followed: HashMap<Question, AbortHandle>,
    known: Arc<Known>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Known {
    answers: Mutex<HashMap<Question, Vec<Place>>>,
    changed: Notify,
}

impl Names {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { servers: None, resolver: None, followed: HashMap::new(), known: Arc::default(), metrics }
    }

    /// Whom to ask from now on; empty: whom /etc/resolv.conf names.
    pub(super) fn ask(&mut self, servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
        if let Some(resolver) = self.resolver.as_ref().filter(|_| self.servers.as_deref() == Some(servers)) {
            return Ok(resolver.clone());
        }
        let resolver = resolver(servers)?;
        self.servers = Some(servers.to_vec());
        // what is followed goes on with the new servers
        for (_, followed) in self.followed.drain() {
            followed.abort();
        }
        self.resolver = Some(resolver.clone());
        Ok(resolver)
    }

    /// Follows these names and no others; returns when each has been asked for once, or that takes too long.
    pub(super) async fn follow(&mut self, questions: HashSet<Question>) {
        let Some(resolver) = &self.resolver else { return };
        self.known.answers.lock().retain(|question, _| questions.contains(question));
        self.followed.retain(|question, followed| {
            let stays = questions.contains(question);
            if !stays {
                followed.abort();
                self.metrics.discovery_ended(&question.to_string());
            }
            stays
        });
        let mut first = Vec::new();
        for question in questions {
            if self.followed.contains_key(&question) {
                continue;
            }
            let (send, receive) = oneshot::channel();
            first.push(receive);
            let follow = Follow {
                resolver: resolver.clone(),
                question: question.clone(),
                known: self.known.clone(),
                metrics: self.metrics.clone(),
            };
            self.followed.insert(question, tokio::spawn(follow.forever(send)).abort_handle());
        }
        // who does not answer in time is followed nevertheless
        let _ = timeout(FIRST_ANSWER, futures::future::join_all(first)).await;
    }

    /// Returns when an answer is another one than before (one waiter).
    pub(super) fn changed(&self) -> impl Future<Output = ()> + use<> {
        let known = self.known.clone();
        async move { known.changed.notified().await }
    }

    /// The last good answer.
    pub(super) fn answer(&self, question: &Question) -> Vec<Place> {
        self.known.answers.lock().get(question).cloned().unwrap_or_default()
    }
}

/// One name, followed.
struct Follow {
    resolver: TokioResolver,
    question: Question,
    known: Arc<Known>,
    metrics: Arc<Metrics>,
}

impl Follow {
    async fn forever(self, asked: oneshot::Sender<()>) {
        let name = self.question.to_string();
        let (mut asked, mut backoff, mut failing) = (Some(asked), Backoff::default(), false);
        loop {
            let pause = match ask(&self.resolver, &self.question).await {
                Ok((places, until)) => {
                    if failing {
                        tracing::info!(name, "DNS answers again");
                    }
                    failing = false;
                    backoff.reset();
                    self.store(&name, places);
                    until.saturating_duration_since(Instant::now()).clamp(LIFETIME.0, LIFETIME.1)
                }
                Err(problem) => {
                    if !failing {
                        tracing::warn!(name, %problem, "DNS gives no answer; the last good one stays in force");
                    }
                    failing = true;
                    self.metrics.discovery_failed(&name);
                    backoff.next().max(LIFETIME.0)
                }
            };
            self.metrics.discovery_stale(&name, failing);
            if let Some(asked) = asked.take() {
                // nobody may wait any more
                let _ = asked.send(());
            }
            sleep(pause).await;
        }
    }

    fn store(&self, name: &str, places: Vec<Place>) {
        let mut answers = self.known.answers.lock();
        if answers.get(&self.question) == Some(&places) {
            return;
        }
        tracing::info!(name, endpoints = places.len(), "DNS has another answer");
        answers.insert(self.question.clone(), places);
        self.known.changed.notify_one();
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(|server| {
            let at = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = PATIENCE;
    options.positive_min_ttl = Some(LIFETIME.0);
    options.positive_max_ttl = Some(LIFETIME.1);
    // what failed is asked again when we ask again
    options.negative_max_ttl = Some(Duration::ZERO);
    builder.build()
}

async fn ask(resolver: &TokioResolver, question: &Question) -> Result<(Vec<Place>, Instant), String> {
    match question {
        Question::Addresses { name, port } => {
            let found = resolver.lookup_ip(name.as_str()).await.map_err(|error| error.to_string())?;
            let places = found.iter().map(|ip| Place { address: SocketAddr::new(ip, *port), weight: 1 });
            some(places.collect(), found.valid_until())
        }
        Question::Services { name } => {
            let found = resolver.srv_lookup(name.as_str()).await.map_err(|error| error.to_string())?;
            let mut targets: Vec<_> = found
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::SRV(srv) if !srv.target.is_root() => Some(srv.clone()),
                    _ => None,
                })
                .collect();
            targets.sort_by_key(|srv| (srv.priority, Reverse(srv.weight)));
            targets.truncate(MAX_TARGETS);
            let mut until = found.valid_until();
            let mut problem = None;
            // the least priority that has an address is the one that counts
            for group in targets.chunk_by(|a, b| a.priority == b.priority) {
                let mut places = Vec::new();
                for srv in group {
                    match resolver.lookup_ip(srv.target.clone()).await {
                        Ok(found) => {
                            until = until.min(found.valid_until());
                            // RFC 2782: 0 is a very small chance of being selected
                            let weight = srv.weight.max(1);
                            let at = |ip| Place { address: (ip, srv.port).into(), weight };
                            places.extend(found.iter().map(at));
                        }
                        Err(error) => problem = Some(format!("{}: {error}", srv.target)),
                    }
                }
                if !places.is_empty() {
                    return some(places, until);
                }
            }
            Err(problem.unwrap_or_else(|| "there are no targets".to_owned()))
        }
    }
}

/// In one order, so that a server that shuffles says nothing new.
fn some(mut places: Vec<Place>, until: Instant) -> Result<(Vec<Place>, Instant), String> {
    places.sort_by_key(|place| place.address);
    places.dedup_by_key(|place| place.address);
    if places.is_empty() { Err("there are no addresses".to_owned()) } else { Ok((places, until)) }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { name, port } => write!(f, "{name}:{port}"),
            Self::Services { name } => f.write_str(name),
        }
    }
}
