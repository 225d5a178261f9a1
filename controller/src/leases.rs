//! Leases of nodes that do not exist any more go back to their pools.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use portolan_core::ipam::reclaim::orphaned;
use portolan_crds::IPLease;

use crate::facts::Facts;
use crate::status;

/// Deletes orphaned leases: each the very object that was looked at, for its name may be another's by now.
pub async fn reconcile(client: &Client, facts: &Facts) -> Result<()> {
    let api = Api::<IPLease>::all(client.clone());
    let nodes: BTreeSet<_> = facts.nodes.iter().map(|node| node.name.clone()).collect();
    let orphans: BTreeSet<_> =
        orphaned(&facts.leases, &nodes).into_iter().map(|lease| lease.name.clone()).collect();
    let mut outcomes = Vec::new();
    for object in facts.lease_objects.iter().filter(|object| orphans.contains(&object.name_any())) {
        let name = object.name_any();
        let preconditions = Preconditions { uid: object.uid(), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&name, &params).await {
            Ok(_) => tracing::info!(lease = name, node = object.spec.node, "reclaimed: its node is gone"),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => outcomes.push(Err(error).with_context(|| format!("IPLease {name}"))),
        }
    }
    status::all(outcomes)
}
