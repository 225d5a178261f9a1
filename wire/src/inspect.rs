//! What the agent tells who asks about its node: JSON over HTTP on the node's loopback, for `kubectl portolan` and for
//! people with `curl`.
//!
//! | path | answer |
//! | --- | --- |
//! | `/v1/node` | [`NodeState`] |
//! | `/v1/history?address=…`, with `&at=…` or without; `/v1/history?pod=NAMESPACE/NAME` | [`HistoryAnswer`] |
//! | `/v1/explain?pod=NAMESPACE/NAME` | [`Explanation`] |
//!
//! Whatever cannot be answered is a [`Refused`] with an HTTP status that is not 200. Readers ignore fields they do not
//! know and do without those that are missing, so that a command and an agent of different versions understand each other.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where the agent answers, on its node's 127.0.0.1.
pub const PORT: u16 = 9471;
/// [`NodeState`].
pub const NODE: &str = "/v1/node";
/// [`HistoryAnswer`].
pub const HISTORY: &str = "/v1/history";
/// [`Explanation`].
pub const EXPLAIN: &str = "/v1/explain";

/// Why there is no answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// In a sentence.
    pub error: String,
}

/// A node as its agent sees it: what it believes, and what its kernel has, read at the moment of the question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeState {
    /// The node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Who holds addresses here.
    pub records: Vec<Attachment>,
    /// The leases that the agent takes addresses from, or has under way.
    pub leases: Vec<LeaseState>,
    /// What is held, resting and free in them.
    pub book: Vec<PoolState>,
    /// The marks that local pods should have, for egress.
    pub marks: Vec<Marked>,
    /// What the kernel has.
    pub kernel: KernelState,
}

/// A container's interface that holds addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// The pod's namespace; empty for a caller that is not Kubernetes.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid, where the runtime named it.
    pub uid: Option<String>,
    /// The network's name.
    pub network: String,
    /// The addresses.
    pub addresses: Vec<Given>,
    /// The node's end of the pair; absent where only addresses were asked for.
    pub host_interface: Option<String>,
    /// Whether ADD has come to its end.
    pub complete: bool,
}

/// An address and where it is from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Given {
    /// The address.
    pub address: IpAddr,
    /// Its pool; absent for the node's own pod CIDR.
    #[serde(default)]
    pub pool: Option<String>,
}

/// A lease as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseState {
    /// The IPLease's name.
    pub name: String,
    /// The pool.
    pub pool: String,
    /// The block; one address where it is a single.
    pub block: IpNet,
    /// What the node does with it.
    pub state: LeaseUse,
    /// The workload it is kept for, in words.
    #[serde(default)]
    pub kept_for: Option<String>,
}

/// What a node does with a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LeaseUse {
    /// It takes addresses from it.
    Used,
    /// It has asked the API server for it, or for a change of it.
    Asked,
    /// It is on its way back.
    Returning,
}

/// What a node has of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PoolState {
    /// The pool; absent for the node's own pod CIDRs.
    pub pool: Option<String>,
    /// Addresses that pods here hold.
    pub held: u64,
    /// Addresses that were released and are not given again yet.
    pub resting: u64,
    /// Addresses that the next pod can have at once.
    pub free: u64,
}

/// An address with a firewall mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Marked {
    /// The pod's address.
    pub address: IpAddr,
    /// The mark.
    pub mark: u32,
}

/// What the kernel of a node has for pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KernelState {
    /// The nodes' ends of pod links.
    pub links: Vec<String>,
    /// Routes of ours to single addresses on this node.
    pub routes: Vec<PodRoute>,
    /// The elements of the nftables map of local pods' marks.
    pub marks: Vec<Marked>,
    /// What could not be read, in sentences; nothing can be said about it.
    pub unread: Vec<String>,
}

/// A route to a pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodRoute {
    /// The pod's address.
    pub address: IpAddr,
    /// The device.
    pub device: String,
}

/// Who held what when, as one node remembers it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HistoryAnswer {
    /// The node.
    pub node: String,
    /// The holdings that were asked for, in the order in which they began.
    pub holdings: Vec<Holding>,
    /// The time of the oldest entry that is kept; absent while there is none.
    pub reaches_back_to: Option<Timestamp>,
    /// Where the node's clock went back, as far as it concerns the answer: times between `to` and `from` came twice.
    pub clock_went_back: Vec<ClockStep>,
    /// Entries that were never written, because the disk was full or too slow.
    pub lost: u64,
    /// Lines that could not be read.
    pub unreadable: u64,
}

/// One address in one container's hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The address.
    pub address: IpAddr,
    /// Its pool; absent for the node's own pod CIDR.
    #[serde(default)]
    pub pool: Option<String>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid, where the runtime named it.
    #[serde(default)]
    pub uid: Option<String>,
    /// The container.
    pub container: String,
    /// The node.
    pub node: String,
    /// Since when. Absent where the beginning is not kept any more.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// Until when; absent while it lasts.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// Why it ended.
    #[serde(default)]
    pub ended_by: Option<String>,
}

/// A moment at which a clock went back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClockStep {
    /// The last time that was written before.
    pub from: Timestamp,
    /// The first time that was written after.
    pub to: Timestamp,
}

/// Where a pod's addresses are from, or why it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Explanation {
    /// The node that was asked.
    pub node: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The addresses it holds.
    pub addresses: Vec<Given>,
    /// Who says which pools it may use, in words: the Pod, its Namespace, the pools' selectors, nobody.
    pub chosen_by: String,
    /// The pools it may use, in order, and what each of them would do for it now.
    pub candidates: Vec<Candidate>,
    /// Why it cannot be given an address now, where it has none; the words of the CNI error.
    pub refusal: Option<String>,
    /// What an ADD that is under way waits for.
    pub waits_for: Option<String>,
}

/// A pool that a pod may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The pool; absent for the node's own pod CIDRs.
    pub pool: Option<String>,
    /// What it would do for this pod now.
    pub verdict: Verdict,
    /// In words.
    pub why: String,
}

/// What a pool would do for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It gives an address at once.
    Gives,
    /// It gives one once the API server or another node has answered, or an address has rested.
    GivesLater,
    /// It is passed over.
    PassedOver,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_an_older_or_newer_agent_is_still_read() {
        let text = r#"{"node":"node-1","records":[{"container":"c1","addresses":[{"address":"10.20.1.5"}],"new":1}]}"#;
        let state: NodeState = serde_json::from_str(text).unwrap();
        assert_eq!(state.records[0].addresses[0].address.to_string(), "10.20.1.5");
        assert!(state.kernel.links.is_empty());
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let step = ClockStep {
            from: "2026-11-20T10:00:01.5Z".parse().unwrap(),
            to: "2026-11-20T09:00Z".parse().unwrap(),
        };
        let text = serde_json::to_string(&step).unwrap();
        assert_eq!(text, r#"{"from":"2026-11-20T10:00:01.5Z","to":"2026-11-20T09:00:00Z"}"#);
    }
}
