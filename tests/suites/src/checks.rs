//! What must be seen, looked at from outside. Each check is one row of the demo's report and one test of the suite.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::bank::{Bank, NAMESPACES, PATIENCE, Pod};

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Its name in the report.
    pub name: &'static str,
    /// The scenario it belongs to.
    pub scenario: u8,
    /// What must be seen.
    pub expected: String,
    /// What is seen.
    pub observed: String,
    /// Whether that is the same.
    pub ok: bool,
}

/// A check: looks, and says.
pub type Look = fn(&mut Bank) -> Result<(String, String)>;

/// All checks, in the order in which they are made.
pub const ALL: [(&str, u8, Look); 9] = [
    ("namespace-pool-addresses", 1, pool_addresses),
    ("egress-source-erp", 1, |bank| source(bank, "erp", "172.16.11.200")),
    ("egress-source-portal", 1, |bank| source(bank, "portal", "172.16.11.210")),
    ("egress-first-packet", 1, first_packet),
    ("egress-from-two-nodes", 1, two_nodes),
    ("inbound-direct-no-nat", 1, inbound),
    ("service-engine-routes", 2, engine_routes),
    ("loadbalancer-vip", 3, virtual_address),
    ("pool-follows-scaling", 3, scaling),
];

/// Makes one check. What could not be looked at is a failure that says why.
pub fn make(bank: &mut Bank, (name, scenario, look): (&'static str, u8, Look)) -> Check {
    match look(bank) {
        Ok((expected, observed)) => Check { name, scenario, ok: expected == observed, expected, observed },
        Err(error) => {
            let observed = format!("cannot be looked at: {error:#}");
            Check { name, scenario, expected: "something to look at".to_owned(), observed, ok: false }
        }
    }
}

/// The pools of the bank: namespace, first three bytes, lowest and highest last byte.
const POOLS: [(&str, [u8; 3], u8, u8); 4] = [
    ("portal", [10, 20, 2], 0, 255),
    ("erp", [10, 20, 1], 0, 255),
    ("crm", [10, 20, 3], 1, 200),
    ("vote", [10, 20, 4], 0, 255),
];

fn pool_addresses(bank: &mut Bank) -> Result<(String, String)> {
    let mut observed = Vec::new();
    for (namespace, prefix, lowest, highest) in POOLS {
        let pods = bank.pods(namespace)?;
        let inside = pods.iter().filter(|pod| match pod.address.parse() {
            Ok(IpAddr::V4(address)) => {
                let [a, b, c, last] = address.octets();
                [a, b, c] == prefix && (lowest..=highest).contains(&last)
            }
            Ok(IpAddr::V6(_)) | Err(_) => false,
        });
        observed.push(format!("{namespace} {} of {}", inside.count(), pods.len()));
    }
    let expected = NAMESPACES.iter().map(|(name, replicas)| format!("{name} {replicas} of {replicas}"));
    Ok((expected.collect::<Vec<_>>().join(", "), observed.join(", ")))
}

fn source(bank: &mut Bank, namespace: &str, address: &str) -> Result<(String, String)> {
    let seen = bank.sources(namespace, "after")?;
    let pods = NAMESPACES.iter().find(|(name, _)| *name == namespace).map_or(0, |(_, replicas)| *replicas);
    Ok((format!("{pods} pods seen as {address}"), format!("{} pods seen as {}", seen.len(), distinct(&seen))))
}

fn distinct(seen: &[(Pod, String)]) -> String {
    let sources: BTreeSet<_> = seen.iter().map(|(_, source)| source.as_str()).collect();
    sources.into_iter().collect::<Vec<_>>().join(" and ")
}

/// Pods whose first deed is to connect. Every connection attempt that reaches the database is captured.
fn first_packet(bank: &mut Bank) -> Result<(String, String)> {
    const PODS: usize = 12;
    let capture = bank.bed.state().join("first-packets.log");
    let filter = "tcp[tcpflags] & tcp-syn != 0 and dst port 5432";
    bank.bed.spawn(
        "erp-db",
        "first-packets",
        &["tcpdump", "-i", "eth0", "-n", "-l", "--immediate-mode", filter],
    )?;
    bank.bed.wait("tcpdump listens", PATIENCE, || {
        let text = std::fs::read_to_string(&capture)?;
        Ok(if text.contains("listening on") { Ok(()) } else { Err(text) })
    })?;
    let pods: Vec<_> = (1..=PODS).map(first_pod).collect();
    bank.bed.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string())?;
    let arrived = bank.bed.wait("all first packets arrive", PATIENCE, || {
        let seen = bank.bed.host("erp-db").seen()?;
        let tags: BTreeSet<_> =
            seen.into_iter().map(|one| one.said).filter(|tag| tag.starts_with("first-")).collect();
        Ok(if tags.len() == PODS { Ok(tags.len()) } else { Err(format!("{tags:?}")) })
    })?;
    bank.bed.kill("first-packets");
    let text = std::fs::read_to_string(&capture)?;
    let attempts: Vec<_> = text.lines().filter_map(captured_source).collect();
    let wrong: BTreeSet<_> = attempts.iter().filter(|source| *source != "172.16.11.200").collect();
    bank.bed.kubectl(&["-n", "erp", "delete", "pod", "-l", "app=first", "--wait=false"])?;
    let observed =
        format!("{arrived} pods, wrong sources: {wrong:?}, attempts captured: {}", attempts.len() >= PODS);
    Ok((format!("{PODS} pods, wrong sources: {{}}, attempts captured: true"), observed))
}

fn first_pod(number: usize) -> Value {
    let (name, tag) = (format!("first-{number}"), format!("first-{number}"));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "erp", "labels": { "app": "first" } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "first", "image": "localhost/bed/workload:1",
                "args": ["dial", "172.16.20.9:5432", "--tag", tag, "--times", "3", "--stay"],
            }],
        },
    })
}

/// `12:00:00.0 IP 172.16.11.200.40000 > 172.16.20.9.5432: Flags [S], …`
fn captured_source(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(" IP ")?;
    let (source, _) = rest.split_once(" > ")?;
    source.rsplit_once('.').map(|(address, _)| address.to_owned())
}

fn two_nodes(bank: &mut Bank) -> Result<(String, String)> {
    let seen = bank.sources("erp", "nodes")?;
    let nodes: BTreeSet<_> = seen.iter().map(|(pod, _)| pod.node.as_str()).collect();
    let expected = "from at least 2 nodes as 172.16.11.200".to_owned();
    let count = if nodes.len() >= 2 { "at least 2 nodes".to_owned() } else { format!("{nodes:?}") };
    Ok((expected, format!("from {count} as {}", distinct(&seen))))
}

/// A client outside reaches each ERP pod by its address, and the pod sees the client's.
fn inbound(bank: &mut Bank) -> Result<(String, String)> {
    let (client, pods) = (bank.bed.host("client-1"), bank.pods("erp")?);
    let mut sees = BTreeSet::new();
    for pod in &pods {
        let answer = bank.bed.wait("a pod answers the client", PATIENCE, || {
            client.dial(&format!("{}:8080", pod.address)).map(Ok)
        })?;
        sees.insert(answer.trim().trim_start_matches(&pod.name).to_owned());
    }
    let sees = sees.into_iter().collect::<Vec<_>>().join(",");
    Ok(("4 pods answer: sees 172.16.30.10".to_owned(), format!("{} pods answer:{sees}", pods.len())))
}

/// The engine's table is what the API server says: every node's pod CIDR and every lease, via the node's address.
fn engine_routes(bank: &mut Bank) -> Result<(String, String)> {
    let bed = &bank.bed;
    let tables = || -> Result<(String, String)> {
        let nodes = bed.get(&["nodes"])?;
        let leases = bed.get(&["ipleases"])?;
        let mut expected = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for node in nodes["items"].as_array().context("nodes")? {
            let all = node["status"]["addresses"].as_array().context("addresses")?;
            let internal = all.iter().find(|one| one["type"] == "InternalIP").context("InternalIP")?;
            addresses.insert(node["metadata"]["name"].to_string(), internal["address"].clone());
            expected.insert(node["spec"]["podCIDR"].to_string(), internal["address"].to_string());
        }
        for lease in leases["items"].as_array().context("leases")? {
            let via = addresses.get(&lease["spec"]["node"].to_string()).context("a lease of no node")?;
            // A block of one address is written without its length by `ip`.
            let block = lease["spec"]["block"].to_string().replace("/32\"", "\"");
            expected.insert(block, via.to_string());
        }
        let routes = bed.host("se-1").ip(&["route", "show", "proto", "107"])?;
        let routes = routes.as_array().context("routes")?;
        let observed: BTreeMap<_, _> =
            routes.iter().map(|route| (route["dst"].to_string(), route["gateway"].to_string())).collect();
        Ok((lines(&expected), lines(&observed)))
    };
    let settled = bed.wait("the engine has the cluster's routes", PATIENCE, || {
        let (expected, observed) = tables()?;
        Ok(if expected == observed {
            Ok(())
        } else {
            Err(format!("expected {expected}, observed {observed}"))
        })
    });
    settled.and_then(|()| tables()).or_else(|_| tables())
}

fn lines(table: &BTreeMap<String, String>) -> String {
    let line = |(prefix, via): (&String, &String)| format!("{prefix} via {via}").replace('"', "");
    table.iter().map(line).collect::<Vec<_>>().join(", ")
}

fn virtual_address(bank: &mut Bank) -> Result<(String, String)> {
    let bed = &bank.bed;
    bed.kubectl(&[
        "create",
        "deployment",
        "nginx1",
        "--image=localhost/bed/workload:1",
        "--",
        "bed-probe",
        "serve",
        "--port",
        "8080",
    ])?;
    bed.kubectl(&[
        "expose",
        "deployment",
        "nginx1",
        "--type=LoadBalancer",
        "--port=80",
        "--target-port=8080",
    ])?;
    bank.rolled_out("default", "deployment/nginx1")?;
    let vip = bed.wait("the Service gets an address", PATIENCE, || {
        let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let vip = bed.kubectl(&["get", "service", "nginx1", "-o", path])?;
        Ok(if vip.is_empty() { Err("none".to_owned()) } else { Ok(vip) })
    })?;
    let client = bed.host("client-1");
    let answer = bed.wait("the address answers", PATIENCE, || client.dial(&format!("{vip}:80")).map(Ok))?;
    let pod = bank.pods("default")?.into_iter().next().context("no pod")?;
    let by = if answer.starts_with(&pod.name) { "the pod" } else { answer.trim() };
    let expected = "EXTERNAL-IP 172.16.251.1, answered by the pod, which sees 172.16.11.101".to_owned();
    let sees = answer.trim().rsplit(' ').next().unwrap_or_default();
    Ok((expected, format!("EXTERNAL-IP {vip}, answered by {by}, which sees {sees}")))
}

/// One pod becomes five while a client keeps connecting: all five answer, and no connection fails.
fn scaling(bank: &mut Bank) -> Result<(String, String)> {
    let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let flow = std::thread::spawn({
        let (client, stop, failures) = (bank.bed.host("client-1"), stop.clone(), failures.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                if client.dial("172.16.251.1:80").is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let outcome = scaled(bank);
    stop.store(true, Ordering::Relaxed);
    flow.join().map_err(|_| anyhow::anyhow!("the client's thread panicked"))?;
    let answering = outcome?;
    let failed = failures.load(Ordering::Relaxed);
    Ok((
        "5 pods answer, 0 connections failed".to_owned(),
        format!("{answering} pods answer, {failed} connections failed"),
    ))
}

fn scaled(bank: &Bank) -> Result<usize> {
    bank.bed.kubectl(&["scale", "deployment", "nginx1", "--replicas=5"])?;
    bank.rolled_out("default", "deployment/nginx1")?;
    let pods: BTreeSet<_> = bank.pods("default")?.into_iter().map(|pod| pod.name).collect();
    let (client, mut answered) = (bank.bed.host("client-1"), BTreeSet::new());
    bank.bed.wait("all five pods answer", PATIENCE, || {
        let answer = client.dial("172.16.251.1:80")?;
        answered.insert(answer.split(' ').next().unwrap_or_default().to_owned());
        let all = answered.intersection(&pods).count();
        Ok(if all == 5 { Ok(all) } else { Err(format!("{answered:?}")) })
    })
}
