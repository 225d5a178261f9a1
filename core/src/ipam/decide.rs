//! Which addresses a pod gets, decided by the node alone from what it sees and holds; or what has to happen first; or why
//! there is none.
//!
//! One address of each family that the pod's pools serve. A pool that comes earlier in the list is used up before a later
//! one is asked: first what this node holds, then a block that nobody holds, then single addresses that another node can
//! spare. A change is asked for and waited for; it counts once the watch shows it.

mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::book::Next;
use super::lease::Change;
use super::{Book, Lease, Millis, Need, Pool, View, lease};
use crate::labels::Labels;
use crate::rank;

/// What the node knows when it is asked for addresses.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// This node's name.
    pub node: &'a str,
    /// This node's labels.
    pub labels: &'a Labels,
    /// This node's own pod CIDRs.
    pub cidrs: &'a [IpNet],
    /// Every pool.
    pub pools: &'a BTreeMap<String, Pool>,
    /// Every lease.
    pub view: &'a View,
    /// What is held and free here.
    pub book: &'a Book,
    /// Leases with a change of this node's under way.
    pub pending: &'a BTreeMap<String, Change>,
    /// Pools and families (IPv4?) of which all nodes were asked for an address a while ago and none came.
    pub vain: &'a BTreeSet<(String, bool)>,
    /// Now.
    pub now: Millis,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Give these, at most one of each family.
    Take(Vec<Chosen>),
    /// Ask for these changes, if any, and decide again when something has changed.
    Wait {
        /// What it waits for, in words.
        reason: String,
        /// What to ask the API server for.
        changes: Vec<Change>,
        /// When an address will have rested, where it is that which it waits for.
        until: Option<Millis>,
    },
    /// There is none.
    Refuse(Refusal),
}

/// An address that is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The address.
    pub address: IpAddr,
    /// Its pool; `None` for the node's own pod CIDR.
    pub pool: Option<String>,
}

/// Every pool that was asked, and why it was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub Vec<PassedOver>);

/// A pool that was asked in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Its name; for the node's own pod CIDR, "node".
    pub pool: String,
    /// Why.
    pub why: Why,
}

/// Why a pool gives no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Every address is held, kept or lent, and no other node can spare one.
    Exhausted {
        /// The family that has none.
        ipv4: bool,
    },
    /// The pool is disabled.
    Disabled,
    /// The pool's node selector does not match this node.
    NotOnThisNode,
    /// The pool does not exist.
    Gone,
    /// All its addresses overlap with something older, or are excluded.
    NothingUsable,
    /// A wanted address cannot be had.
    Wanted(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted { ipv4 } => {
                write!(f, "it has no free {} address: add a range to spec.ipRanges", family(*ipv4))
            }
            Self::Disabled => f.write_str("it is disabled: set spec.disabled to false"),
            Self::NotOnThisNode => f.write_str("its spec.nodeSelector does not match this node"),
            Self::Gone => f.write_str("it does not exist: create it, or correct the annotation"),
            Self::NothingUsable => {
                f.write_str("none of its addresses may be given: see its conditions Ready and Overlapping")
            }
            Self::Wanted(why) => f.write_str(why),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|one| format!("pool {}: {}", one.pool, one.why)).collect();
        f.write_str(&parts.join("; "))
    }
}

/// A family's outcome that is no address.
enum Not {
    Yet { reason: String, changes: Vec<Change>, until: Option<Millis> },
    Ever(Vec<PassedOver>),
}

type Found = Result<Chosen, Not>;

/// Decides for a pod that may use these pools, in this order; none of them means the node's own pod CIDRs.
pub fn decide(candidates: &[String], need: &Need, known: Known<'_>) -> Decision {
    if let Need::Impossible(why) = need {
        return refuse(candidates.join(", "), Why::Wanted(why.clone()));
    }
    let usable: Vec<_> = candidates.iter().filter_map(|name| usable(name, known).ok()).collect();
    let served = |ipv4: &bool| match candidates {
        [] => known.cidrs.iter().any(|net| net.network().is_ipv4() == *ipv4),
        _ => usable.iter().any(|pool| pool.serves(*ipv4)) || wants(need, *ipv4),
    };
    let families: Vec<bool> = [true, false].into_iter().filter(served).collect();
    if families.is_empty() {
        return Decision::Refuse(Refusal(passed_over(candidates, known)));
    }
    let found = families.into_iter().map(|ipv4| known.family(candidates, need, ipv4));
    together(found.collect())
}

/// All families, or none. An address of a later family is not borrowed before there is one of the earlier: of nodes that hold one
/// family each, none would ever let go.
fn together(found: Vec<Found>) -> Decision {
    let (mut taken, mut waits, mut refused) = (vec![], None, vec![]);
    for one in found {
        match one {
            Ok(chosen) => taken.push(chosen),
            Err(Not::Yet { reason, changes, until }) => {
                let borrows =
                    |change: &Change| change.lease().owner.is_none() && !matches!(change, Change::Create(_));
                let waits_already = waits.is_some();
                let (_, all, first) = waits.get_or_insert((reason, vec![], until));
                all.extend(changes.into_iter().filter(|change| !(waits_already && borrows(change))));
                *first = first.iter().copied().chain(until).min();
            }
            Err(Not::Ever(pools)) => refused.extend(pools),
        }
    }
    if !refused.is_empty() {
        return Decision::Refuse(Refusal(refused));
    }
    match waits {
        Some((reason, changes, until)) => Decision::Wait { reason, changes, until },
        None => Decision::Take(taken),
    }
}

/// What to ask for ahead of need: blocks for pods that are on their way to this node, and one more where what it has of the pool
/// runs low and there is one for every node; where there is no block left, addresses of other nodes. Of each family.
pub fn ahead(pool: &Pool, nodes: usize, on_their_way: u128, known: Known<'_>) -> Vec<Change> {
    if usable(&pool.name, known).is_err() {
        return vec![];
    }
    let families = [true, false].into_iter().filter(|ipv4| pool.serves(*ipv4));
    families.flat_map(|ipv4| known.ahead(pool, ipv4, nodes, on_their_way)).collect()
}

/// Whether the pool has an unclaimed block of the family for every node.
pub fn plenty(pool: &Pool, ipv4: bool, nodes: usize, view: &View) -> bool {
    let of_family = lease::blocks(pool).filter(|block| block.network().is_ipv4() == ipv4);
    of_family.filter(|block| view.is_unclaimed(*block, pool)).take(nodes.max(1)).count() >= nodes.max(1)
}

/// The pool, where it may give addresses here.
fn usable<'a>(name: &str, known: Known<'a>) -> Result<&'a Pool, Why> {
    let pool = known.pools.get(name).ok_or(Why::Gone)?;
    if !pool.enabled {
        return Err(Why::Disabled);
    }
    if !pool.nodes.matches(known.labels) {
        return Err(Why::NotOnThisNode);
    }
    if pool.usable.is_empty() { Err(Why::NothingUsable) } else { Ok(pool) }
}

fn passed_over(candidates: &[String], known: Known<'_>) -> Vec<PassedOver> {
    let why = |name: &String| usable(name, known).err().map(|why| PassedOver { pool: name.clone(), why });
    candidates.iter().filter_map(why).collect()
}

fn refuse(pool: String, why: Why) -> Decision {
    Decision::Refuse(Refusal(vec![PassedOver { pool, why }]))
}

fn wants(need: &Need, ipv4: bool) -> bool {
    matches!(need, Need::Fixed(_, set) if set.iter().any(|ip| ip.is_ipv4() == ipv4))
}

fn family(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

fn wait<T>(reason: String, changes: Vec<Change>) -> Result<T, Not> {
    Err(Not::Yet { reason, changes, until: None })
}

impl<'a> Known<'a> {
    fn family(self, candidates: &[String], need: &Need, ipv4: bool) -> Found {
        match need {
            Need::Fixed(owner, set) if wants(need, ipv4) => {
                let set: Vec<_> = set.iter().copied().filter(|ip| ip.is_ipv4() == ipv4).collect();
                self.fixed(candidates, owner, &set)
            }
            Need::Kept(owner) if !candidates.is_empty() => self.kept(candidates, owner, ipv4),
            Need::Any | Need::Kept(_) | Need::Fixed(..) | Need::Impossible(_) => self.any(candidates, ipv4),
        }
    }

    /// Any address of the pools.
    fn any(self, candidates: &[String], ipv4: bool) -> Found {
        if candidates.is_empty() {
            return match self.book.next(None, ipv4, self.now, &self.spoken_for()) {
                Next::Address(address) => Ok(Chosen { address, pool: None }),
                Next::Resting(until) => self.rest(until),
                Next::Nothing => {
                    let why = Why::Exhausted { ipv4 };
                    Err(Not::Ever(vec![PassedOver { pool: "node".into(), why }]))
                }
            };
        }
        let (mut passed, mut resting) = (vec![], None);
        for name in candidates {
            match self.of_pool(name, ipv4) {
                Ok(Some(chosen)) => return Ok(chosen),
                Ok(None) => {}
                Err(NotHere::Waits(reason, changes)) => return wait(reason, changes),
                Err(NotHere::Rests(until)) => resting = resting.into_iter().chain([until]).min(),
                Err(NotHere::Passed(why)) => passed.push(PassedOver { pool: name.clone(), why }),
            }
        }
        match resting {
            Some(until) => self.rest(until),
            None => Err(Not::Ever(passed)),
        }
    }

    fn rest(self, until: Millis) -> Found {
        let reason = format!("an address to end its cooldown in {} ms", until.saturating_sub(self.now));
        Err(Not::Yet { reason, changes: vec![], until: Some(until) })
    }

    /// `None` where the pool does not serve the family.
    fn of_pool(self, name: &str, ipv4: bool) -> Result<Option<Chosen>, NotHere> {
        let pool = usable(name, self).map_err(NotHere::Passed)?;
        if !pool.serves(ipv4) {
            return Ok(None);
        }
        let next = self.book.next(Some(name), ipv4, self.now, &self.spoken_for());
        if let Next::Address(address) = next {
            return Ok(Some(Chosen { address, pool: Some(name.to_owned()) }));
        }
        if self.claims(name, ipv4) {
            return Err(NotHere::Waits(format!("a block of pool {name}"), vec![]));
        }
        if let Some(block) = self.unclaimed(pool, ipv4).into_iter().next() {
            let reason = format!("a block of pool {name}, lease {}", block.name);
            return Err(NotHere::Waits(reason, vec![Change::Create(block)]));
        }
        if let Some(loan) = self.loan(pool, ipv4) {
            return Err(NotHere::Waits(format!("{} to be granted", loan.address()), vec![]));
        }
        if let Some(board) = self.board(pool, ipv4) {
            let reason = format!("an address of pool {name} that another node can spare");
            return Err(NotHere::Waits(reason, self.ask(board).into_iter().collect()));
        }
        match next {
            Next::Resting(until) => Err(NotHere::Rests(until)),
            Next::Address(_) | Next::Nothing => Err(NotHere::Passed(Why::Exhausted { ipv4 })),
        }
    }

    /// The block in which to ask for an address of this pool and family, where another node may have one: the one in which
    /// this node asks already, or else for each node another. Every node sees it there.
    fn board(self, pool: &Pool, ipv4: bool) -> Option<&'a Lease> {
        if self.is_vain(pool, ipv4) {
            return None;
        }
        let all = || {
            let of_pool = self.view.iter().filter(|lease| lease.pool == pool.name && lease.owner.is_none());
            of_pool.filter(move |lease| lease.is_ipv4() == ipv4)
        };
        if !all().any(|lease| lease.node.is_some() && !lease.is_of(self.node)) {
            return None;
        }
        let boards = all().filter(|lease| lease.is_block());
        boards.max_by_key(|one| (one.asks.contains(self.node), rank::weight(self.node, &one.name)))
    }

    /// Asks there, unless it does already.
    fn ask(self, lease: &Lease) -> Option<Change> {
        let fresh = !lease.asks.contains(self.node) && !self.pending.contains_key(&lease.name);
        fresh.then(|| Change::Replace(lease.asked_by(self.node)))
    }

    fn is_vain(self, pool: &Pool, ipv4: bool) -> bool {
        self.vain.iter().any(|(name, family)| *name == pool.name && *family == ipv4)
    }

    /// An address that was lent to this node and may not be used yet, unless its lender is silent.
    fn loan(self, pool: &Pool, ipv4: bool) -> Option<&'a Lease> {
        self.loans(pool, ipv4).next()
    }

    fn loans(self, pool: &Pool, ipv4: bool) -> impl Iterator<Item = &'a Lease> + use<'a> {
        let (silent, name) = (self.is_vain(pool, ipv4), pool.name.clone());
        self.view.of(self.node).filter(move |lease| {
            lease.pool == name
                && (!silent || self.view.cover(lease).is_none())
                && lease.is_single()
                && lease.owner.is_none()
                && !lease.granted
                && lease.is_ipv4() == ipv4
        })
    }

    /// Whether a block of this pool and family is being claimed.
    fn claims(self, pool: &str, ipv4: bool) -> bool {
        self.claimed(pool, ipv4).next().is_some()
    }

    /// Blocks of this pool and family that are being claimed.
    fn claimed(self, pool: &str, ipv4: bool) -> impl Iterator<Item = IpNet> {
        let claims = self.pending.values().filter_map(|change| match change {
            Change::Create(lease) if lease.owner.is_none() => Some(lease),
            Change::Create(_) | Change::Replace(_) | Change::Delete(_) => None,
        });
        claims
            .filter(move |lease| lease.pool == pool && lease.block.network().is_ipv4() == ipv4)
            .map(|lease| lease.block)
    }

    /// Addresses of leases that are being made: not to be given to somebody else meanwhile.
    fn spoken_for(self) -> BTreeSet<IpAddr> {
        let leases = self.pending.values().map(Change::lease);
        leases.filter(|lease| lease.is_single()).map(Lease::address).collect()
    }

    /// Blocks that nobody holds: for each node in another order, so that nodes that claim at once seldom meet.
    fn unclaimed(self, pool: &Pool, ipv4: bool) -> Vec<Lease> {
        let blocks = lease::blocks(pool)
            .filter(|block| block.network().is_ipv4() == ipv4 && self.view.is_unclaimed(*block, pool))
            .map(|block| Lease::new(&pool.name, block, self.node))
            .filter(|lease| !self.pending.contains_key(&lease.name));
        let mut blocks: Vec<_> = blocks.collect();
        blocks.sort_by_cached_key(|lease| std::cmp::Reverse(rank::weight(self.node, &lease.name)));
        blocks
    }

    fn ahead(self, pool: &Pool, ipv4: bool, nodes: usize, on_their_way: u128) -> Vec<Change> {
        let reserve = if pool.lease_size > 1 { u128::from(pool.lease_size / 4) + 1 } else { 0 };
        let coming = self.claimed(&pool.name, ipv4).map(|block| lease::usable(pool, block).len());
        let mut there = self.book.free_of(&pool.name, ipv4) + coming.sum::<u128>();
        if there >= on_their_way + reserve {
            return vec![];
        }
        // Where blocks are scarce, one that has nothing left takes another all the same: who is short borrows out of it.
        let more = if plenty(pool, ipv4, nodes, self.view) { reserve } else { reserve.min(1) };
        let mut claims = vec![];
        for block in self.unclaimed(pool, ipv4) {
            if there >= on_their_way + more {
                break;
            }
            there += lease::usable(pool, block.block).len();
            claims.push(Change::Create(block));
        }
        // As in `together`: of the second family not before there is one of the first.
        let second = !ipv4 && pool.serves(true);
        let first = self.book.ready(&pool.name, true, self.now);
        let short = if second { on_their_way.min(first) } else { on_their_way };
        if there + (self.loans(pool, ipv4).count() as u128) < short && claims.is_empty() {
            claims.extend(self.board(pool, ipv4).and_then(|board| self.ask(board)));
        }
        claims
    }
}

/// Why a pool has no address at this moment.
enum NotHere {
    Waits(String, Vec<Change>),
    Rests(Millis),
    Passed(Why),
}

#[cfg(test)]
mod tests;
