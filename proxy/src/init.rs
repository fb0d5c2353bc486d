//! Lays the redirect rules of a pod: once, before the application starts, all of them or none.
//!
//! Owns the call of `nft` and the check that the kernel took what was said. Which rules is in [`crate::redirect`].

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use thiserror::Error;

use crate::redirect::{Redirect, TABLE};

/// Why a pod's traffic is not redirected.
#[derive(Debug, Error)]
pub enum InitError {
    /// No `nft`.
    #[error("no nft in PATH nor at /usr/sbin/nft; check that the proxy's own image is used")]
    NoNft,
    /// It did not run.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not allowed.
    #[error(
        "not allowed to change the network: {stderr}; the init container needs capability NET_ADMIN and user 0"
    )]
    NotAllowed {
        /// What nft said.
        stderr: String,
    },
    /// The kernel lacks something.
    #[error(
        "the node's kernel cannot redirect with nftables: {stderr}; it needs the modules nf_tables, nft_chain_nat, \
         nft_redir and nf_conntrack (modprobe them on the node, or use a kernel of 5.2 or later)"
    )]
    Kernel {
        /// What nft said.
        stderr: String,
    },
    /// The rules are not those that were laid.
    #[error("the kernel did not keep the rules: {problem}; does something else change nftables in this pod?")]
    NotKept {
        /// What differs.
        problem: String,
    },
}

/// Lays the rules and reads them back.
///
/// # Errors
/// When they are not in force; then none of them is.
pub fn lay(redirect: &Redirect) -> Result<(), InitError> {
    let nft = find(std::env::var_os("PATH").as_deref())?;
    run(&nft, &["-f", "-"], &redirect.script())?;
    let listing = run(&nft, &["-n", "list", "table", "inet", TABLE], "")?;
    verify(redirect, &listing)
}

fn find(path: Option<&std::ffi::OsStr>) -> Result<PathBuf, InitError> {
    let searched = path.map(|p| std::env::split_paths(p).collect::<Vec<_>>()).unwrap_or_default();
    let candidates = searched.iter().map(PathBuf::as_path).chain([Path::new("/usr/sbin")]);
    candidates.map(|directory| directory.join("nft")).find(|nft| nft.is_file()).ok_or(InitError::NoNft)
}

fn run(nft: &Path, arguments: &[&str], input: &str) -> Result<String, InitError> {
    let failed = |source| InitError::Run { program: nft.to_owned(), source };
    let mut child = Command::new(nft)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // a program that does not read says why on its standard error
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(explain(&output))
}

fn explain(output: &Output) -> InitError {
    let lines = String::from_utf8_lossy(&output.stderr);
    let stderr =
        lines.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nft said nothing").to_owned();
    if stderr.contains("Operation not permitted") || stderr.contains("must be root") {
        InitError::NotAllowed { stderr }
    } else {
        InitError::Kernel { stderr }
    }
}

/// Compares a listing of the table, chain by chain, with what was laid.
fn verify(redirect: &Redirect, listing: &str) -> Result<(), InitError> {
    for (chain, count, last) in redirect.expected() {
        let rules: Vec<&str> = listing
            .lines()
            .map(str::trim)
            .skip_while(|line| *line != format!("chain {chain} {{"))
            .skip(1)
            .take_while(|line| *line != "}")
            .filter(|line| !line.is_empty() && !line.starts_with("type "))
            .collect();
        let found = rules.len();
        if found != count || !rules.last().is_some_and(|rule| rule.contains(&last)) {
            let problem =
                format!("chain {chain} has {found} rules of {count}, or does not end with '{last}'");
            return Err(InitError::NotKept { problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
table inet byrnie {
	chain output {
		type nat hook output priority -100; policy accept;
		meta skuid 14100 return
		oifname \"lo\" return
		meta l4proto 6 redirect to :14140
	}

	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		iifname \"lo\" return
		tcp dport 14191 return
		meta l4proto 6 redirect to :14143
	}

	chain input {
		type filter hook input priority 0; policy accept;
		iifname != \"lo\" tcp dport 14140 drop
	}
}
";

    #[test]
    fn a_listing_is_compared_rule_by_rule() {
        let redirect = Redirect::default();
        assert!(verify(&redirect, LISTING).is_ok());
        for lost in [
            "meta skuid 14100 return",
            "meta l4proto 6 redirect to :14143",
            "tcp dport 14140 drop",
            "chain input",
        ] {
            let listing: Vec<_> = LISTING.lines().filter(|l| !l.contains(lost)).collect();
            assert!(verify(&redirect, &listing.join("\n")).is_err(), "without {lost}");
        }
        assert!(verify(&Redirect { skip_inbound: vec![22], ..redirect }, LISTING).is_err());
    }

    #[test]
    fn errors_say_what_to_do() {
        let output = |stderr: &str| Output {
            status: std::os::unix::process::ExitStatusExt::from_raw(256),
            stdout: Vec::new(),
            stderr: stderr.into(),
        };
        let denied =
            explain(&output("netlink: Error: cache initialization failed: Operation not permitted\n"));
        assert!(matches!(denied, InitError::NotAllowed { .. }) && denied.to_string().contains("NET_ADMIN"));
        let old = explain(&output(
            "\n/dev/stdin:3:1-5: Error: Could not process rule: No such file or directory\n",
        ));
        assert!(matches!(old, InitError::Kernel { .. }) && old.to_string().contains("modprobe"));
        assert!(matches!(find(Some("/nowhere".as_ref())), Ok(_) | Err(InitError::NoNft)));
    }
}
