//! A node: its own mounts and processes beside its own network, with containerd, kubelet and kube-proxy.
//!
//! One process is the node: the init of its PID namespace. Killing it is pulling the plug.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::host::{Host, Running};
use crate::plan::{NodePlan, ipv6};
use crate::shell::{repository, run};
use crate::{Bed, hyperkube};

/// A node of the cluster.
pub struct Node {
    plan: NodePlan,
    addresses: Vec<String>,
    host: Host,
    folder: PathBuf,
    running: Option<Running>,
}

/// Starts all nodes and waits until each has registered with an address.
pub(crate) fn start_all(bed: &mut Bed) -> Result<()> {
    for plan in bed.plan.nodes.clone() {
        let host = bed.host(&plan.name);
        let folder = bed.state.join(&plan.name);
        configure(bed, &plan, &folder)?;
        let addresses = bed.plan.addresses(&plan.address());
        let mut node = Node { plan, addresses, host, folder, running: None };
        node.start()?;
        bed.nodes.push(node);
    }
    // Every connection of the cluster's own needs this: a proxy without rights programs nothing.
    bed.kubectl(&[
        "create",
        "clusterrolebinding",
        "bed-proxy",
        "--clusterrole=system:node-proxier",
        "--user=system:kube-proxy",
    ])?;
    for node in &bed.nodes {
        let path =
            ["node", node.name(), "-o", "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}"];
        let registered = || {
            let mut arguments = vec!["get"];
            arguments.extend(path);
            let seen = bed.kubectl(&arguments)?;
            Ok(if seen.trim() == node.addresses.join(" ") {
                Ok(())
            } else {
                Err(format!("address {seen:?}"))
            })
        };
        bed.wait(&format!("{} registers", node.name()), Duration::from_secs(60), registered)?;
    }
    let images = repository().join("target/images");
    bed.load_image(&images.join("pause.tar"))?;
    bed.load_image(&images.join("workload.tar"))
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.plan.address()
    }

    /// Its addresses: that one, and in a dual-stack cluster its IPv6 address.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Its network, as a host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where its file systems are, as the machine sees them: `opt/cni/bin`, `etc/cni/net.d`, …
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// Starts it, again after [`Node::kill`].
    ///
    /// # Errors
    /// When its processes cannot be started.
    pub fn start(&mut self) -> Result<()> {
        let [join, script] = ["join", "start"].map(|file| self.folder.join(file).display().to_string());
        let own = ["unshare", "-m", "-p", "-C", "-f", "--kill-child", "--propagation", "private"];
        let command: Vec<_> = ["bash", &join].into_iter().chain(own).chain(["bash", &script]).collect();
        let log = self.folder.join("node.log");
        self.running = Some(self.host.spawn(&self.plan.name, &command, &log)?);
        Ok(())
    }

    /// Pulls the plug.
    ///
    /// # Errors
    /// When its network cannot be taken down.
    pub fn kill(&mut self) -> Result<()> {
        self.running = None;
        self.cut_cable()
    }

    /// Pulls the network cable.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn cut_cable(&self) -> Result<()> {
        self.host.exec(&["ip", "link", "set", "eth0", "down"]).map(drop)
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn plug(&self) -> Result<()> {
        let gateway = format!("172.16.{}.1", 10 + self.plan.rack);
        self.host.exec(&["ip", "link", "set", "eth0", "up"])?;
        self.host.exec(&["ip", "route", "replace", "default", "via", &gateway])?;
        if let [_, v6] = self.addresses.as_slice() {
            let gateway = ipv6(&gateway).context("the router has no IPv6 address")?;
            // The address went with the cable.
            self.host.exec(&["ip", "addr", "replace", &format!("{v6}/64"), "dev", "eth0", "nodad"])?;
            self.host.exec(&["ip", "route", "replace", "default", "via", &gateway])?;
        }
        Ok(())
    }

    /// Runs a program inside: its network, its mounts, its processes.
    ///
    /// # Errors
    /// What it printed.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        let pid = self.init()?.to_string();
        let mut all = vec!["nsenter", "-t", &pid, "-m", "-n", "-p", "--"];
        all.extend_from_slice(command);
        run(&all)
    }

    pub(crate) fn load_image(&self, archive: &Path) -> Result<()> {
        let socket = self.folder.join("containerd.sock").display().to_string();
        let archive = archive.display().to_string();
        run(&["ctr", "-a", &socket, "-n", "k8s.io", "images", "import", "--no-unpack", &archive])
            .or_else(|_| run(&["ctr", "-a", &socket, "-n", "k8s.io", "images", "import", &archive]))
            .map(drop)
    }

    pub(crate) fn leave(&mut self) {
        if let Some(running) = &mut self.running {
            running.leave();
        }
    }

    /// The machine's number of the node's first process: the child of `unshare`.
    fn init(&self) -> Result<u32> {
        let Some(parent) = self.running.as_ref().and_then(Running::pid) else {
            bail!("{} is off", self.name())
        };
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let first = children.split_whitespace().next().context("the node has no process yet")?;
        Ok(first.parse()?)
    }
}

/// Directories that each node has for itself.
const PRIVATE: [&str; 7] = [
    "var/lib/cni",
    "var/lib/kubelet",
    "var/lib/portolan",
    "var/log/pods",
    "var/log/containers",
    "opt/cni/bin",
    "etc/cni/net.d",
];

fn configure(bed: &Bed, plan: &NodePlan, folder: &Path) -> Result<()> {
    for directory in PRIVATE {
        fs::create_dir_all(folder.join("root").join(directory))?;
    }
    let loopback = folder.join("root/opt/cni/bin/loopback");
    fs::copy("/usr/lib/cni/loopback", &loopback)
        .context("/usr/lib/cni/loopback (package containernetworking-plugins)")?;
    fs::write(folder.join("containerd.toml"), containerd(folder))?;
    let pki = bed.state.join("pki");
    fs::write(folder.join("kubelet.json"), kubelet(plan, folder, &pki).to_string())?;
    fs::write(folder.join("proxy.json"), proxy(plan, &pki).to_string())?;
    let addresses = bed.plan.addresses(&plan.address()).join(",");
    fs::write(folder.join("join"), join(bed.id(), &plan.name))?;
    fs::write(folder.join("start"), script(bed.id(), &plan.name, &addresses, folder, &pki))?;
    Ok(())
}

/// `restrict_oom_score_adj`: the machine withholds CAP_SYS_RESOURCE.
fn containerd(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/bed/pause:1"
restrict_oom_score_adj = true
disable_tcp_service = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"#
    )
}

fn kubelet(plan: &NodePlan, folder: &Path, pki: &Path) -> serde_json::Value {
    let none = json!({ "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%",
        "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%" });
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", folder.join("containerd.sock").display()),
        "authentication": {
            "anonymous": { "enabled": false }, "webhook": { "enabled": false },
            "x509": { "clientCAFile": pki.join("ca.crt") },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "tlsCertFile": pki.join(format!("{}.crt", plan.name)),
        "tlsPrivateKeyFile": pki.join(format!("{}.key", plan.name)),
        "cgroupDriver": "cgroupfs", "failCgroupV1": false, "cgroupsPerQOS": true, "enforceNodeAllocatable": [],
        "failSwapOn": false, "evictionHard": none,
        "nodeStatusUpdateFrequency": "2s", "maxPods": 250, "registerNode": true, "localStorageCapacityIsolation": false,
        "volumeStatsAggPeriod": "0s", "resolvConf": "", "shutdownGracePeriod": "0s",
    })
}

fn proxy(plan: &NodePlan, pki: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
        "hostnameOverride": plan.name, "clientConnection": { "kubeconfig": pki.join("proxy.kubeconfig") },
        "nftables": { "minSyncPeriod": "100ms" },
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
    })
}

/// Joins control groups of the node's own and becomes the given command. (A group of version 1 has no processors and no
/// memory before it is told.) With them, and with a namespace of them, kubelet keeps the books of its own pods alone: all
/// kubelets of all beds in the machine's groups would keep those of all pods.
fn join(id: &str, name: &str) -> String {
    format!(
        r#"set -e
for controller in /sys/fs/cgroup/*; do
  group=$controller
  for name in ptl{id} {name}; do
    mkdir -p $group/$name
    for file in cpuset.cpus cpuset.mems; do
      if [ -e $group/$file ]; then cat $group/$file >$group/$name/$file; fi
    done
    group=$group/$name
  done
  echo $$ >$group/cgroup.procs
done
exec "$@"
"#
    )
}

/// The node's first process. /sys is fresh so that /sys/class/net is this namespace's, with the node's control groups
/// bound back; /run is the node's own and shared, so that kubelet can propagate mounts.
fn script(id: &str, name: &str, addresses: &str, folder: &Path, pki: &Path) -> String {
    let hyperkube = hyperkube();
    let (folder, pki, hyperkube) = (folder.display(), pki.display(), hyperkube.display());
    let binds: String = PRIVATE
        .iter()
        .map(|one| format!("mkdir -p /{one} && mount --bind {folder}/root/{one} /{one}\n"))
        .collect();
    format!(
        r#"set -e
mount -t proc proc /proc
for group in /sys/fs/cgroup/*/ptl{id}/{name}; do
  controller={folder}/cgroup/$(basename ${{group%/ptl*}})
  mkdir -p $controller
  mount --bind $group $controller
done
mount -t sysfs sysfs /sys
mount --rbind {folder}/cgroup /sys/fs/cgroup
for group in /sys/fs/cgroup/*; do
  mkdir -p $group/system
  for file in cpuset.cpus cpuset.mems; do
    if [ -e $group/$file ]; then cat $group/$file >$group/system/$file; fi
  done
  echo 1 >$group/system/cgroup.procs
done
mount -t tmpfs tmpfs /run
mount --make-rshared /run
mkdir -p /run/netns /run/lock
{binds}mount --make-rshared /var/lib/kubelet
rm -f {folder}/containerd.sock
containerd --config {folder}/containerd.toml >{folder}/containerd.log 2>&1 &
{hyperkube} kube-proxy --config={folder}/proxy.json >{folder}/kube-proxy.log 2>&1 &
until [ -S {folder}/containerd.sock ]; do read -t 0.05 <> <(:) || true; done
exec {hyperkube} kubelet --config={folder}/kubelet.json --kubeconfig={pki}/{name}.kubeconfig \
  --hostname-override={name} --node-ip={addresses} >{folder}/kubelet.log 2>&1
"#
    )
}
