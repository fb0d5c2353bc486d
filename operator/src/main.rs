//! The control plane's process: reads arguments, wires the parts, ends them in order. Decides nothing itself.

use std::{io::IsTerminal, net::SocketAddr, time::Duration};

use anyhow::Context;
use byrnie_api::v1::identity_server::IdentityServer;
use byrnie_crds::{MeshTrust, names};
use byrnie_identity::Identity;
use byrnie_model::{SpiffeId, TrustDomain};
use byrnie_operator::{
    admin, api_call,
    args::Args,
    bundle_config_map::Address,
    discovery::{Discovery, replicas::Replicas},
    issuance::{ClusterFacts, Issuance},
    leader::Leader,
    metrics::Metrics,
    serve::{self, Settings},
    store::Stores,
    tasks::Tasks,
    trust::{
        current::Current,
        own_leaf::{OwnLeaf, Published},
        root_secret::RootSecrets,
    },
    watch,
};
use clap::Parser;
use kube::{Api, Client, Config};
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tonic::service::Routes;
use tracing::{error, info};

/// Certificates are asked for on a connection of their own.
const IDENTITY_CONNECTION: Duration = Duration::from_mins(1);
/// Streams move to other replicas now and then, so that they spread again after a restart.
const DISCOVERY_CONNECTION: Duration = Duration::from_hours(1);
/// How long the parts may take to end.
const SHUTDOWN: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log_to_stderr(&args.log)?;
    let tasks = Tasks::default();
    start(&args, &tasks).await?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let failed = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = tasks.failed() => true,
    };
    info!(failed, "stopping");
    if tokio::time::timeout(SHUTDOWN, tasks.stop()).await.is_err() {
        error!("some parts did not end in time");
    }
    anyhow::ensure!(!failed, "a part of the operator ended; see the log above");
    Ok(())
}

/// Builds every part and starts it.
async fn start(args: &Args, tasks: &Tasks) -> anyhow::Result<()> {
    let provider = (*byrnie_identity::provider()).clone();
    provider.install_default().map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let config = Config::infer().await.context("cannot find the API server; is there a kubeconfig?")?;
    let client = watch::client(config).context("cannot make a client for the API server")?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let domain = trust_domain(&client, &args.trust_domain).await?;
    let operator_id = SpiffeId::new(&domain, &args.namespace, &args.service_account)?;
    info!(version = env!("CARGO_PKG_VERSION"), id = %operator_id, "byrnie-operator starts");

    let stores = Stores::start(&client, tasks);
    let secrets = RootSecrets::new(client.clone(), &args.namespace, &args.service_account);
    let current = Current::new(client.clone(), secrets.clone(), domain.clone(), metrics.clone());
    let identity = Identity::new(domain.clone());
    let published = Published::new(None);
    let trust_messages = published.subscribe();
    tasks.spawn("trust", current.clone().follow(tasks.stopping()));
    let own_leaf =
        OwnLeaf { identity: identity.clone(), id: operator_id.clone(), published, metrics: metrics.clone() };
    tasks.spawn("own-leaf", own_leaf.run(current.subscribe(), current.restored(), tasks.stopping()));

    let discovery =
        Discovery::new(stores.clone(), domain.clone(), operator_id.clone(), trust_messages, tasks);
    discovery.register(&mut registry);
    let facts = ClusterFacts::new(client.clone(), stores.clone(), current.clone(), domain.clone());
    let issuance = Issuance::new(facts, domain.clone(), metrics.clone());
    let identity_routes = Routes::new(IdentityServer::new(issuance).max_decoding_message_size(64 * 1024));
    let identity_settings = Settings {
        name: "identity",
        identity: identity.clone(),
        mutual: false,
        max_age: IDENTITY_CONNECTION,
    };
    let listener = listen(args, args.identity_port).await?;
    tasks.spawn("identity", serve::serve(listener, identity_settings, identity_routes, tasks.stopping()));
    let discovery_routes = Routes::new(discovery.clone().server());
    let discovery_settings = Settings {
        name: "discovery",
        identity: identity.clone(),
        mutual: true,
        max_age: DISCOVERY_CONNECTION,
    };
    let listener = listen(args, args.discovery_port).await?;
    tasks.spawn("discovery", serve::serve(listener, discovery_settings, discovery_routes, tasks.stopping()));

    let address = Address {
        service: args.service.clone(),
        namespace: args.namespace.clone(),
        advertise: args.advertise,
        identity_port: args.identity_port,
        discovery_port: args.discovery_port,
        operator_id: operator_id.clone(),
    };
    let replicas = Replicas {
        stores: stores.clone(),
        identity: identity.clone(),
        operator_id,
        service: args.service.clone(),
        namespace: args.namespace.clone(),
        replica: args.replica.clone(),
    };
    let leader = Leader {
        client,
        secrets,
        trust_domain: domain,
        current,
        discovery,
        replicas,
        dwell: args.rotation_dwell,
        evict_uninjected: args.evict_uninjected,
        address,
        metrics,
    };
    leader.start(tasks);

    let (alive, synced) = (stores.clone(), stores);
    let admin = admin::Admin {
        live: Box::new(move || alive.dead().map_or(Ok(()), Err)),
        ready: Box::new(move || ready(&synced, &identity)),
        registry,
    };
    let listener = listen(args, args.admin_port).await?;
    tasks.spawn("admin", admin::serve(listener, admin, tasks.stopping()));
    Ok(())
}

/// MeshTrust's, where there is one already: it cannot change.
async fn trust_domain(client: &Client, default: &TrustDomain) -> anyhow::Result<TrustDomain> {
    let api: Api<MeshTrust> = Api::all(client.clone());
    match api_call::call(api.get_opt(names::MESH_TRUST))
        .await
        .context("cannot read MeshTrust; are our CRDs there?")?
    {
        Some(object) => match byrnie_crds::compile::mesh_trust(&object) {
            Ok(plan) => Ok(plan.trust_domain),
            Err(problems) => {
                anyhow::bail!("MeshTrust default: {}", byrnie_crds::problem::in_one_line(&problems))
            }
        },
        None => Ok(default.clone()),
    }
}

async fn listen(args: &Args, port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(args.listen, port);
    serve::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

fn ready(stores: &Stores, identity: &Identity) -> Result<(), String> {
    if !stores.is_synced() {
        return Err("not everything has been read from the API server yet".into());
    }
    if !identity.ready() {
        return Err("no authority has been loaded yet; is a replica leading?".into());
    }
    Ok(())
}

fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).context("--log is no filter")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    }
    Ok(())
}
