//! The leases of this node between decision and confirmation: what has been asked of the API server and what came of it.
//!
//! The watch lags behind the API server. A lease that was won counts at once, although the watch does not show it yet; one
//! that is on its way back counts no more, although the watch still shows it; one that was lost is not asked for again
//! before the watch shows whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use portolan_core::ipam::Lease;
use tokio::sync::mpsc::UnboundedSender;

use crate::claims::{Outcome, Wish};
use crate::world::World;

/// A lease that was lost, or could not be asked for, is not asked for again within this time.
const PAUSE: Duration = Duration::from_secs(2);

/// A lease in which no address is held for this long goes back to its pool.
const IDLE: Duration = Duration::from_secs(10);

/// Leases under way.
#[derive(Debug)]
pub struct Leases {
    wishes: UnboundedSender<Wish>,
    asked: BTreeMap<String, Lease>,
    won: BTreeMap<String, Lease>,
    lost: BTreeMap<String, Instant>,
    /// On their way back, and when a request that failed is to be repeated. Used never again: it may have arrived.
    returning: BTreeMap<String, (Lease, Option<Instant>)>,
    returned: BTreeSet<String>,
    idle: BTreeMap<String, Instant>,
}

impl Leases {
    /// None under way.
    pub fn new(wishes: UnboundedSender<Wish>) -> Self {
        Self {
            wishes,
            asked: BTreeMap::new(),
            won: BTreeMap::new(),
            lost: BTreeMap::new(),
            returning: BTreeMap::new(),
            returned: BTreeSet::new(),
            idle: BTreeMap::new(),
        }
    }

    /// All leases of the cluster, with what this node has won since the watch last looked.
    pub fn known(&self, world: &World) -> BTreeMap<String, Lease> {
        let mut all = world.leases.clone();
        all.extend(self.won.iter().map(|(name, lease)| (name.clone(), lease.clone())));
        all
    }

    /// Leases that must neither give an address nor be claimed now.
    pub fn untouchable(&self) -> BTreeSet<String> {
        let sets =
            self.asked.keys().chain(self.lost.keys()).chain(self.returning.keys()).chain(&self.returned);
        sets.cloned().collect()
    }

    /// Asks for a lease, unless one of the same pool has been asked for already: pods that come together wait for one.
    pub fn claim(&mut self, lease: Lease) {
        if !self.asked.values().any(|asked| asked.pool == lease.pool) {
            self.asked.insert(lease.name.clone(), lease.clone());
            self.wish(Wish::Claim(lease));
        }
    }

    /// Gives back those of the unused leases that have been so for a while: not at once, for a pod that restarts comes back
    /// within seconds.
    pub fn give_back_idle(&mut self, unused: &[&Lease], now: Instant) {
        self.idle.retain(|name, _| unused.iter().any(|lease| lease.name == *name));
        let untouchable = self.untouchable();
        for lease in unused.iter().filter(|lease| !untouchable.contains(&lease.name)) {
            let since = *self.idle.entry(lease.name.clone()).or_insert(now);
            if lease.released || now.duration_since(since) >= IDLE {
                self.returning.insert(lease.name.clone(), ((*lease).clone(), None));
                self.wish(Wish::GiveBack((*lease).clone()));
            }
        }
    }

    /// What came of a wish. The answer is an error worth telling.
    pub fn learn(&mut self, outcome: Outcome, now: Instant) -> Option<String> {
        match outcome {
            Outcome::Won(lease) => {
                self.asked.remove(&lease.name);
                self.won.insert(lease.name.clone(), lease);
            }
            Outcome::Lost(lease) => {
                self.asked.remove(&lease.name);
                self.lost.insert(lease.name, now);
            }
            Outcome::GivenBack(lease) => {
                self.returning.remove(&lease.name);
                self.won.remove(&lease.name);
                self.returned.insert(lease.name);
            }
            Outcome::Failed(Wish::Claim(lease), why) => {
                self.asked.remove(&lease.name);
                self.lost.insert(lease.name.clone(), now);
                return Some(format!("lease {} cannot be claimed: {why}", lease.name));
            }
            Outcome::Failed(Wish::GiveBack(lease), why) => {
                self.returning.insert(lease.name.clone(), (lease.clone(), Some(now)));
                return Some(format!("lease {} cannot be given back: {why}", lease.name));
            }
        }
        None
    }

    /// Forgets what the watch shows by now.
    pub fn settle(&mut self, world: &World, now: Instant) {
        self.won.retain(|name, _| !world.leases.contains_key(name));
        self.lost
            .retain(|name, since| !world.leases.contains_key(name) && now.duration_since(*since) < PAUSE);
        self.returned.retain(|name| world.leases.contains_key(name));
        let due = |(lease, failed): &(Lease, Option<Instant>)| {
            failed.filter(|since| now.duration_since(*since) >= PAUSE).map(|_| lease.clone())
        };
        let again: Vec<_> = self.returning.values().filter_map(due).collect();
        for lease in again {
            self.returning.insert(lease.name.clone(), (lease.clone(), None));
            self.wish(Wish::GiveBack(lease));
        }
    }

    fn wish(&self, wish: Wish) {
        // The task that carries wishes lives as long as the agent; without it the agent is ending.
        if self.wishes.send(wish).is_err() {
            tracing::debug!("nobody carries wishes any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    fn lease() -> Lease {
        Lease::new("erp", "10.20.1.0/28".parse().unwrap(), "node-1")
    }

    fn seen() -> World {
        World { leases: [(lease().name, lease())].into(), ..World::default() }
    }

    #[test]
    fn one_lease_is_asked_for_at_a_time_and_counts_before_the_watch_shows_it() {
        let (wishes, mut carried) = unbounded_channel();
        let mut leases = Leases::new(wishes);
        leases.claim(lease());
        leases.claim(Lease::new("erp", "10.20.1.16/28".parse().unwrap(), "node-1"));
        assert!(matches!(carried.try_recv(), Ok(Wish::Claim(_))) && carried.try_recv().is_err());
        assert!(leases.untouchable().contains(&lease().name));
        assert_eq!(leases.learn(Outcome::Won(lease()), Instant::now()), None);
        assert!(leases.untouchable().is_empty());
        assert!(leases.known(&World::default()).contains_key(&lease().name));
    }

    #[test]
    fn a_lease_on_its_way_back_gives_nothing_until_the_watch_has_seen_it_go() {
        let (wishes, _carried) = unbounded_channel();
        let mut leases = Leases::new(wishes);
        let now = Instant::now();
        leases.give_back_idle(&[&lease()], now);
        assert!(leases.untouchable().is_empty());
        leases.give_back_idle(&[&lease()], now + IDLE);
        leases.learn(Outcome::GivenBack(lease()), Instant::now());
        leases.settle(&seen(), Instant::now());
        assert!(leases.untouchable().contains(&lease().name));
        leases.settle(&World::default(), Instant::now());
        assert!(leases.untouchable().is_empty());
    }

    #[test]
    fn a_lease_whose_return_failed_is_never_used_again_and_the_return_is_repeated() {
        let (wishes, mut carried) = unbounded_channel();
        let mut leases = Leases::new(wishes);
        let now = Instant::now();
        leases.give_back_idle(&[&lease()], now);
        leases.give_back_idle(&[&lease()], now + IDLE);
        assert!(carried.try_recv().is_ok());
        leases.learn(Outcome::Failed(Wish::GiveBack(lease()), "no answer".into()), now);
        leases.settle(&seen(), now);
        assert!(leases.untouchable().contains(&lease().name) && carried.try_recv().is_err());
        leases.settle(&seen(), now + PAUSE);
        assert!(leases.untouchable().contains(&lease().name) && carried.try_recv().is_ok());
    }

    #[test]
    fn a_lease_that_was_lost_is_not_asked_for_again_at_once() {
        let (wishes, _carried) = unbounded_channel();
        let mut leases = Leases::new(wishes);
        let now = Instant::now();
        leases.claim(lease());
        leases.learn(Outcome::Lost(lease()), now);
        leases.settle(&World::default(), now);
        assert!(leases.untouchable().contains(&lease().name));
        leases.settle(&World::default(), now + PAUSE);
        assert!(leases.untouchable().is_empty());
    }
}
