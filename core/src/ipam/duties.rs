//! What a node owes the others for the leases it holds: to grant, to lend, to hand on, to give back.
//!
//! A pure function of what the watch shows and what pods hold here, so that it does not matter which incarnation of the
//! agent asks for a change or when the change arrives. Two rules make late arrivals harmless. A lease changes hands, or goes,
//! only from a state in which it is marked as released, and a node gives no address of a lease that it sees marked. And every
//! change names the version it was decided on, so that after any other change it comes too late.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::decide::plenty;
use super::lease::{Change, LET_GO};
use super::{Book, Lease, Millis, Owner, Pool, View, owner};

/// What the node knows.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// This node's name.
    pub node: &'a str,
    /// Every pool.
    pub pools: &'a BTreeMap<String, Pool>,
    /// Every lease.
    pub view: &'a View,
    /// What is held and free here.
    pub book: &'a Book,
    /// How many nodes there are.
    pub nodes: usize,
    /// Leases with a change of this node's under way.
    pub pending: &'a BTreeMap<String, Change>,
    /// Pools of which a pod on this node could not get an address just now.
    pub short: &'a BTreeSet<String>,
    /// Pools that pods which are bound to this node will ask first.
    pub awaited: &'a BTreeSet<String>,
    /// Owners with a pod on this node that is about to need their address.
    pub expected: &'a [Owner],
    /// Now.
    pub now: Millis,
}

/// A lease in which no address is held for this long goes back to its pool: not at once, for a pod that restarts comes back
/// within seconds.
pub const IDLE: Millis = 10_000;

/// So long where another node asks for an address: a loan that has just come is for a pod that waits here.
pub const IDLE_WHILE_WANTED: Millis = 1_000;

/// At most this many addresses are lent at once.
const LOAN: usize = 8;

/// The changes this node owes at this moment. Asking for one again before its answer is useless and harmless.
pub fn duties(holder: Holder<'_>) -> Vec<Change> {
    let mine = holder.view.of(holder.node).flat_map(|lease| holder.of_lease(lease));
    let others = holder.view.iter().filter(|lease| !lease.is_of(holder.node));
    let others = others.filter_map(|lease| holder.of_second(lease).or_else(|| holder.withdraw(lease)));
    mine.chain(others).collect()
}

impl Holder<'_> {
    fn of_lease(self, lease: &Lease) -> Vec<Change> {
        let grants = self.grants(lease);
        if !grants.is_empty() {
            return grants;
        }
        let in_use = self.book.holds_in(lease.block) && !self.only_inside(lease);
        match (lease.released, in_use) {
            // The mark came late, or the pods came back: nobody may take it from under them.
            (true, true) => vec![Change::Replace(Lease { released: false, ..lease.clone() })],
            (true, false) => vec![self.hand_on(lease)],
            (false, true) if self.is_alone(lease) => vec![granted(lease)],
            (false, true) if lease.second.is_none() => self.lend(lease),
            (false, true) => vec![],
            (false, false) => match self.let_go(lease) {
                Some(change) => vec![change],
                None if self.is_alone(lease) => vec![granted(lease)],
                None => self.lend(lease),
            },
        }
    }

    /// A part of a block that nobody has granted, because nobody holds a block around it.
    fn is_alone(self, lease: &Lease) -> bool {
        let part = self.pools.get(&lease.pool).is_some_and(|pool| lease.is_part(pool));
        (part || lease.is_single()) && !lease.granted && self.view.cover(lease).is_none()
    }

    /// Leases inside a block whose addresses no pod holds here are their holders' from now on. One that stands for nobody,
    /// where a pod here was faster, goes.
    fn grants(self, lease: &Lease) -> Vec<Change> {
        let asked =
            self.view.inside(lease.block).filter(|inside| inside.pool == lease.pool && !inside.granted);
        let nearest =
            asked.filter(|inside| self.view.cover(inside).is_some_and(|cover| cover.name == lease.name));
        nearest
            .filter_map(|inside| {
                let mine = inside.is_of(self.node);
                match (self.book.holds_in(inside.block), &inside.owner) {
                    (false, _) => Some(granted(inside)),
                    (true, None) if !mine => Some(Change::Delete(inside.clone())),
                    (true, _) => None,
                }
            })
            .collect()
    }

    /// Whether what pods hold in this block belongs to leases inside it.
    fn only_inside(self, lease: &Lease) -> bool {
        let mut held = self.book.held().filter(|ip| lease.block.contains(ip));
        held.all(|ip| {
            let mut inside = self.view.inside(lease.block).filter(|inside| inside.pool == lease.pool);
            inside.any(|inside| inside.is_of(self.node) && inside.block.contains(&ip))
        })
    }

    /// The second step: from "released" to whoever is next.
    fn hand_on(self, lease: &Lease) -> Change {
        let next = lease.asks.iter().find(|ask| *ask != LET_GO).cloned();
        if lease.owner.is_none() && next.is_none() || !lease.is_single() {
            return Change::Delete(lease.clone());
        }
        let mut handed = Lease { released: false, node: next.clone(), ..lease.clone() };
        handed.asks.remove(LET_GO);
        if let Some(next) = next {
            handed.asks.remove(&next);
        }
        Change::Replace(handed)
    }

    /// The first step: nobody here holds it, and somebody wants it or nobody needs it.
    fn let_go(self, lease: &Lease) -> Option<Change> {
        let release = || Some(Change::Replace(Lease { released: true, ..lease.clone() }));
        if let (Some(second), true) = (&lease.second, lease.owner.is_some()) {
            let (node, second) = (Some(second.clone()), None);
            return Some(Change::Replace(Lease { node, second, leaving: false, ..lease.clone() }));
        }
        if let Some(owner) = &lease.owner {
            let expected = self.expected.contains(owner);
            return if lease.asks.is_empty() || expected { None } else { release() };
        }
        if lease.is_single() && !lease.asks.is_empty() {
            return release();
        }
        // What was lent is for a pod whose runtime may come back in a few seconds only.
        if lease.is_single() && self.short.contains(&lease.pool) {
            return None;
        }
        // A lease that may not be used is on no shelf's account: it blocks others and serves nobody.
        let idle = self.book.idle_since(&lease.name, self.now);
        let idle_for = |span| idle.is_some_and(|since| self.now.saturating_sub(since) >= span);
        let wanted = idle_for(IDLE_WHILE_WANTED) && self.is_wanted_back(lease);
        if wanted || idle_for(IDLE) && !self.is_headroom(lease) { release() } else { None }
    }

    /// Whether this address was lent by a node that another one asks for an address now.
    fn is_wanted_back(self, lease: &Lease) -> bool {
        let cover = self.view.cover(lease).filter(|_| lease.is_single() && lease.granted);
        let Some((cover, lender)) = cover.and_then(|cover| Some((cover, cover.node.as_deref()?))) else {
            return false;
        };
        let asked = |block: &Lease| block.asks.iter().any(|ask| ask != LET_GO && ask != self.node);
        self.view
            .of(lender)
            .any(|block| (block.name == cover.name || is_block_of(block, cover)) && asked(block))
    }

    /// Whether this empty block is one that the node keeps ahead of need: what was claimed for a pod stays until it has come,
    /// however long that takes.
    fn is_headroom(self, lease: &Lease) -> bool {
        if self.awaited.contains(&lease.pool) && !lease.is_single() {
            return true;
        }
        let Some(pool) = self.pools.get(&lease.pool) else { return false };
        let rest = self.book.free(&lease.pool).saturating_sub(self.book.free_in(&lease.name));
        let low = rest <= u128::from(pool.lease_size / 4);
        let uses = self.view.of(self.node).any(|other| {
            other.pool == lease.pool && other.name != lease.name && self.book.holds_in(other.block)
        });
        low && uses && lease.asks.is_empty() && plenty(pool, self.nodes, self.view)
    }

    /// Single addresses for a node that is short, out of the block in which it asks or else out of another one: half of what is
    /// free, so that this node is not short at once. Where there is none, the node goes on asking: whoever has borrowed one
    /// here and does not need it gives it back.
    fn lend(self, lease: &Lease) -> Vec<Change> {
        if lease.is_single() || lease.owner.is_some() || self.pending.contains_key(&lease.name) {
            return vec![];
        }
        let without = |asker: &str| {
            let mut answered = lease.clone();
            answered.asks.remove(asker);
            Change::Replace(answered)
        };
        // This node's own ask, for what it has lent.
        let served = self.book.free(&lease.pool) > 0 || !self.short.contains(&lease.pool);
        if lease.asks.contains(self.node) && served {
            return vec![without(self.node)];
        }
        let Some(asker) = lease.asks.iter().find(|ask| *ask != LET_GO && *ask != self.node) else {
            return vec![];
        };
        let mine =
            self.view.of(self.node).filter(|other| other.name != lease.name && is_block_of(other, lease));
        let spare = std::iter::once(lease).chain(mine).map(|block| self.spare(block));
        let spare = spare.into_iter().find(|spare| !spare.is_empty()).unwrap_or_default();
        let singles = spare.into_iter().map(|ip| Lease::single(&lease.pool, ip, asker, None));
        let loans: Vec<_> =
            singles.filter(|loan| !self.pending.contains_key(&loan.name)).map(Change::Create).collect();
        if loans.is_empty() { loans } else { loans.into_iter().chain([without(asker)]).collect() }
    }

    /// Half of what can be given of a block.
    fn spare(self, block: &Lease) -> Vec<IpAddr> {
        let free = usize::try_from(self.book.free_in(&block.name)).unwrap_or(LOAN * 2);
        self.book.spare(&block.name, free.div_ceil(2).min(LOAN), self.now)
    }

    /// What no pod here waits for any more is not asked for any more: an address that is kept for an owner, or any of a block.
    fn withdraw(self, lease: &Lease) -> Option<Change> {
        let needed = match &lease.owner {
            Some(owner) => self.expected.contains(owner),
            None => self.short.contains(&lease.pool),
        };
        if !lease.asks.contains(self.node) || needed {
            return None;
        }
        let mut without = lease.clone();
        without.asks.remove(self.node);
        Some(Change::Replace(without))
    }

    /// A virtual machine's address of which this node is the second holder: its pod here has gone, the migration failed. In
    /// two steps, as when a lease is handed on, and for the same reason.
    fn of_second(self, lease: &Lease) -> Option<Change> {
        if lease.second.as_deref() != Some(self.node) {
            return None;
        }
        let held = self.book.is_held(lease.address());
        let expected = lease.owner.as_ref().is_some_and(|owner| self.expected.contains(owner));
        let change = |lease| Some(Change::Replace(lease));
        match (lease.leaving, held) {
            (false, false) if !expected => change(Lease { leaving: true, ..lease.clone() }),
            (true, false) => change(Lease { second: None, leaving: false, ..lease.clone() }),
            (true, true) => change(Lease { leaving: false, ..lease.clone() }),
            (false, _) => None,
        }
    }
}

/// Whether it is a block of the same pool and family, from which addresses can be lent.
fn is_block_of(block: &Lease, like: &Lease) -> bool {
    block.pool == like.pool
        && block.owner.is_none()
        && !block.is_single()
        && !block.released
        && block.block.network().is_ipv4() == like.block.network().is_ipv4()
}

fn granted(lease: &Lease) -> Change {
    Change::Replace(Lease { granted: true, ..lease.clone() })
}

/// Whether a node routes to its own pod for an address that two pods of a virtual machine hold: only where the lease says so.
pub fn is_routed(lease: &Lease, node: &str) -> bool {
    let machine = lease.owner.as_ref().is_some_and(|owner| owner.kind == owner::Kind::VirtualMachine);
    !machine || lease.is_of(node)
}

#[cfg(test)]
mod tests;
