//! A proxy without Kubernetes: everything from one file, which is read again when it changes.
//!
//! The values are those that an operator would send, so the data path cannot tell the difference. A file that is not
//! understood changes nothing.

mod compile;
mod file;
mod traffic;

use std::{
    collections::HashMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use byrnie_identity::{BundleError, Identity, KeyError, KeyPair, Leaf, LeafError, TrustBundle};
use byrnie_model::Destination;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};

pub use self::compile::Mistake;
use self::{compile::Compiled, file::File};
use crate::{
    access_log::{AccessLog, Level},
    admin::Admin,
    bootstrap,
    certificate::News,
    metrics::Metrics,
    run::{self, RunError},
    state::{PodInfo, Shared},
    worker,
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why a file is not used.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not such a file.
    #[error("{path}: {problem}")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// What is wrong, with line and column.
        problem: String,
    },
    /// It says something that cannot be.
    #[error("{path}: {mistake}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What and where.
        mistake: Mistake,
    },
    /// The key.
    #[error("{path}: {source}")]
    Key {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: KeyError,
    },
    /// The certificate.
    #[error("{path}: {source}")]
    Leaf {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: LeafError,
    },
    /// The roots.
    #[error("{path}: {source}")]
    Roots {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: BundleError,
    },
}

/// Everything that one reading of the files gave.
struct Read {
    /// The bytes, to see whether they have changed.
    bytes: Vec<Vec<u8>>,
    file: File,
    compiled: Compiled,
    level: Level,
    bundle: TrustBundle,
    leaf: Leaf,
    leaf_path: PathBuf,
}

/// Runs by a file until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(path: &Path) -> Result<(), RunError> {
    let grace = bootstrap::grace(&|name: &str| std::env::var(name).ok())?;
    let read = read(path)?;
    let metrics = Metrics::default();
    let log = AccessLog::start(read.level, metrics.log_dropped.clone())
        .map_err(run::cannot("start the access log"))?;
    let pod = pod(&read.file);
    let shared = run::shared(Identity::new(read.file.trust_domain.clone()), pod, metrics, log);
    let (listeners, workers, admin) = (read.compiled.listeners.clone(), read.file.workers, read.file.admin);
    let bytes = read.bytes.clone();
    let destinations = Arc::new(ArcSwap::default());
    apply(read, &shared, &destinations)?;
    run::on_this_thread(async {
        tokio::spawn(answer(shared.clone(), destinations.clone()));
        tokio::spawn(watch(path.to_owned(), bytes, shared.clone(), destinations));
        worker::start(&shared, &listeners, workers)?;
        if let Some(address) = admin {
            run::serve_admin(
                address,
                &Arc::new(Admin { shared: shared.clone(), news: News::default(), probes: Vec::new() }),
            )?;
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), file = %path.display(), workers, "proxy started");
        run::until_told(&shared.drain, grace).await
    })
}

fn pod(file: &File) -> PodInfo {
    let own_ports = file.listeners.iter().map(|l| l.listen.port()).chain(file.admin.map(|a| a.port()));
    PodInfo {
        name: file.pod.name.clone(),
        namespace: file.pod.namespace.clone(),
        uid: file.pod.uid.clone(),
        ips: file.pod.addresses.clone(),
        own_ports: own_ports.collect(),
    }
}

type Known = ArcSwap<HashMap<SocketAddr, Arc<Destination>>>;

/// Puts everything in force: trust and certificate, then what is known.
fn apply(read: Read, shared: &Shared, destinations: &Known) -> Result<(), FileError> {
    let roots = |source| FileError::Roots { path: read.leaf_path.clone(), source };
    shared.identity.install_bundle(read.bundle).map_err(roots)?;
    let leaf = |source| FileError::Leaf { path: read.leaf_path.clone(), source };
    shared.identity.install_leaf(read.leaf).map_err(leaf)?;
    shared.workload.store(Some(Arc::new(read.compiled.workload)));
    destinations.store(Arc::new(read.compiled.destinations));
    fill(shared, destinations);
    Ok(())
}

/// Answers what workers ask for; an address that is not in the file is not ours.
fn fill(shared: &Shared, destinations: &Known) {
    let known = destinations.load();
    for address in shared.destinations.addresses() {
        let Some(slot) = shared.destinations.get(address) else { continue };
        let meaning = known.get(&address).cloned().unwrap_or_else(|| Arc::new(Destination::Passthrough));
        if slot.load().as_deref() != Some(&*meaning) {
            slot.store(meaning);
        }
    }
}

async fn answer(shared: Arc<Shared>, destinations: Arc<Known>) {
    loop {
        shared.destinations.changed().await;
        fill(&shared, &destinations);
    }
}

/// Reads the files again and again; the last good ones stay in force.
async fn watch(path: PathBuf, mut current: Vec<Vec<u8>>, shared: Arc<Shared>, destinations: Arc<Known>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = String::new();
    let (mut ticks, sweep_every) = (0u64, 60);
    loop {
        look.tick().await;
        ticks += 1;
        if ticks.is_multiple_of(sweep_every) {
            shared.destinations.sweep();
        }
        let applied = match read(&path) {
            Ok(read) if read.bytes == current => continue,
            Ok(read) => {
                let bytes = read.bytes.clone();
                apply(read, &shared, &destinations).map(|()| bytes)
            }
            Err(error) => Err(error),
        };
        match applied {
            Ok(bytes) => {
                current = bytes;
                said.clear();
                tracing::info!(file = %path.display(), "configuration read again");
            }
            Err(error) => {
                let problem = error.to_string();
                if problem != said {
                    tracing::error!(%problem, "configuration is not used; the last good one stays in force");
                    said = problem;
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<Read, FileError> {
    let bytes_of =
        |path: &Path| fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source });
    let syntax = |problem: String| FileError::Syntax { path: path.to_owned(), problem };
    let text = bytes_of(path)?;
    let utf8 = std::str::from_utf8(&text).map_err(|error| syntax(error.to_string()))?;
    let file: File = serde_saphyr::from_str(utf8).map_err(|error| syntax(error.to_string()))?;
    let level = match file.access_log.as_deref().map(str::parse) {
        None => Level::default(),
        Some(level) => level.map_err(|problem| syntax(format!("accessLog: {problem}")))?,
    };
    if !(1..=64).contains(&file.workers) {
        return Err(syntax("workers: must be 1 to 64".into()));
    }
    let compiled =
        compile::compile(&file).map_err(|mistake| FileError::Content { path: path.to_owned(), mistake })?;
    let beside = |name: &Path| path.parent().unwrap_or(Path::new(".")).join(name);
    let (chain_path, key_path) = (beside(&file.identity.chain), beside(&file.identity.key));
    let (chain, key) = (bytes_of(&chain_path)?, bytes_of(&key_path)?);
    let pair = String::from_utf8_lossy(&key);
    let pair = KeyPair::from_pem(&pair).map_err(|source| FileError::Key { path: key_path, source })?;
    let leaf = Leaf::from_pem(&chain, pair)
        .map_err(|source| FileError::Leaf { path: chain_path.clone(), source })?;
    let mut bundle = TrustBundle::default();
    let mut bytes = vec![text, chain, key];
    for (trust_domain, name) in &file.identity.roots {
        let path = beside(name);
        let pem = bytes_of(&path)?;
        let roots =
            TrustBundle::from_pem(trust_domain, &pem).map_err(|source| FileError::Roots { path, source })?;
        bundle.roots.extend(roots.roots);
        bytes.push(pem);
    }
    Ok(Read { bytes, file, compiled, level, bundle, leaf, leaf_path: chain_path })
}
