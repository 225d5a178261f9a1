//! What must agree: pools, leases, the nodes' records, their kernels, nftables and the pods' status. Pure.
//!
//! Every disagreement is one [`Finding`] that names the object, the field, both values and the remedy. What a pod that is
//! just coming or going looks like is a finding too; the caller looks twice and keeps what stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_core::check as core;
use portolan_core::ipam::duties::is_routed;
use portolan_core::ipam::{Lease, Pool, lease};
use portolan_wire::inspect::{Attachment, Given, LeaseUse, Marked, NodeState};
use serde::Serialize;

/// The interface of a pod's main network: its addresses are the pod's status.
const MAIN: &str = "eth0";

/// What everybody says.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Valid pools, by name.
    pub pools: BTreeMap<String, Pool>,
    /// Valid leases, by name.
    pub leases: BTreeMap<String, Lease>,
    /// Objects that are not valid, and why.
    pub invalid: Vec<(String, String)>,
    /// Every Node's pod CIDRs.
    pub cidrs: BTreeMap<String, Vec<IpNet>>,
    /// Every pod.
    pub pods: Vec<PodFacts>,
    /// What each node that answered says, by its name.
    pub nodes: BTreeMap<String, NodeState>,
}

/// A pod, as the API server has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`.
    pub node: Option<String>,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Whether its containers have ended for good; its addresses are others' by then.
    pub ended: bool,
}

impl PodFacts {
    /// Whether it has addresses that a network plugin gave it.
    pub fn is_ours(&self) -> bool {
        !self.host_network && !self.ended && !self.addresses.is_empty()
    }
}

/// Something that does not agree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Kind and name.
    pub object: String,
    /// Which of its fields, or of its node's state.
    pub field: String,
    /// What is there and what should be.
    pub values: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.object, self.field, self.values, self.remedy)
    }
}

fn finding(
    object: impl Into<String>,
    field: impl Into<String>,
    values: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding { object: object.into(), field: field.into(), values: values.into(), remedy: remedy.into() }
}

/// What the agent repairs within seconds; where it stays, the agent's log says why.
const REPAIRED: &str = "the node's agent repairs this within seconds; if it stays, see its log";
/// What only a new pod repairs.
const NEW_POD: &str = "delete the pod; its controller makes another";

/// Everything that does not agree.
pub fn check(facts: &Facts) -> BTreeSet<Finding> {
    let mut findings: BTreeSet<_> = facts
        .invalid
        .iter()
        .map(|(object, why)| finding(object, "spec", why, "correct it as the message says"))
        .collect();
    findings.extend(invariants(facts));
    findings.extend(facts.leases.values().filter_map(|lease| of_lease(facts, lease)));
    findings.extend(shared(facts));
    for (node, state) in &facts.nodes {
        findings.extend(leases(facts, node, state));
        findings.extend(state.records.iter().flat_map(|record| of_record(facts, node, record)));
        findings.extend(unrecorded(facts, node, state));
        // What could not be read is told by itself, and is not taken for absent.
        if state.kernel.unread.is_empty() {
            findings.extend(links(node, state));
            findings.extend(routes(facts, node, state));
            findings.extend(marks(node, state));
        }
    }
    findings
}

/// The one list of invariants of `core`, on what the nodes say.
fn invariants(facts: &Facts) -> Vec<Finding> {
    let held = facts.nodes.iter().flat_map(|(node, state)| {
        state.records.iter().flat_map(move |record| {
            record.addresses.iter().map(move |given| core::Held {
                node: node.clone(),
                container: container(node, record),
                address: given.address,
                pool: given.pool.clone(),
            })
        })
    });
    let snapshot = core::Snapshot { leases: facts.leases.clone(), held: held.collect() };
    let told = |violation: core::Violation| {
        finding("Addresses", "invariant", violation.to_string(), "report this: it must never happen")
    };
    core::check(&snapshot).into_iter().map(told).collect()
}

/// A lease against its pool.
fn of_lease(facts: &Facts, lease: &Lease) -> Option<Finding> {
    let object = format!("IPLease {}", lease.name);
    let Some(pool) = facts.pools.get(&lease.pool) else {
        let remedy = "create the pool again, or delete the pods that hold addresses of it";
        return Some(finding(object, "spec.pool", format!("IPPool {} does not exist", lease.pool), remedy));
    };
    let block = [lease.block].into_iter().collect();
    pool.usable.intersect(&block).is_empty().then(|| {
        let values = format!("no address of {} is in IPPool {}", lease.block, pool.name);
        finding(object, "spec.block", values, "add the range to the pool's spec.ipRanges again")
    })
}

/// Two pods that the API server shows with one address. The rule is `core`'s, which knows when two pods may: a virtual
/// machine that migrates.
fn shared(facts: &Facts) -> Vec<Finding> {
    let records = facts.nodes.values().flat_map(|state| &state.records);
    let given = records.flat_map(|record| &record.addresses);
    let pools: BTreeMap<IpAddr, &String> =
        given.filter_map(|given| Some((given.address, given.pool.as_ref()?))).collect();
    let held = |pod: &PodFacts| {
        let (node, name) = (pod.node.clone().unwrap_or_default(), format!("{}/{}", pod.namespace, pod.name));
        let one = |address: &IpAddr| core::Held {
            node: node.clone(),
            container: name.clone(),
            address: *address,
            pool: pools.get(address).map(|pool| (*pool).clone()),
        };
        pod.addresses.iter().map(one).collect::<Vec<_>>()
    };
    let held = facts.pods.iter().filter(|pod| pod.is_ours()).flat_map(held).collect();
    let found = core::check(&core::Snapshot { leases: facts.leases.clone(), held });
    #[allow(clippy::wildcard_enum_match_arm, reason = "of the others the records' own check tells")]
    let twice = found.into_iter().filter_map(|violation| match violation {
        core::Violation::HeldTwice { address, one, other } => Some((address, one, other)),
        _ => None,
    });
    let told = |(address, one, other): (IpAddr, String, String)| {
        let values = format!("{address} is also that of {other}");
        finding(format!("Pod {one}"), "status.podIPs", values, "report this, and delete one of the two")
    };
    twice.map(told).collect()
}

/// What the node takes addresses from against what the API server says it may.
fn leases(facts: &Facts, node: &str, state: &NodeState) -> Vec<Finding> {
    let used = state.leases.iter().filter(|one| one.state == LeaseUse::Used);
    let mine = |name: &str| facts.leases.get(name).is_some_and(|lease| lease.is_of(node));
    let lost = used.filter(|one| !mine(&one.name)).map(|one| {
        let values =
            format!("{node} takes addresses from {}, which the API server does not show as its", one.block);
        finding(
            format!("IPLease {}", one.name),
            "spec.node",
            values,
            "restart the node's agent and report this",
        )
    });
    let known: BTreeSet<_> = state.leases.iter().map(|one| one.name.as_str()).collect();
    let theirs =
        facts.leases.values().filter(|lease| lease.is_of(node) && !known.contains(lease.name.as_str()));
    let unknown = theirs.map(|lease| {
        let values = format!("{node}, whose agent does not know of it");
        finding(
            format!("IPLease {}", lease.name),
            "spec.node",
            values,
            "the agent's watch is behind: see its log",
        )
    });
    lost.chain(unknown).collect()
}

/// A record against pools, the node's CIDRs and the pod.
fn of_record(facts: &Facts, node: &str, record: &Attachment) -> Vec<Finding> {
    let object = container(node, record);
    let mut findings = Vec::new();
    for given in &record.addresses {
        let (place, inside) = match &given.pool {
            Some(name) => {
                let pool = facts.pools.get(name);
                (format!("IPPool {name}"), pool.is_some_and(|pool| pool.usable.contains(given.address)))
            }
            None => {
                let cidrs = facts.cidrs.get(node).into_iter().flatten();
                (
                    format!("Node {node}'s spec.podCIDRs"),
                    cidrs.into_iter().any(|net| net.contains(&given.address)),
                )
            }
        };
        if !inside {
            let values = format!("{} is not in {place}", given.address);
            findings.push(finding(
                &object,
                "record.address",
                values,
                "add the range again, or delete the pod",
            ));
        }
    }
    if record.pod.is_empty() {
        return findings;
    }
    let same = |pod: &&PodFacts| pod.namespace == record.namespace && pod.name == record.pod;
    let pod = facts.pods.iter().find(same);
    findings.extend(
        of_pod(node, record, pod).map(|(field, values, remedy)| finding(&object, field, values, remedy)),
    );
    findings
}

/// A record against the pod it names.
fn of_pod(
    node: &str,
    record: &Attachment,
    pod: Option<&PodFacts>,
) -> Option<(&'static str, String, &'static str)> {
    let name = format!("Pod {}/{}", record.namespace, record.pod);
    let stale =
        "the node's agent gives its addresses back within 30 s of the pod's end; if it stays, see its log";
    let Some(pod) = pod else { return Some(("record.pod", format!("{name} does not exist"), stale)) };
    if let Some(uid) = record.uid.as_ref().filter(|uid| **uid != pod.uid) {
        return Some(("record.uid", format!("{uid}, but {name} has {}", pod.uid), stale));
    }
    if pod.node.as_deref() != Some(node) {
        let there = pod.node.as_deref().unwrap_or("no node");
        return Some(("record.node", format!("{node}, but {name} is on {there}"), stale));
    }
    if pod.ended {
        return Some(("record.pod", format!("{name} has ended"), stale));
    }
    let addresses: BTreeSet<_> = record.addresses.iter().map(|given| given.address).collect();
    let shown: BTreeSet<_> = pod.addresses.iter().copied().collect();
    let main = record.interface == MAIN && record.host_interface.is_some();
    (main && record.complete && !shown.is_empty() && shown != addresses).then(|| {
        let values = format!("{}, but {name} has status.podIPs {}", list(&addresses), list(&shown));
        ("record.addresses", values, NEW_POD)
    })
}

/// Pods of the node that have an address and no record.
fn unrecorded(facts: &Facts, node: &str, state: &NodeState) -> Vec<Finding> {
    let recorded: BTreeSet<IpAddr> =
        state.records.iter().flat_map(|record| record.addresses.iter().map(|given| given.address)).collect();
    let here = facts.pods.iter().filter(|pod| pod.is_ours() && pod.node.as_deref() == Some(node));
    let told = |pod: &PodFacts| {
        let address = pod.addresses.iter().find(|address| !recorded.contains(address))?;
        let values = format!(
            "{address}, of which {node} has no record: another network plugin gave it, or it is lost"
        );
        Some(finding(format!("Pod {}/{}", pod.namespace, pod.name), "status.podIPs", values, NEW_POD))
    };
    here.filter_map(told).collect()
}

/// Records that are complete and on a link of ours, with the node's end of it.
fn wired(state: &NodeState) -> impl Iterator<Item = (&Attachment, &str)> {
    let complete = state.records.iter().filter(|record| record.complete);
    complete.filter_map(|record| Some((record, record.host_interface.as_deref()?)))
}

/// Records against links, both ways.
fn links(node: &str, state: &NodeState) -> Vec<Finding> {
    let links = &state.kernel.links;
    let missing = wired(state).filter(|(_, link)| !links.iter().any(|name| name == link));
    let missing = missing.map(|(record, link)| {
        finding(container(node, record), "kernel.link", format!("{link} does not exist"), REPAIRED)
    });
    let known: BTreeSet<_> =
        state.records.iter().filter_map(|record| record.host_interface.as_deref()).collect();
    let foreign = links.iter().filter(|link| !known.contains(link.as_str())).map(|link| {
        let remedy = format!("on the node: ip link delete {link}");
        finding(format!("Node {node}"), "kernel.link", format!("{link} belongs to no record"), remedy)
    });
    missing.chain(foreign).collect()
}

/// Records against routes, both ways. A virtual machine that migrates is on two nodes and routed on one.
fn routes(facts: &Facts, node: &str, state: &NodeState) -> Vec<Finding> {
    let routes: BTreeMap<IpAddr, &str> =
        state.kernel.routes.iter().map(|route| (route.address, route.device.as_str())).collect();
    let elsewhere = |given: &Given| {
        let single = |pool: &String| facts.leases.get(&lease::name(pool, given.address.into()));
        given.pool.as_ref().and_then(single).is_some_and(|lease| !is_routed(lease, node))
    };
    let mut should = BTreeMap::<IpAddr, &str>::new();
    for (record, link) in wired(state) {
        let here = record.addresses.iter().filter(|given| !elsewhere(given));
        should.extend(here.map(|given| (given.address, link)));
    }
    let wrong = should.iter().filter_map(|(address, link)| {
        let values = match routes.get(address) {
            None => format!("{address} has no route to {link}"),
            Some(device) if device != link => format!("{address} is routed to {device} instead of {link}"),
            Some(_) => return None,
        };
        Some(finding(format!("Node {node}"), "kernel.route", values, REPAIRED))
    });
    let foreign = routes.iter().filter(|(address, _)| !should.contains_key(address));
    let foreign = foreign.map(|(address, device)| {
        let values = format!("{address} is routed to {device}, and no record has it");
        finding(format!("Node {node}"), "kernel.route", values, REPAIRED)
    });
    wrong.chain(foreign).collect()
}

/// The marks that should be against those that are.
fn marks(node: &str, state: &NodeState) -> Vec<Finding> {
    let map = |marks: &[Marked]| marks.iter().map(|one| (one.address, one.mark)).collect::<BTreeMap<_, _>>();
    let (should, has) = (map(&state.marks), map(&state.kernel.marks));
    let addresses: BTreeSet<_> = should.keys().chain(has.keys()).collect();
    let told = |address: &&IpAddr| {
        let hex = |mark: Option<&u32>| mark.map_or("none".to_owned(), |mark| format!("{mark:#010x}"));
        let (should, has) = (should.get(*address), has.get(*address));
        (should != has).then(|| {
            let values = format!("the mark of {address} is {} and should be {}", hex(has), hex(should));
            finding(format!("Node {node}"), "nftables.mark", values, REPAIRED)
        })
    };
    addresses.iter().filter_map(told).collect()
}

fn container(node: &str, record: &Attachment) -> String {
    let short: String = record.container.chars().take(13).collect();
    let pod = if record.pod.is_empty() {
        String::new()
    } else {
        format!(" of {}/{}", record.namespace, record.pod)
    };
    format!("Record {short}@{}{pod} on {node}", record.interface)
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
