//! SIGKILL at every step of ADD and DEL, to the agent and to the plugin: nothing leaks, and no address is given twice.
//!
//! A node whose agent this test runs itself, so that it can be killed a hundred times without kubelet's growing patience.
//! strace is the hand that kills: at the n-th call of each system call that changes something, for every n until the verb gets
//! through; the plugin at each of all its system calls.
//! Calls are a runtime's without Kubernetes, of a network that names its pool. The witness is what the node and the pods'
//! namespaces have afterwards.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use libtest_mimic::Trial;
use portolan_bed::{Host, Plan, repository, run};
use portolan_suites::{Bank, PATIENCE};
use serde_json::{Value, json};

/// System calls of which something outlives the process: files, and whatever goes out over a socket.
const STEPS: [&str; 11] = [
    "openat",
    "write",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "sendto",
    "sendmsg",
];
/// A verb makes each of them less often than this.
const MOST: usize = 200;

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("killed_at_any_step_of_add_or_del_nothing_leaks_and_no_address_is_given_twice", || {
        let rig = Rig::new();
        let agent = rig.agent();
        let neighbour = rig.address(&rig.call("ADD", "neighbour", None));
        drop(agent);
        for verb in ["ADD", "DEL"] {
            let (agent, plugin) = (rig.kill_agent(verb, &neighbour), rig.kill_plugin(verb, &neighbour));
            println!("{verb}: killed at {agent} steps of the agent and {plugin} of the plugin");
            // A test that kills nobody would prove nothing.
            assert!(agent >= 4 && plugin > 20, "{verb}: {agent} and {plugin} steps");
        }
        Ok(())
    })]
}

/// A cluster with a pool, and what the agent of its first node needs.
struct Rig {
    bank: Bank,
    folder: PathBuf,
}

/// A program that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Rig {
    fn new() -> Self {
        let bank = Bank::start(Plan::bank(2), &mut |step| println!("{step}")).unwrap();
        let spec = json!({ "ipRanges": [{ "cidr": "10.20.1.0/29" }], "cooldownSeconds": 0, "leaseSize": 8 });
        let pool = json!({ "apiVersion": "portolan.dev/v1alpha1", "kind": "IPPool", "metadata": { "name": "kills" },
            "spec": spec });
        bank.bed.apply(&pool.to_string()).unwrap();
        bank.bed.kubectl(&["wait", "--for=condition=Ready", "ippool", "kills", "--timeout=90s"]).unwrap();
        let agents =
            ["-n", "portolan-system", "delete", "daemonset", "portolan-agent", "--cascade=foreground"];
        bank.bed.kubectl(&agents).unwrap();
        let folder = bank.bed.state().join("agent");
        std::fs::create_dir_all(folder.join("run")).unwrap();
        // From the node, the API server is not on the loopback.
        let config = std::fs::read_to_string(bank.bed.kubeconfig()).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["clusters"][0]["cluster"]["server"] = json!("https://172.16.11.5:6443");
        std::fs::write(folder.join("kubeconfig"), config.to_string()).unwrap();
        let rig = Self { bank, folder };
        for pod in ["neighbour", "one", "two"] {
            let netns = rig.pod(pod).netns();
            run(&["ip", "netns", "add", Path::new(&netns).file_name().unwrap().to_str().unwrap()]).unwrap();
        }
        rig
    }

    /// A container: a network namespace of the bed's, which goes with it.
    fn pod(&self, name: &str) -> Host {
        self.bank.bed.host(name)
    }

    fn node(&self) -> &Host {
        self.bank.bed.nodes()[0].host()
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// An agent that is ready.
    fn agent(&self) -> Running {
        let binary = repository().join("target/release/portolan-agent");
        let plugin = repository().join("target/plugin/portolan-cni");
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.file("agent.log")).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.node().netns()))
            .arg("--")
            .arg(binary)
            .args([
                "--node",
                "node-1",
                "--run-dir",
                &self.file("run"),
                "--history-dir",
                &self.file("history"),
            ])
            .args(["--cni-bin-dir", &self.file("bin"), "--cni-conf-dir", &self.file("conf")])
            .arg("--cni-binary")
            .arg(plugin)
            .env("KUBECONFIG", self.file("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let agent = Running(child);
        let ready = || Ok(self.get("readyz").map(drop).map_err(|error| error.to_string()));
        self.bank.bed.wait("the agent is ready", PATIENCE, ready).unwrap();
        agent
    }

    fn get(&self, page: &str) -> anyhow::Result<String> {
        self.node().exec(&["busybox", "wget", "-q", "-O", "-", &format!("http://127.0.0.1:9471/{page}")])
    }

    /// Runs the plugin to its end, under strace where there are options for it.
    fn call(&self, verb: &str, pod: &str, strace: Option<&[&str]>) -> Output {
        let network = json!({ "cniVersion": "1.0.0", "name": "kills", "type": "portolan",
            "ipam": { "type": "portolan", "ippools": ["kills"] } });
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.node().netns())).arg("--");
        if let Some(options) = strace {
            command.arg("strace").args(options);
        }
        let mut child = command
            .arg(repository().join("target/plugin/portolan-cni"))
            .env("PORTOLAN_SOCKET", self.file("run/agent.sock"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod)
            .env("CNI_NETNS", self.pod(pod).netns())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin that is killed before it reads closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(network.to_string().as_bytes());
        child.wait_with_output().unwrap()
    }

    fn must(&self, verb: &str, pod: &str) -> Output {
        let output = self.call(verb, pod, None);
        assert!(output.status.success(), "{verb} of {pod}: {}", String::from_utf8_lossy(&output.stdout));
        output
    }

    /// The address in the answer of an ADD, which the pod has too.
    fn address(&self, output: &Output) -> String {
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The IPv4 addresses that a pod's namespace has.
    fn has(&self, pod: &str) -> Vec<String> {
        let links = self.pod(pod).ip(&["-4", "addr", "show", "scope", "global"]).unwrap();
        let infos = links.as_array().unwrap().iter().flat_map(|link| link["addr_info"].as_array().cloned());
        let text = |info: &Value| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]);
        infos.flatten().map(|info| text(&info)).collect()
    }

    /// Kills the agent at every step of a verb. Returns how many there are.
    fn kill_agent(&self, verb: &str, neighbour: &str) -> usize {
        STEPS
            .iter()
            .map(|call| (1..MOST).take_while(|n| self.kills_agent(verb, call, *n, neighbour)).count())
            .sum()
    }

    /// Whether the agent was killed at the n-th of this system call.
    fn kills_agent(&self, verb: &str, call: &str, n: usize, neighbour: &str) -> bool {
        let agent = self.agent();
        if verb == "DEL" {
            self.must("ADD", "one");
        }
        let strace = self.strace(agent.0.id(), call, n);
        self.call(verb, "one", None);
        // A process takes a moment to die, and does not answer meanwhile.
        let killed = self.get("readyz").is_err();
        drop(strace);
        drop(agent);
        let _agent = self.agent();
        self.recovers(neighbour, &format!("{verb}, the agent killed at {call} {n}"));
        killed
    }

    /// Kills the plugin at every system call of a verb. Returns how many there are.
    fn kill_plugin(&self, verb: &str, neighbour: &str) -> usize {
        let _agent = self.agent();
        let trace = self.file("plugin.trace");
        let once = |kill: &[&str]| {
            if verb == "DEL" {
                self.must("ADD", "one");
            }
            let output = self.call(verb, "one", Some(kill));
            self.recovers(neighbour, &format!("{verb}, the plugin killed by strace {kill:?}"));
            output.status.success()
        };
        assert!(once(&["-o", &trace]), "{verb} under strace");
        let mut seen = BTreeMap::<String, usize>::new();
        let text = std::fs::read_to_string(&trace).unwrap();
        let names = text.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name.to_owned());
        // The first is what starts it, the last what ends it.
        for name in names.filter(|name| !matches!(name.as_str(), "execve" | "exit_group")) {
            *seen.entry(name).or_default() += 1;
        }
        let steps = seen.iter().flat_map(|(name, count)| (1..=*count).map(move |n| (name, n)));
        let kill = |(name, n): (&String, usize)| {
            let inject = format!("inject={name}:signal=KILL:when={n}");
            !once(&["-o", "/dev/null", "-e", &inject])
        };
        steps.map(kill).filter(|killed| *killed).count()
    }

    /// Attaches to the thread that owns the node.
    fn strace(&self, agent: u32, call: &str, n: usize) -> Running {
        let tasks = std::fs::read_dir(format!("/proc/{agent}/task")).unwrap();
        let is_owner =
            |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "owner\n");
        let owner = tasks.map(|task| task.unwrap().path()).find(is_owner).unwrap();
        let thread = owner.file_name().unwrap().to_str().unwrap().to_owned();
        let strace = Command::new("strace")
            .args(["-q", "-o", "/dev/null", "-p", &thread, "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:signal=KILL:when={n}")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let attached = || {
            let status = std::fs::read_to_string(owner.join("status")).unwrap_or_default();
            // A thread that is gone was killed by its own periodic work: that is a step too.
            let there = status.is_empty() || !status.contains("TracerPid:\t0\n");
            Ok(if there { Ok(()) } else { Err(status) })
        };
        self.bank.bed.wait("strace watches the agent", PATIENCE, attached).unwrap();
        Running(strace)
    }

    /// Another pod gets an address that nobody has; what the runtime then deletes is gone, to the last link.
    fn recovers(&self, neighbour: &str, when: &str) {
        let second = self.address(&self.must("ADD", "two"));
        assert!(
            second != neighbour && !self.has("one").contains(&second),
            "{when}: {second} was given twice"
        );
        assert_eq!(self.has("two"), std::slice::from_ref(&second), "{when}");
        for pod in ["one", "two"] {
            self.must("DEL", pod);
            assert_eq!(self.has(pod), Vec::<String>::new(), "{when}");
        }
        let state: Value = serde_json::from_str(&self.get("v1/node").unwrap()).unwrap();
        let held: Vec<_> = state["records"].as_array().unwrap().iter().map(|one| &one["container"]).collect();
        assert_eq!(held, ["neighbour"], "{when}");
        let (links, routes) = (&state["kernel"]["links"], &state["kernel"]["routes"]);
        assert!(
            links.as_array().unwrap().len() == 1 && routes.as_array().unwrap().len() == 1,
            "{when}: {state}"
        );
        assert_eq!(self.has("neighbour"), [neighbour], "{when}");
    }
}
