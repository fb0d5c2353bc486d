//! `byrnie-proxy`: reads the command line and runs one command. What a command does is in the library.

use std::{
    error::Error,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use byrnie_proxy::{
    args::Command,
    await_ready,
    bootstrap::Bootstrap,
    init,
    run::{self, RunError},
    standalone,
};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Gives memory back after a burst; how soon is said where it is built (.cargo/config.toml).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 64;
const CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let done = match Command::parse(std::env::args().skip(1)) {
        Ok(command) => execute(command),
        Err(error) => Err((USAGE, in_full(&error))),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err((status, message)) => {
            // standard error may be closed; the status says it too
            let _ = writeln!(io::stderr(), "byrnie-proxy: {message}");
            ExitCode::from(status)
        }
    }
}

fn execute(command: Command) -> Result<u8, (u8, String)> {
    match command {
        Command::Check { file, json } => {
            let check = standalone::check(&file);
            let text = if json { check.json().map_err(|e| (FAILED, in_full(&e)))? } else { check.text() };
            print(&text)?;
            return Ok(check.exit_status());
        }
        Command::Schema => print(standalone::SCHEMA),
        Command::Help(text) => print(text),
        Command::Version => print(&format!("byrnie-proxy {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Init { redirect, print: true } => print(&redirect.script()),
        Command::Init { redirect, print: false } => init::lay(&redirect).map_err(|e| (FAILED, in_full(&e))),
        Command::Await { port, limit } => await_ready::wait(port, limit).map_err(|e| (FAILED, in_full(&e))),
        Command::Run { config } => {
            log()?;
            let ran = match config {
                Some(file) => standalone::run(&file),
                None => Bootstrap::read(|name| std::env::var(name).ok())
                    .map_err(RunError::from)
                    .and_then(run::beside_pod),
            };
            ran.map_err(|error| {
                let status = if error.is_configuration() { CONFIGURATION } else { FAILED };
                (status, in_full(&error))
            })
        }
    }?;
    Ok(DONE)
}

fn print(text: &str) -> Result<(), (u8, String)> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| (FAILED, in_full(&error)))
}

/// For people on a terminal, for machines elsewhere.
fn log() -> Result<(), (u8, String)> {
    let wanted =
        std::env::var("BYRNIE_LOG").ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "info".into());
    let filter: Targets = wanted.parse().map_err(|error| {
        (CONFIGURATION, format!("environment variable BYRNIE_LOG is '{wanted}': {error}; for example 'info'"))
    })?;
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    if io::stderr().is_terminal() {
        registry.with(format).init();
    } else {
        registry
            .with(format.json().flatten_event(true).with_current_span(false).with_span_list(false))
            .init();
    }
    Ok(())
}

/// An error and everything that caused it.
fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // a String takes all that is written to it
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use byrnie_proxy::args::UsageError;

    use super::*;

    #[test]
    fn wrong_usage_is_64() {
        assert_eq!(
            in_full(&UsageError::Missing),
            "a command is missing; commands are run, check, schema, init, await, version, help"
        );
        assert!(execute(Command::Version).is_ok());
    }
}
