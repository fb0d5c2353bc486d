//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::{check::CheckArgs, explain::ExplainArgs};

/// See and explain what the Byrnie service mesh does.
#[derive(Debug, Parser)]
#[command(name = "byrnie", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Cluster {
    /// Kubeconfig file [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Is everything healthy? Says what to do where it is not
    ///
    /// Exit codes: 0 all well (warnings allowed), 1 something failed, 2 it could not be found out.
    Check(CheckArgs),
    /// Would this call pass, and which rule decides?
    ///
    /// Uses the proxies' own evaluator on the policies of the cluster.
    /// Exit codes: 0 allowed, 1 refused, 2 it could not be found out.
    Explain(ExplainArgs),
    /// Print a completion script, e.g. `source <(byrnie completion bash)`
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}
