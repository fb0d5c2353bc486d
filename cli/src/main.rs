//! `byrnie`, the user's command: parses, connects, prints; each subcommand has a file of its own.

mod api;
mod args;
mod check;
mod explain;
mod output;

use std::process::ExitCode;

use anyhow::Context;
use args::{Args, Command};
use clap::{CommandFactory, Parser};
use kube::{Client, Config, config::KubeConfigOptions};

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
            clap_complete::generate(shell, &mut Args::command(), "byrnie", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(check) => check::run(&client(&args.cluster).await?, &check).await,
        Command::Explain(explain) => explain::run(&client(&args.cluster).await?, &explain).await,
    }
}

async fn client(cluster: &args::Cluster) -> anyhow::Result<Client> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("a cryptography provider was installed already");
    }
    let options = KubeConfigOptions { context: cluster.context.clone(), ..KubeConfigOptions::default() };
    let config = match &cluster.kubeconfig {
        None if cluster.context.is_none() => Config::infer().await.context("cannot read the kubeconfig")?,
        None => Config::from_kubeconfig(&options).await.context("cannot read the kubeconfig")?,
        Some(path) => {
            let kubeconfig = kube::config::Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .with_context(|| format!("kubeconfig {} cannot be used", path.display()))?
        }
    };
    Client::try_from(config).context("cannot connect to the api server")
}
