//! What the agent counts.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The agent's gauges.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Pods that hold an address on this node.
    pub pods: Gauge,
    /// Egress addresses that this node owns.
    pub owned: Gauge,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "portolan_ipam_held_addresses",
            "Addresses that pods of this node hold",
            metrics.pods.clone(),
        );
        registry.register(
            "portolan_egress_owned_addresses",
            "Egress addresses this node owns",
            metrics.owned.clone(),
        );
        metrics
    }
}
