//! Running programs of the machine, with errors that say what they said.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be started or fails: the command and what it printed.
pub fn run(command: &[&str]) -> Result<String> {
    run_with(command, None)
}

/// Runs a program to its end, with something on its standard input.
pub(crate) fn run_with(command: &[&str], stdin: Option<&str>) -> Result<String> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let input = if stdin.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| command.join(" "))?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), stdin) {
        // A program that does not read its input says why itself.
        let _ = pipe.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    bail!(
        "{}: {}: {}{}",
        command.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim(),
        text.trim()
    )
}

/// This repository.
pub fn repository() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(std::path::Path::parent).map(PathBuf::from).unwrap_or(here)
}
