//! `IPLease`: a block of a pool, held by a node. Written by the software; creating one is the claim.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A block of a pool that one node holds. Its name is a function of pool and block, so that two nodes that want the
/// same block create the same object, and the API server lets one of them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "portolan.dev",
    version = "v1alpha1",
    kind = "IPLease",
    plural = "ipleases",
    shortname = "ipl",
    selectable = ".spec.node",
    printcolumn = r#"{"name":"Pool","type":"string","jsonPath":".spec.pool"}"#,
    printcolumn = r#"{"name":"Block","type":"string","jsonPath":".spec.block"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.node"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = (
    "self.pool == oldSelf.pool && self.block == oldSelf.block && self.node == oldSelf.node",
    "a lease is claimed by creating it and given up by deleting it; it never moves"
))]
#[x_kube(validation = (
    "!(has(oldSelf.released) && oldSelf.released) || (has(self.released) && self.released)",
    "a lease that was released stays so until it is deleted"
))]
pub struct IPLeaseSpec {
    /// The pool the block belongs to.
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,
    /// The block, as a CIDR on the pool's grid.
    #[schemars(length(max = 64))]
    #[x_kube(validation = ("isCIDR(self)", "block is not a CIDR"))]
    pub block: String,
    /// The node that holds it.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// The node gives no more addresses of it. Written before the lease is deleted, so that a deletion that arrives late
    /// never takes away a lease that is in use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
}
