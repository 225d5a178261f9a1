//! Namespaces and cables: the switch, the router and every host's legs.

use std::fmt::Write;

use anyhow::Result;

use crate::plan::{CONTROL, Plan, ipv6};
use crate::shell::{run, run_with};

/// The name of a host's network namespace.
pub(crate) fn namespace(id: &str, host: &str) -> String {
    format!("ptl{id}-{host}")
}

/// A host's leg in a network.
struct Leg<'a> {
    host: &'a str,
    device: &'a str,
    network: &'a str,
    address: String,
}

/// Networks, each a bridge on the rack switch, with the router's address in it.
const NETWORKS: [(&str, &str); 5] = [
    ("rack1", "172.16.11.1/24"),
    ("rack2", "172.16.12.1/24"),
    ("ext", "172.16.20.1/24"),
    ("cli", "172.16.30.1/24"),
    ("vip", "172.16.251.254/24"),
];

/// Makes all namespaces, bridges, cables, addresses and default routes.
pub(crate) fn build(id: &str, plan: &Plan) -> Result<()> {
    let engines: Vec<_> = (1..=plan.engines).map(|number| (format!("se-{number}"), number)).collect();
    let mut hosts = vec!["rack", "router", "control", "erp-db", "partner", "client-1"];
    hosts.extend(plan.nodes.iter().map(|node| node.name.as_str()));
    hosts.extend(engines.iter().map(|(name, _)| name.as_str()));
    for host in &hosts {
        run(&["ip", "netns", "add", &namespace(id, host)])?;
        in_namespace(id, host, "link set lo up\n")?;
        let forward = if matches!(*host, "router" | "rack") || host.starts_with("se-") { "1" } else { "0" };
        set(id, host, "net.ipv4.ip_forward", forward)?;
        if plan.dual_stack {
            set(id, host, "net.ipv6.conf.all.forwarding", forward)?;
        }
        set(id, host, "net.ipv4.conf.all.rp_filter", "0")?;
        set(id, host, "net.ipv4.conf.default.rp_filter", "0")?;
    }
    let bridges: String = NETWORKS
        .iter()
        .map(|(name, _)| format!("link add {name} type bridge\nlink set {name} up\n"))
        .collect();
    in_namespace(id, "rack", &bridges)?;
    for (number, leg) in legs(plan, &engines).iter().enumerate() {
        connect(id, number, leg, plan)?;
    }
    let routes = hosts.iter().filter(|host| !matches!(**host, "rack" | "router"));
    routes.map(|host| (host, gateway(host, plan))).try_for_each(|(host, gateway)| {
        let commands =
            plan.addresses(gateway).into_iter().map(|gateway| format!("route add default via {gateway}\n"));
        in_namespace(id, host, &commands.collect::<String>()).map(drop)
    })
}

fn legs<'a>(plan: &'a Plan, engines: &'a [(String, u8)]) -> Vec<Leg<'a>> {
    let leg =
        |host, device, network, address: &str| Leg { host, device, network, address: address.to_owned() };
    let mut legs: Vec<_> =
        NETWORKS.iter().map(|(network, address)| leg("router", network, network, address)).collect();
    legs.push(leg("control", "eth0", "rack1", &format!("{CONTROL}/24")));
    legs.push(leg("erp-db", "eth0", "ext", "172.16.20.9/24"));
    legs.push(leg("partner", "eth0", "ext", "172.16.20.10/24"));
    legs.push(leg("client-1", "eth0", "cli", "172.16.30.10/24"));
    for (host, number) in engines {
        legs.push(leg(host, "eth0", "rack1", &format!("172.16.11.{}/24", 100 + number)));
        legs.push(leg(host, "eth1", "vip", &format!("172.16.251.{}/24", 250 + number)));
    }
    for node in &plan.nodes {
        let network = if node.rack == 1 { "rack1" } else { "rack2" };
        legs.push(leg(&node.name, "eth0", network, &format!("{}/24", node.address())));
    }
    legs
}

fn connect(id: &str, number: usize, leg: &Leg<'_>, plan: &Plan) -> Result<()> {
    let (rack, host) = (namespace(id, "rack"), namespace(id, leg.host));
    let port = format!("p{number}");
    let Leg { device, network, address, .. } = leg;
    run(&["ip", "-n", &rack, "link", "add", &port, "type", "veth", "peer", "name", device, "netns", &host])?;
    in_namespace(id, "rack", &format!("link set {port} master {network}\nlink set {port} up\n"))?;
    let mut commands = format!("link set {device} up\n");
    writeln!(commands, "addr add {address} dev {device}")?;
    let v4 = address.split_once('/').map_or(address.as_str(), |(v4, _)| v4);
    if let Some(v6) = ipv6(v4).filter(|_| plan.dual_stack) {
        writeln!(commands, "addr add {v6}/64 dev {device} nodad")?;
    }
    in_namespace(id, leg.host, &commands).map(drop)
}

fn gateway(host: &str, plan: &Plan) -> &'static str {
    match host {
        "erp-db" | "partner" => "172.16.20.1",
        "client-1" => "172.16.30.1",
        engine if engine.starts_with("se-") => "172.16.251.254",
        node if plan.nodes.iter().any(|one| one.name == node && one.rack == 2) => "172.16.12.1",
        _ => "172.16.11.1",
    }
}

fn in_namespace(id: &str, host: &str, commands: &str) -> Result<String> {
    run_with(&["ip", "-n", &namespace(id, host), "-batch", "-"], Some(commands))
}

fn set(id: &str, host: &str, key: &str, value: &str) -> Result<String> {
    run(&["ip", "netns", "exec", &namespace(id, host), "sysctl", "-qw", &format!("{key}={value}")])
}
