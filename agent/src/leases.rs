//! The node's side of the leases: the book of what it decides about, and what is under way about them.
//!
//! A change counts once the watch shows it and not before, so nothing here has to guess what an answer meant. A change is
//! under way until the watch shows what came of it; meanwhile no second one of the same lease is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use portolan_core::ipam::decide::Known;
use portolan_core::ipam::duties::{Holder, duties, turn};
use portolan_core::ipam::{Book, Change, Lease, Millis, Owner, Pool, View};
use portolan_core::labels::Labels;
use portolan_crds::change::Outcome;
use tokio::sync::mpsc::UnboundedSender;

use crate::changes::Answer;

/// What the API server refused or did not answer is not asked for again for so long.
const PAUSE: Duration = Duration::from_secs(5);
/// The watch is behind the answer by no more than this, or never shows what the answer was about.
const BEHIND: Duration = Duration::from_secs(5);
/// Where no node lends an address within this time, there is none: each has had its turn by then ([`turn`]).
const LENDING: Duration = Duration::from_secs(3);
/// What another node lends shows up within this time after it has taken the ask off.
const SHOWN: Duration = Duration::from_secs(1);
/// Where there was none, none is waited for again for so long.
const VAIN: Duration = Duration::from_secs(10);
/// A runtime comes back for a pod within this time.
const EXPECTED: Duration = Duration::from_secs(30);
/// The first moment on the clock of the book: early enough for every address that still rests when the agent starts.
const EPOCH: Duration = Duration::from_secs(2 * 86_400);

/// The leases, as this node sees and handles them.
pub struct Leases {
    node: String,
    changes: UnboundedSender<Change>,
    begun: Instant,
    book: Book,
    view: Arc<View>,
    pools: Arc<BTreeMap<String, Pool>>,
    cidrs: Vec<IpNet>,
    /// Under way, by lease.
    pending: BTreeMap<String, Change>,
    /// Of these, what the API server has answered, and when.
    answered: BTreeMap<String, Instant>,
    paused: BTreeMap<String, Instant>,
    /// Blocks in which this node has asked for addresses.
    asked: BTreeMap<String, Asked>,
    /// Pools and families (IPv4?) that had none, until when.
    vain: BTreeMap<(String, bool), Instant>,
    /// When it is this node's turn to answer the asks of others, by block and asker.
    turns: BTreeMap<(String, String), Millis>,
    /// Pods that could not get an address, each with the pools it may use, until when.
    turned_away: BTreeMap<String, (Vec<String>, Instant)>,
    /// How many pods that are bound to this node will ask each pool first.
    awaited: BTreeMap<String, usize>,
    expected: BTreeMap<Owner, Instant>,
}

/// What was asked for in a block.
struct Asked {
    since: Instant,
    /// How many addresses of the pool this node had borrowed then.
    had: usize,
    /// The watch shows the ask, or showed it once and since when not any more.
    seen: Seen,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    NotYet,
    Stands,
    TakenOff(Instant),
}

impl Leases {
    /// Nothing is known yet of the leases of this node. Changes go out by this queue.
    pub fn new(node: &str, changes: UnboundedSender<Change>) -> Self {
        Self {
            node: node.to_owned(),
            changes,
            begun: Instant::now(),
            book: Book::default(),
            view: Arc::default(),
            pools: Arc::default(),
            cidrs: vec![],
            pending: BTreeMap::new(),
            answered: BTreeMap::new(),
            paused: BTreeMap::new(),
            asked: BTreeMap::new(),
            vain: BTreeMap::new(),
            turns: BTreeMap::new(),
            turned_away: BTreeMap::new(),
            awaited: BTreeMap::new(),
            expected: BTreeMap::new(),
        }
    }

    /// The clock of the book. It never goes back.
    pub fn clock(&self, now: Instant) -> Millis {
        millis(EPOCH + now.saturating_duration_since(self.begun))
    }

    /// When that will be.
    pub fn instant(&self, at: Millis) -> Instant {
        self.begun + Duration::from_millis(at.saturating_sub(millis(EPOCH)))
    }

    /// An address that was released this long before the agent started goes on resting.
    pub fn rests(&mut self, address: IpAddr, for_so_long: Duration) {
        self.book.rests_since(address, millis(EPOCH.saturating_sub(for_so_long)));
    }

    /// What is held, free and resting.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// A pod holds the address from now on. False where one holds it already.
    pub fn take(&mut self, address: IpAddr) -> bool {
        self.book.take(address)
    }

    /// No pod holds it any more.
    pub fn give_back(&mut self, address: IpAddr) {
        self.book.give_back(address, self.clock(Instant::now()));
    }

    /// Looks at what the watch shows.
    pub fn look(
        &mut self,
        cidrs: Vec<IpNet>,
        view: &Arc<View>,
        pools: &Arc<BTreeMap<String, Pool>>,
        now: Instant,
    ) {
        let same = Arc::ptr_eq(&self.view, view) && Arc::ptr_eq(&self.pools, pools) && self.cidrs == cidrs;
        if !same {
            (self.view, self.pools, self.cidrs) = (Arc::clone(view), Arc::clone(pools), cidrs);
            self.book.sync(&self.node, &self.cidrs, &self.view, &self.pools, self.clock(now));
            self.heed_asks(self.clock(now));
        }
        self.heed_answers(now);
        self.settle(now);
    }

    /// What the watch shows is under way no more.
    fn settle(&mut self, now: Instant) {
        let behind =
            |name: &String| self.answered.get(name).is_some_and(|since| now.duration_since(*since) >= BEHIND);
        let shown = |change: &Change| {
            let lease = change.lease();
            match (change, self.view.get(&lease.name)) {
                (Change::Create(_), found) => found.is_some(),
                (Change::Replace(_) | Change::Delete(_), found) => {
                    found.is_none_or(|found| found.version != lease.version)
                }
            }
        };
        // Another node takes the ask off and makes the loans at once, and they show up in any order.
        let lends = |change: &Change| {
            let asked = self.asked.get(&change.lease().name).filter(|_| !change.lease().is_of(&self.node));
            asked.is_some_and(|asked| asked.seen != Seen::Stands)
        };
        self.pending.retain(|name, change| lends(change) || !shown(change) && !behind(name));
        self.answered.retain(|name, _| self.pending.contains_key(name));
        self.paused.retain(|_, until| *until > now);
        self.vain.retain(|_, until| *until > now);
        self.turned_away.retain(|_, (_, until)| *until > now);
        self.expected.retain(|_, until| *until > now);
    }

    /// Takes a turn for each ask of another node when it shows up.
    fn heed_asks(&mut self, now: Millis) {
        let (node, view) = (&self.node, &self.view);
        let asks = view.iter().filter(|lease| lease.is_block()).flat_map(|lease| {
            let askers = lease.asks.iter().filter(|asker| *asker != node);
            askers.map(move |asker| ((lease.name.clone(), asker.clone()), lease))
        });
        let before = std::mem::take(&mut self.turns);
        self.turns = asks
            .filter_map(|(ask, lease)| {
                let at = match before.get(&ask) {
                    Some(at) => *at,
                    None => now + turn(node, lease, &ask.1, view)?,
                };
                Some((ask, at))
            })
            .collect();
    }

    /// When it is this node's turn next to answer an ask that stands.
    pub fn next_turn(&self, now: Instant) -> Option<Instant> {
        let clock = self.clock(now);
        self.turns.values().filter(|turn| **turn > clock).min().map(|turn| self.instant(*turn))
    }

    /// An ask that stands for long is in vain. One that was taken off is answered, or not needed any more.
    fn heed_answers(&mut self, now: Instant) {
        let (node, view, vain) = (&self.node, &self.view, &mut self.vain);
        self.asked.retain(|name, asked| {
            let Some(lease) = view.get(name) else { return false };
            let of = (lease.pool.clone(), lease.is_ipv4());
            asked.seen = match (lease.asks.contains(node), asked.seen) {
                (true, _) => Seen::Stands,
                (false, Seen::Stands) => Seen::TakenOff(now),
                (false, other) => other,
            };
            match asked.seen {
                Seen::Stands => {
                    if now.duration_since(asked.since) >= LENDING {
                        vain.insert(of, now + VAIN);
                    }
                    true
                }
                Seen::NotYet => {
                    now.duration_since(asked.since) < LENDING && borrowed(view, lease, node) <= asked.had
                }
                Seen::TakenOff(at) => {
                    vain.remove(&of);
                    now.duration_since(at) < SHOWN && borrowed(view, lease, node) <= asked.had
                }
            }
        });
        // One that stands is waited for, whoever sent it and whatever came of others meanwhile.
        let standing = view.iter().filter(|lease| lease.asks.contains(node) && lease.is_block());
        for lease in standing {
            let had = borrowed(view, lease, node);
            let seen = Seen::Stands;
            self.asked.entry(lease.name.clone()).or_insert(Asked { since: now, had, seen });
        }
    }

    /// Asks the API server for these, but for leases of which a change is under way or was refused just now.
    pub fn send(&mut self, changes: impl IntoIterator<Item = Change>, now: Instant) {
        for change in changes {
            let lease = change.lease();
            if self.pending.contains_key(&lease.name) || self.paused.contains_key(&lease.name) {
                continue;
            }
            if let Change::Replace(lease) = &change {
                self.note_ask(lease, now);
            }
            let name = lease.name.clone();
            // The task that carries changes lives as long as the agent; without it the agent is ending.
            if self.changes.send(change.clone()).is_err() {
                tracing::debug!("nobody carries changes any more");
            }
            self.pending.insert(name, change);
        }
    }

    fn note_ask(&mut self, changed: &Lease, now: Instant) {
        if changed.asks.contains(&self.node) && changed.is_block() {
            let had = borrowed(&self.view, changed, &self.node);
            let seen = Seen::NotYet;
            self.asked.insert(changed.name.clone(), Asked { since: now, had, seen });
        }
    }

    /// What the API server said. The answer is an error worth telling.
    pub fn learn(&mut self, answer: Answer, now: Instant) -> Option<String> {
        match answer.outcome {
            Ok(outcome) => {
                if outcome == Outcome::TooLate {
                    self.asked.remove(&answer.lease);
                }
                self.answered.insert(answer.lease, now);
                None
            }
            Err(why) => {
                self.pending.remove(&answer.lease);
                self.asked.remove(&answer.lease);
                self.paused.insert(answer.lease, now + PAUSE);
                Some(why)
            }
        }
    }

    /// A pod on this node is about to need its owner's address.
    pub fn expect(&mut self, owner: &Owner, now: Instant) {
        self.expected.insert(owner.clone(), now + EXPECTED);
    }

    /// So many pods that are bound to this node will ask each of these pools.
    pub fn awaits(&mut self, pods: BTreeMap<String, usize>) {
        self.awaited = pods;
    }

    /// A pod has no address of these pools, and its runtime will come back.
    pub fn lacks(&mut self, pod: String, pools: &[String], now: Instant) {
        self.turned_away.insert(pod, (pools.to_vec(), now + EXPECTED));
    }

    /// A pod has what it needs.
    pub fn is_served(&mut self, pod: &str) {
        self.turned_away.remove(pod);
    }

    /// Does what this node owes the others.
    pub fn fulfil(&mut self, nodes: usize, now: Instant) {
        let expected: Vec<_> = self.expected.keys().cloned().collect();
        let mut short = BTreeMap::new();
        for pool in self.turned_away.values().flat_map(|(pools, _)| pools) {
            *short.entry(pool.clone()).or_default() += 1;
        }
        let holder = Holder {
            node: &self.node,
            pools: &self.pools,
            view: &self.view,
            book: &self.book,
            nodes,
            pending: &self.pending,
            short: &short,
            awaited: &self.awaited,
            turns: &self.turns,
            expected: &expected,
            now: self.clock(now),
        };
        let owed = duties(holder);
        self.send(owed, now);
    }

    /// The leases that are this node's, with what is under way about them, and those it has asked for and not got yet.
    pub fn own(&self) -> impl Iterator<Item = (&Lease, Option<&Change>)> {
        let mine = self.view.of(&self.node).map(|lease| (lease, self.pending.get(&lease.name)));
        let wanted = self.pending.values().filter(|change| self.view.get(&change.lease().name).is_none());
        mine.chain(wanted.map(|change| (change.lease(), Some(change))))
    }

    /// Pools and families (IPv4?) of which no node can spare an address.
    pub fn vain(&self) -> BTreeSet<(String, bool)> {
        self.vain.keys().cloned().collect()
    }

    /// What decisions are made with.
    pub fn known<'a>(
        &'a self,
        labels: &'a Labels,
        vain: &'a BTreeSet<(String, bool)>,
        now: Instant,
    ) -> Known<'a> {
        Known {
            node: &self.node,
            labels,
            cidrs: &self.cidrs,
            pools: &self.pools,
            view: &self.view,
            book: &self.book,
            pending: &self.pending,
            vain,
            now: self.clock(now),
        }
    }
}

/// How many addresses of a block's pool and family a node has borrowed.
fn borrowed(view: &View, block: &Lease, node: &str) -> usize {
    let loans = view.of(node).filter(|lease| lease.pool == block.pool && lease.owner.is_none());
    loans.filter(|lease| lease.is_single() && lease.granted && lease.is_ipv4() == block.is_ipv4()).count()
}

fn millis(span: Duration) -> Millis {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_core::ipam::lease::Version;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    fn leases() -> (Leases, UnboundedReceiver<Change>) {
        let (changes, carried) = unbounded_channel();
        (Leases::new("node-1", changes), carried)
    }

    fn block(node: &str, version: &str) -> Lease {
        let version = Version { uid: "u".into(), resource: version.into() };
        Lease { version, ..Lease::new("erp", "10.20.1.0/28".parse().unwrap(), node) }
    }

    fn look(leases: &mut Leases, shown: &[Lease], now: Instant) {
        let pool = Pool::new("erp", ["10.20.1.0/24".parse::<IpNet>().unwrap()].into_iter().collect());
        let pools = Arc::new([(pool.name.clone(), pool)].into());
        leases.look(vec![], &Arc::new(shown.iter().cloned().collect()), &pools, now);
    }

    fn done(lease: &Lease) -> Answer {
        Answer { lease: lease.name.clone(), outcome: Ok(Outcome::Made) }
    }

    #[test]
    fn a_claim_is_under_way_until_the_watch_shows_it_and_counts_then() {
        let ((mut leases, mut carried), now) = (leases(), Instant::now());
        let claim = Change::Create(block("node-1", ""));
        leases.send([claim.clone(), claim.clone()], now);
        assert!(carried.try_recv().is_ok() && carried.try_recv().is_err());
        leases.learn(done(claim.lease()), now);
        look(&mut leases, &[], now);
        leases.send([claim.clone()], now);
        assert!(carried.try_recv().is_err());
        assert_eq!(leases.book().free("erp"), 0);
        look(&mut leases, &[block("node-1", "7")], now);
        assert!(leases.pending.is_empty());
        assert_eq!(leases.book().free("erp"), 16);
    }

    #[test]
    fn what_the_watch_never_shows_is_forgotten_and_what_failed_is_tried_again_later() {
        let ((mut leases, mut carried), now) = (leases(), Instant::now());
        let claim = Change::Create(block("node-1", ""));
        leases.send([claim.clone()], now);
        leases.learn(done(claim.lease()), now);
        look(&mut leases, &[], now + BEHIND);
        leases.send([claim.clone()], now + BEHIND);
        assert!(carried.try_recv().is_ok() && carried.try_recv().is_ok());
        let refused = Answer { lease: claim.lease().name.clone(), outcome: Err("no answer".into()) };
        assert_eq!(leases.learn(refused, now), Some("no answer".into()));
        leases.send([claim.clone()], now);
        assert!(carried.try_recv().is_err());
        look(&mut leases, &[], now + PAUSE);
        leases.send([claim], now + PAUSE);
        assert!(carried.try_recv().is_ok());
    }

    fn ask() -> Change {
        Change::Replace(block("node-2", "1").asked_by("node-1"))
    }

    #[test]
    fn who_lends_nothing_in_time_is_not_asked_again_for_a_while() {
        let ((mut leases, _carried), now) = (leases(), Instant::now());
        look(&mut leases, &[block("node-2", "1")], now);
        leases.send([ask()], now);
        let asked = [Lease { version: block("", "2").version, ..ask().lease().clone() }];
        look(&mut leases, &asked, now);
        assert!(leases.vain().is_empty());
        look(&mut leases, &asked, now + LENDING);
        assert_eq!(leases.vain().len(), 1);
        // The ask stands, so it is still in vain when the time is over, and at once not any more when a loan is there.
        look(&mut leases, &asked, now + LENDING + VAIN);
        assert_eq!(leases.vain().len(), 1);
        let loan = Lease::single("erp", "10.20.1.3".parse().unwrap(), "node-1", None);
        let loan = Lease { granted: true, ..loan };
        look(&mut leases, &[block("node-2", "3"), loan], now + LENDING + VAIN);
        assert!(leases.vain().is_empty());
    }

    #[test]
    fn an_ask_that_was_taken_off_before_the_loan_shows_up_is_not_made_again() {
        let ((mut leases, mut carried), now) = (leases(), Instant::now());
        look(&mut leases, &[block("node-2", "1")], now);
        leases.send([ask()], now);
        assert!(carried.try_recv().is_ok());
        leases.learn(done(ask().lease()), now);
        look(&mut leases, &[block("node-2", "3")], now);
        assert!(leases.pending.contains_key(&ask().lease().name));
        look(&mut leases, &[block("node-2", "3")], now + LENDING);
        assert!(leases.pending.is_empty() && leases.vain().is_empty());
    }

    #[test]
    fn a_nodes_ask_in_its_own_lease_does_not_keep_it_from_changing_that_lease() {
        let ((mut leases, mut carried), now) = (leases(), Instant::now());
        look(&mut leases, &[block("node-1", "1")], now);
        leases.send([Change::Replace(block("node-1", "1").asked_by("node-1"))], now);
        let asked = Lease { version: block("", "2").version, ..block("node-1", "").asked_by("node-1") };
        look(&mut leases, std::slice::from_ref(&asked), now);
        leases.send([Change::Replace(Lease { released: true, ..asked })], now);
        assert!(carried.try_recv().is_ok() && carried.try_recv().is_ok());
    }

    #[test]
    fn an_ask_that_came_too_late_is_made_again_at_once() {
        let ((mut leases, mut carried), now) = (leases(), Instant::now());
        look(&mut leases, &[block("node-2", "1")], now);
        leases.send([ask()], now);
        leases.learn(Answer { outcome: Ok(Outcome::TooLate), ..done(ask().lease()) }, now);
        look(&mut leases, &[block("node-2", "3")], now);
        leases.send([Change::Replace(block("node-2", "3").asked_by("node-1"))], now);
        assert!(carried.try_recv().is_ok() && carried.try_recv().is_ok());
    }

    #[test]
    fn an_address_that_was_released_before_the_start_goes_on_resting() {
        let ((mut leases, _carried), now) = (leases(), Instant::now());
        let first: IpAddr = "10.20.1.0".parse().unwrap();
        leases.rests(first, Duration::from_secs(1));
        look(&mut leases, &[block("node-1", "1")], now);
        let next = leases.book().next(Some("erp"), true, leases.clock(now), &BTreeSet::new());
        assert_ne!(next, portolan_core::ipam::book::Next::Address(first));
    }
}
