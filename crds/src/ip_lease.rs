//! `IPLease`: a block of a pool, or a single address of one, and the node that decides about it. Written by the software.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A block of a pool that one node holds, or a single address that was lent or is kept for a workload. Its name is a
/// function of pool and block, so that two nodes that want the same create the same object, and the API server lets one.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "portolan.dev",
    version = "v1alpha1",
    kind = "IPLease",
    plural = "ipleases",
    shortname = "ipl",
    selectable = ".spec.node",
    selectable = ".spec.pool",
    printcolumn = r#"{"name":"Pool","type":"string","jsonPath":".spec.pool"}"#,
    printcolumn = r#"{"name":"Block","type":"string","jsonPath":".spec.block"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.node"}"#,
    printcolumn = r#"{"name":"Kept-for","type":"string","jsonPath":".spec.owner.name"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = (
    "self.pool == oldSelf.pool && self.block == oldSelf.block",
    "a lease is of one block for as long as it exists; its name says which"
))]
pub struct IPLeaseSpec {
    /// The pool the block belongs to.
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,
    /// The block, as a CIDR on the pool's grid; /32 or /128 for a single address.
    #[schemars(length(max = 64))]
    #[x_kube(validation = ("isCIDR(self)", "block is not a CIDR"))]
    pub block: String,
    /// The node that decides about it; absent where an address waits for its owner's next pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// The node to which a virtual machine is migrating.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub second: Option<String>,
    /// The second node is about to take itself out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// The workload that the address is kept for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<LeaseOwner>,
    /// The node gives no more addresses of it. Written before the lease changes hands or is deleted, so that a request that
    /// arrives late never takes away what is in use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// Whoever holds the block around it does not use the address, and will not while this lease exists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub granted: bool,
    /// Nodes that ask for it, or for addresses out of it; "-" asks to let go for nobody in particular.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5000))]
    pub asks: Vec<String>,
}

/// The workload that an address is kept for.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseOwner {
    /// `StatefulSet`, `Deployment`, `ReplicaSet`, `DaemonSet`, `Job`, `VirtualMachine` or `Pod`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The pod, where each of the workload's pods has an address of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pod: Option<String>,
}
