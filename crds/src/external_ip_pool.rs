//! `ExternalIPPool`: addresses that the outside sees, for Egresses and for virtual services.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::ip_pool::{IPRange, SubnetInfo, Usage};

/// Addresses for egress and for virtual services, and on which nodes they may live.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "portolan.dev",
    version = "v1alpha1",
    kind = "ExternalIPPool",
    plural = "externalippools",
    shortname = "eip",
    status = "ExternalIPPoolStatus",
    printcolumn = r#"{"name":"Total","type":"integer","jsonPath":".status.usage.total"}"#,
    printcolumn = r#"{"name":"Used","type":"integer","jsonPath":".status.usage.used"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalIPPoolSpec {
    /// The addresses, as CIDRs or as start and end (both inclusive).
    #[schemars(length(min = 1, max = 64))]
    pub ip_ranges: Vec<IPRange>,
    /// Nodes that may own the pool's egress addresses. Empty selects all.
    #[serde(default)]
    pub node_selector: LabelSelector,
    /// The subnet the addresses belong to, where it is not the nodes' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_info: Option<SubnetInfo>,
}

/// What the controller says of an external pool.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct ExternalIPPoolStatus {
    /// How much there is, and how much is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
