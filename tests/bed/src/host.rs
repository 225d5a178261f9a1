//! A host of the data centre: run something in its network, keep something running there, read what it recorded.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cleanup::state_of;
use crate::network::namespace;
use crate::shell::{repository, run};

/// A host of the data centre.
#[derive(Debug, Clone)]
pub struct Host {
    id: String,
    name: String,
}

/// One connection that a recording server saw.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Seen {
    /// The source address.
    pub source: String,
    /// The source port.
    pub port: u16,
    /// The first line the client said.
    pub said: String,
}

impl Host {
    pub(crate) fn new(id: &str, name: &str) -> Self {
        Self { id: id.to_owned(), name: name.to_owned() }
    }

    /// The path of its network namespace.
    pub fn netns(&self) -> String {
        format!("/run/netns/{}", namespace(&self.id, &self.name))
    }

    /// Runs a program in its network to the end.
    ///
    /// # Errors
    /// What it printed.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        let net = format!("--net={}", self.netns());
        let mut all = vec!["nsenter", &net, "--"];
        all.extend_from_slice(command);
        run(&all)
    }

    /// `ip -j …` in its network.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut all = vec!["ip", "-j"];
        all.extend_from_slice(arguments);
        let text = self.exec(&all)?;
        serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).context("ip printed no JSON")
    }

    /// Dials from this host and returns what was answered.
    ///
    /// # Errors
    /// When nobody answers within a second.
    pub fn dial(&self, to: &str) -> Result<String> {
        self.exec(&[&probe().display().to_string(), "dial", to, "--timeout-ms", "1000"])
    }

    /// Where this host's recording server writes.
    pub fn record(&self) -> PathBuf {
        state_of(&self.id).join(format!("{}.seen", self.name))
    }

    /// What this host's recording server has seen so far.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        let text = std::fs::read_to_string(self.record()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    pub(crate) fn spawn(&self, name: &str, command: &[&str], log: &Path) -> Result<Running> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        // In a session of its own: what happens to the owner's terminal is not this program's business. Neither program
        // forks, so the child is the program itself.
        let child = Command::new("setsid")
            .arg("nsenter")
            .arg(format!("--net={}", self.netns()))
            .arg("--")
            .args(command)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| command.join(" "))?;
        Ok(Running { name: name.to_owned(), child: Some(child) })
    }
}

/// The program that runs in pods and on hosts.
pub fn probe() -> PathBuf {
    repository().join("target/static/x86_64-unknown-linux-gnu/release/bed-probe")
}

/// A program that ends with this value.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Option<Child>,
}

impl Running {
    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// It goes on when this value goes.
    pub(crate) fn leave(&mut self) {
        self.child = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; then there is nothing to kill and only the wait is left.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
