//! The watches: one reflector per kind. Each change wakes the pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use portolan_crds::{Egress, ExternalIPPool, IPLease, IPPool, ServiceEngine};
use portolan_daemon::flood::Flood;
use portolan_daemon::reconcile::Wake;
use portolan_daemon::tasks::Tasks;
use serde::de::DeserializeOwned;

/// The stores of all kinds.
pub struct Stores {
    /// Nodes.
    pub nodes: Store<Node>,
    /// Services.
    pub services: Store<Service>,
    /// Endpoints of Services.
    pub slices: Store<EndpointSlice>,
    /// Service CIDRs.
    pub cidrs: Store<ServiceCIDR>,
    /// Pools of pod addresses.
    pub pools: Store<IPPool>,
    /// Leases of them.
    pub leases: Store<IPLease>,
    /// Pools of external addresses.
    pub external: Store<ExternalIPPool>,
    /// Egresses.
    pub egresses: Store<Egress>,
    /// Engines.
    pub engines: Store<ServiceEngine>,
}

impl Stores {
    /// Starts all watches.
    pub fn start(client: &Client, wake: &Wake, tasks: &mut Tasks) -> Self {
        Self {
            nodes: follow(client, wake, tasks, "watch of nodes"),
            services: follow(client, wake, tasks, "watch of services"),
            slices: follow(client, wake, tasks, "watch of endpointslices"),
            cidrs: follow(client, wake, tasks, "watch of servicecidrs"),
            pools: follow(client, wake, tasks, "watch of ippools"),
            leases: follow(client, wake, tasks, "watch of ipleases"),
            external: follow(client, wake, tasks, "watch of externalippools"),
            egresses: follow(client, wake, tasks, "watch of egresses"),
            engines: follow(client, wake, tasks, "watch of serviceengines"),
        }
    }

    /// Returns when every kind has been listed.
    ///
    /// # Errors
    /// When a watch has ended, which happens at the agent's end only.
    pub async fn listed(&self) -> Result<()> {
        self.nodes.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.slices.wait_until_ready().await?;
        self.cidrs.wait_until_ready().await?;
        self.pools.wait_until_ready().await?;
        self.leases.wait_until_ready().await?;
        self.external.wait_until_ready().await?;
        self.egresses.wait_until_ready().await?;
        self.engines.wait_until_ready().await?;
        Ok(())
    }
}

/// All objects of a store, by name, so that every pass sees them in one order.
pub fn sorted<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>) -> Vec<Arc<K>> {
    let mut all = store.state();
    all.sort_by_key(|object| (object.namespace(), object.name_any()));
    all
}

fn follow<K>(client: &Client, wake: &Wake, tasks: &mut Tasks, name: &'static str) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let (api, wake) = (Api::<K>::all(client.clone()), wake.clone());
    tasks.spawn(name, async move {
        let mut flood = Flood::new(Duration::from_secs(60));
        let stream = watcher(api, watcher::Config::default())
            .default_backoff()
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .inspect_err(|error| {
                if let Some(repeated) = flood.admit(&error.to_string(), Instant::now()) {
                    tracing::warn!(%error, repeated, "{name} is interrupted and will be repeated");
                }
            });
        stream.for_each(|_| async { wake.up() }).await;
    });
    reader
}
