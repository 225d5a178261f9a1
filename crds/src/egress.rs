//! `Egress`: which pods leave the cluster with which address.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Which pods leave the cluster with which address, and what happens when no node can own it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "portolan.dev",
    version = "v1alpha1",
    kind = "Egress",
    plural = "egresses",
    shortname = "eg",
    status = "EgressStatus",
    printcolumn = r#"{"name":"EgressIP","type":"string","jsonPath":".status.egressIP"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.egressNode"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.egressIP) || has(self.externalIPPool)", "give externalIPPool, or egressIP, or both"))]
pub struct EgressSpec {
    /// The pods. A pod selector alone selects in all namespaces, a namespace selector alone all pods of these
    /// namespaces, both together those that match both, neither nothing.
    pub applied_to: AppliedTo,
    /// A fixed address; with `externalIPPool` it must lie in that pool.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "egressIP")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = ("isIP(self)", "egressIP is not an IP address"))]
    pub egress_ip: Option<String>,
    /// The pool the address is taken from.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "externalIPPool")]
    #[schemars(length(min = 1, max = 253))]
    pub external_ip_pool: Option<String>,
    /// Which Egress wins where several select one pod: the highest; then the oldest; then the first by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// What happens to the pods' connections while no node owns the address. Default: Drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_unavailable: Option<OnUnavailable>,
}

/// The pods that an Egress selects.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AppliedTo {
    /// By their own labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// By their namespace's labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

/// What happens to connections of selected pods while no node owns the address.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnavailable {
    /// They do not leave the cluster.
    #[default]
    Drop,
    /// They leave with the node's address.
    NodeAddress,
}

/// What the software says of an Egress.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EgressStatus {
    /// The number (1 to 16383) that stands for this Egress in packet marks. Assigned once, by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "egressID")]
    pub egress_id: Option<u16>,
    /// The address in force. Assigned by the controller.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "egressIP")]
    pub egress_ip: Option<String>,
    /// The node that owns the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_node: Option<String>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
