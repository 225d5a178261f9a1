//! One node and what its watch shows, for each duty.

use std::net::IpAddr;

use ipnet::IpNet;

use super::*;
use crate::ipam::lease::tests::pool;
use crate::ipam::owner::Kind;

struct Node {
    pools: BTreeMap<String, Pool>,
    view: View,
    book: Book,
    pending: BTreeMap<String, Change>,
    short: BTreeMap<String, usize>,
    awaited: BTreeMap<String, usize>,
    turns: BTreeMap<(String, String), Millis>,
    expected: Vec<Owner>,
}

impl Node {
    fn new(leases: &[Lease], held: &[&str]) -> Self {
        let pools = [("p".to_owned(), pool("p", &["10.0.0.0/28"], 4))].into();
        let (view, mut book): (View, _) = (leases.iter().cloned().collect(), Book::default());
        book.sync("n1", &[], &view, &pools, 0);
        assert!(held.iter().all(|address| book.take(ip(address))));
        let turns = turns(leases);
        Self {
            pools,
            view,
            book,
            pending: BTreeMap::new(),
            short: BTreeMap::new(),
            awaited: BTreeMap::new(),
            turns,
            expected: vec![],
        }
    }

    fn duties(&self, now: Millis) -> Vec<Change> {
        let Self { pools, view, book, pending, short, awaited, turns, expected } = self;
        let nodes = 3;
        duties(Holder { node: "n1", pools, view, book, nodes, pending, short, awaited, turns, expected, now })
    }
}

/// It is this node's turn to answer every ask.
fn turns(leases: &[Lease]) -> BTreeMap<(String, String), Millis> {
    let asks =
        |lease: &Lease| lease.asks.iter().map(|ask| (lease.name.clone(), ask.clone())).collect::<Vec<_>>();
    leases.iter().flat_map(asks).map(|ask| (ask, 0)).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn block(node: &str) -> Lease {
    Lease::new("p", "10.0.0.0/30".parse().unwrap(), node)
}

/// An address that is kept, and granted.
fn kept(owner: Owner) -> Lease {
    Lease { granted: true, ..Lease::single("p", ip("10.0.0.1"), "n1", Some(owner)) }
}

fn db() -> Owner {
    Owner { kind: Kind::StatefulSet, namespace: "erp".into(), name: "db".into(), pod: Some("db-0".into()) }
}

#[test]
fn a_block_that_nobody_uses_is_marked_and_then_goes() {
    let node = Node::new(&[block("n1")], &[]);
    assert_eq!(node.duties(IDLE - 1), []);
    let marked = Lease { released: true, ..block("n1") };
    assert_eq!(node.duties(IDLE), [Change::Replace(marked.clone())]);
    assert_eq!(Node::new(std::slice::from_ref(&marked), &[]).duties(0), [Change::Delete(marked)]);
}

#[test]
fn a_block_that_was_claimed_for_a_pod_waits_for_it() {
    let mut node = Node::new(&[block("n1")], &[]);
    node.awaited = [("p".to_owned(), 1)].into();
    assert_eq!(node.duties(IDLE * 100), []);
}

#[test]
fn a_mark_that_arrives_late_is_taken_off_again() {
    let marked = Lease { released: true, ..block("n1") };
    assert_eq!(Node::new(&[marked], &["10.0.0.1"]).duties(IDLE), [Change::Replace(block("n1"))]);
}

#[test]
fn an_address_inside_the_block_is_granted_unless_a_pod_here_holds_it() {
    let asked = Lease::single("p", ip("10.0.0.1"), "n2", Some(db()));
    let granted = Lease { granted: true, ..asked.clone() };
    assert_eq!(Node::new(&[block("n1"), asked.clone()], &[]).duties(0), [Change::Replace(granted)]);
    assert_eq!(Node::new(&[block("n1"), asked], &["10.0.0.1"]).duties(0), []);
    let loan = Lease::single("p", ip("10.0.0.1"), "n2", None);
    assert_eq!(Node::new(&[block("n1"), loan.clone()], &["10.0.0.1"]).duties(0), [Change::Delete(loan)]);
}

#[test]
fn who_holds_an_address_with_no_block_around_it_grants_it_himself() {
    let alone = Lease { granted: false, ..kept(db()) };
    assert_eq!(Node::new(std::slice::from_ref(&alone), &[]).duties(0), [Change::Replace(kept(db()))]);
    assert_eq!(
        Node::new(std::slice::from_ref(&alone), &["10.0.0.1"]).duties(0),
        [Change::Replace(kept(db()))]
    );
}

#[test]
fn an_address_is_not_asked_for_any_more_when_its_owner_is_not_expected_here_any_more() {
    let theirs = Lease { node: Some("n2".into()), ..kept(db()) };
    let asked = theirs.asked_by("n1");
    let mut node = Node::new(&[asked], &[]);
    assert_eq!(node.duties(0), [Change::Replace(theirs)]);
    node.expected.push(db());
    assert_eq!(node.duties(0), []);
}

#[test]
fn half_of_what_is_free_is_lent_to_a_node_that_is_short() {
    let asked = block("n1").asked_by("n2");
    let changes = Node::new(&[asked], &["10.0.0.0"]).duties(0);
    let lent: Vec<_> = changes.iter().filter(|change| matches!(change, Change::Create(_))).collect();
    assert_eq!(lent.len(), 2);
    assert!(lent.iter().all(|change| change.lease().is_of("n2") && change.lease().is_single()));
    assert_eq!(changes.last(), Some(&Change::Replace(block("n1"))));
    let full = Node::new(&[block("n1").asked_by("n2")], &["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(full.duties(0), []);
}

#[test]
fn a_node_lends_out_of_another_block_than_the_one_that_was_asked() {
    let (asked, other) = (block("n1").asked_by("n2"), Lease::new("p", "10.0.0.4/30".parse().unwrap(), "n1"));
    let full = ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"];
    let changes = Node::new(&[asked.clone(), other.clone()], &full).duties(0);
    let lent: Vec<_> = changes.iter().filter(|change| matches!(change, Change::Create(_))).collect();
    assert!(lent.len() == 2 && lent.iter().all(|change| other.block.contains(&change.lease().address())));
    assert_eq!(changes.last(), Some(&Change::Replace(block("n1"))));
    // So does one that holds nothing but what it has borrowed, or another block of the pool; once it is its turn.
    let borrowed = Lease { granted: true, ..Lease::single("p", ip("10.0.0.5"), "n1", None) };
    let theirs = [asked, other].map(|lease| Lease { node: Some("n3".into()), ..lease });
    let mut node = Node::new(&[theirs[0].clone(), theirs[1].clone(), borrowed.clone()], &[]);
    let asks = ["n2".to_owned()].into();
    let passed = Change::Replace(Lease { released: true, asks, ..borrowed });
    let answered = Change::Replace(Lease { node: Some("n3".into()), ..block("n1") });
    assert_eq!(node.duties(0), [passed, answered]);
    node.turns.values_mut().for_each(|turn| *turn = 100);
    assert_eq!(node.duties(99), []);
    assert_eq!(node.duties(100).len(), 2);
}

#[test]
fn the_holder_answers_at_once_and_the_others_in_turns_of_one_two_four() {
    let nodes: Vec<_> = (1..=9).map(|n| format!("n{n}")).collect();
    let blocks = nodes
        .iter()
        .zip(0..)
        .map(|(node, n)| Lease::new("p", IpNet::new([10, 0, 0, 4 * n].into(), 30).unwrap(), node));
    let view: View = blocks.collect();
    let board = view.of("n1").next().unwrap();
    let mut turns: Vec<_> = nodes.iter().map(|node| turn(node, board, "n2", &view)).collect();
    assert_eq!((turns[0], turns[1]), (Some(0), None));
    turns.sort_unstable();
    let turns: Vec<_> = turns.into_iter().flatten().collect();
    assert_eq!(turns, [0, TURN, 2 * TURN, 2 * TURN, 3 * TURN, 3 * TURN, 3 * TURN, 3 * TURN]);
    assert_eq!(turn("n10", board, "n2", &view), None);
}

#[test]
fn what_pods_here_wait_for_or_will_ask_in_a_moment_is_not_lent() {
    let mut node = Node::new(&[block("n1").asked_by("n2")], &["10.0.0.0"]);
    node.awaited = [("p".to_owned(), 2)].into();
    let lent = |node: &Node| node.duties(0).iter().filter(|one| matches!(one, Change::Create(_))).count();
    assert_eq!(lent(&node), 1);
    node.short = [("p".to_owned(), 3)].into();
    assert_eq!(node.duties(0), []);
}

#[test]
fn an_address_of_the_second_family_is_kept_only_for_a_pod_that_has_one_of_the_first() {
    let both = pool("p", &["10.0.0.0/30", "fd00::/126"], 4);
    let six = Lease::new("p", "fd00::/126".parse().unwrap(), "n1").asked_by("n2");
    let four = Lease { granted: true, ..Lease::single("p", ip("10.0.0.1"), "n1", None) };
    let node = |leases: &[Lease]| {
        let mut node = Node::new(&[], &[]);
        node.pools = [("p".to_owned(), both.clone())].into();
        node.view = leases.iter().cloned().collect();
        node.book.sync("n1", &[], &node.view, &node.pools, 0);
        node.short = [("p".to_owned(), 4)].into();
        node.turns = turns(leases);
        node
    };
    let lent = |node: &Node| node.duties(0).iter().filter(|one| matches!(one, Change::Create(_))).count();
    assert_eq!(lent(&node(std::slice::from_ref(&six))), 2);
    // Of four, one is for the pod that has its first, and of the others half are lent.
    assert_eq!(lent(&node(&[six.clone(), four.clone()])), 2);
    let mut held = node(&[six, four]);
    assert!(["fd00::", "fd00::1", "fd00::2"].iter().all(|address| held.book.take(ip(address))));
    assert_eq!(lent(&held), 0);
}

#[test]
fn nothing_is_lent_twice_for_one_ask() {
    let asked = block("n1").asked_by("n2");
    let mut node = Node::new(std::slice::from_ref(&asked), &[]);
    node.pending = [(asked.name.clone(), Change::Replace(block("n1")))].into();
    assert_eq!(node.duties(0), []);
    // Nor is an address lent to two, nor an ask taken for answered by somebody else's loan.
    let loans =
        |changes: Vec<Change>| changes.into_iter().map(|change| (change.lease().name.clone(), change));
    node.pending = loans(Node::new(std::slice::from_ref(&asked), &[]).duties(0)).collect();
    node.pending.remove(&asked.name);
    assert_eq!(node.duties(0), []);
}

#[test]
fn a_node_that_needs_what_it_has_lent_asks_for_it_in_its_own_lease_until_it_has_some() {
    let short = block("n1").asked_by("n1");
    let loan = |ip_: &str| Lease { granted: true, ..Lease::single("p", ip(ip_), "n2", None) };
    let held = ["10.0.0.0", "10.0.0.1", "10.0.0.2"];
    let mut node = Node::new(&[short.clone(), loan("10.0.0.3")], &held);
    assert_eq!(node.duties(0), [Change::Replace(block("n1"))]);
    node.short = [("p".to_owned(), 1)].into();
    assert_eq!(node.duties(0), []);
    assert_eq!(Node::new(&[short], &held).duties(0), [Change::Replace(block("n1"))]);
}

#[test]
fn a_node_asks_and_keeps_what_it_has_borrowed_while_a_pod_here_is_short_and_no_longer() {
    let (asked, theirs) = (block("n2").asked_by("n1"), block("n2"));
    let borrowed = Lease { granted: true, ..Lease::single("p", ip("10.0.0.1"), "n1", None) };
    let mut node = Node::new(&[asked.asked_by("n3"), borrowed.clone()], &[]);
    node.short = [("p".to_owned(), 2)].into();
    node.turns.clear();
    assert_eq!(node.duties(IDLE), []);
    // One of two would do for one pod, and nothing more is asked for.
    node.short = [("p".to_owned(), 1)].into();
    assert_eq!(node.duties(IDLE), [Change::Replace(theirs.asked_by("n3"))]);
    node.short.clear();
    let released = Change::Replace(Lease { released: true, ..borrowed });
    assert_eq!(node.duties(IDLE), [released, Change::Replace(theirs.asked_by("n3"))]);
}

#[test]
fn a_borrowed_address_is_passed_on_to_a_third_node_that_asks() {
    let borrowed = Lease { granted: true, ..Lease::single("p", ip("10.0.0.1"), "n1", None) };
    let changes = |leases: &[Lease], held: &[&str]| Node::new(leases, held).duties(0);
    assert_eq!(changes(&[block("n2"), borrowed.clone()], &[]), []);
    let asked = block("n2").asked_by("n3");
    let passed = Lease { released: true, asks: ["n3".to_owned()].into(), ..borrowed.clone() };
    assert_eq!(
        changes(&[asked.clone(), borrowed.clone()], &[]),
        [Change::Replace(passed.clone()), Change::Replace(block("n2"))]
    );
    let handed = Lease { node: Some("n3".into()), ..borrowed.clone() };
    assert_eq!(changes(&[block("n2"), passed], &[]), [Change::Replace(handed)]);
    assert_eq!(changes(&[asked.clone(), borrowed.clone()], &["10.0.0.1"]), []);
    // An ask of its own, of which nothing is needed any more, is taken back.
    assert_eq!(changes(&[block("n2").asked_by("n1"), borrowed.clone()], &[]), [Change::Replace(block("n2"))]);
    let not_yet = Lease { granted: false, ..borrowed };
    assert_eq!(changes(&[asked, not_yet], &[]), []);
}

#[test]
fn an_address_that_is_kept_is_handed_on_in_two_steps_once_its_pod_is_gone() {
    let kept = kept(db());
    assert_eq!(Node::new(std::slice::from_ref(&kept), &[]).duties(IDLE), []);
    let asked = kept.asked_by("n2");
    assert_eq!(Node::new(std::slice::from_ref(&asked), &["10.0.0.1"]).duties(IDLE), []);
    let marked = Lease { released: true, ..asked.clone() };
    let mut node = Node::new(&[asked], &[]);
    assert_eq!(node.duties(0), [Change::Replace(marked.clone())]);
    node.expected.push(db());
    assert_eq!(node.duties(0), []);
    let handed = Lease { node: Some("n2".into()), ..kept };
    assert_eq!(Node::new(&[marked], &[]).duties(0), [Change::Replace(handed)]);
}

#[test]
fn a_migration_ends_where_the_source_pod_or_the_target_pod_ends() {
    let vm = Owner { kind: Kind::VirtualMachine, namespace: "erp".into(), name: "legacy".into(), pod: None };
    let kept = kept(vm);
    let moving = Lease { second: Some("n2".into()), ..kept.clone() };
    assert_eq!(Node::new(std::slice::from_ref(&moving), &["10.0.0.1"]).duties(0), []);
    let moved = Lease { node: Some("n2".into()), ..kept.clone() };
    assert_eq!(Node::new(&[moving], &[]).duties(0), [Change::Replace(moved.clone())]);
    let back = Lease { second: Some("n1".into()), ..moved.clone() };
    assert_eq!(Node::new(std::slice::from_ref(&back), &["10.0.0.1"]).duties(0), []);
    let leaving = Lease { leaving: true, ..back.clone() };
    assert_eq!(Node::new(&[back], &[]).duties(0), [Change::Replace(leaving.clone())]);
    assert_eq!(Node::new(&[leaving], &[]).duties(0), [Change::Replace(moved)]);
    assert!(is_routed(&kept, "n1") && !is_routed(&kept, "n2"));
}
