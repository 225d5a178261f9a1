//! The model: several nodes, one API server, every interleaving that proptest finds. After every step the list of
//! invariants must hold.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::ipam::allocate::{Decision, Knowledge, allocate};
use crate::ipam::lease::tests::pool;
use crate::ipam::{Pool, reclaim};
use crate::labels::Labels;

/// What can happen. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    /// A pod starts on a node.
    Add(usize),
    /// A pod of a node ends.
    Del(usize, usize),
    /// A node's watch catches up with the API server.
    Watch(usize),
    /// A node gives back what it does not use.
    GiveBack(usize),
    /// The API server carries out the oldest request that is under way for a node.
    Deliver(usize),
    /// The answer to the oldest request is lost; the request itself may still arrive.
    TimeOut(usize),
    /// The agent restarts: records stay, everything else is listed again. What is under way may still arrive.
    Restart(usize),
}

const NODES: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    prop_oneof![
        6 => node.clone().prop_map(Step::Add),
        4 => (node.clone(), any::<usize>()).prop_map(|(node, which)| Step::Del(node, which)),
        3 => node.clone().prop_map(Step::Watch),
        2 => node.clone().prop_map(Step::GiveBack),
        5 => node.clone().prop_map(Step::Deliver),
        1 => node.clone().prop_map(Step::TimeOut),
        1 => node.prop_map(Step::Restart),
    ]
}

#[derive(Debug, Clone)]
enum Request {
    Create(Lease),
    Release(Lease, u64),
    Delete(Lease, u64),
}

/// A request with the incarnation of the agent that waits for its answer; `None` where nobody does any more.
type UnderWay = (Request, Option<u64>);

#[derive(Default)]
struct Node {
    name: String,
    /// What its watch has seen.
    seen: BTreeMap<String, Lease>,
    /// What the API server has confirmed and the watch has not shown yet.
    claimed: BTreeMap<String, Lease>,
    untouchable: BTreeSet<String>,
    held: BTreeMap<IpAddr, String>,
    under_way: Vec<UnderWay>,
    incarnation: u64,
}

struct World {
    nodes: Vec<Node>,
    pools: BTreeMap<String, Pool>,
    server: BTreeMap<String, Lease>,
    /// The uid of each lease object.
    uids: BTreeMap<String, u64>,
    objects: u64,
    containers: usize,
}

impl World {
    fn new() -> Self {
        let nodes = (0..NODES).map(|n| Node { name: format!("node-{n}"), ..Node::default() }).collect();
        let pools = [("p".to_owned(), pool("p", &["10.20.0.0/28", "10.20.1.3/32"], 4))].into();
        Self { nodes, pools, server: BTreeMap::new(), uids: BTreeMap::new(), objects: 0, containers: 0 }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Add(node) => self.add(*node),
            Step::Del(node, which) => {
                let held = &mut self.nodes[*node].held;
                if let Some(address) = held.keys().nth(which % held.len().max(1)).copied() {
                    held.remove(&address);
                }
            }
            Step::Watch(node) => self.watch(*node),
            Step::GiveBack(node) => self.give_back(*node),
            Step::Deliver(node) => self.deliver(*node),
            Step::TimeOut(node) => self.time_out(*node),
            Step::Restart(node) => {
                let node = &mut self.nodes[*node];
                node.incarnation += 1;
                node.claimed.clear();
                node.untouchable.clear();
                node.seen = self.server.clone();
            }
        }
    }

    fn add(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let leases = known(node);
        let held: BTreeSet<_> = node.held.keys().copied().collect();
        let knowledge = Knowledge {
            node: &node.name,
            node_labels: &Labels::new(),
            node_cidrs: &[],
            pools: &self.pools,
            leases: &leases,
            untouchable: &node.untouchable,
            held: &held,
        };
        match allocate(&["p".to_owned()], knowledge) {
            Decision::Take { address, .. } => {
                self.containers += 1;
                node.held.insert(address, format!("c{}", self.containers));
            }
            Decision::Claim(lease) => {
                node.untouchable.insert(lease.name.clone());
                node.under_way.push((Request::Create(lease), Some(node.incarnation)));
            }
            Decision::Refuse(_) => {}
        }
    }

    fn watch(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.seen = self.server.clone();
        node.claimed.retain(|name, _| !node.seen.contains_key(name));
        // What is under way, and what is being returned until it is seen to be gone, stays untouchable.
        let awaited: BTreeSet<_> = node.under_way.iter().map(|(request, _)| named(request).clone()).collect();
        let returning = |name: &String| node.seen.get(name).is_some_and(|lease| lease.node == node.name);
        node.untouchable.retain(|name| awaited.contains(name) || returning(name));
    }

    fn give_back(&mut self, index: usize) {
        let uids = self.uids.clone();
        let node = &mut self.nodes[index];
        let held: BTreeSet<_> = node.held.keys().copied().collect();
        let leases: BTreeMap<_, _> =
            known(node).into_iter().filter(|(name, _)| !node.untouchable.contains(name)).collect();
        for lease in reclaim::unused(&node.name, &leases, &held) {
            // The agent looks the object up first; without one there is nothing to give back.
            let Some(uid) = uids
                .get(&lease.name)
                .filter(|_| self.server.get(&lease.name).is_some_and(|l| l.node == node.name))
            else {
                continue;
            };
            node.untouchable.insert(lease.name.clone());
            node.under_way.push((Request::Release(lease.clone(), *uid), Some(node.incarnation)));
        }
    }

    /// The agent hears that its oldest request failed: a claim may be asked for again, a return is repeated.
    fn time_out(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some((request, waits)) =
            node.under_way.first_mut().filter(|(_, waits)| *waits == Some(node.incarnation))
        else {
            return;
        };
        *waits = None;
        let repeated = match request {
            Request::Create(_) => return,
            Request::Release(lease, uid) | Request::Delete(lease, uid) => {
                Request::Release(lease.clone(), *uid)
            }
        };
        node.under_way.push((repeated, Some(node.incarnation)));
    }

    fn deliver(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.under_way.is_empty() {
            return;
        }
        let (request, waits) = node.under_way.remove(0);
        let heard = waits == Some(node.incarnation);
        let same = |name: &String, uid: u64| self.uids.get(name) == Some(&uid);
        match request {
            Request::Create(lease) => {
                if !self.server.contains_key(&lease.name) {
                    self.objects += 1;
                    self.uids.insert(lease.name.clone(), self.objects);
                    self.server.insert(lease.name.clone(), lease.clone());
                    if heard {
                        node.untouchable.remove(&lease.name);
                        node.claimed.insert(lease.name.clone(), lease);
                    }
                }
            }
            Request::Release(lease, uid) => {
                if same(&lease.name, uid) {
                    self.server.entry(lease.name.clone()).and_modify(|found| found.released = true);
                }
                // Only who has heard that the lease is released goes on to delete it.
                if heard {
                    node.under_way.push((Request::Delete(lease, uid), waits));
                }
            }
            Request::Delete(lease, uid) => {
                if same(&lease.name, uid) {
                    self.server.remove(&lease.name);
                    self.uids.remove(&lease.name);
                }
                if heard {
                    node.claimed.remove(&lease.name);
                }
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let held = self.nodes.iter().flat_map(|node| {
            node.held.iter().map(|(address, container)| Held {
                node: node.name.clone(),
                container: container.clone(),
                address: *address,
                pool: Some("p".into()),
            })
        });
        Snapshot { leases: self.server.clone(), held: held.collect() }
    }
}

fn named(request: &Request) -> &String {
    let (Request::Create(lease) | Request::Release(lease, _) | Request::Delete(lease, _)) = request;
    &lease.name
}

fn known(node: &Node) -> BTreeMap<String, Lease> {
    node.seen.iter().chain(&node.claimed).map(|(name, lease)| (name.clone(), lease.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1200, ..ProptestConfig::default() })]
    #[test]
    fn no_interleaving_gives_one_address_to_two_pods(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            let violations = check(&world.snapshot());
            prop_assert!(violations.is_empty(), "after {step:?}: {}", violations[0]);
        }
    }
}

#[test]
fn what_must_never_be_is_found() {
    let lease = Lease::new("p", "10.20.0.0/30".parse().unwrap(), "node-1");
    let held = |container: &str, address: &str| Held {
        node: "node-1".into(),
        container: container.into(),
        address: address.parse().unwrap(),
        pool: Some("p".into()),
    };
    let mut snapshot = Snapshot {
        leases: [(lease.name.clone(), lease.clone())].into(),
        held: vec![held("a", "10.20.0.1"), held("b", "10.20.0.2")],
    };
    assert!(check(&snapshot).is_empty());
    snapshot.held = vec![held("a", "10.20.0.1"), held("b", "10.20.0.1"), held("c", "10.20.9.9")];
    let wide = Lease::new("q", "10.20.0.0/16".parse().unwrap(), "node-2");
    snapshot.leases.insert("misnamed".into(), wide);
    let found: Vec<_> = check(&snapshot).iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 4, "{found:?}");
}
