//! One node, its pools and what its watch shows, for each need.

use super::*;
use crate::ipam::lease::tests::pool;
use crate::ipam::{Owner, owner::Kind};

/// A node, and an API server that does at once what it is asked for.
struct Node {
    pools: BTreeMap<String, Pool>,
    view: View,
    book: Book,
    pending: BTreeMap<String, Change>,
    vain: BTreeSet<(String, bool)>,
    cidrs: Vec<IpNet>,
    now: Millis,
}

impl Node {
    fn new(pools: &[Pool]) -> Self {
        let mut node = Self {
            pools: pools.iter().map(|pool| (pool.name.clone(), pool.clone())).collect(),
            view: View::default(),
            book: Book::default(),
            pending: BTreeMap::new(),
            vain: BTreeSet::new(),
            cidrs: vec!["10.10.1.0/30".parse().unwrap()],
            now: 0,
        };
        node.look(vec![]);
        node
    }

    /// The watch shows these leases.
    fn look(&mut self, leases: Vec<Lease>) {
        self.view = leases.into_iter().collect();
        self.book.sync("n1", &self.cidrs, &self.view, &self.pools, self.now);
    }

    fn ask(&self, candidates: &[&str], need: &Need) -> Decision {
        let candidates: Vec<_> = candidates.iter().map(|name| (*name).to_owned()).collect();
        decide(&candidates, need, self.known(&Labels::new()))
    }

    fn known<'a>(&'a self, labels: &'a Labels) -> Known<'a> {
        Known {
            node: "n1",
            labels,
            cidrs: &self.cidrs,
            pools: &self.pools,
            view: &self.view,
            book: &self.book,
            pending: &self.pending,
            vain: &self.vain,
            now: self.now,
        }
    }

    fn grant(&mut self, changes: Vec<Change>) {
        let mut leases: BTreeMap<_, _> =
            self.view.iter().map(|lease| (lease.name.clone(), lease.clone())).collect();
        for change in changes {
            leases.insert(change.lease().name.clone(), change.lease().clone());
        }
        self.look(leases.into_values().collect());
    }

    /// What one pod gets, or why it gets nothing; claims are granted.
    fn add(&mut self, candidates: &[&str], need: &Need) -> Result<Vec<IpAddr>, String> {
        for _ in 0..8 {
            match self.ask(candidates, need) {
                Decision::Take(chosen) => {
                    let ips: Vec<_> = chosen.iter().map(|one| one.address).collect();
                    assert!(ips.iter().all(|ip| self.book.take(*ip)), "{ips:?} held already");
                    return Ok(ips);
                }
                Decision::Wait { reason, changes, .. } if changes.is_empty() => return Err(reason),
                Decision::Wait { changes, .. } => self.grant(changes),
                Decision::Refuse(refusal) => return Err(refusal.to_string()),
            }
        }
        panic!("asked for changes without end");
    }

    fn drain(&mut self, candidates: &[&str]) -> (Vec<IpAddr>, String) {
        let mut all = vec![];
        loop {
            match self.add(candidates, &Need::Any) {
                Ok(ips) => all.extend(ips),
                Err(why) => return (all, why),
            }
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn owner(kind: Kind, name: &str, pod: Option<&str>) -> Owner {
    Owner { kind, namespace: "erp".into(), name: name.into(), pod: pod.map(str::to_owned) }
}

#[test]
fn every_address_of_the_pools_is_given_once_and_in_order_of_the_list() {
    let mut node = Node::new(&[pool("a", &["10.20.0.0/29"], 4), pool("b", &["10.21.0.0/31"], 16)]);
    let (taken, why) = node.drain(&["a", "b"]);
    assert_eq!(taken.len(), 10);
    assert!(taken[..8].iter().all(|address| address.to_string().starts_with("10.20.")), "{taken:?}");
    assert!(why.contains("pool a: ") && why.contains("pool b: "), "{why}");
}

#[test]
fn a_pod_gets_an_address_of_each_family_or_none() {
    let mut node =
        Node::new(&[pool("four", &["10.20.0.0/31"], 2), pool("six", &["fd00::/127", "fd00::8/127"], 2)]);
    assert_eq!(node.add(&["four", "six"], &Need::Any).unwrap().len(), 2);
    assert_eq!(node.add(&["four", "six"], &Need::Any).unwrap().len(), 2);
    let free = node.book.free("six");
    let why = node.add(&["four", "six"], &Need::Any).unwrap_err();
    assert!(why.contains("pool four: it has no free IPv4"), "{why}");
    assert!(node.book.free("six") >= free);
    assert_eq!(node.add(&["six"], &Need::Any).unwrap().len(), 1);
}

#[test]
fn without_a_pool_the_nodes_own_cidr_gives_all_but_its_ends() {
    let mut node = Node::new(&[]);
    let (taken, why) = node.drain(&[]);
    assert_eq!(taken, [ip("10.10.1.1"), ip("10.10.1.2")]);
    assert!(why.contains("pool node"), "{why}");
}

#[test]
fn a_pool_that_is_off_or_elsewhere_says_so() {
    let mut off = pool("off", &["10.20.0.0/30"], 4);
    off.enabled = false;
    let mut elsewhere = pool("elsewhere", &["10.21.0.0/30"], 4);
    elsewhere.nodes.match_labels.insert("rack".into(), "2".into());
    let Decision::Refuse(refusal) =
        Node::new(&[off, elsewhere]).ask(&["off", "elsewhere", "gone"], &Need::Any)
    else {
        panic!()
    };
    let why: Vec<_> = refusal.0.into_iter().map(|one| one.why).collect();
    assert_eq!(why, [Why::Disabled, Why::NotOnThisNode, Why::Gone]);
}

#[test]
fn a_node_that_is_short_asks_once_for_all_to_see_before_it_says_that_the_pool_is_empty() {
    let mut node = Node::new(&[pool("a", &["10.20.0.0/28"], 4)]);
    let others =
        [("10.20.0.0/30", "n2"), ("10.20.0.4/30", "n3"), ("10.20.0.8/30", "n2"), ("10.20.0.12/30", "n3")];
    let others = others.map(|(block, node)| Lease::new("a", block.parse().unwrap(), node));
    node.look(others.to_vec());
    let Decision::Wait { changes, .. } = node.ask(&["a"], &Need::Any) else { panic!() };
    let [Change::Replace(asked)] = &changes[..] else { panic!("{changes:?}") };
    assert!(asked.asks.contains("n1"));
    // The ask stands, and no second one is made.
    node.look(others.iter().map(|one| if one.name == asked.name { asked } else { one }).cloned().collect());
    let Decision::Wait { changes, .. } = node.ask(&["a"], &Need::Any) else { panic!() };
    assert_eq!(changes, []);
    node.vain.insert(("a".to_owned(), true));
    assert!(matches!(node.ask(&["a"], &Need::Any), Decision::Refuse(_)));
    let lent = Lease { granted: true, ..Lease::single("a", ip("10.20.0.6"), "n1", None) };
    node.look(others.into_iter().chain([lent]).collect());
    assert_eq!(node.add(&["a"], &Need::Any).unwrap(), [ip("10.20.0.6")]);
}

#[test]
fn a_node_asks_for_what_it_has_lent_and_waits_for_a_loan_that_is_not_granted_yet() {
    let mut node = Node::new(&[pool("p", &["10.0.0.0/31"], 2)]);
    let block = Lease::new("p", "10.0.0.0/31".parse().unwrap(), "n1");
    let lent = Lease { granted: true, ..Lease::single("p", ip("10.0.0.1"), "n2", None) };
    node.look(vec![block.clone(), lent.clone()]);
    assert!(node.book.take(ip("10.0.0.0")));
    let Decision::Wait { changes, .. } = node.ask(&["p"], &Need::Any) else { panic!("it refuses") };
    assert_eq!(changes, [Change::Replace(block.asked_by("n1"))]);
    node.vain = [("p".to_owned(), true)].into();
    assert!(matches!(node.ask(&["p"], &Need::Any), Decision::Refuse(_)));

    let theirs = Lease { node: Some("n2".into()), ..block };
    let loan = Lease { node: Some("n1".into()), granted: false, ..lent };
    let mut node = Node::new(&[pool("p", &["10.0.0.0/31"], 2)]);
    node.look(vec![theirs, loan]);
    let Decision::Wait { changes, reason, .. } = node.ask(&["p"], &Need::Any) else { panic!("it refuses") };
    assert!(changes.is_empty() && reason.contains("10.0.0.1 to be granted"), "{reason}");
    node.vain = [("p".to_owned(), true)].into();
    assert!(matches!(node.ask(&["p"], &Need::Any), Decision::Refuse(_)));
}

#[test]
fn a_stateful_sets_pod_finds_its_address_again() {
    let mut node = Node::new(&[pool("a", &["10.20.0.0/29"], 4)]);
    let first = Need::Kept(owner(Kind::StatefulSet, "db", Some("db-0")));
    let mine = node.add(&["a"], &first).unwrap();
    assert!(node.add(&["a"], &first).unwrap_err().contains("still holds"));
    node.book.give_back(mine[0], 0);
    for _ in 0..3 {
        assert_ne!(node.add(&["a"], &Need::Any).unwrap(), mine);
    }
    assert_eq!(node.add(&["a"], &first).unwrap(), mine);
}

#[test]
fn an_address_that_is_kept_moves_to_the_node_of_the_new_pod() {
    let mut node = Node::new(&[pool("a", &["10.20.0.0/29"], 4)]);
    let db = owner(Kind::StatefulSet, "db", Some("db-0"));
    let block = Lease::new("a", "10.20.0.0/30".parse().unwrap(), "n2");
    let kept = Lease { granted: true, ..Lease::single("a", ip("10.20.0.1"), "n2", Some(db.clone())) };
    node.look(vec![block.clone(), kept.clone()]);
    let Decision::Wait { changes, .. } = node.ask(&["a"], &Need::Kept(db.clone())) else { panic!() };
    assert!(changes[0].lease().asks.contains("n1"));
    node.look(vec![block, Lease { node: None, ..kept }]);
    assert_eq!(node.add(&["a"], &Need::Kept(db)).unwrap(), [ip("10.20.0.1")]);
}

#[test]
fn a_set_gives_each_pod_one_of_its_own_and_says_what_a_rolling_update_needs() {
    let mut node = Node::new(&[pool("a", &["10.20.0.0/29"], 4)]);
    let set = vec![ip("10.20.0.2"), ip("10.20.0.3")];
    let web = Need::Fixed(owner(Kind::Deployment, "web", None), set.clone());
    let mut got = [node.add(&["a"], &web).unwrap()[0], node.add(&["a"], &web).unwrap()[0]];
    got.sort_unstable();
    assert_eq!(got, set[..]);
    let why = node.add(&["a"], &web).unwrap_err();
    assert!(why.contains("10.20.0.2 is in use on n1") && why.contains("maxSurge"), "{why}");
    node.book.give_back(set[0], 0);
    assert_eq!(node.add(&["a"], &web).unwrap(), [set[0]]);
    let other = Need::Fixed(owner(Kind::Deployment, "shop", None), vec![set[1]]);
    assert!(node.add(&["a"], &other).unwrap_err().contains("kept for Deployment erp/web"));
    let outside = Need::Fixed(owner(Kind::Pod, "p", None), vec![ip("10.99.0.1")]);
    assert!(node.add(&["a"], &outside).unwrap_err().contains("in none of the pools"));
}

#[test]
fn a_virtual_machine_that_migrates_holds_its_address_on_two_nodes() {
    let mut node = Node::new(&[pool("a", &["10.20.0.0/29"], 4)]);
    let vm = owner(Kind::VirtualMachine, "legacy", None);
    let kept = Lease { granted: true, ..Lease::single("a", ip("10.20.0.1"), "n2", Some(vm.clone())) };
    node.look(vec![kept]);
    assert_eq!(node.add(&["a"], &Need::Kept(vm)).unwrap(), [ip("10.20.0.1")]);
    let lease = node.view.single("a", ip("10.20.0.1")).unwrap();
    assert_eq!((lease.node.as_deref(), lease.second.as_deref()), (Some("n2"), Some("n1")));
}

#[test]
fn a_block_is_claimed_ahead_of_need_when_few_are_left_and_where_blocks_are_scarce_when_none_is() {
    let block = Lease::new("a", "10.20.0.0/30".parse().unwrap(), "n1");
    let held = ["10.20.0.0", "10.20.0.1", "10.20.0.2", "10.20.0.3"];
    // Of three nodes. A reserve is a quarter of a block and one more; six pods that are on their way come first.
    for (range, holds, claims, for_six) in [
        ("10.20.0.0/24", 2, 0, 2),
        ("10.20.0.0/24", 3, 1, 2),
        ("10.20.0.0/28", 2, 0, 2),
        ("10.20.0.0/28", 3, 1, 2),
        ("10.20.0.0/29", 3, 0, 1),
        ("10.20.0.0/29", 4, 1, 1),
        ("10.20.0.0/30", 4, 0, 0),
    ] {
        let pool = pool("a", &[range], 4);
        let mut node = Node::new(std::slice::from_ref(&pool));
        node.look(vec![block.clone()]);
        assert!(held.iter().take(holds).all(|address| node.book.take(ip(address))));
        let claimed = |pods| ahead(&pool, 3, pods, node.known(&Labels::new())).len();
        assert_eq!((claimed(0), claimed(6)), (claims, for_six), "{range}, {holds} held");
    }
}

#[test]
fn for_pods_that_are_on_their_way_other_nodes_are_asked_where_no_block_is_left() {
    let pool = pool("a", &["10.20.0.0/30"], 4);
    let mut node = Node::new(std::slice::from_ref(&pool));
    let theirs = Lease::new("a", "10.20.0.0/30".parse().unwrap(), "n2");
    let claims = |node: &Node, pods| ahead(&pool, 3, pods, node.known(&Labels::new()));
    node.look(vec![theirs.clone()]);
    assert_eq!(claims(&node, 0), []);
    assert_eq!(claims(&node, 1), [Change::Replace(theirs.asked_by("n1"))]);
    // One that is on its way counts.
    let loan = Lease::single("a", ip("10.20.0.1"), "n1", None);
    node.look(vec![theirs, loan]);
    assert_eq!((claims(&node, 1).len(), claims(&node, 2).len()), (0, 1));
    node.vain.insert(("a".to_owned(), true));
    assert_eq!(claims(&node, 2), []);
}
