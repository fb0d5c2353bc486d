//! The command line: a handful of words, read without a library, because every pod carries this binary.

use std::{fmt::Write, path::PathBuf, str::FromStr, time::Duration};

use thiserror::Error;

use crate::redirect::Redirect;

/// What the process shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Be a proxy: beside a pod, or by a file.
    Run {
        /// Configuration file; without one the environment and the control plane say everything.
        config: Option<PathBuf>,
    },
    /// Say what is wrong with a configuration file.
    Check {
        /// Which.
        file: PathBuf,
        /// For a program.
        json: bool,
    },
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Lay the redirect rules of a pod.
    Init {
        /// The rules.
        redirect: Redirect,
        /// Print them instead.
        print: bool,
    },
    /// Return when the proxy of this pod is ready.
    Await {
        /// Its admin port.
        port: u16,
        /// How long to wait.
        limit: Duration,
    },
    /// Print the version.
    Version,
    /// Print how to use it.
    Help(&'static str),
}

/// Why a command line is not understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UsageError {
    /// No such command.
    #[error("there is no command '{0}'; commands are run, check, schema, init, await, version, help")]
    Command(String),
    /// No command at all.
    #[error("a command is missing; commands are run, check, schema, init, await, version, help")]
    Missing,
    /// No such option.
    #[error("'{command}' has no option '{option}'; see byrnie-proxy {command} --help")]
    Option {
        /// Of this command.
        command: &'static str,
        /// The option.
        option: String,
    },
    /// An option without its value, or with one that it cannot have.
    #[error("{option} wants {wanted}, not {found}")]
    Value {
        /// The option.
        option: &'static str,
        /// What it takes.
        wanted: &'static str,
        /// What it got.
        found: String,
    },
}

/// What `byrnie-proxy help` says.
pub const HELP: &str = "\
byrnie-proxy: the data plane of the Byrnie service mesh

Usage: byrnie-proxy <command> [options]

Commands:
  run      Carry the traffic of a pod (or, with --config, of anything)
  check    Say what is wrong with a configuration file
  schema   Print the JSON Schema of the configuration file
  init     Redirect the TCP traffic of a pod to its proxy (needs NET_ADMIN)
  await    Wait until the proxy of this pod is ready
  version  Print the version
  help     Print this

'byrnie-proxy <command> --help' says more about one.
Exit status: 0 done, 1 failed, 64 wrong usage, 78 wrong configuration.
";

const RUN_HELP: &str = "\
Carry the traffic of a pod.

Usage: byrnie-proxy run [--config FILE]

Options:
  --config FILE  Listeners, identity, services and policies from a YAML file, which is
                 read again whenever it changes. Without it the proxy is told by its
                 environment (BYRNIE_*), the files in /var/run/byrnie and the operator.

Environment:
  BYRNIE_LOG            what to log: error, warn, info (default), debug, or
                        per module, for example 'info,byrnie_proxy::control=debug'
  BYRNIE_ACCESS_LOG     all, denied (default: what was refused or failed), or off
  BYRNIE_WORKERS        threads that carry traffic (default 1)
  BYRNIE_GRACE_SECONDS  how long requests may take to end after SIGTERM (default 25)
";

const CHECK_HELP: &str = "\
Read a configuration file, and the files that it names, as 'run' would, and print all
that is wrong: file, line and column, the field, what to do.

Usage: byrnie-proxy check FILE [options]

Options:
  -o, --output FORMAT  text (default) or json

Exit status: 0 nothing is wrong, 1 something is, 2 the file cannot be read.
";

const SCHEMA_HELP: &str = "\
Print the JSON Schema (2020-12) of the configuration file, for editors.

Usage: byrnie-proxy schema
";

const INIT_HELP: &str = "\
Redirect the TCP traffic of this network namespace to the proxy, in one step: IPv4 and
IPv6, all rules or none. Running it again replaces the rules. UDP is left alone, and so
is what goes over the loopback interface.

Usage: byrnie-proxy init [options]

Options:
  --inbound-port PORT         where the proxy takes calls to the pod (14143)
  --outbound-port PORT        where the proxy takes the pod's calls (14140)
  --admin-port PORT           never redirected (14191)
  --proxy-uid UID             whose connections are never redirected (14100)
  --skip-inbound-ports A,B    calls to these ports reach the application directly
  --skip-outbound-ports A,B   calls to these ports leave the pod directly
  --print                     print the rules instead of laying them
";

const AWAIT_HELP: &str = "\
Wait until the proxy of this pod has its certificate and its policy.

Usage: byrnie-proxy await [options]

Options:
  --admin-port PORT  where the proxy says so (14191)
  --timeout SECONDS  give up after this long (120)
";

impl Command {
    /// Reads a command line, the program's name not included.
    ///
    /// # Errors
    /// When it says anything that is not understood.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut arguments = arguments.into_iter();
        match arguments.next().as_deref() {
            None => Err(UsageError::Missing),
            Some("help" | "--help" | "-h") => Ok(Self::Help(HELP)),
            Some("version" | "--version" | "-V") => Ok(Self::Version),
            Some("run") => run(Options { command: "run", arguments }),
            Some("check") => check(Options { command: "check", arguments }),
            Some("schema") => schema(Options { command: "schema", arguments }),
            Some("init") => init(Options { command: "init", arguments }),
            Some("await") => wait(Options { command: "await", arguments }),
            Some(other) => Err(UsageError::Command(other.to_owned())),
        }
    }
}

fn run(mut options: Options<impl Iterator<Item = String>>) -> Result<Command, UsageError> {
    let mut config = None;
    while let Some(option) = options.next() {
        match option.name() {
            "--config" => config = Some(options.text("--config", "a file", &option)?.into()),
            "--help" | "-h" => return Ok(Command::Help(RUN_HELP)),
            _ => return Err(options.unknown(option)),
        }
    }
    Ok(Command::Run { config })
}

fn check(mut options: Options<impl Iterator<Item = String>>) -> Result<Command, UsageError> {
    let (mut file, mut json) = (None, false);
    while let Some(option) = options.next() {
        match option.name() {
            "-o" | "--output" => {
                json = match options.text("--output", "text or json", &option)?.as_str() {
                    "json" => true,
                    "text" => false,
                    other => {
                        let (option, wanted, found) = ("--output", "text or json", quoted(other));
                        return Err(UsageError::Value { option, wanted, found });
                    }
                }
            }
            "--help" | "-h" => return Ok(Command::Help(CHECK_HELP)),
            name if !name.starts_with('-') && file.is_none() => file = Some(PathBuf::from(option.0)),
            _ => return Err(options.unknown(option)),
        }
    }
    let nothing = || UsageError::Value { option: "check", wanted: "a file", found: "nothing".into() };
    Ok(Command::Check { file: file.ok_or_else(nothing)?, json })
}

fn schema(mut options: Options<impl Iterator<Item = String>>) -> Result<Command, UsageError> {
    match options.next() {
        None => Ok(Command::Schema),
        Some(option) if matches!(option.name(), "--help" | "-h") => Ok(Command::Help(SCHEMA_HELP)),
        Some(option) => Err(options.unknown(option)),
    }
}

fn init(mut options: Options<impl Iterator<Item = String>>) -> Result<Command, UsageError> {
    let mut redirect = Redirect::default();
    let mut print = false;
    while let Some(option) = options.next() {
        match option.name() {
            "--inbound-port" => redirect.inbound_port = options.port("--inbound-port", &option)?,
            "--outbound-port" => redirect.outbound_port = options.port("--outbound-port", &option)?,
            "--admin-port" => redirect.admin_port = options.port("--admin-port", &option)?,
            "--proxy-uid" => redirect.proxy_uid = options.value("--proxy-uid", "a user id", &option)?,
            "--skip-inbound-ports" => {
                redirect.skip_inbound = options.ports("--skip-inbound-ports", &option)?;
            }
            "--skip-outbound-ports" => {
                redirect.skip_outbound = options.ports("--skip-outbound-ports", &option)?;
            }
            "--print" => print = true,
            "--help" | "-h" => return Ok(Command::Help(INIT_HELP)),
            _ => return Err(options.unknown(option)),
        }
    }
    Ok(Command::Init { redirect, print })
}

fn wait(mut options: Options<impl Iterator<Item = String>>) -> Result<Command, UsageError> {
    let (mut port, mut limit) = (14191, Duration::from_mins(2));
    while let Some(option) = options.next() {
        match option.name() {
            "--admin-port" => port = options.port("--admin-port", &option)?,
            "--timeout" => limit = Duration::from_secs(options.value("--timeout", "seconds", &option)?),
            "--help" | "-h" => return Ok(Command::Help(AWAIT_HELP)),
            _ => return Err(options.unknown(option)),
        }
    }
    Ok(Command::Await { port, limit })
}

/// One argument: an option, perhaps with its value after `=`.
struct Argument(String);

impl Argument {
    fn name(&self) -> &str {
        self.0.split_once('=').map_or(&self.0, |(name, _)| name)
    }
}

struct Options<I> {
    command: &'static str,
    arguments: I,
}

impl<I: Iterator<Item = String>> Options<I> {
    fn next(&mut self) -> Option<Argument> {
        self.arguments.next().map(Argument)
    }

    fn unknown(&self, option: Argument) -> UsageError {
        UsageError::Option { command: self.command, option: option.0 }
    }

    fn text(
        &mut self,
        option: &'static str,
        wanted: &'static str,
        given: &Argument,
    ) -> Result<String, UsageError> {
        let value = match given.0.split_once('=') {
            Some((_, value)) => Some(value.to_owned()),
            None => self.arguments.next(),
        };
        value.filter(|v| !v.is_empty()).ok_or(UsageError::Value { option, wanted, found: "nothing".into() })
    }

    fn value<T: FromStr>(
        &mut self,
        option: &'static str,
        wanted: &'static str,
        given: &Argument,
    ) -> Result<T, UsageError> {
        let text = self.text(option, wanted, given)?;
        text.parse().map_err(|_| UsageError::Value { option, wanted, found: quoted(&text) })
    }

    fn port(&mut self, option: &'static str, given: &Argument) -> Result<u16, UsageError> {
        match self.value(option, "a port (1 to 65535)", given)? {
            0 => Err(UsageError::Value { option, wanted: "a port (1 to 65535)", found: quoted("0") }),
            port => Ok(port),
        }
    }

    /// A list; an empty text is an empty list.
    fn ports(&mut self, option: &'static str, given: &Argument) -> Result<Vec<u16>, UsageError> {
        if given.0.ends_with('=') {
            return Ok(Vec::new());
        }
        let wanted = "ports (1 to 65535) with commas between them";
        let text = match given.0.split_once('=') {
            Some((_, value)) => value.to_owned(),
            None => {
                self.arguments.next().ok_or(UsageError::Value { option, wanted, found: "nothing".into() })?
            }
        };
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words
            .map(|word| match word.parse() {
                Ok(port @ 1..) => Ok(port),
                _ => Err(UsageError::Value { option, wanted, found: quoted(word) }),
            })
            .collect()
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    // a String takes all that is written to it
    let _ = write!(quoted, "'{}'", text.escape_debug());
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, UsageError> {
        Command::parse(line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned))
    }

    #[test]
    fn commands_are_understood() {
        assert_eq!(parse("run"), Ok(Command::Run { config: None }));
        assert_eq!(parse("run --config x.yaml"), Ok(Command::Run { config: Some("x.yaml".into()) }));
        assert_eq!(parse("run --config=x.yaml"), parse("run --config x.yaml"));
        let redirect = Redirect {
            proxy_uid: 7,
            skip_inbound: vec![22, 80],
            skip_outbound: vec![],
            ..Redirect::default()
        };
        assert_eq!(
            parse("init --proxy-uid 7 --skip-inbound-ports 22,80 --skip-outbound-ports= --admin-port=14191"),
            Ok(Command::Init { redirect, print: false })
        );
        assert_eq!(
            parse("await --timeout 5"),
            Ok(Command::Await { port: 14191, limit: Duration::from_secs(5) })
        );
        let check = |json| Ok(Command::Check { file: "x.yaml".into(), json });
        assert_eq!(parse("check x.yaml"), check(false));
        assert_eq!(parse("check x.yaml -o json"), check(true));
        assert_eq!(parse("check --output=json x.yaml"), check(true));
        assert_eq!(parse("schema"), Ok(Command::Schema));
        assert_eq!(parse("--version"), Ok(Command::Version));
        assert_eq!(parse("init -h"), Ok(Command::Help(INIT_HELP)));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, message) in [
            ("", "a command is missing; commands are run, check, schema, init, await, version, help"),
            (
                "walk",
                "there is no command 'walk'; commands are run, check, schema, init, await, version, help",
            ),
            ("run x", "'run' has no option 'x'; see byrnie-proxy run --help"),
            ("run --config", "--config wants a file, not nothing"),
            ("init --admin-port 0", "--admin-port wants a port (1 to 65535), not '0'"),
            ("init --admin-port 70000", "--admin-port wants a port (1 to 65535), not '70000'"),
            (
                "init --skip-inbound-ports 1,x",
                "--skip-inbound-ports wants ports (1 to 65535) with commas between them, not 'x'",
            ),
            ("check", "check wants a file, not nothing"),
            ("check x -o yaml", "--output wants text or json, not 'yaml'"),
            ("check x y", "'check' has no option 'y'; see byrnie-proxy check --help"),
            ("await --timeout soon", "--timeout wants seconds, not 'soon'"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), message);
        }
    }
}
