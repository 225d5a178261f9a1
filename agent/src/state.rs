//! What the node's owner says about itself: its records, leases and book, and what its kernel has at this moment.

use portolan_core::ipam::{Change, Lease};
use portolan_wire::cni::Scope;
use portolan_wire::inspect::{
    Attachment, Given, KernelState, LeaseState, LeaseUse, Marked, NodeState, PodRoute, PoolState,
};

use crate::inspect::Ask;
use crate::kernel::Seen;
use crate::node::Owner;
use crate::records::Record;

impl Owner {
    /// Answers a question. Who asked may have given up; then the answer is for nobody.
    pub(crate) fn tell(&mut self, ask: Ask) {
        match ask {
            Ask::Node(reply) => drop(reply.send(self.state())),
            Ask::Explain { namespace, pod, reply } => drop(reply.send(self.explain(&namespace, &pod))),
        }
    }

    fn state(&mut self) -> NodeState {
        let kernel = kernel(self.hands.seen());
        let marks = self.duty.marks.iter();
        NodeState {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            records: self.records.iter().map(attachment).collect(),
            leases: self.leases.own().map(|(lease, change)| lease_state(lease, change)).collect(),
            book: self.book(),
            marks: marks.map(|(address, mark)| Marked { address: *address, mark: mark.value() }).collect(),
            kernel,
        }
    }

    /// Of each pool that this node has something of, and of its own pod CIDRs.
    fn book(&self) -> Vec<PoolState> {
        let leased = self.leases.own().map(|(lease, _)| lease.pool.clone());
        let pools: std::collections::BTreeSet<_> = leased.chain(self.pools_in_use()).collect();
        let now = self.leases.clock(std::time::Instant::now());
        let state = |pool: Option<String>| {
            let name = pool.as_deref().unwrap_or_default();
            let held = self.records.iter().flat_map(|record| &record.addresses);
            let resting = self.leases.book().resting(name, now);
            PoolState {
                held: held.filter(|given| given.pool == pool).count() as u64,
                resting,
                free: u64::try_from(self.leases.book().free(name))
                    .unwrap_or(u64::MAX)
                    .saturating_sub(resting),
                pool,
            }
        };
        std::iter::once(None).chain(pools.into_iter().map(Some)).map(state).collect()
    }
}

/// A record, as it is told.
fn attachment(record: &Record) -> Attachment {
    let given = |one: &crate::records::Given| Given { address: one.address, pool: one.pool.clone() };
    Attachment {
        container: record.container_id.clone(),
        interface: record.interface.clone(),
        namespace: record.namespace.clone(),
        pod: record.pod.clone(),
        uid: record.uid.clone(),
        network: record.network.clone(),
        addresses: record.addresses.iter().map(given).collect(),
        host_interface: (record.scope == Scope::Interface).then(|| record.host_interface.clone()),
        complete: record.complete,
    }
}

/// A lease of this node's and what is under way about it, as it is told.
fn lease_state(lease: &Lease, under_way: Option<&Change>) -> LeaseState {
    LeaseState {
        name: lease.name.clone(),
        pool: lease.pool.clone(),
        block: lease.block,
        state: match under_way {
            None => LeaseUse::Used,
            Some(Change::Delete(_)) => LeaseUse::Returning,
            Some(Change::Create(_) | Change::Replace(_)) => LeaseUse::Asked,
        },
        kept_for: lease.owner.as_ref().map(ToString::to_string),
    }
}

/// What was observed, as it is told. What could not be read is named, and is not taken for absent.
fn kernel(seen: anyhow::Result<Seen>) -> KernelState {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => {
            return KernelState { unread: vec![format!("the kernel: {error:#}")], ..KernelState::default() };
        }
    };
    KernelState {
        links: seen.links.into_iter().collect(),
        routes: seen.routes.into_iter().map(|(address, device)| PodRoute { address, device }).collect(),
        marks: seen.marks.into_iter().map(|(address, mark)| Marked { address, mark }).collect(),
        unread: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_is_named_and_not_taken_for_absent() {
        let state = kernel(Err(anyhow::anyhow!("operation not permitted").context("nftables")));
        assert_eq!(state.unread, ["the kernel: nftables: operation not permitted"]);
    }

    #[test]
    fn a_lease_is_told_with_what_is_under_way_about_it() {
        let lease = Lease::new("erp", "10.20.1.0/28".parse().unwrap(), "node-1");
        let told = |change: Option<Change>| lease_state(&lease, change.as_ref()).state;
        assert_eq!(told(None), LeaseUse::Used);
        assert_eq!(told(Some(Change::Create(lease.clone()))), LeaseUse::Asked);
        assert_eq!(told(Some(Change::Delete(lease.clone()))), LeaseUse::Returning);
    }
}
