//! `byrnie`, the user's command: parses, connects, prints; each subcommand has a file of its own.

mod api;
mod args;
mod check;
mod explain;
mod output;
mod trust;

use std::{error::Error, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use args::{Args, Command};
use clap::{CommandFactory, Parser};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// The API server takes a connection within this time, or it is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// And answers within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.context("cannot start").and_then(|runtime| runtime.block_on(run(args)));
    result.unwrap_or_else(|error| {
        anstream::eprintln!("{}: {error:#}", output::bad("error"));
        ExitCode::from(2)
    })
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "byrnie", &mut script);
            output::print(&String::from_utf8(script).context("the script is no text")?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(check) => check::run(&client(&args.cluster).await?, &check).await,
        Command::Explain(explain) => explain::run(&client(&args.cluster).await?, &explain).await,
        Command::Trust(trust) => trust::run(&client(&args.cluster).await?, &trust).await,
    }
}

async fn client(cluster: &args::Cluster) -> anyhow::Result<Client> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("a cryptography provider was installed already");
    }
    let options = KubeConfigOptions { context: cluster.context.clone(), ..KubeConfigOptions::default() };
    let mut config = match &cluster.kubeconfig {
        None if cluster.context.is_none() => Config::infer().await.map_err(|error| {
            let why = error.source().map_or_else(|| error.to_string(), api::causes);
            anyhow!("no cluster is known: {why}; name one with --kubeconfig or $KUBECONFIG")
        })?,
        None => Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?,
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| unusable(&error))?
        }
    };
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(ANSWER_LIMIT);
    Client::try_from(config).map_err(|error| unusable(&error))
}

fn unusable(error: &dyn Error) -> anyhow::Error {
    anyhow!("the kubeconfig cannot be used: {}; check --kubeconfig and --context", api::causes(error))
}
