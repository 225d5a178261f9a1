//! ADD and DEL of the installed plugin beside the reference and beside the floor, and a hundred at once.
//!
//! The pod is a real one that runs on the node and that a pool and an Egress select. Each ADD is for one more sandbox of
//! it, as when kubelet replaces a sandbox: the agent finds the pod in its watch, chooses pool, address and Egress, writes
//! the record and the history, sets the mark and wires the link. Only kubelet and the runtime are not part of it.

use std::time::Duration;

use anyhow::{Context, Result};
use portolan_bed::{Plan, repository};
use portolan_suites::Bank;

use crate::inside::Measured;
use crate::report::Figure;
use crate::{Clock, Size, median, middle_and_p99, milliseconds};

/// What this measures.
pub const FIGURES: [&str; 4] =
    ["cni-add-vs-ptp", "cni-del-vs-ptp", "cni-add-vs-floor", "cni-add-100-parallel"];

const ROUNDS: usize = 300;
const AT_ONCE: usize = 100;
const CROWDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures on a cluster of two nodes.
pub fn measure(clock: &Clock, _: Size) -> Result<Vec<Figure>> {
    clock.step("calls: a cluster of two nodes");
    let bank = Bank::start(Plan::bank(2), &mut |step| clock.step(step))?;
    let manifest = repository().join("tests/bench/manifests/calls.yaml").display().to_string();
    // The cluster makes the namespace's service account, too, and may be faster by a hair; the second time it is there.
    bank.bed.wait("the manifest is applied", PATIENCE, || {
        Ok(bank.bed.kubectl(&["apply", "-f", &manifest]).map(drop).map_err(|error| error.to_string()))
    })?;
    for object in ["ippool/bench", "egress/bench"] {
        bank.bed.kubectl(&["wait", "--for=condition=Ready", object, "--timeout=60s"])?;
    }
    let pod = bank.bed.wait("the pod runs", PATIENCE, || {
        let pod = bank.bed.get(&["pod", "-n", "bench", "bench"])?;
        let phase = pod["status"]["phase"].as_str().unwrap_or_default().to_owned();
        Ok(if phase == "Running" { Ok(pod) } else { Err(phase) })
    })?;
    let uid = pod["metadata"]["uid"].as_str().context("a pod without a uid")?;
    clock.step(&format!(
        "calls: {ROUNDS} rounds of portolan, ptp, floor; then {CROWDS} times {AT_ONCE} at once"
    ));
    let program = std::env::current_exe()?.display().to_string();
    let (rounds, at_once, crowds) = (ROUNDS.to_string(), AT_ONCE.to_string(), CROWDS.to_string());
    let empty = repository().join("target/static/x86_64-unknown-linux-gnu/release/bench-empty");
    let empty = empty.display().to_string();
    let mut command = vec![program.as_str(), "inside"];
    let flags = [
        ("--namespace", "bench"),
        ("--pod", "bench"),
        ("--uid", uid),
        ("--empty", &empty),
        ("--rounds", &rounds),
        ("--at-once", &at_once),
        ("--crowds", &crowds),
    ];
    command.extend(flags.iter().flat_map(|(flag, value)| [*flag, *value]));
    let node = bank.bed.nodes().first().context("a bed without nodes")?;
    let measured: Measured = serde_json::from_str(&node.exec(&command)?)?;
    show(clock, &measured);
    Ok(figures(&measured))
}

fn show(clock: &Clock, measured: &Measured) {
    let Measured { portolan, ptp, floor, empty, crowds } = measured;
    let rows = [
        ("ADD, portolan", &portolan.add),
        ("ADD, ptp and host-local", &ptp.add),
        ("ADD, bare netlink and an empty program", &floor.add),
        ("  the empty program", empty),
        ("DEL, portolan", &portolan.del),
        ("DEL, ptp and host-local", &ptp.del),
        ("DEL, bare netlink and an empty program", &floor.del),
    ];
    for (what, times) in rows {
        let (middle, late) = middle_and_p99(times);
        clock.note(&format!("{what}: median of {}", times.len()), &milliseconds(middle));
        clock.note(&format!("{what}: 99th percentile"), &milliseconds(late));
    }
    clock.note(
        &format!("{AT_ONCE} ADDs at once: the last, median of {}", crowds.len()),
        &milliseconds(median(crowds)),
    );
    clock.note(&format!("{AT_ONCE} ADDs at once: the last, longest"), &milliseconds(longest(crowds)));
}

fn longest(of: &[Duration]) -> Duration {
    of.iter().max().copied().unwrap_or_default()
}

/// Medians against medians; of the crowds the slowest counts.
fn figures(measured: &Measured) -> Vec<Figure> {
    let Measured { portolan, ptp, floor, crowds, .. } = measured;
    let [add, del, bare, crowd] = FIGURES;
    vec![
        Figure::at_most(0.2, add, "ratio", Measured::ratio(&portolan.add, &ptp.add)),
        Figure::at_most(0.15, del, "ratio", Measured::ratio(&portolan.del, &ptp.del)),
        Figure::at_most(1.5, bare, "ratio", Measured::ratio(&portolan.add, &floor.add)),
        Figure::at_most(100.0, crowd, "x single", Measured::ratio(&[longest(crowds)], &portolan.add)),
    ]
}
