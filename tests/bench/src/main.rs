//! `make bench`: how fast, as ratios within one run. Writes `target/bench/report.json`; ends with 0 only if every bound
//! holds.
//!
//! Three measurements, each with a world of its own: `addresses` (core alone), `calls` (one node of two, where what is compared
//! is called in turn, so that whatever else the machine does falls on all), `starts` (ten nodes and a thousand pods, or fewer).
//! `inside` is this program again, on a node of the test bed.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

mod addresses;
mod calls;
mod floor;
mod inside;
mod plugin;
mod report;
mod starts;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use report::Figure;

#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    what: Option<What>,
    /// Only these figures; without a name, all.
    #[arg(long, num_args = 0..)]
    only: Vec<String>,
    #[command(flatten)]
    size: Size,
}

/// How large the cluster is in which pods start. A figure of a smaller one is no figure of the full one; the lines above
/// the table say what it was.
#[derive(Clone, Copy, clap::Args)]
struct Size {
    /// Nodes.
    #[arg(long, default_value_t = 10)]
    nodes: u8,
    /// Pods, and addresses.
    #[arg(long, default_value_t = 1000)]
    pods: u32,
}

#[derive(Subcommand)]
enum What {
    /// Measures calls; runs on a node of the test bed.
    #[command(hide = true)]
    Inside(inside::Flags),
}

/// A measurement, and the figures it yields.
type Measurement = (&'static [&'static str], fn(&Clock, Size) -> Result<Vec<Figure>>);

const MEASUREMENTS: [Measurement; 3] = [
    (&addresses::FIGURES, addresses::measure),
    (&calls::FIGURES, calls::measure),
    (&starts::FIGURES, starts::measure),
];

fn main() -> Result<ExitCode> {
    let flags = Flags::parse();
    if let Some(What::Inside(flags)) = flags.what {
        inside::run(&flags)?;
        return Ok(ExitCode::SUCCESS);
    }
    let known = || MEASUREMENTS.iter().flat_map(|(figures, _)| figures.iter());
    if let Some(unknown) = flags.only.iter().find(|name| !known().any(|figure| figure == name)) {
        bail!("no figure is called {unknown}; there are {}", known().copied().collect::<Vec<_>>().join(", "));
    }
    let wanted = |name: &str| flags.only.is_empty() || flags.only.iter().any(|one| one == name);
    let clock = Clock(Instant::now());
    let mut figures = vec![];
    for (names, measure) in MEASUREMENTS {
        if names.iter().any(|name| wanted(name)) {
            figures.extend(measure(&clock, flags.size)?.into_iter().filter(|figure| wanted(figure.name)));
        }
    }
    let ok = report::write(&figures)?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says what is being done, and since when.
struct Clock(Instant);

impl Clock {
    fn step(&self, what: &str) {
        println!("[{:5.1} s] {what}", self.0.elapsed().as_secs_f64());
    }

    /// A figure that is not held against a bound.
    fn note(&self, what: &str, value: &str) {
        self.step(&format!("  {what:<58} {value:>12}"));
    }
}

/// The middle one, and the 99th percentile; of nothing, zero.
fn middle_and_p99(of: &[Duration]) -> (Duration, Duration) {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    let at = |position: usize| sorted.get(position).copied().unwrap_or_default();
    (at(sorted.len() / 2), at(sorted.len() * 99 / 100))
}

/// The middle one.
fn median(of: &[Duration]) -> Duration {
    middle_and_p99(of).0
}

/// In milliseconds, for people.
fn milliseconds(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1000.0)
}
