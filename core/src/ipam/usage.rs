//! How much of a pool there is, and what of it is used.

use super::{Pool, View};
use crate::address::Ranges;

/// Addresses of a pool, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Usable addresses.
    pub total: u128,
    /// Of these, addresses of pods.
    pub used: u128,
    /// Of these, addresses without a pod that nodes hold or that are kept for a workload.
    pub reserved: u128,
    /// The next pod gets none: what has no pod is kept for a workload.
    pub exhausted: bool,
}

impl Usage {
    /// What nobody holds.
    pub fn free(&self) -> u128 {
        self.total - self.used - self.reserved
    }
}

/// The usage of a pool. `pods`: the addresses of all pods.
pub fn usage(pool: &Pool, view: &View, pods: &Ranges) -> Usage {
    let mine = || view.iter().filter(|lease| lease.pool == pool.name);
    let leased: Ranges = mine().map(|lease| lease.block).collect();
    let kept: Ranges = mine().filter(|lease| lease.owner.is_some()).map(|lease| lease.block).collect();
    let used = pool.usable.intersect(pods);
    let reserved = pool.usable.intersect(&leased).subtract(pods);
    let exhausted = pool.usable.subtract(pods).subtract(&kept).is_empty();
    Usage { total: pool.usable.len(), used: used.len(), reserved: reserved.len(), exhausted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::lease::tests::pool;
    use crate::ipam::{Lease, Owner, owner::Kind};
    use ipnet::IpNet;

    #[test]
    fn what_is_kept_is_not_there_for_the_next_pod() {
        let pool = pool("p", &["10.20.0.0/30"], 2);
        let owner = Owner {
            kind: Kind::StatefulSet,
            namespace: "n".into(),
            name: "db".into(),
            pod: Some("db-0".into()),
        };
        let block = Lease::new("p", "10.20.0.0/31".parse().unwrap(), "n1");
        let kept = Lease::single("p", "10.20.0.2".parse().unwrap(), "n1", Some(owner));
        let view = [block, kept].into_iter().collect();
        let pods = |list: &[&str]| list.iter().map(|ip| ip.parse::<IpNet>().unwrap()).collect::<Ranges>();
        let some = usage(&pool, &view, &pods(&["10.20.0.0/32", "10.99.0.1/32"]));
        assert_eq!((some.total, some.used, some.reserved, some.free(), some.exhausted), (4, 1, 2, 1, false));
        let all = usage(&pool, &view, &pods(&["10.20.0.0/31", "10.20.0.3/32"]));
        assert_eq!((all.used, all.reserved, all.free(), all.exhausted), (3, 1, 0, true));
    }
}
