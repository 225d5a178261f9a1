//! The bed's own program: tends a bed, or removes those that were kept.

use anyhow::Result;
use clap::{Parser, Subcommand};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portolan_bed::{beds, clean, tend};

#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Ends a bed when standard input closes.
    Tend {
        /// The bed.
        id: String,
    },
    /// Removes beds.
    Down {
        /// One bed; without it, all of this machine.
        id: Option<String>,
    },
}

fn main() -> Result<()> {
    match Flags::parse().what {
        What::Tend { id } => tend(&id),
        What::Down { id } => {
            let ids = id.map_or_else(beds, |id| Ok(vec![id]))?;
            ids.iter().try_for_each(|id| down(id))
        }
    }
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
