//! A whole proxy, put together: the main thread keeps identity, control stream and admin port, the workers carry
//! traffic, and a signal ends it well.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use byrnie_identity::Identity;
use thiserror::Error;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use crate::{
    access_log::AccessLog,
    admin::{self, Admin},
    bootstrap::{self, Bootstrap, BootstrapError, ControlPlane},
    certificate::{self, News},
    control,
    drain::Drain,
    hosts::Hosts,
    metrics::Metrics,
    standalone::Problems,
    state::{Destinations, LastTime, PodInfo, Shared},
    worker::{self, StartError},
};

/// What is written last still has to leave.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Why a proxy does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// It was told nonsense.
    #[error(transparent)]
    Configuration(#[from] BootstrapError),
    /// Its file says nonsense.
    #[error(transparent)]
    File(#[from] Problems),
    /// The system refuses.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The workers did not start.
    #[error(transparent)]
    Workers(#[from] StartError),
}

impl RunError {
    /// Whether somebody must change the configuration, rather than try again.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Configuration(_) | Self::File(_))
    }
}

/// Runs the proxy of a pod until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn beside_pod(bootstrap: Bootstrap) -> Result<(), RunError> {
    let plane = ControlPlane::read(&bootstrap.directory)?;
    let metrics = Metrics::default();
    let log = AccessLog::start(bootstrap.access_log, metrics.log_dropped.clone())
        .map_err(cannot("start the access log"))?;
    let shared = shared(Identity::new(plane.trust_domain), bootstrap.pod.clone(), metrics, log);
    on_this_thread(async {
        let news = News::default();
        tokio::spawn(certificate::keep(shared.identity.clone(), bootstrap.directory.clone(), news.clone()));
        tokio::spawn(control::keep(shared.clone(), bootstrap.directory.clone(), news.clone()));
        let listeners = bootstrap.listeners();
        worker::start(&shared, &listeners, bootstrap.workers)?;
        let admin =
            Arc::new(Admin { shared: shared.clone(), news, probes: bootstrap.probes, configuration: None });
        for address in bootstrap::every_address(bootstrap.ports.admin_port) {
            serve_admin(address, &admin)?;
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            pod = shared.pod.name,
            namespace = shared.pod.namespace,
            workers = bootstrap.workers,
            "proxy started"
        );
        until_told(&shared.drain, bootstrap.grace).await
    })
}

/// State that nothing is known about yet.
pub fn shared(identity: Identity, pod: PodInfo, metrics: Metrics, log: AccessLog) -> Arc<Shared> {
    count_panics(&metrics);
    Arc::new(Shared {
        identity,
        workload: arc_swap::ArcSwapOption::empty(),
        destinations: Destinations::default(),
        hosts: Hosts::default(),
        metrics: Arc::new(metrics),
        log,
        standings: Arc::default(),
        given_up: LastTime::default(),
        drain: Drain::default(),
        pod,
    })
}

/// The main thread's own runtime: what is done here takes no time from a worker.
pub(crate) fn on_this_thread<T>(main: impl Future<Output = Result<T, RunError>>) -> Result<T, RunError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(cannot("start the main thread's runtime"))?.block_on(main)
}

/// Answers on an admin address.
pub(crate) fn serve_admin(address: SocketAddr, admin: &Arc<Admin>) -> Result<(), RunError> {
    let listener = admin::bind(address).map_err(cannot(format!("listen on {address} (admin)")))?;
    tokio::spawn(admin::serve(listener, admin.clone()));
    Ok(())
}

/// Returns after a signal, when what was in flight has ended or the grace period is over. A second signal ends it at
/// once.
pub(crate) async fn until_told(drain: &Drain, grace: Duration) -> Result<(), RunError> {
    let listen = |kind| signal(kind).map_err(cannot("listen to signals"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    either(&mut terminate, &mut interrupt).await;
    tracing::info!(grace_seconds = grace.as_secs(), "told to stop: finishing what is in flight");
    drain.begin();
    tokio::select! {
        left = drain.finish(grace) => if left > 0 {
            tracing::warn!(left, "grace period is over: some requests or connections are cut off");
        },
        () = either(&mut terminate, &mut interrupt) => tracing::warn!("told to stop again: stopping now"),
    }
    sleep(LAST_WORDS).await;
    Ok(())
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

pub(crate) fn cannot(what: impl Into<String>) -> impl FnOnce(io::Error) -> RunError {
    let what = what.into();
    move |source| RunError::System { what, source }
}

/// A panic cuts one connection; that it happened must not go unseen.
fn count_panics(metrics: &Metrics) {
    let panics = metrics.panics.clone();
    std::panic::set_hook(Box::new(move |panic| {
        panics.inc();
        let payload = panic.payload();
        let said =
            payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let at = panic.location().map(ToString::to_string);
        tracing::error!(message = said, at, "a bug cut off a connection; please report it");
    }));
}
