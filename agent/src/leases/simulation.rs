//! Liveness: nodes with real leases against an API server that is a map, in a time that is not the machine's.
//!
//! `portolan_core::check` proves that nothing bad happens, whatever the order; here it is that something good happens: as long as
//! there are as many addresses as pods, each pod gets one, and soon. What takes time, and how much, is drawn from a generator, so
//! that a failure is one number.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use portolan_core::ipam::Need;
use portolan_core::ipam::decide::{Decision, ahead, decide};
use portolan_core::ipam::lease::Version;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

const POOL: &str = "erp";
/// How long a call waits, and after what pause its runtime comes back: as `node` and kubelet have it.
const PATIENCE: Duration = Duration::from_secs(10);
const COMES_BACK: Duration = Duration::from_secs(12);
/// How often a node looks when nothing happens.
const LOOK: Duration = Duration::from_millis(250);

struct Dice(u64);

impl Dice {
    /// A number below `sides` (SplitMix64).
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn milliseconds(&mut self, from: u64, below: u64) -> Duration {
        Duration::from_millis(from + self.roll(below - from))
    }
}

/// What happens at a moment, to the node with this index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    /// A pod is bound to it; its ADD comes a little later.
    Bound(usize),
    /// A pod's runtime calls.
    Called(usize),
    /// The request with this number arrives at the API server.
    Arrives(usize),
    /// Its answer comes back.
    Answered(usize),
    /// The watch shows a revision.
    Shown(usize),
    /// Nothing in particular.
    Looks,
}

struct Node {
    leases: Leases,
    changes: UnboundedReceiver<Change>,
    seen: usize,
    shown: Arc<View>,
    /// Bound pods without an address.
    bound: BTreeSet<usize>,
    /// Of these, those whose call waits, since when.
    parked: BTreeMap<usize, Instant>,
}

struct World {
    dice: Dice,
    now: Instant,
    agenda: BinaryHeap<Reverse<(Instant, usize, usize, Happens)>>,
    number: usize,
    nodes: Vec<Node>,
    pools: Arc<BTreeMap<String, Pool>>,
    latest: BTreeMap<String, Lease>,
    revision: usize,
    requests: BTreeMap<usize, (usize, Change, Outcome)>,
    /// When each pod called first, and how long it then waited.
    called: BTreeMap<usize, Instant>,
    waited: BTreeMap<usize, Duration>,
}

impl World {
    fn new(seed: u64, nodes: usize, nets: &[&str]) -> Self {
        let pool = Pool::new(POOL, nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect());
        let node = |n: usize| {
            let (sender, changes) = unbounded_channel();
            let leases = Leases::new(&format!("node-{n}"), sender);
            let (bound, parked) = (BTreeSet::new(), BTreeMap::new());
            Node { leases, changes, seen: 0, shown: Arc::default(), bound, parked }
        };
        let mut world = Self {
            dice: Dice(seed),
            now: Instant::now(),
            agenda: BinaryHeap::new(),
            number: 0,
            nodes: (0..nodes).map(node).collect(),
            pools: Arc::new([(pool.name.clone(), pool)].into()),
            latest: BTreeMap::new(),
            revision: 0,
            requests: BTreeMap::new(),
            called: BTreeMap::new(),
            waited: BTreeMap::new(),
        };
        (0..nodes).for_each(|index| world.plan(Duration::ZERO, index, Happens::Looks));
        world
    }

    fn plan(&mut self, after: Duration, index: usize, what: Happens) {
        self.number += 1;
        self.agenda.push(Reverse((self.now + after, self.number, index, what)));
    }

    /// So many pods start within a second or so, spread as a scheduler spreads them.
    fn start(&mut self, pods: std::ops::Range<usize>) {
        for pod in pods {
            let at = self.dice.milliseconds(0, 1000);
            self.plan(at, pod % self.nodes.len(), Happens::Bound(pod));
        }
    }

    /// Lets time pass until every pod that was started has its address, or so much has passed. How many have none.
    fn run(&mut self, patience: Duration) -> usize {
        let end = self.now + patience;
        while let Some(Reverse((at, _, index, what))) = self.agenda.pop() {
            if at > end || self.is_done() {
                self.agenda.push(Reverse((at, 0, index, what)));
                break;
            }
            self.now = at;
            self.happens(index, what);
        }
        self.nodes.iter().map(|node| node.bound.len()).sum()
    }

    fn is_done(&self) -> bool {
        let starts =
            |Reverse((_, _, _, what)): &Reverse<(_, _, _, Happens)>| matches!(what, Happens::Bound(_));
        self.nodes.iter().all(|node| node.bound.is_empty()) && !self.agenda.iter().any(starts)
    }

    fn happens(&mut self, index: usize, what: Happens) {
        match what {
            Happens::Bound(pod) => {
                self.nodes[index].bound.insert(pod);
                let sandbox = self.dice.milliseconds(30, 300);
                self.plan(sandbox, index, Happens::Called(pod));
                self.turn(index, true);
            }
            Happens::Called(pod) => {
                let now = self.now;
                self.called.entry(pod).or_insert(now);
                self.nodes[index].parked.insert(pod, now);
                self.turn(index, false);
            }
            Happens::Arrives(number) => {
                let outcome = self.carry_out(number);
                self.requests.get_mut(&number).unwrap().2 = outcome;
                let back = self.dice.milliseconds(1, 5);
                self.plan(back, index, Happens::Answered(number));
            }
            Happens::Answered(number) => {
                let (_, change, outcome) = self.requests.remove(&number).unwrap();
                let answer = Answer { lease: change.lease().name.clone(), outcome: Ok(outcome) };
                assert_eq!(self.nodes[index].leases.learn(answer, self.now), None);
                self.turn(index, false);
            }
            Happens::Shown(revision) => {
                let node = &mut self.nodes[index];
                if revision > node.seen {
                    // A watch shows what there is by the time it is looked at.
                    node.seen = self.revision;
                    node.shown = Arc::new(self.latest.values().cloned().collect());
                    self.turn(index, true);
                }
            }
            Happens::Looks => {
                self.turn(index, true);
                self.plan(LOOK, index, Happens::Looks);
            }
        }
    }

    fn carry_out(&mut self, number: usize) -> Outcome {
        let (_, change, _) = &self.requests[&number];
        let lease = change.lease();
        let same = self.latest.get(&lease.name).map(|found| found.version == lease.version);
        let resource = (self.revision + 1).to_string();
        match change {
            Change::Create(_) if same.is_none() => {
                let version = Version { uid: number.to_string(), resource };
                self.latest.insert(lease.name.clone(), Lease { version, ..lease.clone() });
            }
            Change::Replace(_) if same == Some(true) => {
                let version = Version { resource, ..lease.version.clone() };
                self.latest.insert(lease.name.clone(), Lease { version, ..lease.clone() });
            }
            Change::Delete(_) if same == Some(true) => {
                self.latest.remove(&lease.name);
            }
            Change::Create(_) | Change::Replace(_) | Change::Delete(_) => return Outcome::TooLate,
        }
        self.revision += 1;
        for node in 0..self.nodes.len() {
            let late = self.dice.milliseconds(2, 30);
            self.plan(late, node, Happens::Shown(self.revision));
        }
        Outcome::Made
    }

    /// What `Owner::run` does with an event.
    fn turn(&mut self, index: usize, newer: bool) {
        let (now, nodes, node) = (self.now, self.nodes.len(), &mut self.nodes[index]);
        node.heed(newer, &self.pools, nodes, now);
        let calls: Vec<_> = node.parked.iter().map(|(pod, since)| (*pod, *since)).collect();
        for (pod, since) in calls {
            let served = node.serve(pod, &self.pools, now);
            if served {
                self.waited.insert(pod, now.duration_since(self.called[&pod]));
                node.bound.remove(&pod);
            }
            let given_up = !served && now.duration_since(since) >= PATIENCE;
            if served || given_up {
                node.parked.remove(&pod);
            }
            if given_up {
                self.number += 1;
                let called = Happens::Called(pod);
                self.agenda.push(Reverse((now + COMES_BACK, self.number, index, called)));
            }
        }
        node.leases.fulfil(nodes, now);
        while let Ok(change) = self.nodes[index].changes.try_recv() {
            self.number += 1;
            let number = self.number;
            self.requests.insert(number, (index, change, Outcome::Made));
            let way = self.dice.milliseconds(3, 40);
            self.plan(way, index, Happens::Arrives(number));
        }
    }

    /// The mean and the longest of all waits.
    fn waits(&self) -> (Duration, Duration) {
        let (sum, most) = (self.waited.values().sum::<Duration>(), self.waited.values().max());
        (sum / u32::try_from(self.waited.len().max(1)).unwrap(), most.copied().unwrap_or_default())
    }
}

impl Node {
    fn heed(&mut self, newer: bool, pools: &Arc<BTreeMap<String, Pool>>, nodes: usize, now: Instant) {
        if !newer && self.parked.is_empty() {
            return;
        }
        self.leases.look(vec![], &Arc::clone(&self.shown), pools, now);
        let pods = self.bound.len();
        self.leases.awaits(if pods > 0 { [(POOL.to_owned(), pods)].into() } else { BTreeMap::new() });
        let (labels, vain) = (Labels::new(), self.leases.vain());
        let claims = ahead(&pools[POOL], nodes, pods as u128, self.leases.known(&labels, &vain, now));
        self.leases.send(claims, now);
        self.leases.fulfil(nodes, now);
    }

    /// What `Owner::addresses_for` does: whether the pod has its addresses now.
    fn serve(&mut self, pod: usize, pools: &BTreeMap<String, Pool>, now: Instant) -> bool {
        let (labels, vain, name) = (Labels::new(), self.leases.vain(), pod.to_string());
        let decision = decide(&[POOL.to_owned()], &Need::Any, self.leases.known(&labels, &vain, now));
        match decision {
            Decision::Take(chosen) => {
                self.leases.is_served(&name);
                let families = [true, false].into_iter().filter(|ipv4| pools[POOL].serves(*ipv4)).count();
                assert_eq!(chosen.len(), families);
                assert!(chosen.iter().all(|one| self.leases.take(one.address)));
                return true;
            }
            Decision::Wait { changes, .. } => {
                self.leases.lacks(name, &[POOL.to_owned()], now);
                self.leases.send(changes, now);
            }
            Decision::Refuse(_) => self.leases.lacks(name, &[POOL.to_owned()], now),
        }
        false
    }
}

#[test]
fn nodes_that_hold_a_family_each_do_not_wait_for_each_other_for_ever() {
    for seed in 0..300 {
        let mut world = World::new(seed, 2, &["10.20.1.0/28", "fd00:20:1::/124"]);
        world.start(0..4);
        assert_eq!(world.run(Duration::from_secs(30)), 0, "seed {seed}");
    }
}

#[test]
fn as_many_pods_as_addresses_of_both_families_all_get_theirs() {
    for seed in 0..100 {
        let mut world =
            World::new(seed, 3, &["10.20.1.0/28", "10.20.2.0/30", "fd00:20:1::/124", "fd00:20:2::/126"]);
        world.start(0..20);
        assert_eq!(world.run(Duration::from_secs(120)), 0, "seed {seed}");
    }
}

#[test]
fn as_many_pods_as_addresses_all_get_theirs() {
    for seed in 0..100 {
        let mut world = World::new(seed, 3, &["10.20.0.0/26", "10.20.1.0/27", "10.20.2.0/30"]);
        world.start(0..50);
        assert_eq!(world.run(Duration::from_secs(60)), 0, "seed {seed}");
        world.start(50..100);
        assert_eq!(world.run(Duration::from_secs(120)), 0, "seed {seed}: {:#?}", world.waits());
    }
}

#[test]
fn of_fewer_addresses_than_pods_every_one_is_used() {
    for seed in 0..100 {
        for nets in [&["10.20.1.0/29"][..], &["10.20.1.0/29", "fd00:20:1::/125"]] {
            let mut world = World::new(seed, 3, nets);
            world.start(0..12);
            assert_eq!(world.run(Duration::from_secs(90)), 4, "seed {seed}, {nets:?}");
            // Who waits does not keep the API server busy.
            assert!(world.revision < 150, "seed {seed}, {nets:?}: {} changes", world.revision);
        }
    }
}

/// Ten nodes and a thousand pods, fifty at a time and all at once.
#[test]
fn pods_hardly_wait_for_addresses() {
    let nets = [
        "10.20.0.0/23",
        "10.20.2.0/24",
        "10.20.3.0/25",
        "10.20.3.128/26",
        "10.20.3.192/27",
        "10.20.3.224/29",
    ];
    for wave in [50, 1000] {
        let mut world = World::new(wave as u64, 10, &nets);
        for first in (0..1000).step_by(wave) {
            world.start(first..first + wave);
            assert_eq!(world.run(Duration::from_secs(60)), 0, "{first} to {}", first + wave);
        }
        let (mean, longest) = world.waits();
        assert!(mean < Duration::from_millis(25), "{mean:?}");
        assert!(longest < Duration::from_secs(3), "{longest:?}");
    }
}

/// More nodes than blocks for most of them, and pods that come two by two: nearly all is lent and passed on.
#[test]
fn nodes_with_hardly_a_block_each_find_every_address() {
    for seed in 0..20 {
        let mut world = World::new(seed, 10, &["10.20.0.0/25", "10.20.1.0/26", "10.20.2.0/29"]);
        for first in (0..200).step_by(2) {
            world.start(first..first + 2);
            assert_eq!(world.run(Duration::from_secs(60)), 0, "seed {seed}, {first}");
        }
        let (mean, longest) = world.waits();
        assert!(
            mean < Duration::from_millis(25) && longest < Duration::from_secs(3),
            "{seed}: {mean:?} {longest:?}"
        );
    }
}
