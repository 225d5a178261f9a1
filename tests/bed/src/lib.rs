//! A data centre in network namespaces, with a real Kubernetes in it.
//!
//! One [`Bed`] is a rack switch, a router, an external network, a VIP network, clients, service engine hosts, a control
//! plane (etcd, kube-apiserver, kube-controller-manager, kube-scheduler) and nodes, each with its own containerd, kubelet
//! and kube-proxy. Everything of a bed carries its id, so several stand side by side; nothing is in the machine's own
//! network but one loopback port for kubectl.
//!
//! Guarantees: whatever a bed started ends with it, also when its owner is killed: a tender process (`bed tend`) holds
//! the other end of a pipe and cleans up when it breaks. Synchronous: tests and the demo wait for conditions by polling
//! ([`Bed::wait`]), never by sleeping for a fixed time.

mod certs;
mod cleanup;
mod control;
mod host;
mod network;
mod node;
mod plan;
mod shell;
mod tend;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use certs::Authority;
pub use cleanup::{beds, clean, kept_beds};
pub use host::{Host, Running, Seen, probe};
pub use node::Node;
pub use plan::{NodePlan, Plan};
pub use shell::{repository, run};
pub use tend::tend;

/// A running data centre.
pub struct Bed {
    id: String,
    plan: Plan,
    state: PathBuf,
    authority: Authority,
    nodes: Vec<Node>,
    processes: Vec<Running>,
    tender: Option<tend::Tender>,
    port: u16,
    /// Something was waited for in vain: the logs outlive the bed.
    failed: AtomicBool,
}

impl Bed {
    /// Starts everything and waits until the API server answers and every node has registered. Nodes are not Ready: they
    /// have no network plugin yet.
    ///
    /// # Errors
    /// What could not be started, and where its log is. Everything that was started is ended.
    pub fn start(plan: Plan, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let (id, state) = fresh_state()?;
        let tender = tend::Tender::start(&id)?;
        progress("network: switch, router, hosts");
        network::build(&id, &plan)?;
        let port = tender.forward_port()?;
        let authority = Authority::new()?;
        let mut bed = Self::new(id, plan, state, authority, tender, port);
        progress("control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler");
        control::start(&mut bed)?;
        progress("nodes: containerd, kubelet, kube-proxy");
        node::start_all(&mut bed)?;
        Ok(bed)
    }

    fn new(
        id: String,
        plan: Plan,
        state: PathBuf,
        authority: Authority,
        tender: tend::Tender,
        port: u16,
    ) -> Self {
        let (nodes, processes, failed) = (vec![], vec![], AtomicBool::new(false));
        Self { id, plan, state, authority, nodes, processes, tender: Some(tender), port, failed }
    }

    /// Leaves everything running; `bed down` removes it.
    pub fn keep(mut self) -> Result<()> {
        if let Some(tender) = self.tender.take() {
            tender.keep()?;
        }
        self.processes.iter_mut().for_each(Running::leave);
        self.nodes.iter_mut().for_each(Node::leave);
        Ok(())
    }

    /// The bed's id, part of every name it made.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Certificates of this data centre.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Where logs and files of this bed are.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A kubeconfig for the machine's own kubectl.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node, to stop or start it.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.name() == name).with_context(|| format!("no node {name}"))
    }

    /// A host that is not a node: `router`, `erp-db`, `partner`, `client-1`, `se-1`, `control`, `rack`.
    pub fn host(&self, name: &str) -> Host {
        Host::new(&self.id, name)
    }

    /// Starts a program on a host; it ends with the bed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self, host: &str, name: &str, command: &[&str]) -> Result<()> {
        let log = self.state.join(format!("{name}.log"));
        let running = self.host(host).spawn(name, command, &log)?;
        self.processes.push(running);
        Ok(())
    }

    /// Ends a program that [`Bed::spawn`] started, at once.
    pub fn kill(&mut self, name: &str) {
        self.processes.retain(|process| process.name() != name);
    }

    /// kubectl.
    ///
    /// # Errors
    /// Its standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, None)
    }

    /// `kubectl apply -f -`.
    ///
    /// # Errors
    /// Its standard error.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_with(&["apply", "-f", "-"], Some(yaml))
    }

    /// kubectl that goes on, such as `get -w`: its standard output is the caller's to read, and its end to bring about.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl_child(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(hyperkube());
        command.args(["kubectl", "--kubeconfig"]).arg(self.kubeconfig()).args(arguments);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
    }

    fn kubectl_with(&self, arguments: &[&str], stdin: Option<&str>) -> Result<String> {
        let kubeconfig = self.kubeconfig().display().to_string();
        let binary = hyperkube().display().to_string();
        let mut command = vec![binary.as_str(), "kubectl", "--kubeconfig", &kubeconfig];
        command.extend_from_slice(arguments);
        shell::run_with(&command, stdin)
    }

    /// `kubectl get … -o json`.
    ///
    /// # Errors
    /// Its standard error.
    pub fn get(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend_from_slice(arguments);
        serde_json::from_str(&self.kubectl(&all)?).context("kubectl printed no JSON")
    }

    /// Puts an image archive (OCI) on every node.
    ///
    /// # Errors
    /// What `ctr` says.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        std::thread::scope(|scope| {
            let loads: Vec<_> =
                self.nodes.iter().map(|node| scope.spawn(|| node.load_image(archive))).collect();
            loads
                .into_iter()
                .try_for_each(|load| load.join().unwrap_or_else(|_| bail!("loading an image panicked")))
        })
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// After `patience`: what was waited for, and what was seen last.
    pub fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut ask: impl FnMut() -> Result<std::result::Result<T, String>>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            let seen = match ask() {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(seen)) => seen,
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                self.failed.store(true, Ordering::Relaxed);
                let logs = self.logs();
                bail!(
                    "{what}: not after {} s; last seen: {seen}; logs in {}",
                    patience.as_secs(),
                    logs.display()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Bed {
    /// Where the logs of a bed that failed are kept.
    fn logs(&self) -> PathBuf {
        repository().join("target/bed-logs").join(&self.id)
    }

    fn keep_logs(&self) -> Result<()> {
        fs::create_dir_all(self.logs())?;
        let folders = std::iter::once(self.state.clone()).chain(self.nodes.iter().map(Node::folder));
        for entry in folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten()).flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
                let name = format!("{}-{}", folder.to_string_lossy(), entry.file_name().to_string_lossy());
                fs::copy(&path, self.logs().join(name))?;
            }
        }
        Ok(())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(tender) = self.tender.take() {
            if self.failed.load(Ordering::Relaxed) || std::thread::panicking() {
                // The failure itself is told by who met it; without its logs it is still told.
                let _ = self.keep_logs();
            }
            self.nodes.clear();
            self.processes.clear();
            tender.end();
            // A tender that was killed has cleaned nothing; to clean twice does no harm.
            let _ = clean(&self.id);
        }
    }
}

/// The binary that is all of Kubernetes.
pub(crate) fn hyperkube() -> PathBuf {
    repository().join("target/hyperkube/hyperkube")
}

/// An id that no other bed has: its state directory did not exist. Always six digits, so that none begins another.
fn fresh_state() -> Result<(String, PathBuf)> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seed = (u128::from(std::process::id()) << 8) ^ since.as_micros();
    for attempt in 0..1000 {
        let id = format!("{:06x}", (seed + attempt) & 0xff_ffff);
        let state = cleanup::state_of(&id);
        match fs::create_dir(&state) {
            Ok(()) => return Ok((id, state)),
            Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(why) => return Err(why).with_context(|| state.display().to_string()),
        }
    }
    bail!("no free bed id: bed down")
}
