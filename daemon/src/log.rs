//! What a process writes to standard error.
//!
//! Levels and their meanings: `error` needs a human, `warn` is a failure that is retried, `info` is a change of what
//! the process does for its users, `debug` is every step of a pass, `trace` is every message.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// The flags every process has for its log: `#[command(flatten)]` them.
// Without a group: it would be named after the struct, and a process may well call its own flags `Flags`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Flags {
    /// What is logged: a level, or a filter such as `info,portolan_agent=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log_level: String,
    /// One line of text, or one JSON object, per event.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub log_format: Format,
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; coloured on a terminal.
    Text,
    /// For collectors.
    Json,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("--log-level {filter:?} is not a level or filter: {problem}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody in this process was first.
    #[error("the log of this process is already set up")]
    AlreadySet,
}

/// Sets up this process's log and writes its first line, which names the process and its version.
///
/// # Errors
/// When the filter does not parse, or a log is already set up.
pub fn init(name: &str, version: &str, flags: &Flags) -> Result<(), Error> {
    let filter = filter(&flags.log_level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match flags.log_format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| Error::AlreadySet)?;
    tracing::info!(version, "{name} starts");
    Ok(())
}

fn filter(text: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(text)
        .map_err(|error| Error::Filter { filter: text.to_owned(), problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_and_a_filter_per_module_are_both_understood() {
        assert!(filter("debug").is_ok());
        assert!(filter("warn,portolan_engine::proxy=trace").is_ok());
    }

    #[test]
    fn a_filter_that_does_not_parse_is_named() {
        let error = filter("portolan=loud").unwrap_err();
        assert!(error.to_string().contains("portolan=loud"), "{error}");
    }
}
