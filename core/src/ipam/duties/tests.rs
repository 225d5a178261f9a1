//! One node and what its watch shows, for each duty.

use std::net::IpAddr;

use super::*;
use crate::ipam::lease::tests::pool;
use crate::ipam::owner::Kind;

struct Node {
    pools: BTreeMap<String, Pool>,
    view: View,
    book: Book,
    pending: BTreeMap<String, Change>,
    short: BTreeSet<String>,
    awaited: BTreeSet<String>,
    expected: Vec<Owner>,
}

impl Node {
    fn new(leases: &[Lease], held: &[&str]) -> Self {
        let pools = [("p".to_owned(), pool("p", &["10.0.0.0/28"], 4))].into();
        let (view, mut book): (View, _) = (leases.iter().cloned().collect(), Book::default());
        book.sync("n1", &[], &view, &pools, 0);
        assert!(held.iter().all(|address| book.take(ip(address))));
        Self {
            pools,
            view,
            book,
            pending: BTreeMap::new(),
            short: BTreeSet::new(),
            awaited: BTreeSet::new(),
            expected: vec![],
        }
    }

    fn duties(&self, now: Millis) -> Vec<Change> {
        let Self { pools, view, book, pending, short, awaited, expected } = self;
        duties(Holder { node: "n1", pools, view, book, nodes: 3, pending, short, awaited, expected, now })
    }
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
    node.awaited = ["p".to_owned()].into();
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
    // And who has borrowed out of any of them gives back.
    let borrowed = Lease { granted: true, ..Lease::single("p", ip("10.0.0.5"), "n1", None) };
    let lenders = [asked, other].map(|lease| Lease { node: Some("n3".into()), ..lease });
    let changes =
        Node::new(&[lenders[0].clone(), lenders[1].clone(), borrowed], &[]).duties(IDLE_WHILE_WANTED);
    assert!(matches!(changes.as_slice(), [Change::Replace(lease)] if lease.released), "{changes:?}");
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
    node.short = ["p".to_owned()].into();
    assert_eq!(node.duties(0), []);
    assert_eq!(Node::new(&[short], &held).duties(0), [Change::Replace(block("n1"))]);
}

#[test]
fn a_node_asks_and_keeps_what_it_has_borrowed_while_a_pod_here_is_short_and_no_longer() {
    let (asked, theirs) = (block("n2").asked_by("n1"), block("n2"));
    let borrowed = Lease { granted: true, ..Lease::single("p", ip("10.0.0.1"), "n1", None) };
    let mut node = Node::new(&[asked.asked_by("n3"), borrowed.clone()], &[]);
    node.short = ["p".to_owned()].into();
    assert_eq!(node.duties(IDLE), []);
    node.short.clear();
    let released = Change::Replace(Lease { released: true, ..borrowed });
    assert_eq!(node.duties(IDLE), [released, Change::Replace(theirs.asked_by("n3"))]);
}

#[test]
fn a_borrowed_address_goes_back_soon_when_a_third_node_asks_its_lender() {
    let borrowed = Lease { granted: true, ..Lease::single("p", ip("10.0.0.1"), "n1", None) };
    let released = [Change::Replace(Lease { released: true, ..borrowed.clone() })];
    let soon = |leases: &[Lease], held: &[&str]| Node::new(leases, held).duties(IDLE_WHILE_WANTED);
    assert_eq!(soon(&[block("n2"), borrowed.clone()], &[]), []);
    let asked = block("n2").asked_by("n3");
    assert_eq!(soon(&[asked.clone(), borrowed.clone()], &[]), released);
    assert_eq!(soon(&[asked.clone(), borrowed.clone()], &["10.0.0.1"]), []);
    // An ask of its own, of which nothing is needed any more, is taken back.
    assert_eq!(soon(&[block("n2").asked_by("n1"), borrowed.clone()], &[]), [Change::Replace(block("n2"))]);
    let not_yet = Lease { granted: false, ..borrowed.clone() };
    assert_eq!(soon(&[asked.clone(), not_yet], &[]), []);
    assert_eq!(Node::new(&[asked, borrowed], &[]).duties(IDLE_WHILE_WANTED - 1), []);
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
