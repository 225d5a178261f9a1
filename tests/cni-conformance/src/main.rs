//! Holds a CNI plugin against the 24 rules that follow from the CNI specification 1.1.0 and from what the reference library
//! makes callers depend on.
//!
//! It knows nothing of the plugin but what the command line says. It makes network namespaces, calls the plugin as a
//! runtime does, and looks from outside: `ip` in the namespaces, packets between them, and whether an address can be had
//! again. Each rule is one function with its number in its name (`rules`); a chain is driven with `prevResult` from plugin
//! to plugin (`chain`).
//!
//! The exit code is 0 when every rule that applies holds, 1 when one does not, 2 when nothing could be looked at. Needs root,
//! iproute2, util-linux and busybox.

mod bench;
mod call;
mod chain;
mod config;
mod netns;
mod report;
mod rules;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use bench::Bench;
use report::Report;

/// What the command line says.
#[derive(Parser, Debug)]
#[command(name = "cni-conformance", version, about)]
pub struct Flags {
    /// The plugin.
    #[arg(long)]
    plugin: PathBuf,
    /// A network configuration for it, or a list whose first plugin it is. GC is called for this network's name.
    #[arg(long)]
    config: PathBuf,
    /// The same with room for exactly one container: shows whether an address comes back.
    #[arg(long)]
    single: Option<PathBuf>,
    /// A configuration of another main plugin that has this one as its IPAM; may be given more than once.
    #[arg(long)]
    delegate: Vec<PathBuf>,
    /// A configuration list that begins with this plugin; may be given more than once.
    #[arg(long)]
    chain: Vec<PathBuf>,
    /// Where other plugins are; `CNI_PATH` is the plugin's own folder and these.
    #[arg(long, default_value = "/usr/lib/cni")]
    plugin_dir: Vec<PathBuf>,
    /// The version of the specification that configurations name; the newest that the plugin has, where it is left out.
    #[arg(long)]
    cni_version: Option<String>,
    /// `CNI_ARGS` of every call.
    #[arg(long)]
    args: Option<String>,
    /// A variable, KEY=VALUE, with which the plugin does not reach the service it depends on.
    #[arg(long)]
    without_service: Option<String>,
    /// The configuration as the plugin's installer has written it.
    #[arg(long)]
    installed: Option<PathBuf>,
    /// How many containers are added at once.
    #[arg(long, default_value_t = 100)]
    parallel: usize,
    /// Look only at these rules.
    #[arg(long, value_delimiter = ',')]
    rules: Vec<u8>,
    /// Be the node in the network namespace this is started in, where the plugin's service lives. Else one is made.
    #[arg(long)]
    here: bool,
    /// Write the report here: Markdown, or JSON where the name ends so.
    #[arg(long)]
    report: Option<PathBuf>,
    /// The heading of the report.
    #[arg(long)]
    title: Option<String>,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "cni-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything that applies holds.
fn run(flags: &Flags) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces need root");
    }
    if !flags.here {
        netns::be_a_new_node().context("a network namespace that is the node")?;
    }
    let bench = Bench::new(flags)?;
    let mut report = Report::of(&bench, flags.title.clone());
    for rule in rules::ALL.iter().filter(|rule| flags.rules.is_empty() || flags.rules.contains(&rule.number))
    {
        report.add(rules::judge(rule, &bench));
    }
    for path in &flags.chain {
        report.add(chain::judge(path, &bench));
    }
    std::io::stdout().write_all(report.text().as_bytes())?;
    if let Some(path) = &flags.report {
        let json = path.extension().is_some_and(|ending| ending == "json");
        let text = if json { report.json()? } else { report.markdown() };
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(report.holds())
}
