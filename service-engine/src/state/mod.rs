//! What every cluster was promised: its last accepted snapshot. Pure; [`store`] keeps it on disk.
//!
//! Guarantees: what is accepted does not contradict what another cluster was promised before, and never goes back in
//! a cluster's own order of versions.

pub mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use portolan_wire::engine::{
    ClusterName, Front, Protocol, Reason, Rejection, Route, Service, Snapshot, Version,
};

/// The accepted snapshots of all clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    clusters: BTreeMap<ClusterName, Arc<Snapshot>>,
}

/// What a snapshot that may be accepted is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Newer than what was accepted: keep it.
    Newer,
    /// The very one that was accepted last: nothing to do.
    Same,
}

impl Accepted {
    /// Whether `snapshot` may replace what was accepted from its cluster.
    pub fn judge(&self, snapshot: &Snapshot) -> Result<Judgement, Rejection> {
        served(snapshot)?;
        if let Some(last) = self.clusters.get(&snapshot.cluster) {
            if **last == *snapshot {
                return Ok(Judgement::Same);
            }
            newer(last.version, snapshot.version)?;
        }
        self.free_of_conflicts(snapshot)?;
        Ok(Judgement::Newer)
    }

    /// The same with `snapshot` in place of what its cluster had.
    #[must_use]
    pub fn with(&self, snapshot: Snapshot) -> Self {
        let mut clusters = self.clusters.clone();
        clusters.insert(snapshot.cluster.clone(), Arc::new(snapshot));
        Self { clusters }
    }

    /// What was accepted last from a cluster.
    pub fn of(&self, cluster: &ClusterName) -> Option<&Snapshot> {
        self.clusters.get(cluster).map(Arc::as_ref)
    }

    /// All snapshots, by cluster.
    pub fn snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.clusters.values().map(Arc::as_ref)
    }

    /// The routes of all clusters.
    pub fn routes(&self) -> impl Iterator<Item = Route> {
        self.snapshots().flat_map(|snapshot| snapshot.routes.iter().copied())
    }

    /// The services of all clusters.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.snapshots().flat_map(|snapshot| &snapshot.services)
    }

    fn free_of_conflicts(&self, snapshot: &Snapshot) -> Result<(), Rejection> {
        let others = || self.snapshots().filter(|other| other.cluster != snapshot.cluster);
        let taken = Prefixes::of(others());
        for Route { prefix, .. } in &snapshot.routes {
            if let Some((theirs, cluster)) = taken.overlap(*prefix) {
                return Err(conflict(format!("prefix {prefix} overlaps {theirs} of cluster {cluster}")));
            }
        }
        let fronts: BTreeMap<Front, &ClusterName> = others()
            .flat_map(|other| other.services.iter().map(move |service| (service.front, &other.cluster)))
            .collect();
        for Service { name, front, .. } in &snapshot.services {
            if let Some(cluster) = fronts.get(front) {
                return Err(conflict(format!("{front} of service {name} belongs to cluster {cluster}")));
            }
            // The address would be taken from a pod: what is local to the engine is not routed.
            if let Some((theirs, cluster)) = taken.overlap(front.vip.into()) {
                return Err(conflict(format!(
                    "address {} of service {name} lies in {theirs} of cluster {cluster}",
                    front.vip
                )));
            }
        }
        Ok(())
    }
}

/// What this engine does not serve yet is refused, not dropped in silence.
fn served(snapshot: &Snapshot) -> Result<(), Rejection> {
    let unsupported = |message| Err(Rejection { reason: Reason::Unsupported, message });
    if let Some(route) = snapshot.routes.iter().find(|route| route.prefix.addr().is_ipv6()) {
        return unsupported(format!("route {route}: this engine serves IPv4 only"));
    }
    for Service { name, front, members } in &snapshot.services {
        if front.vip.is_ipv6() || members.iter().any(|member| member.is_ipv6()) {
            return unsupported(format!("service {name}: this engine serves IPv4 only"));
        }
        if front.protocol != Protocol::Tcp {
            return unsupported(format!(
                "service {name}: this engine serves TCP only, not {}",
                front.protocol
            ));
        }
    }
    Ok(())
}

fn newer(last: Version, offered: Version) -> Result<(), Rejection> {
    let stale = |message| Err(Rejection { reason: Reason::Stale, message });
    if offered == last {
        return stale(format!("version {offered} was accepted with another content"));
    }
    if offered.epoch < last.epoch {
        return stale(format!("epoch {} is over: a controller took over with {last}", offered.epoch));
    }
    if offered < last {
        return stale(format!("version {offered} is older than the accepted {last}"));
    }
    Ok(())
}

fn conflict(message: String) -> Rejection {
    Rejection { reason: Reason::Conflict, message }
}

/// Prefixes of other clusters, to be asked for overlaps. Two prefixes overlap only when one contains the other.
struct Prefixes<'a> {
    by_prefix: BTreeMap<IpNet, &'a ClusterName>,
    lengths: BTreeSet<u8>,
}

impl<'a> Prefixes<'a> {
    fn of(snapshots: impl Iterator<Item = &'a Snapshot>) -> Self {
        let by_prefix: BTreeMap<IpNet, &ClusterName> = snapshots
            .flat_map(|snapshot| snapshot.routes.iter().map(move |route| (route.prefix, &snapshot.cluster)))
            .collect();
        let lengths = by_prefix.keys().map(IpNet::prefix_len).collect();
        Self { by_prefix, lengths }
    }

    fn overlap(&self, prefix: IpNet) -> Option<(IpNet, &'a ClusterName)> {
        let around =
            self.lengths.iter().filter(|length| **length <= prefix.prefix_len()).find_map(|length| {
                let around = IpNet::new(prefix.addr(), *length).ok()?.trunc();
                self.by_prefix.get_key_value(&around)
            });
        // IpNet orders by network address, then length: what lies inside comes right after the prefix itself.
        let inside = || self.by_prefix.range(prefix..).next().filter(|(theirs, _)| prefix.contains(*theirs));
        around.or_else(inside).map(|(theirs, cluster)| (*theirs, *cluster))
    }
}

#[cfg(test)]
pub mod tests;
