//! A cluster in which everything agrees, and each thing that can be wrong with it.

use portolan_crds::{IPPool, IPPoolSpec, IPRange};
use portolan_wire::inspect::{Given, KernelState, LeaseState, PodRoute};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// One node, one pool, one lease, two pods: one of the pool, one of the node's pod CIDR.
fn agreeing() -> Facts {
    let spec = IPPoolSpec {
        ip_ranges: vec![IPRange { cidr: Some("10.20.1.0/24".into()), ..IPRange::default() }],
        ..IPPoolSpec::default()
    };
    let pool = Pool::try_from(&IPPool::new("erp", spec)).unwrap();
    let lease = Lease::new("erp", "10.20.1.0/28".parse().unwrap(), "node-1");
    let state = NodeState {
        node: "node-1".into(),
        records: vec![record("db-0", "10.20.1.5", Some("erp")), record("web", "10.10.1.7", None)],
        leases: vec![LeaseState {
            name: lease.name.clone(),
            pool: "erp".into(),
            block: lease.block,
            state: LeaseUse::Used,
            kept_for: None,
        }],
        marks: vec![Marked { address: ip("10.20.1.5"), mark: 7 }],
        kernel: KernelState {
            links: vec!["ptl-db-0".into(), "ptl-web".into()],
            routes: vec![
                PodRoute { address: ip("10.20.1.5"), device: "ptl-db-0".into() },
                PodRoute { address: ip("10.10.1.7"), device: "ptl-web".into() },
            ],
            marks: vec![Marked { address: ip("10.20.1.5"), mark: 7 }],
            unread: vec![],
        },
        ..NodeState::default()
    };
    Facts {
        pools: [("erp".to_owned(), pool)].into(),
        leases: [(lease.name.clone(), lease)].into(),
        invalid: vec![],
        cidrs: [("node-1".to_owned(), vec!["10.10.1.0/24".parse().unwrap()])].into(),
        pods: vec![pod("db-0", "10.20.1.5"), pod("web", "10.10.1.7")],
        nodes: [("node-1".to_owned(), state)].into(),
    }
}

fn record(pod: &str, address: &str, pool: Option<&str>) -> Attachment {
    Attachment {
        container: format!("container-{pod}"),
        interface: "eth0".into(),
        namespace: "erp".into(),
        pod: pod.into(),
        uid: Some(format!("uid-{pod}")),
        addresses: vec![Given { address: ip(address), pool: pool.map(str::to_owned) }],
        host_interface: Some(format!("ptl-{pod}")),
        complete: true,
        ..Attachment::default()
    }
}

fn pod(name: &str, address: &str) -> PodFacts {
    PodFacts {
        namespace: "erp".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        node: Some("node-1".into()),
        addresses: vec![ip(address)],
        ..PodFacts::default()
    }
}

fn found(change: impl FnOnce(&mut Facts, &mut NodeState)) -> Vec<String> {
    let mut facts = agreeing();
    let mut state = facts.nodes.remove("node-1").unwrap();
    change(&mut facts, &mut state);
    facts.nodes.insert("node-1".into(), state);
    check(&facts).iter().map(ToString::to_string).collect()
}

/// Each finding says all of its words.
fn expect(found: &[String], words: &[&[&str]]) {
    assert_eq!(found.len(), words.len(), "{found:#?}");
    for words in words {
        let said = found.iter().any(|one| words.iter().all(|word| one.contains(word)));
        assert!(said, "{words:?} is not in {found:#?}");
    }
}

#[test]
fn a_cluster_that_agrees_has_no_findings() {
    expect(&found(|_, _| {}), &[]);
    // Nor has one with pods that are nobody's business here.
    expect(
        &found(|facts, _| {
            facts.pods.push(PodFacts { host_network: true, ..pod("host", "172.16.11.11") });
            facts.pods.push(PodFacts { ended: true, ..pod("job", "10.20.1.5") });
            facts.pods.push(PodFacts { node: None, addresses: vec![], ..pod("pending", "10.20.1.9") });
        }),
        &[],
    );
}

#[test]
fn a_record_without_its_pod_is_found_whatever_became_of_the_pod() {
    let gone = found(|facts, _| drop(facts.pods.remove(0)));
    expect(&gone, &[&["erp/db-0 on node-1", "record.pod", "does not exist", "30 s"]]);
    let another = found(|facts, _| facts.pods[0].uid = "uid-2".into());
    expect(&another, &[&["record.uid", "uid-db-0, but", "uid-2"]]);
    let elsewhere = found(|facts, _| facts.pods[0].node = Some("node-2".into()));
    expect(&elsewhere, &[&["record.node", "node-2"]]);
    let ended = found(|facts, _| facts.pods[0].ended = true);
    expect(&ended, &[&["record.pod", "has ended"]]);
}

#[test]
fn a_pod_whose_address_is_not_the_recorded_one_is_found_from_both_sides() {
    let other = found(|facts, _| facts.pods[0].addresses = vec![ip("10.20.1.6")]);
    expect(
        &other,
        &[
            &["record.addresses", "10.20.1.5, but", "10.20.1.6"],
            &["Pod erp/db-0", "status.podIPs", "no record"],
        ],
    );
    let secondary = found(|facts, state| {
        state
            .records
            .push(Attachment { interface: "net1".into(), ..record("web", "10.20.1.6", Some("erp")) });
        state.kernel.routes.push(PodRoute { address: ip("10.20.1.6"), device: "ptl-web".into() });
        facts.pods[0].addresses = vec![ip("10.20.1.5")];
    });
    expect(&secondary, &[]);
}

#[test]
fn two_holders_of_one_address_are_found_by_record_and_by_status() {
    let twice = found(|facts, state| {
        state.records.push(record("db-1", "10.20.1.5", Some("erp")));
        state.kernel.links.push("ptl-db-1".into());
        facts.pods.push(pod("db-1", "10.20.1.5"));
    });
    assert!(twice.iter().any(|one| one.contains("is held by") && one.contains("and by")), "{twice:#?}");
    assert!(
        twice
            .iter()
            .any(|one| one.contains("Pod erp/db-0: status.podIPs: 10.20.1.5 is also that of erp/db-1")),
        "{twice:#?}"
    );
}

#[test]
fn a_lease_is_held_against_its_pool_and_its_node() {
    let no_pool = found(|facts, _| facts.pools.clear());
    expect(
        &no_pool,
        &[
            &["IPLease erp-10-20-1-0-28", "spec.pool", "does not exist"],
            &["record.address", "not in IPPool erp"],
        ],
    );
    let unknown = found(|_, state| state.leases.clear());
    expect(&unknown, &[&["spec.node", "does not know of it"]]);
    let lost = found(|facts, state| {
        facts.leases.clear();
        state.records.remove(0);
        facts.pods.remove(0);
        (state.kernel, state.marks) = (KernelState::default(), vec![]);
        state.kernel.links = vec!["ptl-web".into()];
        state.kernel.routes = vec![PodRoute { address: ip("10.10.1.7"), device: "ptl-web".into() }];
    });
    expect(&lost, &[&["takes addresses from 10.20.1.0/28", "does not show as its"]]);
    let without = found(|facts, state| {
        facts.leases.clear();
        state.leases.clear();
    });
    expect(&without, &[&["10.20.1.5 is held by", "no lease"]]);
}

#[test]
fn an_address_outside_pool_or_pod_cidr_is_found() {
    let outside = found(|facts, _| facts.cidrs.clear());
    expect(&outside, &[&["erp/web", "10.10.1.7 is not in Node node-1's spec.podCIDRs"]]);
}

#[test]
fn the_kernel_is_held_against_the_records_both_ways() {
    let no_link = found(|_, state| drop(state.kernel.links.remove(0)));
    expect(&no_link, &[&["kernel.link", "ptl-db-0 does not exist"]]);
    let stray = found(|_, state| state.kernel.links.push("ptl-stray".into()));
    expect(&stray, &[&["ptl-stray belongs to no record", "ip link delete"]]);
    let no_route = found(|_, state| drop(state.kernel.routes.remove(0)));
    expect(&no_route, &[&["10.20.1.5 has no route to ptl-db-0"]]);
    let wrong = found(|_, state| state.kernel.routes[0].device = "ptl-web".into());
    expect(&wrong, &[&["routed to ptl-web instead of ptl-db-0"]]);
    let foreign = found(|_, state| {
        state.kernel.routes.push(PodRoute { address: ip("10.20.1.9"), device: "ptl-web".into() });
    });
    expect(&foreign, &[&["10.20.1.9 is routed to ptl-web, and no record has it"]]);
    let half = found(|_, state| {
        state.records[0].complete = false;
        state.kernel.links.remove(0);
        state.kernel.routes.remove(0);
    });
    expect(&half, &[]);
}

#[test]
fn a_mark_is_found_that_is_missing_wrong_or_too_many() {
    let missing = found(|_, state| state.kernel.marks.clear());
    expect(&missing, &[&["nftables.mark", "10.20.1.5 is none and should be 0x00000007"]]);
    let wrong = found(|_, state| state.kernel.marks[0].mark = 8);
    expect(&wrong, &[&["is 0x00000008 and should be 0x00000007"]]);
    let many = found(|_, state| state.kernel.marks.push(Marked { address: ip("10.10.1.7"), mark: 1 }));
    expect(&many, &[&["10.10.1.7 is 0x00000001 and should be none"]]);
}

#[test]
fn what_was_not_read_is_not_taken_for_absent() {
    let blind = found(|_, state| {
        let unread = ["links: no", "routes: no", "nftables: no"].map(str::to_owned).into();
        state.kernel = KernelState { unread, ..KernelState::default() };
    });
    expect(&blind, &[]);
}
