//! `make demo`: starts the bank, shows what the outside sees before and after, and checks it.
//!
//! Writes `target/demo/report.json`. Ends with 0 only if every check holds.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use portolan_bed::{Node, Plan, repository};
use portolan_suites::{Bank, Check, NAMESPACES, checks};
use serde_json::json;

#[derive(Parser)]
struct Flags {
    /// Leaves the cluster running, and says how to reach it.
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<ExitCode> {
    let flags = Flags::parse();
    let mut clock = Clock { started: Instant::now(), seconds: BTreeMap::new(), last: Instant::now() };
    let mut bank = Bank::start(Plan::bank(3), &mut |step| clock.step(step))?;
    clock.mark("cluster");
    clock.step("applications: portal, erp, crm, vote");
    bank.applications()?;
    clock.mark("applications");
    clock.step("what the outside sees before: no pools, no Egress");
    let before = look(&bank, "before")?;
    bank.bind(&mut |step| clock.step(step))?;
    clock.mark("binding");
    clock.step("what the outside sees after");
    let after = look(&bank, "after")?;
    show(&before, &after);

    let mut made = vec![node_addresses(&bank, &before)];
    made.extend(checks::ALL.into_iter().map(|check| {
        clock.step(&format!("check {}", check.0));
        checks::make(&mut bank, check)
    }));
    clock.mark("checks");
    let ok = made.iter().all(|check| check.ok);
    report(&made, ok, &clock)?;
    if flags.keep {
        let (kubeconfig, id) = (bank.bed.kubeconfig(), bank.bed.id().to_owned());
        let kubectl = repository().join("target/hyperkube/kubectl");
        bank.bed.keep()?;
        println!(
            "\nThe cluster goes on (bed {id}):\n  {} --kubeconfig {} get pods -A -o wide",
            kubectl.display(),
            kubeconfig.display()
        );
        println!("  make demo-down   removes it");
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How long what took, and a line for each step.
struct Clock {
    started: Instant,
    seconds: BTreeMap<&'static str, f64>,
    last: Instant,
}

impl Clock {
    fn step(&self, what: &str) {
        println!("[{:5.1} s] {what}", self.started.elapsed().as_secs_f64());
    }

    fn mark(&mut self, name: &'static str) {
        self.seconds.insert(name, self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }
}

/// For each namespace, its pods' addresses and what the ERP database sees.
type Seen = BTreeMap<&'static str, (Vec<String>, Vec<String>)>;

fn look(bank: &Bank, when: &str) -> Result<Seen> {
    let mut all = Seen::new();
    for (namespace, _) in NAMESPACES {
        let seen = bank.sources(namespace, &format!("look-{when}"))?;
        let mut pods: Vec<_> =
            seen.iter().map(|(pod, _)| format!("{} ({})", pod.address, pod.node)).collect();
        let mut sources: Vec<_> = seen.into_iter().map(|(_, source)| source).collect();
        pods.sort();
        sources.sort();
        sources.dedup();
        all.insert(namespace, (pods, sources));
    }
    Ok(all)
}

/// The pain that the scenario begins with: without pools and Egress, pods have their node's addresses, and the database
/// sees nodes. A demo in which this does not show proves nothing by what follows.
fn node_addresses(bank: &Bank, before: &Seen) -> Check {
    let (pods, sources): (Vec<_>, Vec<_>) = before.values().cloned().unzip();
    let (pods, sources) = (pods.concat(), sources.concat());
    let nodes: Vec<_> = bank.bed.nodes().iter().map(Node::address).collect();
    let strange = pods.iter().filter(|pod| !pod.starts_with("10.10."));
    let strange: Vec<_> =
        strange.chain(sources.iter().filter(|source| !nodes.contains(source))).cloned().collect();
    let all: usize = NAMESPACES.iter().map(|(_, replicas)| usize::from(*replicas)).sum();
    let expected = format!("{all} pods from 10.10.0.0/16, seen with the nodes' addresses");
    let observed = if strange.is_empty() && pods.len() == all && !sources.is_empty() {
        expected.clone()
    } else {
        format!("{} pods, seen as {}, not of the nodes: {strange:?}", pods.len(), sources.join(" "))
    };
    Check { name: "before-node-addresses", scenario: 1, ok: expected == observed, expected, observed }
}

fn show(before: &Seen, after: &Seen) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "namespace",
        "pod addresses BEFORE",
        "pod addresses AFTER",
        "the database sees BEFORE",
        "the database sees AFTER",
    ]);
    for (namespace, (pods, sources)) in before {
        let (new_pods, new_sources) = after.get(namespace).cloned().unwrap_or_default();
        let cells = [pods, &new_pods, sources, &new_sources].map(|lines| lines.join("\n"));
        table.add_row(std::iter::once((*namespace).to_owned()).chain(cells));
    }
    println!("\n{table}\n");
}

fn report(made: &[Check], ok: bool, clock: &Clock) -> Result<()> {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["check", "scenario", "", "observed"]);
    for check in made {
        let verdict = if check.ok { "ok" } else { "FAILED" };
        let observed = check.observed.replace(", ", "\n");
        let observed = if check.ok {
            observed
        } else {
            format!("{observed}\nexpected:\n{}", check.expected.replace(", ", "\n"))
        };
        table.add_row([check.name.to_owned(), check.scenario.to_string(), verdict.to_owned(), observed]);
    }
    println!("\n{table}");
    let mut seconds = clock.seconds.clone();
    seconds.insert("total", clock.started.elapsed().as_secs_f64());
    let folder = repository().join("target/demo");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("report.json");
    let body = json!({ "checks": made, "ok": ok, "seconds": seconds });
    std::fs::write(&file, format!("{body:#}\n")).with_context(|| file.display().to_string())?;
    println!(
        "{} of {} checks hold; {}",
        made.iter().filter(|check| check.ok).count(),
        made.len(),
        file.display()
    );
    Ok(())
}
