//! Addresses that stay: the one that is kept for an owner, and the set that a workload names.

use std::net::IpAddr;

use super::{Chosen, Found, Known, Not, PassedOver, Why, wait};
use crate::ipam::{Change, Lease, Owner, lease, owner};

impl Known<'_> {
    /// The address that is kept for this owner, or a new one to keep.
    pub(super) fn kept(self, candidates: &[String], owner: &Owner, ipv4: bool) -> Found {
        let mine = self.view.iter().filter(|lease| lease.owner.as_ref() == Some(owner));
        let mut mine = mine.filter(|lease| lease.block.network().is_ipv4() == ipv4);
        match mine.find(|lease| candidates.contains(&lease.pool)) {
            Some(lease) => self.come_by(lease, owner),
            None => {
                let pending = self.pending.values().map(Change::lease);
                let made = |lease: &Lease| {
                    lease.owner.as_ref() == Some(owner) && lease.block.network().is_ipv4() == ipv4
                };
                if pending.clone().any(made) {
                    return wait(format!("an address to be kept for {owner}"), vec![]);
                }
                let chosen = self.any(candidates, ipv4)?;
                let Some(pool) = &chosen.pool else { return Ok(chosen) };
                let reason = format!("{} to be kept for {owner}", chosen.address);
                wait(reason, self.keep(pool, chosen.address, owner).into_iter().collect())
            }
        }
    }

    /// An address that is kept for this owner already.
    fn come_by(self, lease: &Lease, owner: &Owner) -> Found {
        let address = lease.address();
        if self.pending.contains_key(&lease.name) {
            return wait(format!("{address}, which is kept for {owner}"), vec![]);
        }
        let chosen = || Ok(Chosen { address, pool: Some(lease.pool.clone()) });
        let migrates = owner.kind == owner::Kind::VirtualMachine;
        match lease.node.as_deref() {
            // From here it goes to the second node, also where that was decided before this pod came.
            Some(node) if node == self.node && lease.second.is_some() => {
                wait(format!("the migration of {owner} to end"), vec![])
            }
            Some(node) if node == self.node && self.book.is_free(lease) => chosen(),
            Some(node) if node == self.node && self.book.is_held(address) => {
                wait(format!("{address}, which a former pod of {owner} still holds here"), vec![])
            }
            Some(node) if node == self.node => wait(format!("{address} to be granted"), vec![]),
            Some(_) if migrates && lease.second.as_deref() == Some(self.node) => {
                if lease.leaving {
                    return wait(format!("the last migration of {owner} to be taken back"), vec![]);
                }
                if self.book.is_held(address) {
                    return wait(
                        format!("{address}, which a former pod of {owner} still holds here"),
                        vec![],
                    );
                }
                chosen()
            }
            Some(node) if migrates && lease.second.is_none() && !lease.released => {
                let second = Lease { second: Some(self.node.to_owned()), ..lease.clone() };
                wait(format!("{address} to be held here as well as on {node}"), vec![Change::Replace(second)])
            }
            Some(node) => {
                let reason = format!("{address}, which {node} holds for {owner}, to be let go there");
                wait(reason, self.ask(lease).into_iter().collect())
            }
            None => {
                let mut mine = Lease { node: Some(self.node.to_owned()), ..lease.clone() };
                mine.asks.remove(self.node);
                wait(format!("{address}, which is kept for {owner}"), vec![Change::Replace(mine)])
            }
        }
    }

    /// Makes an address that is free here the owner's.
    fn keep(self, pool: &str, address: IpAddr, owner: &Owner) -> Option<Change> {
        match self.view.single(pool, address) {
            Some(lease) if self.pending.contains_key(&lease.name) => None,
            Some(lease) => Some(Change::Replace(Lease { owner: Some(owner.clone()), ..lease.clone() })),
            None => Some(Change::Create(Lease::single(pool, address, self.node, Some(owner.clone())))),
        }
    }

    /// One of a set of addresses that are kept for this owner: first what can be had at once, then what can be asked for.
    pub(super) fn fixed(self, candidates: &[String], owner: &Owner, set: &[IpAddr]) -> Found {
        let mut placed = Vec::with_capacity(set.len());
        for address in set {
            let pool = candidates.iter().find(|name| {
                self.pools.get(*name).is_some_and(|pool| pool.enabled && pool.usable.contains(*address))
            });
            match pool {
                Some(pool) => placed.push((*address, pool.as_str())),
                None => return Err(Not::Ever(vec![self.misplaced(candidates, *address)])),
            }
        }
        let outcomes: Vec<_> =
            placed.iter().map(|(address, pool)| self.one_of_set(pool, *address, owner)).collect();
        let free = placed.iter().zip(&outcomes).find(|(_, outcome)| matches!(outcome, OfSet::Free));
        if let Some(((address, pool), _)) = free {
            return Ok(Chosen { address: *address, pool: Some((*pool).to_owned()) });
        }
        if outcomes.iter().any(|one| matches!(one, OfSet::Coming)) {
            return wait(format!("an address of the set of {owner}"), vec![]);
        }
        if let Some(change) = outcomes.iter().find_map(OfSet::claim) {
            return wait(format!("{} for {owner}", change.lease().address()), vec![change.clone()]);
        }
        let asks = outcomes.iter().filter_map(OfSet::ask).collect();
        wait(set_is_in_use(owner, &placed, &outcomes), asks)
    }

    fn misplaced(self, candidates: &[String], address: IpAddr) -> PassedOver {
        let why = format!(
            "annotation pod-ips wants {address}, which is in none of the pools this pod may use: list an address of theirs"
        );
        PassedOver { pool: candidates.join(", "), why: Why::Wanted(why) }
    }

    fn one_of_set(self, pool: &str, address: IpAddr, owner: &Owner) -> OfSet {
        let name = lease::name(pool, address.into());
        if self.pending.contains_key(&name) {
            return OfSet::Coming;
        }
        let Some(lease) = self.view.get(&name) else { return self.not_yet_kept(pool, address, owner) };
        match (&lease.owner, lease.node.as_deref()) {
            (Some(other), _) if other != owner => OfSet::Kept(other.to_string()),
            (Some(_), Some(node)) if node == self.node && self.book.is_free(lease) => OfSet::Free,
            (_, Some(node)) if node == self.node && self.book.is_held(address) => {
                OfSet::InUse(node.to_owned(), None)
            }
            (None, Some(node)) if node == self.node => match self.keep(pool, address, owner) {
                Some(change) => OfSet::Claim(change),
                None => OfSet::Coming,
            },
            (Some(_), Some(node)) if node == self.node => OfSet::Coming,
            (_, Some(node)) => OfSet::InUse(node.to_owned(), self.ask(lease)),
            (_, None) => {
                let (node, owner) = (Some(self.node.to_owned()), Some(owner.clone()));
                OfSet::Claim(Change::Replace(Lease { node, owner, ..lease.clone() }))
            }
        }
    }

    fn not_yet_kept(self, pool: &str, address: IpAddr, owner: &Owner) -> OfSet {
        let lease = Lease::single(pool, address, self.node, Some(owner.clone()));
        match self.view.cover(&lease).and_then(|cover| cover.node.as_deref()) {
            Some(node) if node == self.node && self.book.is_held(address) => {
                OfSet::InUse(node.to_owned(), None)
            }
            _ => OfSet::Claim(Change::Create(lease)),
        }
    }
}

/// One address of a set.
enum OfSet {
    /// It can be given now.
    Free,
    /// A change is under way, or a grant.
    Coming,
    /// It can be had by this.
    Claim(Change),
    /// A pod on this node holds it, who is to be asked by this.
    InUse(String, Option<Change>),
    /// It is kept for somebody else.
    Kept(String),
}

impl OfSet {
    fn claim(&self) -> Option<&Change> {
        if let Self::Claim(change) = self { Some(change) } else { None }
    }

    fn ask(&self) -> Option<Change> {
        if let Self::InUse(_, ask) = self { ask.clone() } else { None }
    }
}

fn set_is_in_use(owner: &Owner, placed: &[(IpAddr, &str)], outcomes: &[OfSet]) -> String {
    let each = placed.iter().zip(outcomes).map(|((address, _), outcome)| match outcome {
        OfSet::InUse(node, _) => format!("{address} is in use on {node}"),
        OfSet::Kept(other) => format!("{address} is kept for {other}"),
        OfSet::Free | OfSet::Coming | OfSet::Claim(_) => format!("{address} is on its way"),
    });
    let each: Vec<_> = each.collect();
    format!(
        "an address of the set of {owner}: {}; a rolling update needs an address for each replica and its maxSurge, or \
         maxUnavailable of at least 1",
        each.join(", ")
    )
}
