//! Stands in a plugin's place, runs the plugin, and writes down how long that took: a line of verb, microseconds and
//! success in `NAME.times`. The plugin itself is beside it as `NAME.real`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> io::Result<ExitCode> {
    let here = std::env::current_exe()?;
    let started = Instant::now();
    let status = Command::new(here.with_extension("real")).status()?;
    let took = started.elapsed().as_micros();
    let verb = std::env::var("CNI_COMMAND").unwrap_or_default();
    let mut times = OpenOptions::new().create(true).append(true).open(here.with_extension("times"))?;
    // One write, so that lines of calls at the same time do not mix.
    times.write_all(format!("{verb} {took} {}\n", status.success()).as_bytes())?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
