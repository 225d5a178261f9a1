//! Leases whose holder or owner is gone go back to their pools.
//!
//! A node's leases not at once: the machine behind a Node object that somebody deleted goes on with its pods until the
//! cluster has evicted them. An address that is kept for a workload goes when the workload has been gone for as long as its
//! pool keeps addresses. A new leader waits anew, which errs on the safe side.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use portolan_core::ipam::lease::LET_GO;
use portolan_core::ipam::owner::Kind;
use portolan_core::ipam::reclaim::{self, reclaim};
use portolan_core::ipam::{Change, Owner, View};
use portolan_crds::IPLease;
use portolan_crds::change::{self, Outcome};

use crate::facts::Facts;
use crate::status;

/// A node has to be gone for this long before its addresses are given to others.
const GRACE: Duration = Duration::from_secs(300);
/// A workload without pods is looked up this often.
const LOOK: Duration = Duration::from_secs(10);

/// Who is gone, and since when.
#[derive(Debug, Default)]
pub struct Gone {
    nodes: Since<String>,
    owners: Since<Owner>,
    /// When each workload was last seen to exist.
    seen: BTreeMap<Owner, Instant>,
}

/// What has been so since when.
#[derive(Debug)]
struct Since<T>(BTreeMap<T, Instant>);

impl<T> Default for Since<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Clone> Since<T> {
    /// Those that have been so for as long as each has to.
    fn settled(&mut self, now_so: &BTreeSet<T>, long: impl Fn(&T) -> Duration, now: Instant) -> BTreeSet<T> {
        self.0.retain(|one, _| now_so.contains(one));
        for one in now_so {
            self.0.entry(one.clone()).or_insert(now);
        }
        let settled = self.0.iter().filter(|(one, since)| now.duration_since(**since) >= long(one));
        settled.map(|(one, _)| one.clone()).collect()
    }
}

/// Asks for what is to go, each the very object that was looked at.
pub async fn reconcile(client: &Client, facts: &Facts, gone: &mut Gone) -> Result<()> {
    let (api, now) = (Api::<IPLease>::all(client.clone()), Instant::now());
    let owners = gone_owners(client, facts, gone, now).await?;
    let nodes = gone_nodes(facts, gone, now);
    let changes = reclaim(&facts.leases, reclaim::Gone { nodes: &nodes, owners: &owners });
    let mut outcomes = Vec::new();
    for wanted in changes {
        let outcome = change::ask(&api, &wanted).await;
        if matches!(outcome, Ok(Outcome::Made)) {
            tell(&wanted);
        }
        outcomes.push(outcome.map(drop).with_context(|| wanted.to_string()));
    }
    status::all(outcomes)
}

fn tell(change: &Change) {
    let lease = change.lease();
    let (owner, node) = (lease.owner.as_ref().map(ToString::to_string), &lease.node);
    match change {
        Change::Delete(_) => tracing::info!(lease = lease.name, ?node, ?owner, "reclaimed"),
        Change::Create(_) | Change::Replace(_) if lease.asks.contains(LET_GO) => {
            tracing::info!(lease = lease.name, ?node, ?owner, "its owner is gone: asked to let go");
        }
        Change::Create(_) | Change::Replace(_) => {
            tracing::info!(lease = lease.name, ?node, ?owner, "its node is gone: taken from it");
        }
    }
}

fn gone_nodes(facts: &Facts, gone: &mut Gone, now: Instant) -> BTreeSet<String> {
    let there: BTreeSet<_> = facts.nodes.iter().map(|node| &node.name).collect();
    let holders = facts.leases.iter().flat_map(|lease| [&lease.node, &lease.second]).flatten();
    let missing: BTreeSet<_> = holders.filter(|node| !there.contains(node)).cloned().collect();
    let mut settled = gone.nodes.settled(&missing, |_| GRACE, now);
    // An administrator says so: the machine is off.
    settled.extend(facts.out_of_service.iter().cloned());
    settled
}

/// A workload with a pod exists, which spares a look. What cannot be looked up exists.
async fn gone_owners(
    client: &Client,
    facts: &Facts,
    gone: &mut Gone,
    now: Instant,
) -> Result<BTreeSet<Owner>> {
    let owners = reclaim::owners(&facts.leases);
    let with_pods: BTreeSet<_> = facts.pods.iter().map(|pod| workload(&pod.owner)).collect();
    gone.seen.retain(|owner, seen| owners.contains(owner) && now.duration_since(*seen) < LOOK);
    let (mut missing, mut looked): (BTreeSet<Owner>, BTreeMap<Owner, bool>) = Default::default();
    let mut outcomes = Vec::new();
    for owner in owners.iter().filter(|owner| !with_pods.contains(&workload(owner))) {
        if gone.seen.contains_key(owner) {
            continue;
        }
        let workload = workload(owner);
        let exists = match looked.get(&workload) {
            Some(exists) => *exists,
            None => match exists(client, &workload).await {
                Ok(exists) => exists,
                Err(error) => {
                    outcomes.push(Err(error).with_context(|| format!("look for {owner}")));
                    true
                }
            },
        };
        looked.insert(workload, exists);
        if exists {
            gone.seen.insert(owner.clone(), now);
        } else {
            missing.insert(owner.clone());
        }
    }
    if let Err(error) = status::all(outcomes) {
        tracing::debug!(%error, "workloads that cannot be looked up keep their addresses");
    }
    let retention = |owner: &Owner| retention(facts, &facts.leases, owner);
    Ok(gone.owners.settled(&missing, retention, now))
}

/// The owner as an object: without the pod that one of its addresses is kept for.
fn workload(owner: &Owner) -> Owner {
    Owner { pod: None, ..owner.clone() }
}

/// The longest that a pool keeps an address for this owner.
fn retention(facts: &Facts, leases: &View, owner: &Owner) -> Duration {
    let mine = leases.iter().filter(|lease| lease.owner.as_ref() == Some(owner));
    let pools = mine.filter_map(|lease| facts.pools.iter().find(|(_, pool)| is_named(pool, &lease.pool)));
    let retentions = pools.filter_map(|(_, pool)| pool.as_ref().ok()).map(|pool| pool.retention);
    Duration::from_millis(retentions.max().unwrap_or_default())
}

fn is_named(pool: &Result<portolan_core::ipam::Pool, portolan_crds::Invalid>, name: &str) -> bool {
    pool.as_ref().is_ok_and(|pool| pool.name == name)
}

/// Whether the object exists. A kind that the cluster does not know has none.
async fn exists(client: &Client, owner: &Owner) -> kube::Result<bool> {
    let (group, version) = match owner.kind {
        Kind::StatefulSet | Kind::Deployment | Kind::ReplicaSet | Kind::DaemonSet => ("apps", "v1"),
        Kind::Job => ("batch", "v1"),
        Kind::VirtualMachine => ("kubevirt.io", "v1"),
        Kind::Pod => ("", "v1"),
    };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &owner.kind.to_string()));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &owner.namespace, &resource);
    Ok(api
        .get_metadata_opt(&owner.name)
        .await?
        .is_some_and(|found| found.metadata.deletion_timestamp.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_comes_back_keeps_its_leases() {
        let (mut gone, now) = (Since::default(), Instant::now());
        let missing: BTreeSet<_> = ["node-1".to_owned()].into();
        let grace = |_: &String| GRACE;
        assert!(gone.settled(&missing, grace, now).is_empty());
        assert!(gone.settled(&BTreeSet::new(), grace, now + GRACE).is_empty());
        assert!(gone.settled(&missing, grace, now + GRACE).is_empty());
        assert_eq!(gone.settled(&missing, grace, now + 2 * GRACE), missing);
    }
}
