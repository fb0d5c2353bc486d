//! Puts what was read in force, and does it again when a file changes or at SIGHUP. Nothing that is in flight notices.
//!
//! All or nothing: what can fail (reading, binding) is done before anything is changed.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use byrnie_model::{self as model, Destination, Protocol, SpiffeId, Timeouts, Traffic};
use tokio::{
    signal::unix::Signal,
    time::{MissedTickBehavior, interval},
};

use super::{
    compile::{Compiled, compile, name_and_port},
    file::{Endpoint, File},
    names::{Names, Place, Question},
    own_ports,
    problem::{Problem, Problems},
    read::{Read, Sources, read},
    report::Report,
};
use crate::{hosts, original_destination::Source, state::Shared, worker::Workers};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// So many looks after another, unused destinations are forgotten.
const SWEEP: u64 = 60;

/// What is in force, and how to change it.
pub(super) struct Reload {
    path: PathBuf,
    shared: Arc<Shared>,
    workers: Workers,
    known: Arc<ArcSwap<Known>>,
    report: Arc<Report>,
    names: Names,
    /// The first file, whose restart fields hold; the file in force; what its certificate files were.
    first: Option<File>,
    file: Option<File>,
    credentials: Vec<(PathBuf, Option<u64>)>,
}

/// What addresses mean.
#[derive(Clone, Default)]
struct Known {
    by_address: HashMap<SocketAddr, Arc<Destination>>,
    /// Listeners that there are or were: connections that came through one keep their meaning when it goes.
    listeners: HashSet<SocketAddr>,
}

impl Reload {
    pub(super) fn new(path: PathBuf, shared: Arc<Shared>, workers: Workers) -> Self {
        let report = Arc::new(Report::new(path.clone()));
        let known: Arc<ArcSwap<Known>> = Arc::default();
        tokio::spawn(answer(shared.clone(), known.clone()));
        let names = Names::new(shared.metrics.clone());
        let (first, file, credentials) = (None, None, Vec::new());
        Self { path, shared, workers, known, report, names, first, file, credentials }
    }

    pub(super) fn report(&self) -> Arc<Report> {
        self.report.clone()
    }

    /// Puts everything in force: trust and certificate, what is known, then the listeners.
    ///
    /// # Errors
    /// When it cannot; nothing has changed then.
    pub(super) async fn apply(&mut self, read: Read) -> Result<(), Problems> {
        let Read { file, mut compiled, credentials, .. } = read;
        if self.first.as_ref().is_some_and(|first| first.trust_domain != file.trust_domain) {
            return Err(
                self.problem("trustDomain", "takes a restart to change; nothing else was changed".into())
            );
        }
        let opened = self.workers.open(&compiled.listeners).map_err(|error| {
            let source = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
            self.problem("listeners", format!("{error}{source}"))
        })?;
        let resolver = self.names.ask(&file.dns.servers);
        let resolver = resolver.map_err(|error| self.problem("dns.servers", error.to_string()));
        let resolver = match resolver {
            Ok(resolver) => Some(Arc::new(resolver)),
            Err(error) if file.asks_dns() => return Err(error),
            Err(_) => None,
        };
        if credentials.print != self.credentials {
            let bundle = self.shared.identity.install_bundle(credentials.bundle);
            bundle.map_err(|error| self.problem("identity.roots", error.to_string()))?;
            let leaf = self.shared.identity.install_leaf(credentials.leaf);
            leaf.map_err(|error| self.problem("identity.chain", error.to_string()))?;
            self.credentials = credentials.print;
        }
        self.shared.hosts.resolver.store(resolver);
        self.names.follow(file.questions().map(|(_, question, _)| question).collect()).await;
        let mut ports = own_ports(&file);
        // the admin port stays where it is
        ports.extend(self.first.as_ref().and_then(|first| first.admin).map(|admin| admin.port()));
        self.shared.pod.own_ports.store(ports.into());
        if self.shared.workload.load().as_deref() != Some(&compiled.workload) {
            self.shared.store_workload(std::mem::take(&mut compiled.workload));
        }
        let mut listeners = self.known.load().listeners.clone();
        listeners.extend(compiled.listeners.iter().filter_map(|listener| match listener.source {
            Source::Fixed(address) => Some(address),
            Source::Redirected | Source::Asked { .. } => None,
        }));
        self.file = Some(file.clone());
        self.know(compiled, listeners);
        self.workers.listen(opened);
        let waiting = self.first.as_ref().map_or_else(Vec::new, |before| before.needs_restart(&file));
        for field in &waiting {
            tracing::warn!(field, "a change takes a restart");
        }
        let version = self.report.applied(waiting);
        self.shared.metrics.reloaded(true);
        tracing::info!(file = %self.path.display(), version, "configuration in force");
        self.first.get_or_insert(file);
        Ok(())
    }

    /// Puts in force what addresses and hosts mean, with what DNS answers.
    fn know(&self, compiled: Compiled, listeners: HashSet<SocketAddr>) {
        let compiled = match &self.file {
            // endpoints can contradict nothing
            Some(file) if file.asks_dns() => compile(&self.with_answers(file)).unwrap_or(compiled),
            _ => compiled,
        };
        let by_address = compiled.destinations;
        self.known.store(Arc::new(Known { by_address, listeners }));
        fill(&self.shared, &self.known.load());
        self.shared.hosts.table.store(Arc::new(compiled.hosts));
    }

    /// DNS has another answer.
    fn refresh(&self) {
        if let Some(Ok(compiled)) = self.file.as_ref().map(compile) {
            self.know(compiled, self.known.load().listeners.clone());
        }
    }

    fn with_answers(&self, file: &File) -> File {
        let mut whole = file.clone();
        for (service, question, identity) in file.questions() {
            let places = self.names.answer(&question).into_iter();
            whole.services[service].endpoints.extend(places.map(|Place { address, weight }| Endpoint {
                address,
                identity: identity.clone(),
                pod: String::new(),
                uid: String::new(),
                zone: String::new(),
                weight,
            }));
        }
        whole
    }

    /// Looks at the files again and again; the last good ones stay in force. Does not return.
    pub(super) async fn keep(mut self, mut sources: Sources, mut hangup: Signal) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        loop {
            let mut told = false;
            tokio::select! {
                _ = look.tick() => {
                    ticks += 1;
                    if ticks.is_multiple_of(SWEEP) {
                        self.shared.destinations.sweep();
                    }
                    // what was refused may have become good by itself, as a certificate does that was not valid yet
                    if self.report.is_current() && sources.are_unchanged() {
                        continue;
                    }
                }
                _ = hangup.recv() => told = true,
                () = self.names.changed() => {
                    self.refresh();
                    continue;
                }
            }
            let is_news = told || !sources.are_unchanged();
            let (read_from, read) = read(&self.path);
            let applied = match read {
                Ok(read) => self.apply(read).await,
                Err(problems) => Err(problems),
            };
            sources = read_from;
            if let Err(problems) = applied {
                if is_news {
                    self.shared.metrics.reloaded(false);
                }
                self.refused(&problems);
            }
        }
    }

    fn refused(&self, problems: &Problems) {
        if self.report.refused(problems) {
            for problem in &problems.0 {
                tracing::error!(%problem, "configuration is not used; the last good one stays in force");
            }
        }
    }

    fn problem(&self, field: &str, problem: String) -> Problems {
        let file = self.path.clone();
        Problems(vec![Problem { file, line: None, column: None, field: field.to_owned(), problem }])
    }
}

impl File {
    /// What DNS is asked, for which service, and who must answer at the addresses.
    fn questions(&self) -> impl Iterator<Item = (usize, Question, &Option<SpiffeId>)> {
        self.services.iter().enumerate().flat_map(|(service, spec)| {
            spec.endpoints_from.iter().filter_map(move |from| {
                let question = match (&from.dns, &from.srv) {
                    (Some(dns), None) => {
                        let (name, port) = name_and_port(dns)?;
                        Question::Addresses { name: name.to_owned(), port }
                    }
                    (None, Some(name)) => Question::Services { name: name.clone() },
                    _ => return None,
                };
                Some((service, question, &from.identity))
            })
        })
    }

    fn asks_dns(&self) -> bool {
        self.questions().next().is_some()
    }

    /// The fields of a new version that stay as they were.
    fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let changes = [
            ("admin", self.admin != new.admin),
            ("workers", self.workers != new.workers),
            ("accessLog", self.access_log != new.access_log),
            ("pod", self.pod != new.pod),
        ];
        changes.into_iter().filter_map(|(field, changed)| changed.then_some(field)).collect()
    }
}

/// Answers what workers ask for; an address that is not in the file is not ours.
fn fill(shared: &Shared, known: &Known) {
    for address in shared.destinations.addresses() {
        let Some(slot) = shared.destinations.get(address) else { continue };
        let meaning = match known.by_address.get(&address) {
            Some(meaning) => meaning.clone(),
            None if known.listeners.contains(&address) => continue,
            None => Arc::new(unknown(address)),
        };
        if slot.load().as_deref() != Some(&*meaning) {
            slot.store(meaning);
        }
    }
}

/// What is not in the file passes as it is. HTTP that a forward proxy lets through goes there in plaintext.
fn unknown(address: SocketAddr) -> Destination {
    let Some(address) = hosts::plain(address) else { return Destination::Passthrough };
    let endpoint = model::Endpoint::bare(address);
    let (timeouts, traffic) = (Timeouts::default(), Traffic::default());
    Destination::Pod { protocol: Protocol::Http1, endpoint, timeouts, traffic }
}

async fn answer(shared: Arc<Shared>, known: Arc<ArcSwap<Known>>) {
    loop {
        shared.destinations.changed().await;
        fill(&shared, &known.load());
    }
}
