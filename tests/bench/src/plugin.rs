//! Calls a plugin as a runtime does: a process with `CNI_…` variables and the configuration on standard input.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A plugin with its configuration.
pub struct Plugin {
    /// The program.
    pub binary: PathBuf,
    /// Its standard input.
    pub configuration: String,
    /// `CNI_PATH`: where it finds others that it calls.
    pub path: String,
    /// `CNI_ARGS`.
    pub arguments: String,
}

impl Plugin {
    /// One call for one container; what it printed, and how long it took from before the process exists until it has ended
    /// and its answer is read.
    pub fn call(&self, verb: &str, container: &str, netns: &Path) -> Result<(String, Duration)> {
        let started = Instant::now();
        let mut child = Command::new(&self.binary)
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.path)
            .env("CNI_ARGS", &self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| self.binary.display().to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input may have ended before it was written.
            let _ = stdin.write_all(self.configuration.as_bytes());
        }
        let output = child.wait_with_output()?;
        let took = started.elapsed();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{} {verb}: {}: {text}", self.binary.display(), output.status);
        }
        Ok((text, took))
    }
}
