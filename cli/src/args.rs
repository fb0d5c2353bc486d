//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::{check::CheckArgs, explain::ExplainArgs, trust::TrustCommand};

/// See and explain what the Byrnie service mesh does.
#[derive(Debug, Parser)]
#[command(name = "byrnie", version, propagate_version = true, max_term_width = 100)]
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
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Is everything healthy? Says what to do where it is not
    ///
    /// Looks at the control plane, the trust domain, all policies and splits, and the pods of all meshed namespaces.
    /// Changes nothing: the pod that it makes is a dry run.
    #[command(
        after_help = "Exit codes: 0 well (perhaps with warnings), 1 something failed, 2 it could not be found out."
    )]
    Check(CheckArgs),
    /// Would this call pass, and which rule decides?
    ///
    /// Asks the proxies' own evaluator, with the policies that the cluster has now.
    #[command(
        after_help = "Exit codes: 0 allowed, 1 refused (by any pod that the call may reach), 2 it could not be found out.\n\
        \nExamples:\n  \
          byrnie explain --from shop/web --to shop/payments --method POST --path /charge\n  \
          byrnie explain --from shop/web --to shop/orders:3306 --tcp\n  \
          byrnie explain --from-plaintext --to shop/pod/payments-0:8080"
    )]
    Explain(ExplainArgs),
    /// The mesh's roots: see them, rotate them, put one out of force
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  \
        source <(byrnie completion bash)\n  \
        byrnie completion zsh > \"${fpath[1]}/_byrnie\"\n  \
        byrnie completion fish > ~/.config/fish/completions/byrnie.fish")]
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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_is_asked_must_make_sense() {
        for line in [
            "byrnie check --output json --context x",
            "byrnie explain --from a/b --to a/c",
            "byrnie explain --from-plaintext --to a/pod/c:1 --tcp --kubeconfig f",
            "byrnie explain --from a/b --to a/c:http --method POST --path /x --host h --header a=b --header c=d -o json",
            "byrnie trust status -o json",
            "byrnie trust rotate --wait --context x",
            "byrnie trust compromised 0123abcd",
            "byrnie completion zsh",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for (line, kind) in [
            ("byrnie", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("byrnie explain --to a/c", ErrorKind::MissingRequiredArgument),
            ("byrnie explain --from a/b", ErrorKind::MissingRequiredArgument),
            ("byrnie explain --from a/b --from-plaintext --to a/c", ErrorKind::ArgumentConflict),
            ("byrnie explain --from a/b --to a/c --tcp --path /x", ErrorKind::ArgumentConflict),
            ("byrnie explain --from b --to a/c", ErrorKind::ValueValidation),
            ("byrnie explain --from a/b --to c", ErrorKind::ValueValidation),
            ("byrnie explain --from a/b --to a/c --method G()T", ErrorKind::ValueValidation),
            ("byrnie trust", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("byrnie trust compromised xyz", ErrorKind::ValueValidation),
            ("byrnie completion tcsh", ErrorKind::InvalidValue),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn shells_complete_every_command() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "byrnie", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in
                ["explain", "from-plaintext", "check", "system-namespace", "trust", "rotate", "completion"]
            {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
