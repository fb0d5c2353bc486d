//! The injector: wires its parts, and ends when one of them does.

use std::{io::IsTerminal, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use byrnie_injector::{
    admission::{self, Webhooks},
    args::Args,
    ca_bundle::CaBundles,
    certificate::{Keeper, Serving},
    metrics::Metrics,
    namespace::Namespaces,
    pod_certificates::PodCertificates,
    server,
    targets::Targets,
};
use clap::Parser;
use jiff::Timestamp;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How often certificate and CA bundles are looked at.
const UPKEEP: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log(&args.log)?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("a cryptography provider was installed already");
    }
    let client = Client::try_default()
        .await
        .context("cannot reach kubernetes: neither a service account nor a kubeconfig works")?;
    let (namespaces, namespaces_watch) = Namespaces::watch(&client);
    let (targets, services_watch) = Targets::watch(&client);
    let (pod_certificates, pod_certificates_watch) = PodCertificates::watch(&client);
    let serving = Arc::new(Serving::default());
    let webhooks = Arc::new(Webhooks {
        settings: args.settings(),
        namespaces,
        targets,
        pod_certificates,
        metrics: Metrics::default(),
    });
    let keeper =
        Keeper::new(Api::namespaced(client.clone(), &args.namespace), args.dns_names(), serving.clone());
    let bundles = CaBundles::new(&client, args.webhook_configuration.clone());
    let tls = server::tls(serving.clone()).context("cannot set TLS up")?;
    let stop = CancellationToken::new();
    tracing::info!(listen = %args.listen, version = env!("CARGO_PKG_VERSION"), "injector starts");
    let admin = server::admin(webhooks.clone(), serving);
    tokio::select! {
        served = server::serve(args.listen, Some(tls), admission::routes(webhooks.clone()), stop.clone()) => {
            served.with_context(|| format!("cannot listen on {}", args.listen))
        }
        served = server::serve(args.admin_listen, None, admin, stop.clone()) => {
            served.with_context(|| format!("cannot listen on {}", args.admin_listen))
        }
        () = namespaces_watch => bail!("the watch on namespaces ended"),
        () = services_watch => bail!("the watch on services ended"),
        () = pod_certificates_watch => bail!("the watch on the ClusterTrustBundle ended"),
        () = upkeep(&keeper, &bundles, &webhooks.metrics) => unreachable!("upkeep never ends"),
        ended = terminated(stop.clone()) => ended,
    }
}

async fn upkeep(keeper: &Keeper, bundles: &CaBundles, metrics: &Metrics) {
    loop {
        match keeper.keep(Timestamp::now()).await {
            Ok(stored) => {
                if let Ok(expiry) = stored.expires() {
                    metrics.certificate_expires(expiry.as_second());
                }
                if let Err(error) = bundles.keep(&stored.ca_bundle).await {
                    tracing::warn!(%error, "cannot tell the api server which CA to trust; trying again");
                }
            }
            Err(error) => tracing::warn!(%error, "cannot keep the serving certificate; trying again"),
        }
        tokio::time::sleep(UPKEEP).await;
    }
}

/// Waits for SIGTERM, keeps serving while the Service's endpoints learn of it, then stops.
async fn terminated(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    terminate.recv().await;
    tracing::info!("stopping: new connections are served for a few seconds more");
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.cancel();
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

fn log(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("log filter {filter:?}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
    Ok(())
}
