//! A proxy without Kubernetes: everything from one file, which is read again when it changes.
//!
//! The values are those that an operator would send, so the data path cannot tell the difference. A file that is not
//! understood changes nothing. Each part has a file of its own: file.rs is the file as it is written, read.rs reads it,
//! compile.rs makes of it what the data path knows, reload.rs puts that in force.

mod check;
mod compile;
mod cursor;
mod file;
mod names;
mod node;
mod policy;
mod problem;
mod read;
mod reload;
mod report;
mod schema;
mod traffic;
mod yaml;

use std::{path::Path, sync::Arc};

use arc_swap::ArcSwap;
use byrnie_identity::Identity;
use tokio::signal::unix::{SignalKind, signal};

pub use self::{
    check::{Check, check},
    problem::{Problem, Problems},
    report::Report,
    schema::SCHEMA,
};
use self::{file::File, read::read, reload::Reload};
use crate::{
    access_log::AccessLog,
    admin::Admin,
    bootstrap,
    certificate::News,
    metrics::Metrics,
    run::{self, RunError},
    state::PodInfo,
    worker::Workers,
};

/// Runs by a file until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(path: &Path) -> Result<(), RunError> {
    let grace = bootstrap::grace(&|name: &str| std::env::var(name).ok())?;
    let (sources, read) = read(path);
    let read = read?;
    let metrics = Metrics::default();
    let log = AccessLog::start(read.level, metrics.log_dropped.clone())
        .map_err(run::cannot("start the access log"))?;
    let shared = run::shared(Identity::new(read.file.trust_domain.clone()), pod(&read.file), metrics, log);
    let (workers, admin) = (read.file.workers, read.file.admin);
    run::on_this_thread(async {
        let hangup = signal(SignalKind::hangup()).map_err(run::cannot("listen to signals"))?;
        let started = Workers::start(&shared, workers)?;
        let mut reload = Reload::new(path.to_owned(), shared.clone(), started);
        reload.apply(read).await?;
        if let Some(address) = admin {
            let (news, configuration) = (News::default(), Some(reload.report()));
            let admin = Admin { shared: shared.clone(), news, probes: Vec::new(), configuration };
            run::serve_admin(address, &Arc::new(admin))?;
        }
        tokio::spawn(reload.keep(sources, hangup));
        tracing::info!(version = env!("CARGO_PKG_VERSION"), file = %path.display(), workers, "proxy started");
        run::until_told(&shared.drain, grace).await
    })
}

fn pod(file: &File) -> PodInfo {
    PodInfo {
        name: file.pod.name.clone(),
        namespace: file.pod.namespace.clone(),
        uid: file.pod.uid.clone(),
        ips: file.pod.addresses.clone(),
        own_ports: Arc::new(ArcSwap::from_pointee(own_ports(file))),
    }
}

fn own_ports(file: &File) -> Vec<u16> {
    file.listeners.iter().map(|l| l.listen.port()).chain(file.admin.map(|a| a.port())).collect()
}
