//! `kubectl portolan`: who held an address, why a pod has the one it has, and whether everything agrees.
//!
//! Reads, and changes nothing. What the API server knows comes from there; what only a node knows comes from its agent,
//! through a port-forward. A node that does not answer is named, and makes the answer incomplete.
//!
//! | exit code | means |
//! | --- | --- |
//! | 0 | there is an answer; `check`: everything agrees |
//! | 1 | there is none: nobody held it, the pod has no address; `check`: something does not agree |
//! | 2 | not everything could be looked at, or the question is wrong |

mod check;
mod cluster;
mod explain;
mod facts;
mod output;
mod who;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;

use cluster::Cluster;
use output::{Format, Out};

const EXAMPLES: &str = "\
Examples:
  kubectl portolan who 10.10.1.5                            who has it now, who had it last
  kubectl portolan who 10.10.1.5 --at 2026-11-20T10:00Z     who had it then
  kubectl portolan explain pod erp/db-0                     which address from which pool and why, or why none
  kubectl portolan check                                    do pools, leases, nodes, kernels and pods agree?

Exit codes: 0 answered, 1 nobody or nothing (check: something does not agree), 2 could not look everywhere.";

#[derive(Parser)]
#[command(name = "kubectl-portolan", bin_name = "kubectl portolan", version)]
#[command(about = "Addresses of pods: who held them, where they are from, whether everything agrees")]
#[command(after_help = EXAMPLES)]
struct Flags {
    #[command(flatten)]
    access: Access,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Format::Text, global = true)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// The way to the cluster.
#[derive(Args)]
pub struct Access {
    /// The kubeconfig file, as kubectl's.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context, as kubectl's.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace of Portolan's agents.
    #[arg(long, global = true, default_value = portolan_crds::NAMESPACE, value_name = "NAMESPACE")]
    agents: String,
    /// How long one node may take to answer, in seconds.
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS")]
    node_timeout: u64,
}

#[derive(Subcommand)]
enum Command {
    /// Who has an address, or had it at a time
    #[command(
        after_help = "Times are RFC 3339; seconds may be left out: 2026-11-20T10:00Z, 2026-11-20T11:00+01:00."
    )]
    Who {
        /// The address.
        address: IpAddr,
        /// Who had it then.
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
        /// Everybody who is on record, not only the last.
        #[arg(long, conflicts_with = "at")]
        all: bool,
    },
    /// Which address a pod has from which pool and why, or why it has none
    Explain {
        #[command(subcommand)]
        what: Explained,
    },
    /// Whether pools, leases, nodes' records, kernels, nftables and pods agree
    #[command(after_help = "Pods come and go while this looks, so what does not agree is looked at twice.")]
    Check {
        /// How long to wait before looking again at what does not agree, in seconds.
        #[arg(long, default_value_t = 4, value_name = "SECONDS")]
        settle: u64,
    },
}

#[derive(Subcommand)]
enum Explained {
    /// A pod, running or pending
    Pod {
        /// NAMESPACE/NAME.
        #[arg(value_parser = pod)]
        pod: (String, String),
    },
}

fn pod(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let (namespace, name) = parts.ok_or("write NAMESPACE/NAME, for instance erp/db-0")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// There is an answer.
    Answered,
    /// There is none, or not the one that was hoped for.
    Nothing,
    /// Not everything could be looked at.
    Incomplete,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    let mut out = Out::new(flags.output);
    match run(&flags, &mut out).await {
        Ok(Ended::Answered) => ExitCode::SUCCESS,
        Ok(Ended::Nothing) => ExitCode::from(1),
        Ok(Ended::Incomplete) => ExitCode::from(2),
        Err(error) => {
            out.trouble(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

async fn run(flags: &Flags, out: &mut Out) -> anyhow::Result<Ended> {
    let cluster = Cluster::connect(&flags.access).await?;
    match &flags.command {
        Command::Who { address, at, all } => who::run(&cluster, *address, *at, *all, out).await,
        Command::Explain { what: Explained::Pod { pod } } => {
            explain::run(&cluster, &pod.0, &pod.1, out).await
        }
        Command::Check { settle } => facts::run(&cluster, Duration::from_secs(*settle), out).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_hold_together_and_the_examples_of_the_help_are_understood() {
        Flags::command().debug_assert();
        for line in EXAMPLES.lines().filter_map(|line| line.trim().strip_prefix("kubectl portolan ")) {
            let words = line.split("  ").next().unwrap_or_default().split(' ');
            let flags = Flags::try_parse_from(std::iter::once("kubectl-portolan").chain(words));
            assert!(flags.is_ok(), "{line}: {}", flags.err().unwrap());
        }
    }

    #[test]
    fn a_time_may_leave_its_seconds_out_and_may_be_of_any_zone() {
        let at = |text: &str| {
            let words = ["kubectl-portolan", "who", "10.10.1.5", "--at", text];
            Flags::try_parse_from(words).ok().and_then(|flags| match flags.command {
                Command::Who { at, .. } => at,
                Command::Explain { .. } | Command::Check { .. } => None,
            })
        };
        let full = at("2026-11-20T10:00:00.000Z").unwrap();
        assert_eq!((at("2026-11-20T10:00Z"), at("2026-11-20T11:00+01:00")), (Some(full), Some(full)));
        assert_eq!(at("yesterday"), None);
    }

    #[test]
    fn a_pod_without_its_namespace_is_refused_with_what_to_write() {
        let parsed = Flags::try_parse_from(["kubectl-portolan", "explain", "pod", "db-0"]);
        assert!(parsed.err().unwrap().to_string().contains("NAMESPACE/NAME"));
    }
}
