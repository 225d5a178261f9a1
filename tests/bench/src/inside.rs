//! Calls the plugins, on a node of the test bed: in its network, its mounts and its processes.
//!
//! What is compared is called in turn and begins every round with another, each with a network namespace of its own that
//! exists before the clock runs. Prints one JSON object: the times in microseconds.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use portolan_linux::netns::{self, Named};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::floor::Floor;
use crate::median;
use crate::plugin::Plugin;

/// What to call with.
#[derive(Args)]
pub struct Flags {
    /// The namespace of a running pod of this node.
    #[arg(long)]
    namespace: String,
    /// Its name.
    #[arg(long)]
    pod: String,
    /// Its uid.
    #[arg(long)]
    uid: String,
    /// The empty static program.
    #[arg(long)]
    empty: PathBuf,
    /// Rounds that count.
    #[arg(long)]
    rounds: usize,
    /// How many calls at once.
    #[arg(long)]
    at_once: usize,
    /// How often so many at once.
    #[arg(long)]
    crowds: usize,
}

/// The times of one that is compared, in order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Times {
    /// Of each ADD.
    pub add: Vec<Duration>,
    /// Of each DEL.
    pub del: Vec<Duration>,
}

/// What was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// The installed plugin with its agent.
    pub portolan: Times,
    /// ptp with host-local.
    pub ptp: Times,
    /// Bare netlink and the empty program.
    pub floor: Times,
    /// The empty program's part of it.
    pub empty: Vec<Duration>,
    /// Of each crowd, from its first call until its last answer.
    pub crowds: Vec<Duration>,
}

/// Rounds before the first that counts.
const WARM_UP: usize = 20;

/// Measures, and prints.
pub fn run(flags: &Flags) -> Result<()> {
    let subjects = Subjects::of(flags)?;
    let mut measured = Measured::default();
    subjects.egress_is_part_of_it()?;
    let mut floor = Floor::open()?;
    for round in 0..WARM_UP + flags.rounds {
        let mut unused = Measured::default();
        let measured = if round < WARM_UP { &mut unused } else { &mut measured };
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => subjects.plugin(&subjects.portolan, round, &mut measured.portolan)?,
                1 => subjects.plugin(&subjects.ptp, round, &mut measured.ptp)?,
                _ => subjects.floor(&mut floor, measured)?,
            }
        }
    }
    let crowd: Result<Vec<_>, _> =
        (0..flags.at_once).map(|one| Named::create(&format!("crowd-{one}"))).collect();
    let crowd = crowd?;
    for number in 0..flags.crowds {
        measured.crowds.push(subjects.at_once(&crowd, number)?);
    }
    std::io::stdout().write_all(serde_json::to_string(&measured)?.as_bytes())?;
    Ok(())
}

/// What is compared, and the namespace it works on.
struct Subjects {
    portolan: Plugin,
    ptp: Plugin,
    empty: Plugin,
    pod: Named,
}

impl Subjects {
    fn of(flags: &Flags) -> Result<Self> {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
            flags.namespace, flags.pod, flags.uid
        );
        let plugin = |binary: PathBuf, path: &str, configuration: &Value| Plugin {
            binary,
            configuration: configuration.to_string(),
            path: path.to_owned(),
            arguments: arguments.clone(),
        };
        let installed = installed()?;
        Ok(Self {
            portolan: plugin("/opt/cni/bin/portolan".into(), "/opt/cni/bin", &installed),
            ptp: plugin("/usr/lib/cni/ptp".into(), "/usr/lib/cni", &reference()),
            empty: plugin(flags.empty.clone(), "/opt/cni/bin", &installed),
            pod: Named::create("bench")?,
        })
    }

    /// An ADD that no mark came with would be measured for less than it has to do.
    fn egress_is_part_of_it(&self) -> Result<()> {
        let (answer, _) = self.portolan.call("ADD", "proof", self.pod.path())?;
        let answer: Value = serde_json::from_str(&answer)?;
        let address = answer["ips"][0]["address"].as_str().context("no address")?;
        let address = address.split('/').next().unwrap_or_default();
        let map = ["list", "map", "inet", "portolan", "pod_egress4"];
        let map = std::process::Command::new("nft").args(map).output()?;
        let marked = String::from_utf8_lossy(&map.stdout).contains(&format!("{address} :"));
        self.portolan.call("DEL", "proof", self.pod.path())?;
        if marked { Ok(()) } else { bail!("{address} got no Egress: the policy is not in place") }
    }

    fn plugin(&self, plugin: &Plugin, round: usize, times: &mut Times) -> Result<()> {
        let container = format!("bench-{round}");
        times.add.push(plugin.call("ADD", &container, self.pod.path())?.1);
        times.del.push(plugin.call("DEL", &container, self.pod.path())?.1);
        Ok(())
    }

    fn floor(&self, floor: &mut Floor, measured: &mut Measured) -> Result<()> {
        let (_, empty) = self.empty.call("ADD", "bench", self.pod.path())?;
        let pod = netns::open(self.pod.path())?;
        let started = Instant::now();
        floor.add(&pod)?;
        measured.floor.add.push(started.elapsed() + empty);
        let started = Instant::now();
        floor.del()?;
        measured.floor.del.push(started.elapsed() + empty);
        measured.empty.push(empty);
        Ok(())
    }

    /// From the first call until the last answer. One that fails fails all.
    fn at_once(&self, crowd: &[Named], number: usize) -> Result<Duration> {
        let start = Barrier::new(crowd.len() + 1);
        let call = |verb: &str, one: usize, netns: &Named| {
            self.portolan.call(verb, &format!("crowd-{number}-{one}"), netns.path())
        };
        let (began, ended) = std::thread::scope(|scope| -> Result<_> {
            let calls: Vec<_> = crowd
                .iter()
                .enumerate()
                .map(|(one, netns)| {
                    let (start, call) = (&start, &call);
                    scope.spawn(move || {
                        start.wait();
                        call("ADD", one, netns).map(|_| Instant::now())
                    })
                })
                .collect();
            start.wait();
            let (began, mut ended) = (Instant::now(), Instant::now());
            for one in calls {
                ended = ended.max(one.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??);
            }
            Ok((began, ended))
        })?;
        for (one, netns) in crowd.iter().enumerate() {
            call("DEL", one, netns)?;
        }
        Ok(ended.duration_since(began))
    }
}

/// The configuration as the runtime's library hands it over: the list's only plugin, with the list's name and version.
fn installed() -> Result<Value> {
    let list = fs::read("/etc/cni/net.d/05-portolan.conflist").context("the agent has installed nothing")?;
    let list: Value = serde_json::from_slice(&list)?;
    let mut plugin = list["plugins"][0].clone();
    plugin["name"] = list["name"].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    Ok(plugin)
}

/// The reference with every default. Without masquerading (`ipMasq`), which is the part of it that calls iptables, it does
/// less than what it is compared with.
fn reference() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "bench-ptp", "type": "ptp", "ipMasq": false, "mtu": 1450,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": "10.250.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }],
        },
    })
}

impl Measured {
    /// The ratio of two medians.
    pub fn ratio(of: &[Duration], to: &[Duration]) -> f64 {
        median(of).as_secs_f64() / median(to).as_secs_f64()
    }
}
