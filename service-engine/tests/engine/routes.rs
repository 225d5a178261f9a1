//! Routes in a kernel of their own.

use crate::bed::controller::Controller;
use crate::bed::engine::Host;
use crate::bed::{Bed, eventually, ip};
use portolan_wire::engine::{Reason, Verdict};

const NODE_1: (&str, &str) = ("192.168.101.0/24", "10.100.1.101");
const NODE_2: (&str, &str) = ("192.168.102.0/24", "10.100.1.102");

#[test]
fn a_snapshot_becomes_routes_of_our_own_protocol_and_follows_every_change() {
    let (bed, host) = (Bed::new(), Host::new());
    let engine = host.start(&bed, &[]);
    let mut controller = Controller::new(&bed, "k8s", host.authority.controller());
    controller.routes(&[NODE_1, NODE_2]).push();
    eventually("both routes are there", || {
        ours(&bed)
            == ["192.168.101.0/24 via 10.100.1.101 dev eth0", "192.168.102.0/24 via 10.100.1.102 dev eth0"]
    });
    eventually("the engine says so", || controller.all_well());
    assert!(engine.fetch("/metrics").contains("portolan_engine_routes_installed{cluster=\"k8s\"} 2"));
    controller.routes(&[("192.168.101.0/24", "10.100.1.102")]).push();
    eventually("one has moved and one is gone", || {
        ours(&bed) == ["192.168.101.0/24 via 10.100.1.102 dev eth0"]
    });
}

#[test]
fn a_deleted_route_comes_back_and_a_humans_routes_are_never_touched() {
    let (bed, host) = (Bed::new(), Host::new());
    ip(&bed.engine, "route add 192.168.102.0/24 via 10.100.1.50");
    ip(&bed.engine, "route add 172.20.0.0/16 via 10.100.1.50 proto static");
    let _engine = host.start(&bed, &[]);
    let mut controller = Controller::new(&bed, "k8s", host.authority.controller());
    controller.routes(&[NODE_1, NODE_2]).push();
    eventually("ours is there", || ours(&bed) == ["192.168.101.0/24 via 10.100.1.101 dev eth0"]);
    ip(&bed.engine, "route del 192.168.101.0/24");
    eventually("it is back", || ours(&bed) == ["192.168.101.0/24 via 10.100.1.101 dev eth0"]);
    let observed = controller.observe().unwrap();
    assert_eq!(observed.routes[0].problem, None);
    assert!(observed.routes[1].problem.is_some(), "a human has this prefix: {observed:?}");
    controller.routes(&[]).push();
    eventually("ours are gone", || ours(&bed).is_empty());
    let all = ip(&bed.engine, "route show");
    assert!(all.contains("192.168.102.0/24 via 10.100.1.50"), "{all}");
    assert!(all.contains("172.20.0.0/16 via 10.100.1.50"), "{all}");
}

#[test]
fn a_next_hop_behind_a_router_is_a_problem_of_that_route_only() {
    let (bed, host) = (Bed::new(), Host::new());
    let _engine = host.start(&bed, &[]);
    let mut controller = Controller::new(&bed, "k8s", host.authority.controller());
    controller.routes(&[NODE_1, ("192.168.103.0/24", "172.31.0.7")]).push();
    eventually("the near one is there", || ours(&bed).len() == 1);
    eventually("the far one has a reason", || {
        let problem = controller.observe().unwrap().routes[1].problem.clone();
        problem.is_some_and(|problem| problem.contains("172.31.0.7"))
    });
}

#[test]
fn a_second_cluster_shares_the_engine_but_not_the_first_ones_prefixes() {
    let (bed, host) = (Bed::new(), Host::new());
    let engine = host.start(&bed, &[]);
    let mut first = Controller::new(&bed, "k8s", host.authority.controller());
    let mut second = Controller::new(&bed, "k8s-2", host.authority.controller());
    first.routes(&[NODE_1]).push();
    let verdict = second.routes(&[("192.168.101.128/25", "10.100.1.102")]).apply().unwrap();
    let Verdict::Rejected(rejection) = verdict else { panic!("{verdict:?}") };
    assert_eq!(rejection.reason, Reason::Conflict);
    assert!(rejection.message.ends_with("overlaps 192.168.101.0/24 of cluster k8s"), "{rejection}");
    second.routes(&[NODE_2]).push();
    eventually("both are served", || ours(&bed).len() == 2);
    first.routes(&[]).push();
    eventually("the second one's stay", || ours(&bed) == ["192.168.102.0/24 via 10.100.1.102 dev eth0"]);
    assert!(engine.fetch("/metrics").contains("portolan_engine_snapshots_total{verdict=\"Conflict\"} 1"));
}

#[test]
fn a_malformed_prefix_is_rejected_by_name_and_nothing_is_lost() {
    let (bed, host) = (Bed::new(), Host::new());
    let _engine = host.start(&bed, &[]);
    let mut controller = Controller::new(&bed, "k8s", host.authority.controller());
    controller.routes(&[NODE_1, NODE_2]).push();
    eventually("both are there", || ours(&bed).len() == 2);
    let accepted = controller.observe().unwrap().accepted;
    let verdict = controller.apply_raw(|snapshot| snapshot.routes[1].prefix = "192.168.102.0/33".into());
    let Verdict::Rejected(rejection) = verdict else { panic!("{verdict:?}") };
    assert_eq!(rejection.reason, Reason::Invalid);
    assert!(rejection.message.starts_with("routes[1].prefix: \"192.168.102.0/33\""), "{rejection}");
    assert_eq!(controller.observe().unwrap().accepted, accepted);
    assert_eq!(ours(&bed).len(), 2);
}

#[test]
fn an_older_version_is_rejected_and_the_same_one_again_is_not() {
    let (bed, host) = (Bed::new(), Host::new());
    let _engine = host.start(&bed, &[]);
    let mut controller = Controller::new(&bed, "k8s", host.authority.controller());
    let again = controller.routes(&[NODE_1]).apply_raw(|_| {});
    assert!(matches!(again, Verdict::Accepted(_)), "{again:?}");
    controller.push();
    controller.routes(&[NODE_1, NODE_2]).push();
    let verdict = controller.apply_raw(|snapshot| {
        snapshot.version.as_mut().unwrap().generation = 1;
    });
    let Verdict::Rejected(rejection) = verdict else { panic!("{verdict:?}") };
    assert_eq!(rejection.reason, Reason::Stale);
}

#[test]
fn an_engine_that_ends_leaves_its_routes_and_one_that_starts_repairs_them_without_a_controller() {
    let (bed, host) = (Bed::new(), Host::new());
    let engine = host.start(&bed, &[]);
    let mut controller = Controller::new(&bed, "k8s", host.authority.controller());
    controller.routes(&[NODE_1, NODE_2]).push();
    eventually("both are there", || ours(&bed).len() == 2);
    assert!(engine.end().success());
    assert_eq!(ours(&bed).len(), 2);
    ip(&bed.engine, "route del 192.168.101.0/24");
    let _engine = host.start(&bed, &[]);
    eventually("both are there again", || ours(&bed).len() == 2);
    assert!(controller.observe().unwrap().accepted.is_some());
}

/// Our routes in the main table, as `ip` prints them.
fn ours(bed: &Bed) -> Vec<String> {
    ip(&bed.engine, "route show proto 107").lines().map(|line| line.trim_end().to_owned()).collect()
}
