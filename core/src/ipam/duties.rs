//! What a node owes the others for the leases it holds: to grant, to lend, to hand on, to give back.
//!
//! **Lending.** A node whose pods find no address asks in some block of the pool; every node sees that. The block's holder
//! answers at once, the others in turn, first one, then two, then four and so on ([`turn`]), so that a free address is found in a
//! second wherever it is, and few are lent too many. Who can spare an address of the pool lends it, or passes on one that it has
//! borrowed, and takes the ask off.
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
use crate::rank;

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
    /// How many pods on this node could not get an address of each pool just now.
    pub short: &'a BTreeMap<String, usize>,
    /// How many pods that are bound to this node and have no address yet will ask each pool first.
    pub awaited: &'a BTreeMap<String, usize>,
    /// When it is this node's turn to answer an ask, by the lease in which it stands and the node that asks.
    pub turns: &'a BTreeMap<(String, String), Millis>,
    /// Owners with a pod on this node that is about to need their address.
    pub expected: &'a [Owner],
    /// Now.
    pub now: Millis,
}

/// A lease in which no address is held for this long goes back to its pool: not at once, for a pod that restarts comes back
/// within seconds.
pub const IDLE: Millis = 10_000;

/// At most this many addresses are lent at once.
const LOAN: usize = 8;

/// How long the nodes whose turn it is have before those come whose turn is next.
const TURN: Millis = 50;

/// The changes this node owes at this moment. Asking for one again before its answer is useless and harmless; of two for one
/// lease, the first is meant.
pub fn duties(holder: Holder<'_>) -> Vec<Change> {
    let mine = holder.view.of(holder.node).flat_map(|lease| holder.of_lease(lease));
    let others = holder.view.iter().filter(|lease| !lease.is_of(holder.node));
    let others = others.filter_map(|lease| holder.of_second(lease).or_else(|| holder.withdraw(lease)));
    holder.lend().into_iter().chain(mine).chain(others).collect()
}

/// How long after it has seen an ask a node answers it, where it can: its place in an order that each ask has of its own. `None`
/// where it holds nothing that could be lent.
pub fn turn(node: &str, board: &Lease, asker: &str, view: &View) -> Option<Millis> {
    if board.is_of(node) {
        return Some(0);
    }
    let like = view.iter().filter(|lease| {
        lease.pool == board.pool && lease.owner.is_none() && lease.is_ipv4() == board.is_ipv4()
    });
    let holders: BTreeSet<_> = like.filter_map(|lease| lease.node.as_deref()).collect();
    let others = holders.into_iter().filter(|other| !board.is_of(other) && *other != asker);
    let place = rank::order(asker, others).iter().position(|other| *other == node)?;
    Some(TURN * Millis::from((place + 1).ilog2() + 1))
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
            (false, true) => self.withdraw(lease).into_iter().collect(),
            (false, false) => match self.let_go(lease) {
                Some(change) => vec![change],
                None if self.is_alone(lease) => vec![granted(lease)],
                None => self.withdraw(lease).into_iter().collect(),
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
        let needed = self.needed(lease);
        if lease.is_single() && needed > 0 && self.ready(lease) <= needed {
            return None;
        }
        // A lease that may not be used is on no shelf's account: it blocks others and serves nobody.
        let idle = self.book.idle_since(&lease.name, self.now);
        let idle = idle.is_some_and(|since| self.now.saturating_sub(since) >= IDLE);
        if idle && !self.is_headroom(lease) { release() } else { None }
    }

    /// Whether this empty block is one that the node keeps ahead of need: what was claimed for a pod stays until it has come,
    /// however long that takes.
    fn is_headroom(self, lease: &Lease) -> bool {
        if self.awaited.contains_key(&lease.pool) && !lease.is_single() {
            return true;
        }
        let Some(pool) = self.pools.get(&lease.pool) else { return false };
        let ipv4 = lease.is_ipv4();
        let free = self.book.free_of(&lease.pool, ipv4);
        let rest = free.saturating_sub(self.book.free_in(&lease.name));
        let enough = plenty(pool, ipv4, self.nodes, self.view);
        let low = rest <= if enough { u128::from(pool.lease_size / 4) } else { 0 };
        let uses = self.view.of(self.node).any(|other| {
            other.pool == lease.pool
                && other.is_ipv4() == ipv4
                && other.name != lease.name
                && self.book.holds_in(other.block)
        });
        low && uses && lease.asks.is_empty()
    }

    /// How many addresses of the pool and family of this lease pods here wait for or will ask for in a moment. Of a pod's second
    /// family none, as long as there is none of its first: where each of two nodes holds one family, neither would ever let go.
    fn needed(self, like: &Lease) -> u128 {
        let pods = [self.short, self.awaited].map(|pods| pods.get(&like.pool).copied().unwrap_or_default());
        let pods = pods.into_iter().max().unwrap_or_default() as u128;
        let second = !like.is_ipv4() && self.pools.get(&like.pool).is_some_and(|pool| pool.serves(true));
        if second { pods.min(self.ready_of(&like.pool, true)) } else { pods }
    }

    /// How many addresses could be given now, of the pool and family of this lease.
    fn ready(self, like: &Lease) -> u128 {
        self.ready_of(&like.pool, like.is_ipv4())
    }

    /// What is being lent is there no more.
    fn ready_of(self, pool: &str, ipv4: bool) -> u128 {
        let going = self.pending.values().map(Change::lease).filter(|lease| {
            let of_pool = lease.pool == pool && lease.is_single() && lease.is_ipv4() == ipv4;
            of_pool && !lease.is_of(self.node)
        });
        self.book.ready(pool, ipv4, self.now).saturating_sub(going.count() as u128)
    }

    /// How many addresses of the pool and family of this lease another node may have.
    fn dispensable(self, like: &Lease) -> u128 {
        self.ready(like).saturating_sub(self.needed(like))
    }

    /// Answers the asks whose turn it is, one in each block: with half of what pods here do not need, so that this node is not
    /// short at once. Where there is none, the ask stands.
    fn lend(self) -> Vec<Change> {
        let boards = self.view.iter().filter(|lease| lease.is_block());
        let open = boards.filter(|lease| !lease.asks.is_empty() && !self.pending.contains_key(&lease.name));
        let mut lent: BTreeSet<IpAddr> = BTreeSet::new();
        let mut changes = vec![];
        for board in open {
            let due = |asker: &&String| {
                let turn = self.turns.get(&(board.name.clone(), (*asker).clone()));
                **asker != self.node
                    && turn.is_some_and(|turn| *turn <= self.now)
                    && !self.lends_to(asker, board)
            };
            let Some(asker) = board.asks.iter().filter(|ask| *ask != LET_GO).find(due) else { continue };
            let loans = self.loans(board, asker, &lent);
            if loans.is_empty() {
                continue;
            }
            lent.extend(loans.iter().map(|loan| loan.lease().address()));
            changes.extend(loans);
            changes.push(without(board, asker));
        }
        changes
    }

    /// Whether a loan is on its way to this node already.
    fn lends_to(self, asker: &str, board: &Lease) -> bool {
        let loans = self.pending.values().map(Change::lease).filter(|lease| lease.is_single());
        loans.filter(|loan| is_like(loan, board)).any(|loan| loan.is_of(asker))
    }

    /// Addresses for one who asks: borrowed ones are passed on, in two steps like all that changes hands; others are lent.
    fn loans(self, board: &Lease, asker: &str, lent: &BTreeSet<IpAddr>) -> Vec<Change> {
        let gone = lent.iter().filter(|ip| ip.is_ipv4() == board.is_ipv4()).count();
        let half = self.dispensable(board).saturating_sub(gone as u128).div_ceil(2);
        let most = usize::try_from(half).unwrap_or(LOAN).min(LOAN);
        let mine = || self.view.of(self.node).filter(|lease| is_like(lease, board));
        let here = |lease: &Lease| {
            self.book.spare(&lease.name, LOAN, self.now).into_iter().filter(|ip| !lent.contains(ip))
        };
        let borrowed = mine().filter(|lease| lease.is_single() && !self.pending.contains_key(&lease.name));
        let passed = borrowed.filter(|lease| here(lease).next().is_some());
        let passed = passed.map(|lease| {
            let asks = [asker.to_owned()].into();
            Change::Replace(Lease { released: true, asks, ..lease.clone() })
        });
        let lent = mine().filter(|lease| lease.is_block()).flat_map(|block| here(block).collect::<Vec<_>>());
        let lent = lent.map(|ip| Lease::single(&board.pool, ip, asker, None));
        let lent = lent.filter(|loan| !self.pending.contains_key(&loan.name)).map(Change::Create);
        passed.chain(lent).take(most).collect()
    }

    /// What no pod here waits for any more is not asked for any more: an address that is kept for an owner, or any of a block.
    fn withdraw(self, lease: &Lease) -> Option<Change> {
        let needed = match &lease.owner {
            Some(owner) => self.expected.contains(owner),
            None => self.ready(lease) < self.needed(lease),
        };
        let withdraws = lease.asks.contains(self.node) && !needed;
        withdraws.then(|| without(lease, self.node))
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

/// Whether it is of the same pool and family, and for anybody.
fn is_like(lease: &Lease, like: &Lease) -> bool {
    lease.pool == like.pool && lease.owner.is_none() && !lease.released && lease.is_ipv4() == like.is_ipv4()
}

/// It asks no more.
fn without(lease: &Lease, asker: &str) -> Change {
    let mut answered = lease.clone();
    answered.asks.remove(asker);
    Change::Replace(answered)
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
