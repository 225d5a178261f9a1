//! `ServiceEngine`: a load balancer host outside the cluster, and how to reach it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A host outside the cluster that routes to pods and serves virtual addresses.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "portolan.dev",
    version = "v1alpha1",
    kind = "ServiceEngine",
    plural = "serviceengines",
    shortname = "se",
    status = "ServiceEngineStatus",
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.address"}"#,
    printcolumn = r#"{"name":"Routes","type":"integer","jsonPath":".status.routes"}"#,
    printcolumn = r#"{"name":"Services","type":"integer","jsonPath":".status.services"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEngineSpec {
    /// Where the engine's feed listens, as address and port: 172.16.11.101:7443.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = ("self.matches('^.+:[0-9]{1,5}$')", "address needs a port, such as 172.16.11.101:7443"))]
    pub address: String,
    /// The name in the engine's certificate. Default: the host part of `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The Secret in portolan-system with the controller's own certificate (`tls.crt`, `tls.key`) and the authority of
    /// the engine's (`ca.crt`).
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret: String,
    /// The ExternalIPPool that Services of type LoadBalancer get their address from, where they name none. An engine
    /// without a pool holds routes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub vip_pool: Option<String>,
}

/// What the controller says of an engine.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEngineStatus {
    /// The generation of the state the engine has accepted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<i64>,
    /// Routes in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<i64>,
    /// Virtual services in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<i64>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
