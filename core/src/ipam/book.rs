//! The node's own book of addresses: which are held, which are free, and since when.
//!
//! A shelf for every lease the node may use and for each of its pod CIDRs. An address that was never given comes first,
//! then the one that has rested longest (first in, first out), and none before its pool's cooldown is over: a peer that
//! still believes in the old holder does not meet a new one. Taking and giving back touch one shelf and no other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Lease, Millis, Pool, View, pool};
use crate::address::Ranges;

/// What a node knows about the addresses it decides about.
#[derive(Debug, Clone, Default)]
pub struct Book {
    shelves: BTreeMap<Arc<str>, Shelf>,
    /// The shelves that give any address of a pool, by pool; those of the node's own CIDRs under "".
    general: BTreeMap<String, Vec<Arc<str>>>,
    held: BTreeMap<IpAddr, Option<Arc<str>>>,
    /// When addresses that no shelf has any more were released: a lease that comes back finds them resting.
    resting: BTreeMap<IpAddr, Millis>,
}

#[derive(Debug, Clone)]
struct Shelf {
    net: IpNet,
    cooldown: Millis,
    allowed: Ranges,
    fresh: Ranges,
    returned: VecDeque<(Millis, IpAddr)>,
    /// Addresses inside that others hold and have marked as released: they have rested there.
    released: Ranges,
    held: usize,
    unused_since: Millis,
}

/// The next address of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This one.
    Address(IpAddr),
    /// One will have rested at this time.
    Resting(Millis),
    /// None.
    Nothing,
}

impl Book {
    /// Brings the shelves up to date with the leases and the pools. Held addresses stay held, whatever the leases say.
    pub fn sync(
        &mut self,
        me: &str,
        cidrs: &[IpNet],
        view: &View,
        pools: &BTreeMap<String, Pool>,
        now: Millis,
    ) {
        let mut wanted: BTreeMap<Arc<str>, (String, Shelf)> = BTreeMap::new();
        for lease in view.of(me) {
            let Some(pool) = pools.get(&lease.pool) else { continue };
            let group = if lease.owner.is_none() { lease.pool.clone() } else { owned(&lease.name) };
            let mut shelf = Shelf::new(lease.block, view.usable(lease, pool), pool.cooldown, now);
            let released = view.inside(lease.block).filter(|inside| inside.released);
            shelf.released = released.map(|inside| inside.block).collect();
            wanted.insert(lease.name.as_str().into(), (group, shelf));
        }
        for cidr in cidrs {
            let all: Ranges = [*cidr].into_iter().collect();
            let allowed = all.subtract(&pool::node_special(*cidr));
            let shelf = Shelf::new(*cidr, allowed, pool::COOLDOWN, now);
            wanted.insert(format!("cidr {cidr}").into(), (String::new(), shelf));
        }
        self.drop_shelves(&wanted, now);
        self.general.clear();
        for (name, (group, fresh)) in wanted {
            self.general.entry(group).or_default().push(Arc::clone(&name));
            match self.shelves.get_mut(&name) {
                Some(shelf) => shelf.follow(fresh, &self.held, now),
                None => self.put_up(name, fresh, now),
            }
        }
    }

    fn drop_shelves(&mut self, wanted: &BTreeMap<Arc<str>, (String, Shelf)>, now: Millis) {
        let gone: Vec<_> = self.shelves.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for shelf in gone.iter().filter_map(|name| self.shelves.remove(name)) {
            self.resting.extend(shelf.returned.iter().map(|(since, ip)| (*ip, *since)));
        }
        for holder in self.held.values_mut() {
            if holder.as_ref().is_some_and(|name| gone.contains(name)) {
                *holder = None;
            }
        }
        self.resting.retain(|_, since| now.saturating_sub(*since) < LONGEST_REST);
    }

    fn put_up(&mut self, name: Arc<str>, mut shelf: Shelf, now: Millis) {
        let inside = |ip: &IpAddr| shelf.net.contains(ip);
        let rested: Vec<_> =
            self.resting.iter().filter(|(ip, _)| inside(ip)).map(|(ip, at)| (*at, *ip)).collect();
        let mut rested: Vec<_> = rested.into_iter().filter(|(_, ip)| shelf.allowed.contains(*ip)).collect();
        rested.sort_unstable();
        let mut out: Ranges = rested.iter().map(|(_, ip)| IpNet::from(*ip)).collect();
        for (_, holder) in
            self.held.iter_mut().filter(|(ip, holder)| holder.is_none() && shelf.net.contains(*ip))
        {
            *holder = Some(Arc::clone(&name));
            shelf.held += 1;
        }
        let held: Ranges =
            self.held.keys().filter(|ip| shelf.net.contains(*ip)).map(|ip| IpNet::from(*ip)).collect();
        out = out.union(&held);
        for (_, ip) in &rested {
            self.resting.remove(ip);
        }
        shelf.fresh = shelf.fresh.subtract(&out);
        shelf.returned = rested.into_iter().filter(|(_, ip)| !held.contains(*ip)).collect();
        shelf.unused_since = now;
        self.shelves.insert(name, shelf);
    }

    /// The next address of a pool (`None`: of the node's own CIDRs) and family that is free, leaving out some.
    pub fn next(&self, pool: Option<&str>, ipv4: bool, now: Millis, but: &BTreeSet<IpAddr>) -> Next {
        let mut best: Option<(Millis, IpAddr)> = None;
        for shelf in self.shelves_of(pool.unwrap_or_default(), ipv4) {
            if let Some(ip) = shelf.fresh.addresses().find(|ip| !but.contains(ip)) {
                return Next::Address(ip);
            }
            let rested = shelf.returned.iter().find(|(_, ip)| !but.contains(ip));
            let ready = rested.map(|(since, ip)| (since.saturating_add(shelf.cooldown), *ip));
            best = best.into_iter().chain(ready).min();
        }
        match best {
            Some((ready, ip)) if ready <= now => Next::Address(ip),
            Some((ready, _)) => Next::Resting(ready),
            None => Next::Nothing,
        }
    }

    /// Whether the address of a lease that is kept for an owner is free. Its rest does not matter: the same owner comes back.
    pub fn is_free(&self, lease: &Lease) -> bool {
        let shelf = self.shelves.get(lease.name.as_str());
        shelf.is_some_and(|shelf| shelf.allowed.contains(lease.address())) && !self.is_held(lease.address())
    }

    /// Whether a pod holds the address.
    pub fn is_held(&self, address: IpAddr) -> bool {
        self.held.contains_key(&address)
    }

    /// Whether a pod holds an address of this network.
    pub fn holds_in(&self, net: IpNet) -> bool {
        self.held.range(net.network()..=net.broadcast()).next().is_some()
    }

    /// Every address that a pod holds.
    pub fn held(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.held.keys().copied()
    }

    /// A pod holds the address from now on. False where one holds it already; then nothing changes.
    pub fn take(&mut self, address: IpAddr) -> bool {
        if self.is_held(address) {
            return false;
        }
        let name = self.shelf_of(address);
        if let Some(shelf) = name.as_ref().and_then(|name| self.shelves.get_mut(name)) {
            shelf.take(address);
        }
        self.held.insert(address, name);
        true
    }

    /// No pod holds the address any more; it rests from now on.
    pub fn give_back(&mut self, address: IpAddr, now: Millis) {
        let Some(holder) = self.held.remove(&address) else { return };
        match holder.and_then(|name| self.shelves.get_mut(&name)) {
            Some(shelf) => shelf.give_back(address, now),
            None => {
                self.resting.insert(address, now);
            }
        }
    }

    /// Remembers when an address was released before this book was begun.
    pub fn rests_since(&mut self, address: IpAddr, since: Millis) {
        self.resting.insert(address, since);
    }

    /// How many addresses of a pool could be given now or after their rest.
    pub fn free(&self, pool: &str) -> u128 {
        let names = self.general.get(pool).into_iter().flatten();
        names.filter_map(|name| self.shelves.get(name)).map(Shelf::free).sum()
    }

    /// How many addresses of a pool and family could be given now or after their rest.
    pub fn free_of(&self, pool: &str, ipv4: bool) -> u128 {
        self.shelves_of(pool, ipv4).map(Shelf::free).sum()
    }

    /// How many addresses of a pool and family could be given now.
    pub fn ready(&self, pool: &str, ipv4: bool, now: Millis) -> u128 {
        self.shelves_of(pool, ipv4).map(|shelf| shelf.ready(now)).sum()
    }

    fn shelves_of(&self, pool: &str, ipv4: bool) -> impl Iterator<Item = &Shelf> {
        let names = self.general.get(pool).into_iter().flatten();
        names.filter_map(|name| self.shelves.get(name)).filter(move |shelf| shelf.is_ipv4() == ipv4)
    }

    /// How many addresses of a pool have not rested long enough yet.
    pub fn resting(&self, pool: &str, now: Millis) -> u64 {
        let names = self.general.get(pool).into_iter().flatten();
        let shelves = names.filter_map(|name| self.shelves.get(name));
        let rests = |shelf: &Shelf, since: Millis| since.saturating_add(shelf.cooldown) > now;
        let resting =
            shelves.map(|shelf| shelf.returned.iter().filter(|(since, _)| rests(shelf, *since)).count());
        resting.sum::<usize>() as u64
    }

    /// How many addresses of this lease could be given now or after their rest.
    pub fn free_in(&self, lease: &str) -> u128 {
        self.shelves.get(lease).map_or(0, Shelf::free)
    }

    /// Addresses of this lease that have rested and nobody holds, at most so many, the last to be given first.
    pub fn spare(&self, lease: &str, most: usize, now: Millis) -> Vec<IpAddr> {
        let Some(shelf) = self.shelves.get(lease) else { return vec![] };
        let rested = shelf.returned.iter().filter(|(since, _)| since.saturating_add(shelf.cooldown) <= now);
        let rested = rested.rev().map(|(_, ip)| *ip);
        rested.chain(shelf.fresh.addresses()).take(most).collect()
    }

    /// Since when no pod has held an address of this lease; `None` while one does, or while one rests.
    pub fn idle_since(&self, lease: &str, now: Millis) -> Option<Millis> {
        let shelf = self.shelves.get(lease)?;
        let resting =
            shelf.returned.back().is_some_and(|(since, _)| since.saturating_add(shelf.cooldown) > now);
        (shelf.held == 0 && !resting).then_some(shelf.unused_since)
    }

    /// The shelf with the smallest net around the address.
    fn shelf_of(&self, address: IpAddr) -> Option<Arc<str>> {
        let around = self.shelves.iter().filter(|(_, shelf)| shelf.net.contains(&address));
        around.max_by_key(|(_, shelf)| shelf.net.prefix_len()).map(|(name, _)| Arc::clone(name))
    }
}

/// A pool's cooldown is at most this long; what rested longer is forgotten.
const LONGEST_REST: Millis = 24 * 3_600_000;

/// The group of a lease that is kept for an owner: nobody else's. No pool has such a name.
fn owned(lease: &str) -> String {
    format!("= {lease}")
}

impl Shelf {
    fn new(net: IpNet, allowed: Ranges, cooldown: Millis, now: Millis) -> Self {
        let fresh = allowed.clone();
        let (returned, released) = (VecDeque::new(), Ranges::default());
        Self { net, cooldown, allowed, fresh, returned, released, held: 0, unused_since: now }
    }

    fn is_ipv4(&self) -> bool {
        self.net.network().is_ipv4()
    }

    fn free(&self) -> u128 {
        self.fresh.len() + self.returned.len() as u128
    }

    fn ready(&self, now: Millis) -> u128 {
        let rested = self.returned.iter().take_while(|(since, _)| since.saturating_add(self.cooldown) <= now);
        self.fresh.len() + rested.count() as u128
    }

    /// What is new in a block is not fresh: somebody inside may have used it until now. What was let go in order has rested, as
    /// has a single address that was lent or passed on.
    fn follow(&mut self, newer: Self, held: &BTreeMap<IpAddr, Option<Arc<str>>>, now: Millis) {
        self.cooldown = newer.cooldown;
        let released = std::mem::replace(&mut self.released, newer.released);
        if self.allowed == newer.allowed {
            return;
        }
        let allowed = newer.allowed;
        let single = self.net.prefix_len() == self.net.max_prefix_len();
        let rested = if single { allowed.clone() } else { released };
        let added = allowed.subtract(&self.allowed);
        self.fresh = self.fresh.intersect(&allowed);
        self.returned.retain(|(_, ip)| allowed.contains(*ip));
        let known: BTreeSet<_> = self.returned.iter().map(|(_, ip)| *ip).collect();
        let back = added.addresses().filter(|ip| !held.contains_key(ip) && !known.contains(ip));
        let (fresh, resting): (Vec<_>, Vec<_>) = back.partition(|ip| rested.contains(*ip));
        self.fresh = self.fresh.union(&fresh.into_iter().map(IpNet::from).collect());
        self.returned.extend(resting.into_iter().map(|ip| (now, ip)));
        self.allowed = allowed;
    }

    fn take(&mut self, address: IpAddr) {
        self.held += 1;
        match self.returned.iter().position(|(_, ip)| *ip == address) {
            Some(at) => {
                self.returned.remove(at);
            }
            None => self.fresh.remove(address),
        }
    }

    fn give_back(&mut self, address: IpAddr, now: Millis) {
        self.held = self.held.saturating_sub(1);
        self.unused_since = now;
        if self.allowed.contains(address) {
            self.returned.push_back((now, address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::lease::tests::pool;

    fn book(pool: &Pool, leases: &[Lease]) -> Book {
        let mut book = Book::default();
        sync(&mut book, pool, leases, 0);
        book
    }

    fn sync(book: &mut Book, pool: &Pool, leases: &[Lease], now: Millis) {
        let pools = [(pool.name.clone(), pool.clone())].into();
        book.sync("n1", &[], &leases.iter().cloned().collect(), &pools, now);
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn lease(block: &str, node: &str) -> Lease {
        Lease::new("p", block.parse().unwrap(), node)
    }

    #[test]
    fn an_address_rests_and_the_one_that_has_rested_longest_comes_first() {
        let pool = Pool { cooldown: 100, ..pool("p", &["10.0.0.0/31"], 2) };
        let mut book = book(&pool, &[lease("10.0.0.0/31", "n1")]);
        let next = |book: &Book, now| book.next(Some("p"), true, now, &BTreeSet::new());
        for expected in ["10.0.0.0", "10.0.0.1"] {
            assert_eq!(next(&book, 0), Next::Address(ip(expected)));
            assert!(book.take(ip(expected)));
        }
        assert!(!book.take(ip("10.0.0.0")));
        assert_eq!(next(&book, 0), Next::Nothing);
        book.give_back(ip("10.0.0.1"), 10);
        book.give_back(ip("10.0.0.0"), 20);
        assert_eq!(next(&book, 50), Next::Resting(110));
        assert_eq!(next(&book, 200), Next::Address(ip("10.0.0.1")));
    }

    #[test]
    fn what_is_lent_is_not_given_and_rests_when_it_comes_back() {
        let pool = Pool { cooldown: 100, ..pool("p", &["10.0.0.0/31"], 2) };
        let block = lease("10.0.0.0/31", "n1");
        let lent = Lease::single("p", ip("10.0.0.0"), "n2", None);
        let mut book = book(&pool, std::slice::from_ref(&block));
        sync(&mut book, &pool, &[block.clone(), lent], 10);
        let next = |book: &Book, now| book.next(Some("p"), true, now, &BTreeSet::new());
        assert_eq!(next(&book, 10), Next::Address(ip("10.0.0.1")));
        book.take(ip("10.0.0.1"));
        assert_eq!(next(&book, 10), Next::Nothing);
        sync(&mut book, &pool, &[block], 50);
        assert_eq!(next(&book, 50), Next::Resting(150));
        assert_eq!(next(&book, 150), Next::Address(ip("10.0.0.0")));
    }

    #[test]
    fn what_was_lent_and_let_go_in_order_has_rested() {
        let pool = Pool { cooldown: 100, ..pool("p", &["10.0.0.0/31"], 2) };
        let block = lease("10.0.0.0/31", "n1");
        let lent = Lease::single("p", ip("10.0.0.0"), "n2", None);
        let mut book = book(&pool, &[block.clone(), lent.clone()]);
        book.take(ip("10.0.0.1"));
        sync(&mut book, &pool, &[block.clone(), Lease { released: true, ..lent }], 10);
        let next = |book: &Book, now| book.next(Some("p"), true, now, &BTreeSet::new());
        assert_eq!(next(&book, 10), Next::Nothing);
        sync(&mut book, &pool, &[block], 20);
        assert_eq!(next(&book, 20), Next::Address(ip("10.0.0.0")));
    }

    #[test]
    fn a_held_address_stays_held_over_a_lease_that_goes_and_comes() {
        let pool = Pool { cooldown: 100, ..pool("p", &["10.0.0.0/31"], 2) };
        let mut book = book(&pool, &[lease("10.0.0.0/31", "n1")]);
        book.take(ip("10.0.0.0"));
        sync(&mut book, &pool, &[], 1);
        sync(&mut book, &pool, &[lease("10.0.0.0/31", "n1")], 2);
        assert!(book.is_held(ip("10.0.0.0")));
        assert_eq!(book.next(Some("p"), true, 2, &BTreeSet::new()), Next::Address(ip("10.0.0.1")));
        assert_eq!(book.idle_since("p-10-0-0-0-31", 2), None);
        book.give_back(ip("10.0.0.0"), 5);
        assert_eq!(book.idle_since("p-10-0-0-0-31", 50), None);
        assert_eq!(book.idle_since("p-10-0-0-0-31", 105), Some(5));
    }
}
