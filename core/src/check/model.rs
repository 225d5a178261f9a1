//! The model: several nodes, one API server, a controller, and every interleaving of what can happen to them. After every
//! step the list of invariants must hold.
//!
//! The API server keeps every revision; a node's watch shows some revision that it moves forward from. A request that was
//! sent may be carried out at any later time or never, whatever became of who sent it, and its answer may be lost.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::*;
use crate::ipam::decide::{Decision, Known, ahead, decide};
use crate::ipam::duties::{Holder, duties};
use crate::ipam::lease::{Change, Version, tests::pool};
use crate::ipam::owner::{Need, Owner};
use crate::ipam::reclaim::{Gone, reclaim};
use crate::ipam::{Book, Millis, Pool};
use crate::labels::Labels;

const NODES: usize = 4;
/// Steps in one history; then the world begins anew.
const STEPS: usize = 400;

/// The pools that a pod may use.
const LISTS: [&[&str]; 8] =
    [&["p"], &["q"], &["p", "q"], &["q", "s"], &["s"], &["p", "s"], &["t", "q"], &["d"]];

/// A generator of its own, so that a failure is one number and a million steps cost seconds: SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

/// A pod that holds addresses, or wants some.
#[derive(Debug, Clone)]
struct Pod {
    container: String,
    pools: Vec<String>,
    need: Need,
    addresses: Vec<(IpAddr, Option<String>)>,
}

#[derive(Default)]
struct Node {
    name: String,
    /// The revision that its watch shows.
    seen: usize,
    view: View,
    book: Book,
    pods: Vec<Pod>,
    parked: Vec<Pod>,
    /// Changes whose answer it waits for, with the request's number.
    pending: BTreeMap<String, (Change, usize)>,
    vain: BTreeSet<(String, bool)>,
    powered: bool,
    registered: bool,
}

struct World {
    dice: Dice,
    now: Millis,
    nodes: Vec<Node>,
    pools: BTreeMap<String, Pool>,
    /// Every revision of the leases.
    revisions: Vec<BTreeMap<String, Lease>>,
    /// Requests that have been sent and neither carried out nor lost, by number, with the index of their sender.
    flying: BTreeMap<usize, (usize, Change)>,
    requests: usize,
    containers: usize,
    owners_gone: BTreeSet<Owner>,
    /// In some worlds every pod wants the same pools, so that these are always short.
    crowd: Option<usize>,
    statistics: Statistics,
}

/// What has happened: a model in which nothing happens proves nothing.
#[derive(Debug, Default)]
struct Statistics {
    steps: usize,
    taken: usize,
    lent: usize,
    moved: usize,
    passed: usize,
    migrated: usize,
    late: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let name = |n| format!("node-{n}");
        let node = |n| Node { name: name(n), powered: true, registered: true, ..Node::default() };
        // Two pools that overlap, as an administrator's mistake makes them; blocks of several sizes; both families.
        let mut pools: BTreeMap<_, _> = [
            pool("p", &["10.20.0.0/28", "10.20.1.3/32"], 4),
            pool("q", &["10.20.0.12/30", "10.20.2.0/30"], 2),
            pool("s", &["fd00::/125"], 1),
            pool("t", &["10.20.2.4/31", "10.20.2.8/31"], 8),
            pool("d", &["10.20.3.0/30", "fd00:d::/126"], 2),
        ]
        .map(|pool| (pool.name.clone(), pool))
        .into();
        if seed.is_multiple_of(3) {
            pools.values_mut().for_each(|pool| pool.cooldown = 50);
        }
        Self {
            dice: Dice(seed),
            now: 0,
            nodes: (0..NODES).map(node).collect(),
            pools,
            revisions: vec![BTreeMap::new()],
            flying: BTreeMap::new(),
            requests: 0,
            containers: 0,
            owners_gone: BTreeSet::new(),
            crowd: seed.is_multiple_of(2).then_some(seed as usize / 2 % LISTS.len()),
            statistics: Statistics::default(),
        }
    }

    fn step(&mut self) -> &'static str {
        self.statistics.steps += 1;
        // Clocks of nodes are only ever compared with themselves; this one jumps ahead as it likes.
        self.now += if self.dice.roll(60) == 0 { 20_000 } else { [0, 1, 7, 60][self.dice.roll(4)] };
        let node = self.dice.roll(NODES);
        match self.dice.roll(24) {
            0..=4 => self.add(node),
            5..=7 => self.end(node),
            8..=12 => self.watch(node),
            13..=15 => self.duty(node),
            16..=20 => self.deliver(),
            21 => self.controller(),
            22 => self.fate(node),
            _ if self.dice.roll(2) == 0 => self.lose(),
            _ if self.dice.roll(64) == 0 => self.grow(),
            _ => self.restart(node),
        }
    }

    /// A range grows, so that a larger block lies around one that a node may hold.
    fn grow(&mut self) -> &'static str {
        let grown = pool("t", &["10.20.2.4/30", "10.20.2.8/31"], 8);
        self.pools.insert(grown.name.clone(), grown);
        (0..NODES).for_each(|node| self.look(node));
        "grow"
    }

    fn latest(&self) -> &BTreeMap<String, Lease> {
        self.revisions.last().unwrap()
    }

    fn need(&mut self) -> (Vec<String>, Need) {
        let any = self.dice.roll(LISTS.len());
        let list = LISTS[self.crowd.unwrap_or(any)].iter().map(|name| (*name).to_owned()).collect();
        let owner = |kind, name: &str, pod: Option<&str>| Owner {
            kind,
            namespace: "n".into(),
            name: name.into(),
            pod: pod.map(str::to_owned),
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let need = match self.dice.roll(10) {
            0 => Need::Kept(owner(Kind::StatefulSet, "db", Some("db-0"))),
            1 => Need::Kept(owner(Kind::StatefulSet, "db", Some("db-1"))),
            2 => Need::Kept(owner(Kind::VirtualMachine, "vm", None)),
            3 => Need::Fixed(owner(Kind::Deployment, "web", None), vec![ip("10.20.0.1"), ip("10.20.0.6")]),
            _ => Need::Any,
        };
        (list, need)
    }

    fn add(&mut self, index: usize) -> &'static str {
        // A pod that waits mostly goes on waiting; now and then its runtime has given up.
        let again = self.dice.roll(if self.crowd.is_some() { 2 } else { 8 }) > 0;
        let waits = self.nodes[index].parked.pop().filter(|_| again);
        let (list, need) = waits.map_or_else(|| self.need(), |pod| (pod.pools, pod.need));
        self.containers += 1;
        let container = format!("c{}", self.containers);
        let node = &self.nodes[index];
        if !node.powered {
            return "add";
        }
        let known_pending = pending(node);
        let known = known(node, &self.pools, &known_pending, self.now);
        let on_their_way = (self.containers % 3) as u128;
        let claims = self.pools.get(&list[0]).map(|pool| ahead(pool, NODES, on_their_way, known));
        let decision = decide(&list, &need, known);
        match decision {
            Decision::Take(chosen) => {
                let node = &mut self.nodes[index];
                for one in &chosen {
                    assert!(node.book.take(one.address), "{} was held on {}", one.address, node.name);
                }
                self.statistics.taken += 1;
                let addresses = chosen.into_iter().map(|one| (one.address, one.pool)).collect();
                node.pods.push(Pod { container, pools: list, need, addresses });
                self.send(index, claims.unwrap_or_default());
            }
            Decision::Wait { changes, .. } => {
                let node = &mut self.nodes[index];
                // Now and then nothing came of what was asked.
                node.vain.clear();
                if self.now.is_multiple_of(5) {
                    node.vain.extend(list.iter().map(|pool| (pool.clone(), self.now.is_multiple_of(2))));
                }
                node.parked = vec![Pod { container, pools: list, need, addresses: vec![] }];
                self.send(index, changes);
            }
            Decision::Refuse(_) => self.nodes[index].vain.clear(),
        }
        "add"
    }

    fn end(&mut self, index: usize) -> &'static str {
        let which = self.dice.roll(4);
        let node = &mut self.nodes[index];
        if which < node.pods.len() {
            let pod = node.pods.swap_remove(which);
            pod.addresses.iter().for_each(|(ip, _)| node.book.give_back(*ip, self.now));
        }
        "end"
    }

    fn watch(&mut self, index: usize) -> &'static str {
        let ahead = self.revisions.len() - 1 - self.nodes[index].seen;
        // Mostly all there is; now and then a watch that lags.
        let forward = if self.dice.roll(3) == 0 { self.dice.roll(ahead + 1) } else { ahead };
        if forward > 0 {
            self.nodes[index].seen += forward;
            self.look(index);
        }
        "watch"
    }

    fn look(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let leases = &self.revisions[node.seen];
        node.view = leases.values().cloned().collect();
        node.book.sync(&node.name, &[], &node.view, &self.pools, self.now);
    }

    fn duty(&mut self, index: usize) -> &'static str {
        let node = &self.nodes[index];
        if !node.powered {
            return "duty";
        }
        let expected: Vec<_> = node
            .parked
            .iter()
            .filter_map(|pod| match &pod.need {
                Need::Kept(owner) | Need::Fixed(owner, _) => Some(owner.clone()),
                Need::Any | Need::Impossible(_) => None,
            })
            .collect();
        let mut waited_for = BTreeMap::new();
        for pool in node.parked.iter().flat_map(|pod| pod.pools.clone()) {
            *waited_for.entry(pool).or_default() += 1;
        }
        // Whose turn it is to answer an ask decides how fast it goes, not whether it goes well.
        let asks = |lease: &Lease| {
            lease.asks.iter().map(|ask| (lease.name.clone(), ask.clone())).collect::<Vec<_>>()
        };
        let asks: Vec<_> = node.view.iter().flat_map(asks).collect();
        let turns = asks.into_iter().map(|ask| (ask, self.now)).collect();
        let changes = duties(Holder {
            node: &node.name,
            pools: &self.pools,
            view: &node.view,
            book: &node.book,
            nodes: NODES,
            pending: &pending(node),
            short: &waited_for,
            awaited: &waited_for,
            turns: &turns,
            expected: &expected,
            now: self.now,
        });
        self.send(index, changes);
        "duty"
    }

    fn send(&mut self, index: usize, changes: Vec<Change>) {
        for change in changes {
            let name = change.lease().name.clone();
            if self.nodes.get(index).is_some_and(|node| node.pending.contains_key(&name)) {
                continue;
            }
            self.requests += 1;
            self.flying.insert(self.requests, (index, change.clone()));
            if let Some(node) = self.nodes.get_mut(index) {
                node.pending.insert(name, (change, self.requests));
            }
        }
    }

    /// Any request that is under way arrives, in whatever order.
    fn deliver(&mut self) -> &'static str {
        let which = self.dice.roll(self.flying.len().max(1));
        let Some(number) = self.flying.keys().nth(which).copied() else { return "deliver" };
        let (sender, change) = self.flying.remove(&number).unwrap();
        if self.carry_out(&change) {
            self.count(&change);
        }
        if let Some(node) = self.nodes.get_mut(sender) {
            if node.pending.values().any(|(_, waits)| *waits == number) {
                // The answer; it tells nothing that the watch will not show.
                node.pending.retain(|_, (_, waits)| *waits != number);
            } else {
                self.statistics.late += 1;
            }
        }
        "deliver"
    }

    fn carry_out(&mut self, change: &Change) -> bool {
        let mut leases = self.latest().clone();
        let lease = change.lease();
        let same = leases.get(&lease.name).map(|found| found.version == lease.version);
        match change {
            Change::Create(_) if same.is_none() => {
                let version =
                    Version { uid: self.requests.to_string(), resource: self.revisions.len().to_string() };
                leases.insert(lease.name.clone(), Lease { version, ..lease.clone() });
            }
            Change::Replace(_) if same == Some(true) => {
                let version = Version { resource: self.revisions.len().to_string(), ..lease.version.clone() };
                leases.insert(lease.name.clone(), Lease { version, ..lease.clone() });
            }
            Change::Delete(_) if same == Some(true) => {
                leases.remove(&lease.name);
            }
            Change::Create(_) | Change::Replace(_) | Change::Delete(_) => return false,
        }
        self.revisions.push(leases);
        true
    }

    fn count(&mut self, change: &Change) {
        let lease = change.lease();
        let before = self.revisions.iter().rev().nth(1).and_then(|leases| leases.get(&lease.name));
        let moved = before.is_some_and(|before| before.node != lease.node && lease.node.is_some());
        self.statistics.lent +=
            usize::from(matches!(change, Change::Replace(_)) && lease.granted && lease.owner.is_none());
        self.statistics.moved += usize::from(moved && lease.owner.is_some());
        self.statistics.passed += usize::from(moved && lease.owner.is_none());
        self.statistics.migrated += usize::from(lease.second.is_some());
    }

    /// An answer does not come: the sender goes on without it. The request itself may still arrive.
    fn lose(&mut self) -> &'static str {
        let node = self.dice.roll(NODES);
        let node = &mut self.nodes[node];
        if let Some(name) = node.pending.keys().next().cloned() {
            node.pending.remove(&name);
        }
        "lose"
    }

    /// The agent dies and starts again: records stay, everything else is listed anew.
    fn restart(&mut self, index: usize) -> &'static str {
        let latest = self.revisions.len() - 1;
        let node = &mut self.nodes[index];
        node.pending.clear();
        node.vain.clear();
        node.parked.clear();
        node.book = Book::default();
        for (ip, _) in node.pods.iter().flat_map(|pod| &pod.addresses) {
            assert!(node.book.take(*ip));
        }
        node.seen = latest;
        self.look(index);
        "restart"
    }

    /// The controller, with a look at the API server that may be old.
    fn controller(&mut self) -> &'static str {
        let back = self.dice.roll(self.revisions.len().min(6));
        let view = self.revisions[self.revisions.len() - 1 - back].values().cloned().collect();
        let gone: BTreeSet<_> =
            self.nodes.iter().filter(|node| !node.registered).map(|node| node.name.clone()).collect();
        let changes = reclaim(&view, Gone { nodes: &gone, owners: &self.owners_gone });
        self.send(NODES, changes);
        "controller"
    }

    /// Power goes and comes back; a Node object goes once its machine is off. Owners go and are made again.
    fn fate(&mut self, index: usize) -> &'static str {
        match self.dice.roll(8) {
            0 => {
                let node = &mut self.nodes[index];
                node.powered = false;
                node.pods.clear();
                node.book = Book::default();
            }
            1 if !self.nodes[index].powered => self.nodes[index].registered = false,
            2..=5 if !self.nodes[index].powered => {
                let node = &mut self.nodes[index];
                (node.powered, node.registered) = (true, true);
                self.restart(index);
            }
            6 => {
                let db = Owner {
                    kind: Kind::StatefulSet,
                    namespace: "n".into(),
                    name: "db".into(),
                    pod: Some("db-0".into()),
                };
                if !self.owners_gone.remove(&db) {
                    self.owners_gone.insert(db);
                }
            }
            _ => {}
        }
        "fate"
    }

    fn snapshot(&self) -> Snapshot {
        let held = self.nodes.iter().flat_map(|node| {
            node.pods.iter().flat_map(|pod| {
                pod.addresses.iter().map(|(address, pool)| Held {
                    node: node.name.clone(),
                    container: pod.container.clone(),
                    address: *address,
                    pool: pool.clone(),
                })
            })
        });
        Snapshot { leases: self.latest().clone(), held: held.collect() }
    }

    /// Everything that is under way arrives, every watch catches up, every duty is done, until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.now += 30_000;
            for index in 0..NODES {
                let node = &mut self.nodes[index];
                node.parked.clear();
                node.pending.clear();
                node.seen = self.revisions.len() - 1;
                self.look(index);
                self.duty(index);
            }
            self.controller();
            while !self.flying.is_empty() {
                self.deliver();
            }
        }
    }
}

fn pending(node: &Node) -> BTreeMap<String, Change> {
    node.pending.iter().map(|(name, (change, _))| (name.clone(), change.clone())).collect()
}

fn known<'a>(
    node: &'a Node,
    pools: &'a BTreeMap<String, Pool>,
    pending: &'a BTreeMap<String, Change>,
    now: Millis,
) -> Known<'a> {
    static NO_LABELS: Labels = Labels::new();
    Known {
        node: &node.name,
        labels: &NO_LABELS,
        cidrs: &[],
        pools,
        view: &node.view,
        book: &node.book,
        pending,
        vain: &node.vain,
        now,
    }
}

mod tests;
