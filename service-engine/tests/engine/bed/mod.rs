//! A small data centre for one test: a switch, an engine, two nodes with pods, a client; each a network namespace of
//! its own. Needs root. Everything is gone when the values are dropped.

pub mod certificates;
pub mod controller;
pub mod engine;
pub mod pods;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use portolan_linux::netns::{Named, within};

/// The engine's address, which is also in its certificate.
pub const ENGINE: &str = "10.100.1.200";
/// Where the pods of the first node are, and the node.
pub const POD_A: &str = "192.168.101.13";
/// The second node's pod.
pub const POD_C: &str = "192.168.102.17";
/// A virtual address.
pub const VIP: &str = "172.16.251.1";

/// How long anything may take that the engine does by itself; its slowest timer is 3 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// The namespaces.
pub struct Bed {
    pub engine: Named,
    pub node_1: Named,
    pub node_2: Named,
    pub client: Named,
    _switch: Named,
}

impl Bed {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("ptlse-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let named = |name: &str| Named::create(&format!("{prefix}-{name}")).expect("these tests need root");
        let switch = named("switch");
        let bed = Self {
            engine: named("engine"),
            node_1: named("node1"),
            node_2: named("node2"),
            client: named("client"),
            _switch: switch,
        };
        ip(&bed._switch, "link add br0 type bridge forward_delay 0");
        ip(&bed._switch, "link set br0 up");
        bed.plug(&bed.engine, "port0", &format!("{ENGINE}/24"));
        bed.plug(&bed.node_1, "port1", "10.100.1.101/24");
        bed.plug(&bed.node_2, "port2", "10.100.1.102/24");
        bed.plug(&bed.client, "port3", "10.100.1.50/24");
        ip(&bed.node_1, &format!("address add {POD_A}/32 dev lo"));
        ip(&bed.node_2, &format!("address add {POD_C}/32 dev lo"));
        ip(&bed.client, "route add 172.16.251.0/24 dev eth0");
        bed
    }

    fn plug(&self, host: &Named, port: &str, address: &str) {
        let peer = name(host);
        ip(&self._switch, &format!("link add {port} type veth peer name eth0 netns {peer}"));
        ip(&self._switch, &format!("link set {port} master br0 up"));
        ip(host, "link set lo up");
        ip(host, "link set eth0 up");
        ip(host, &format!("address add {address} dev eth0"));
    }
}

/// Runs `ip` in a namespace and returns what it prints.
pub fn ip(host: &Named, arguments: &str) -> String {
    let output =
        Command::new("ip").args(["-n", name(host)]).args(arguments.split_whitespace()).output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip -n {} {arguments}: {problem}", name(host));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `work` in a namespace.
pub fn inside<T: Send>(host: &Named, work: impl FnOnce() -> T + Send) -> T {
    use std::os::fd::AsFd;
    within(host.as_fd(), work).unwrap()
}

/// Asks until the answer is yes.
pub fn eventually(what: &str, mut question: impl FnMut() -> bool) {
    let start = Instant::now();
    while !question() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn name(host: &Named) -> &str {
    host.path().file_name().unwrap().to_str().unwrap()
}
