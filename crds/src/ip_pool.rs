//! `IPPool`: addresses for pods, and who may have them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Addresses for pods, and which namespaces get them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "portolan.dev",
    version = "v1alpha1",
    kind = "IPPool",
    plural = "ippools",
    shortname = "ipp",
    status = "IPPoolStatus",
    printcolumn = r#"{"name":"Total","type":"integer","jsonPath":".status.usage.total"}"#,
    printcolumn = r#"{"name":"Used","type":"integer","jsonPath":".status.usage.used"}"#,
    printcolumn = r#"{"name":"Reserved","type":"integer","jsonPath":".status.usage.reserved"}"#,
    printcolumn = r#"{"name":"Free","type":"integer","jsonPath":".status.usage.free"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.subnetInfo) || !isIP(self.subnetInfo.gateway) || self.subnetInfo.prefixLength <= (ip(self.subnetInfo.gateway).family() == 4 ? 32 : 128)",
    "subnetInfo.prefixLength is longer than an address of the gateway's family"
))]
pub struct IPPoolSpec {
    /// The addresses, as CIDRs or as start and end (both inclusive). Every address of a range is usable, but for those
    /// in `exclusions` and, where `subnetInfo` is given, that subnet's network, broadcast and gateway address.
    #[schemars(length(min = 1, max = 64))]
    pub ip_ranges: Vec<IPRange>,
    /// Addresses inside the ranges that are never given out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub exclusions: Vec<IPRange>,
    /// The subnet the addresses belong to, where they are part of one that others share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_info: Option<SubnetInfo>,
    /// Namespaces that may use this pool, and that get it without naming it unless it is `onRequest`. Others get it when
    /// an administrator lists it in the Namespace's annotation `portolan.dev/ippools` (or `ipam.antrea.io/ippools`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Only who names the pool gets it: in the annotation of a Pod or its template, or in a network's configuration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_request: bool,
    /// Nodes that may hold blocks of this pool. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Addresses in one block that a node holds; a power of two. Default 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self > 0 && self <= 65536 && [1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192,16384,32768,65536].exists(p, p == self)", "leaseSize must be a power of two from 1 to 65536"))]
    pub lease_size: Option<i64>,
    /// The source address of connections that leave the cluster and that no Egress selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Outbound>,
    /// Whether pods of StatefulSets and KubeVirt virtual machines keep their addresses: over deletion of the pod, scaling
    /// down and up, and from node to node. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_addresses: Option<bool>,
    /// How long an address that was kept stays so after its workload was deleted, in seconds: a workload that is made again
    /// under its name within this time gets its addresses back. Default 0; at most a year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub retention_seconds: Option<i64>,
    /// How long an address rests after its pod is gone before another pod gets it, in seconds. The one that has rested
    /// longest is given first. Default 5; at most a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub cooldown_seconds: Option<i64>,
    /// A disabled pool gives no more addresses; those it gave stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

/// Addresses from one to another, both inclusive, or a whole CIDR.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = ("has(self.cidr) != has(self.start) && has(self.start) == has(self.end)", "give either cidr, or start and end"),
    validation = ("!has(self.cidr) || isCIDR(self.cidr)", "cidr is not a CIDR such as 10.20.0.0/24"),
    validation = ("!has(self.cidr) || !isCIDR(self.cidr) || cidr(self.cidr) == cidr(self.cidr).masked()", "cidr has bits set to the right of its prefix; write its network address"),
    validation = ("!has(self.start) || isIP(self.start)", "start is not an IP address"),
    validation = ("!has(self.end) || isIP(self.end)", "end is not an IP address"),
    validation = ("!has(self.start) || !has(self.end) || !isIP(self.start) || !isIP(self.end) || ip(self.start).family() == ip(self.end).family()", "start and end must be of the same address family"),
    validation = ("!has(self.cidr) || !isCIDR(self.cidr) || (cidr(self.cidr).ip().family() == 4 ? cidr(self.cidr).prefixLength() >= 12 : cidr(self.cidr).prefixLength() >= 108)", "a range may have at most 1,048,576 addresses (/12 for IPv4, /108 for IPv6)")
)]
pub struct IPRange {
    /// A whole network, such as 10.20.0.0/24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cidr: Option<String>,
    /// The first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub start: Option<String>,
    /// The last address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub end: Option<String>,
}

/// The subnet that a pool's addresses belong to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SubnetInfo {
    /// The subnet's gateway; never given out.
    #[schemars(length(max = 64))]
    #[x_kube(validation = ("isIP(self)", "gateway is not an IP address"))]
    pub gateway: String,
    /// The subnet's prefix length.
    #[schemars(range(min = 1, max = 127))]
    pub prefix_length: i32,
    /// The VLAN the subnet is on; 0 or absent: untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan: Option<i32>,
}

/// With which source address connections leave the cluster.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outbound {
    /// The node's.
    #[default]
    NodeAddress,
    /// The pod's own: the data centre routes it.
    PodAddress,
}

/// What the controller says of a pool.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolStatus {
    /// How much there is, and what of it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<PoolUsage>,
    /// The entries of `spec.ipRanges` in which somebody holds an address or a block, as "CIDR" or "START-END".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ranges_in_use: Vec<String>,
    /// `Ready`, `Exhausted`, `Overlapping`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Addresses of a pool of pod addresses, counted.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Usable addresses.
    pub total: i64,
    /// Of these, addresses of pods.
    pub used: i64,
    /// Of these, addresses without a pod that nodes hold or that are kept for a workload.
    pub reserved: i64,
    /// The rest: total - used - reserved.
    pub free: i64,
}

/// Addresses of a pool, counted.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Usable addresses.
    pub total: i64,
    /// Of these, given out (external pools) or in blocks that nodes hold (pod pools).
    pub used: i64,
}
