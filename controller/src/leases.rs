//! Leases of nodes that do not exist any more go back to their pools.
//!
//! Not at once: the machine behind a Node object that somebody deleted goes on with its pods until the cluster has evicted
//! them. A new leader waits anew, which errs on the safe side.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use portolan_core::ipam::reclaim::orphaned;
use portolan_crds::IPLease;

use crate::facts::Facts;
use crate::status;

/// A node has to be gone for this long before its addresses are given to others.
const GRACE: Duration = Duration::from_secs(300);

/// Nodes that hold leases and do not exist, and since when.
#[derive(Debug, Default)]
pub struct Gone(BTreeMap<String, Instant>);

impl Gone {
    /// Those that have been gone for long enough.
    fn settled(&mut self, missing: &BTreeSet<String>, now: Instant) -> BTreeSet<String> {
        self.0.retain(|node, _| missing.contains(node));
        for node in missing {
            self.0.entry(node.clone()).or_insert(now);
        }
        let settled = self.0.iter().filter(|(_, since)| now.duration_since(**since) >= GRACE);
        settled.map(|(node, _)| node.clone()).collect()
    }
}

/// Deletes orphaned leases: each the very object that was looked at, for its name may be another's by now.
pub async fn reconcile(client: &Client, facts: &Facts, gone: &mut Gone) -> Result<()> {
    let api = Api::<IPLease>::all(client.clone());
    let nodes: BTreeSet<_> = facts.nodes.iter().map(|node| node.name.clone()).collect();
    let orphaned = orphaned(&facts.leases, &nodes);
    let settled = gone.settled(&orphaned.iter().map(|lease| lease.node.clone()).collect(), Instant::now());
    let orphaned = orphaned.into_iter().filter(|lease| settled.contains(&lease.node));
    let orphans: BTreeSet<_> = orphaned.map(|lease| lease.name.clone()).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_comes_back_keeps_its_leases() {
        let (mut gone, now) = (Gone::default(), Instant::now());
        let missing: BTreeSet<_> = ["node-1".to_owned()].into();
        assert!(gone.settled(&missing, now).is_empty());
        assert!(gone.settled(&BTreeSet::new(), now + GRACE).is_empty());
        assert!(gone.settled(&missing, now + GRACE).is_empty());
        assert_eq!(gone.settled(&missing, now + 2 * GRACE), missing);
    }
}
