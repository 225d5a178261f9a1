//! What was accepted and how much of it is in the kernel, as Prometheus sees it.

use std::fmt::Error;
use std::sync::Arc;

use portolan_wire::engine::Snapshot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;

use crate::routes;
use crate::state::Accepted;

/// Collects per cluster.
#[derive(Debug)]
pub struct Clusters {
    /// What is promised.
    pub accepted: watch::Receiver<Arc<Accepted>>,
    /// What is in the kernel.
    pub routes: watch::Receiver<Arc<routes::Status>>,
}

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let (accepted, routes) = (self.accepted.borrow().clone(), self.routes.borrow().clone());
        let mut gauge = |name, help, value: &dyn Fn(&Snapshot) -> usize| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for snapshot in accepted.snapshots() {
                let labels = [("cluster", snapshot.cluster.to_string())];
                let number = i64::try_from(value(snapshot)).unwrap_or(i64::MAX);
                ConstGauge::new(number).encode(family.encode_family(&labels)?)?;
            }
            Ok::<(), Error>(())
        };
        gauge("routes", "Routes accepted", &|snapshot| snapshot.routes.len())?;
        gauge("routes_installed", "Routes accepted that are in the kernel", &|snapshot| {
            snapshot.routes.iter().filter(|route| routes.is_installed(route)).count()
        })?;
        gauge("services", "Virtual services accepted", &|snapshot| snapshot.services.len())
    }
}
