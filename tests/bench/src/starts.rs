//! The plugin's share of pod starts: a thousand pods on ten nodes (fewer where asked for), as many addresses as pods.
//!
//! A program in the plugin's place times each of its calls from exec to answer (`bench-timed`), waits for addresses among
//! them; a watch says what the starts took, from the moment a pod is bound to its node until it is ready.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use portolan_bed::{Node, Plan, repository};
use portolan_suites::Bank;
use serde_json::{Value, json};

use crate::report::Figure;
use crate::{Clock, Size, middle_and_p99, milliseconds};

/// What this measures.
pub const FIGURES: [&str; 1] = ["cni-share-of-pod-start"];

/// For one wave.
const PATIENCE: Duration = Duration::from_secs(300);

/// What kubelet counts of the runtime's part that makes sandboxes, in seconds. (Its histogram of whole pod starts notes some
/// pods twice.)
const SANDBOX: &str = "kubelet_runtime_operations_duration_seconds_sum{operation_type=\"run_podsandbox\"} ";

/// Measures on a cluster of so many nodes.
pub fn measure(clock: &Clock, size: Size) -> Result<Vec<Figure>> {
    let Size { nodes, pods } = size;
    clock.step(&format!("starts: a cluster of {nodes} nodes"));
    let bank = Bank::start(Plan::bank(nodes), &mut |step| clock.step(step))?;
    bank.bed.apply(&pool(pods).to_string())?;
    let manifest = repository().join("tests/bench/manifests/starts.yaml").display().to_string();
    bank.bed.kubectl(&["apply", "-f", &manifest])?;
    bank.bed.kubectl(&["wait", "--for=condition=Ready", "ippool/starts", "--timeout=60s"])?;
    bank.bed.nodes().iter().try_for_each(install_clock)?;
    let (before, watch) = (sandboxes(&bank)?, Watch::start(&bank)?);
    let wave = u32::try_from(thread::available_parallelism()?.get())?;
    clock.step(&format!("starts: {pods} pods, {wave} at a time"));
    scale(clock, &bank, pods, wave)?;
    let sandbox = sandboxes(&bank)? - before;
    let start = bank.bed.wait("the watch shows all pods", PATIENCE, || {
        let (start, seen) = watch.sum();
        Ok(if seen == pods as usize { Ok(start) } else { Err(format!("{seen} of {pods}")) })
    })?;
    let calls: Vec<_> = bank.bed.nodes().iter().map(calls).collect::<Result<Vec<_>>>()?.concat();
    clock.note("a pod's start, mean", &format!("{:.3} s", start / f64::from(pods)));
    clock.note("a pod's sandbox, mean", &format!("{:.3} s", sandbox / f64::from(pods)));
    let adds: Vec<_> = calls.iter().filter(|call| call.verb == "ADD").collect();
    let times: Vec<_> = adds.iter().map(|call| call.took).collect();
    let (middle, late) = middle_and_p99(&times);
    clock.note(&format!("ADD: median of {}", times.len()), &milliseconds(middle));
    clock.note("ADD: 99th percentile", &milliseconds(late));
    clock.note("ADDs that were told to come back", &adds.iter().filter(|call| !call.ok).count().to_string());
    let plugin = times.iter().sum::<Duration>().as_secs_f64();
    clock.note("the plugin's share of the sandboxes", &format!("{:.4}", plugin / sandbox));
    let [name] = FIGURES;
    Ok(vec![Figure::at_most(0.02, name, "share", plugin / start)])
}

/// As many addresses as pods.
fn pool(pods: u32) -> Value {
    let first = Ipv4Addr::new(10, 41, 0, 0);
    let last = Ipv4Addr::from(u32::from(first) + pods.saturating_sub(1));
    json!({
        "apiVersion": "portolan.dev/v1alpha1", "kind": "IPPool", "metadata": { "name": "starts" },
        "spec": {
            "ipRanges": [{ "start": first, "end": last }],
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "starts" } },
        },
    })
}

/// Starts the pods, as many at a time as the machine has processors, and waits until all are ready. Of more at once each would
/// mostly wait for a processor, which on ten machines it would not, and the share would be one of waiting in line.
fn scale(clock: &Clock, bank: &Bank, pods: u32, wave: u32) -> Result<()> {
    for wanted in (1..=pods.div_ceil(wave)).map(|number| pods.min(number * wave)) {
        bank.bed.kubectl(&["-n", "starts", "scale", "deployment/starts", &format!("--replicas={wanted}")])?;
        bank.bed.wait("the pods are ready", PATIENCE, || {
            let ready =
                ["-n", "starts", "get", "deployment/starts", "-o", "jsonpath={.status.readyReplicas}"];
            let ready: u32 = bank.bed.kubectl(&ready)?.trim().parse().unwrap_or_default();
            Ok(if ready == wanted { Ok(()) } else { Err(format!("{ready} of {wanted} are ready")) })
        })?;
        if wanted % 100 == 0 || wanted == pods {
            clock.step(&format!("  {wanted} of {pods} pods are ready"));
        }
    }
    Ok(())
}

/// Puts the timing program into the plugin's place. The agent installs the plugin when it starts, so it has to be running.
fn install_clock(node: &Node) -> Result<()> {
    let plugin = node.root().join("opt/cni/bin/portolan");
    fs::rename(&plugin, plugin.with_extension("real")).with_context(|| plugin.display().to_string())?;
    let timed = repository().join("target/static/x86_64-unknown-linux-gnu/release/bench-timed");
    fs::copy(&timed, &plugin).with_context(|| timed.display().to_string())?;
    Ok(())
}

/// One call of the plugin.
#[derive(Debug, Clone)]
struct Call {
    verb: String,
    took: Duration,
    ok: bool,
}

fn calls(node: &Node) -> Result<Vec<Call>> {
    let times = node.root().join("opt/cni/bin/portolan.times");
    let text = fs::read_to_string(&times).with_context(|| times.display().to_string())?;
    let call = |line: &str| {
        let [verb, took, ok] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
        Some(Call {
            verb: verb.to_owned(),
            took: Duration::from_micros(took.parse().ok()?),
            ok: ok == "true",
        })
    };
    text.lines().map(|line| call(line).with_context(|| format!("{}: {line:?}", times.display()))).collect()
}

/// Sees each pod bound to its node and ready, and when. (The conditions of pods have whole seconds, which is as long as a start
/// takes.)
struct Watch {
    kubectl: Child,
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
}

#[derive(Default)]
struct Seen {
    bound: Option<Instant>,
    ready: Option<Instant>,
}

impl Watch {
    fn start(bank: &Bank) -> Result<Self> {
        let ready = r#"{.status.conditions[?(@.type=="Ready")].status}"#;
        let path = format!(r#"jsonpath={{.metadata.name}}{{" "}}{{.spec.nodeName}}{{" "}}{ready}{{"\n"}}"#);
        let mut kubectl = bank.bed.kubectl_child(&["get", "pods", "-n", "starts", "--watch", "-o", &path])?;
        let lines = BufReader::new(kubectl.stdout.take().context("kubectl without output")?).lines();
        let seen: Arc<Mutex<BTreeMap<String, Seen>>> = Arc::default();
        let ours = Arc::clone(&seen);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let words: Vec<_> = line.split(' ').collect();
                let (Some(name), Some(node), Some(ready)) = (words.first(), words.get(1), words.get(2))
                else {
                    continue;
                };
                let mut all = ours.lock().unwrap_or_else(PoisonError::into_inner);
                let pod = all.entry((*name).to_owned()).or_default();
                if !node.is_empty() {
                    pod.bound.get_or_insert_with(Instant::now);
                }
                if *ready == "True" {
                    pod.ready.get_or_insert_with(Instant::now);
                }
            }
        });
        Ok(Self { kubectl, seen })
    }

    /// How long all pods together took, in seconds, and how many there were.
    fn sum(&self) -> (f64, usize) {
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let took = |pod: &Seen| Some(pod.ready?.duration_since(pod.bound?).as_secs_f64());
        let took: Vec<_> = all.values().filter_map(took).collect();
        (took.iter().sum(), took.len())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

fn sandboxes(bank: &Bank) -> Result<f64> {
    let of_node = |node: &Node| {
        let text =
            bank.bed.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/metrics", node.name())])?;
        let value = text.lines().find_map(|line| line.strip_prefix(SANDBOX)?.trim().parse::<f64>().ok());
        value.with_context(|| format!("kubelet of {} has no metric {SANDBOX}", node.name()))
    };
    bank.bed.nodes().iter().map(of_node).sum()
}
