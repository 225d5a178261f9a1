//! The bed's own program: starts a bed to play with, tends one, or removes those that were kept.

use std::io::Write;

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portolan_bed::{Bed, Plan, beds, clean, kept_beds, repository, tend};

#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Starts a bed without a network plugin, loads the images that `make images` built, and leaves it running.
    Up {
        /// How many nodes.
        #[arg(default_value_t = 3)]
        nodes: u8,
        /// IPv6 beside IPv4.
        #[arg(long)]
        dual_stack: bool,
    },
    /// Ends a bed when standard input closes.
    Tend {
        /// The bed.
        id: String,
    },
    /// Removes beds.
    Down {
        /// One bed; without it, those that were kept.
        id: Option<String>,
        /// All beds of this machine, also those in use.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> Result<()> {
    match Flags::parse().what {
        What::Up { nodes, dual_stack } => up(nodes, dual_stack),
        What::Tend { id } => tend(&id),
        What::Down { id, all } => {
            let ids = match id {
                Some(id) => vec![id],
                None if all => beds()?,
                None => kept_beds()?,
            };
            ids.iter().try_for_each(|id| down(id))
        }
    }
}

fn up(nodes: u8, dual_stack: bool) -> Result<()> {
    let mut output = std::io::stdout();
    let plan = if dual_stack { Plan::bank(nodes).with_both_families() } else { Plan::bank(nodes) };
    let bed = Bed::start(plan, &mut |step| {
        // Without a reader the bed still starts.
        let _ = writeln!(std::io::stdout(), "{step}");
    })?;
    // What `make images` built is there for `kubectl apply -k manifests/overlays/bed`.
    for image in ["agent", "controller"] {
        let archive = repository().join(format!("target/images/{image}.tar"));
        if archive.exists() {
            bed.load_image(&archive)?;
        }
    }
    writeln!(output, "bed {}: KUBECONFIG={}", bed.id(), bed.kubeconfig().display())?;
    bed.keep()
}

fn down(id: &str) -> Result<()> {
    let pid = std::fs::read_to_string(format!("/var/tmp/ptl{id}/tender.pid")).unwrap_or_default();
    if let Ok(pid) = pid.trim().parse::<i32>()
        && std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(id))
    {
        // It may end by itself at the same moment.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    clean(id)
}
