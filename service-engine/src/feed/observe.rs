//! What became of an accepted snapshot, put together from the watches of those who bring it about.

use std::sync::Arc;

use portolan_wire::engine::{ClusterName, Observation, RouteState, ServiceState, Snapshot};
use tokio::sync::watch;

use crate::proxy;
use crate::routes;
use crate::state::Accepted;
use crate::vips;

/// Sees what everybody reports.
#[derive(Debug, Clone)]
pub struct Observer {
    /// What is promised.
    pub accepted: watch::Receiver<Arc<Accepted>>,
    /// What is in the kernel's table.
    pub routes: watch::Receiver<Arc<routes::Status>>,
    /// Which addresses are on the interface.
    pub vips: watch::Receiver<Arc<vips::Status>>,
    /// Which services listen.
    pub proxy: watch::Receiver<Arc<proxy::Status>>,
}

impl Observer {
    /// What this engine has of `cluster`, and how much of it works.
    pub fn observe(&self, cluster: &ClusterName) -> Observation {
        let accepted = self.accepted.borrow().clone();
        let snapshot = accepted.of(cluster);
        Observation {
            engine: env!("CARGO_PKG_VERSION").to_owned(),
            accepted: snapshot.map(|snapshot| snapshot.version),
            routes: snapshot.map(|snapshot| self.routes(snapshot)).unwrap_or_default(),
            services: snapshot.map(|snapshot| self.services(snapshot)).unwrap_or_default(),
        }
    }

    fn routes(&self, snapshot: &Snapshot) -> Vec<RouteState> {
        let status = self.routes.borrow().clone();
        let state = |route| RouteState { route, problem: status.problem(&route) };
        snapshot.routes.iter().copied().map(state).collect()
    }

    fn services(&self, snapshot: &Snapshot) -> Vec<ServiceState> {
        let (vips, proxy) = (self.vips.borrow().clone(), self.proxy.borrow().clone());
        let services = snapshot.services.iter().map(|service| {
            let front = service.front;
            let problem = vips.problem(front.vip).or_else(|| proxy.problem(front));
            ServiceState { name: service.name.clone(), front, problem, connections: proxy.connections(front) }
        });
        services.collect()
    }
}
