//! How the control plane grows: fake pods behind real Services, a proxy's streams without its traffic, and a table of
//! what the operator takes for them.
//!
//! Owns the order of things and the arguments. It runs in the network of a cluster's node (see `tests/scale/run`).

mod channel;
mod churn;
mod cluster;
mod journal;
mod operator;
mod proxy;
mod reconnect;
mod report;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use journal::{Events, Journal, since};
use report::Row;
use tokio::time::Instant;

/// Measures how Byrnie's operator grows with endpoints, Services and proxies.
#[derive(Parser)]
struct Args {
    /// Sizes, in endpoints, from small to large; each has a tenth as many Services and as many proxies.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 10_000])]
    sizes: Vec<usize>,
    /// How long endpoints change, at each size.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Changes in a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Services that each proxy calls.
    #[arg(long, default_value_t = 10)]
    destinations: usize,
    /// Print JSON, not a table.
    #[arg(long)]
    json: bool,
}

/// Endpoints of each Service.
const ENDPOINTS: usize = 10;
/// All streams must be up within this, or the run has failed.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(
        args.sizes.is_sorted() && args.sizes.first().is_some_and(|&size| size >= ENDPOINTS),
        "sizes grow"
    );
    let provider = (*byrnie_identity::provider()).clone();
    ensure!(provider.install_default().is_ok(), "a TLS provider is installed already");
    let client = kube::Client::try_default().await.context("cannot find the cluster")?;
    let (journal, events) = Journal::new();
    let mut run = Run {
        cluster: cluster::Cluster::new(client.clone()),
        operator: operator::Operator::new(client.clone()),
        client,
        journal,
        events,
        churn: churn::Churn::default(),
        followers: Vec::new(),
    };
    let mut rows = Vec::new();
    let mut problem = None;
    for &size in &args.sizes {
        match run.measure(size, &args).await {
            Ok(row) => rows.push(row),
            Err(error) => {
                problem = Some(error.context(format!("at {size} endpoints")));
                break;
            }
        }
    }
    let held = report::print(&rows, args.json)?;
    problem.map_or(Ok(()), Err)?;
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What grows.
struct Run {
    client: kube::Client,
    cluster: cluster::Cluster,
    operator: operator::Operator,
    journal: Journal,
    events: Events,
    churn: churn::Churn,
    /// How many proxies asked for each Service.
    followers: Vec<usize>,
}

impl Run {
    /// Grows to a size and measures there.
    async fn measure(&mut self, size: usize, args: &Args) -> Result<Row> {
        let Self { client, cluster, operator, journal, events, churn, followers } = self;
        let services = size / ENDPOINTS;
        say(&format!("{size} endpoints: creating pods and Services"));
        let began = Instant::now();
        cluster.grow(services, ENDPOINTS).await?;
        let created = since(began);

        let running = events.streams();
        followers.resize(services, 0);
        let fleet = cluster.fleet(running).await?;
        say(&format!("{size} endpoints: starting {} more proxies ({created:.0?} to create)", fleet.len()));
        let began = Instant::now();
        for (index, pod) in fleet.into_iter().enumerate() {
            let wanted = cluster.wanted(running + index, args.destinations);
            for &service in wanted.values() {
                followers[service] += 1;
            }
            let proxy = proxy::Proxy { index: running + index, pod, wanted, journal: journal.clone() };
            tokio::spawn(proxy.live(cluster.control_plane.clone().context("no trust was found")?));
        }
        let up = events.all_up(services, began, PATIENCE).await?;

        say(&format!("{size} endpoints: {} changes a second for {} s", args.rate, args.seconds));
        let before = operator.usage().await?;
        let pace = (args.rate, args.seconds);
        let outcome = churn.run(client, &cluster.services, followers, pace, events).await?;
        let after = operator.usage().await?;

        say(&format!("{size} endpoints: ending one operator, then both"));
        let one = reconnect::after_end_of(operator, 1, services, events, PATIENCE).await?;
        let both = reconnect::after_end_of(operator, 2, services, events, PATIENCE).await?;
        let restarted = operator.usage().await?;
        Ok(Row {
            endpoints: size,
            services,
            streams: services,
            started: services - running,
            start_seconds: up.as_secs_f64(),
            churn: outcome,
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            machine_busy: after.busy_since(&before),
            rss_mib: after.rss_mib,
            peak_mib: after.peak_mib.max(restarted.peak_mib),
            one,
            both,
        })
    }
}

fn say(text: &str) {
    eprintln!("{text}");
}
