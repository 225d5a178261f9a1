//! Promises to several clusters.

use super::*;

#[test]
fn a_first_snapshot_is_newer_and_the_same_again_changes_nothing() {
    let accepted = Accepted::default();
    let first = snapshot("a", (1, 1), &["10.10.1.0/24"], &["172.16.251.1:80"]);
    assert_eq!(accepted.judge(&first), Ok(Judgement::Newer));
    assert_eq!(accepted.with(first.clone()).judge(&first), Ok(Judgement::Same));
}

#[test]
fn versions_of_one_cluster_never_go_back() {
    let accepted = Accepted::default().with(snapshot("a", (3, 7), &["10.10.1.0/24"], &[]));
    for (version, words) in [((3, 7), "another content"), ((3, 6), "older"), ((2, 900), "took over")] {
        let rejection = accepted.judge(&snapshot("a", version, &[], &[])).unwrap_err();
        assert_eq!(rejection.reason, Reason::Stale);
        assert!(rejection.message.contains(words), "{rejection}");
    }
    for version in [(3, 8), (3, 100), (4, 1)] {
        assert_eq!(accepted.judge(&snapshot("a", version, &[], &[])), Ok(Judgement::Newer));
    }
}

#[test]
fn a_prefix_that_overlaps_another_clusters_is_rejected_and_the_cluster_named() {
    let accepted =
        Accepted::default().with(snapshot("first", (1, 1), &["10.10.0.0/16", "10.20.7.0/24"], &[]));
    for prefix in ["10.10.0.0/16", "10.10.255.0/24", "10.0.0.0/8", "10.20.7.128/25", "10.20.0.0/16"] {
        let rejection = accepted.judge(&snapshot("second", (1, 1), &[prefix], &[])).unwrap_err();
        assert_eq!(rejection.reason, Reason::Conflict);
        assert!(rejection.message.contains(prefix) && rejection.message.contains("first"), "{rejection}");
    }
    for prefix in ["10.11.0.0/16", "10.20.6.0/24", "10.20.8.0/24", "192.168.0.0/16", "9.0.0.0/8"] {
        assert_eq!(
            accepted.judge(&snapshot("second", (1, 1), &[prefix], &[])),
            Ok(Judgement::Newer),
            "{prefix}"
        );
    }
}

#[test]
fn an_address_and_port_of_another_cluster_is_rejected_but_another_port_is_free() {
    let accepted =
        Accepted::default().with(snapshot("first", (1, 1), &["10.10.0.0/16"], &["172.16.251.1:80"]));
    let rejection = accepted.judge(&snapshot("second", (1, 1), &[], &["172.16.251.1:80"])).unwrap_err();
    assert_eq!(rejection.reason, Reason::Conflict);
    assert!(rejection.message.contains("172.16.251.1:80/tcp") && rejection.message.contains("first"));
    assert_eq!(accepted.judge(&snapshot("second", (1, 1), &[], &["172.16.251.1:443"])), Ok(Judgement::Newer));
    let pods = accepted.judge(&snapshot("second", (1, 1), &[], &["10.10.3.4:80"])).unwrap_err();
    assert!(pods.message.contains("10.10.0.0/16 of cluster first"), "{pods}");
}

#[test]
fn a_cluster_whose_name_begins_like_anothers_is_another_cluster() {
    let accepted = Accepted::default().with(snapshot("k8s", (1, 1), &["10.10.0.0/16"], &[])).with(snapshot(
        "k8s-2",
        (1, 1),
        &["10.20.0.0/16"],
        &[],
    ));
    let without = accepted.with(snapshot("k8s", (1, 2), &[], &[]));
    assert_eq!(without.routes().map(|route| route.prefix.to_string()).collect::<Vec<_>>(), ["10.20.0.0/16"]);
}

#[test]
fn a_cluster_may_move_its_own_prefixes_and_addresses() {
    let accepted = Accepted::default().with(snapshot("a", (1, 1), &["10.10.0.0/16"], &["172.16.251.1:80"]));
    let next = snapshot("a", (1, 2), &["10.10.1.0/24", "10.10.2.0/24"], &["172.16.251.1:80"]);
    assert_eq!(accepted.judge(&next), Ok(Judgement::Newer));
}

#[test]
fn what_is_not_served_yet_is_refused_and_says_so() {
    let mut udp = snapshot("a", (1, 1), &[], &["172.16.251.1:53"]);
    udp.services[0].front.protocol = Protocol::Udp;
    let mut v6 = snapshot("a", (1, 1), &["10.10.0.0/16"], &[]);
    v6.routes[0] = Route { prefix: "fd00::/64".parse().unwrap(), via: "fd01::1".parse().unwrap() };
    for (snapshot, words) in [(udp, "TCP only"), (v6, "IPv4 only")] {
        let rejection = Accepted::default().judge(&snapshot).unwrap_err();
        assert_eq!(rejection.reason, Reason::Unsupported);
        assert!(rejection.message.contains(words), "{rejection}");
    }
}

/// A snapshot of these prefixes, all by one node, and of these fronts, all with one member.
pub fn snapshot(
    cluster: &str,
    (epoch, generation): (u64, u64),
    prefixes: &[&str],
    fronts: &[&str],
) -> Snapshot {
    let route =
        |prefix: &&str| Route { prefix: prefix.parse().unwrap(), via: "10.100.1.101".parse().unwrap() };
    let service = |front: &&str| {
        let address: std::net::SocketAddr = front.parse().unwrap();
        Service {
            name: format!("{cluster}--default-nginx1").parse().unwrap(),
            front: Front { vip: address.ip(), port: address.port(), protocol: Protocol::Tcp },
            members: vec!["10.244.3.23:80".parse().unwrap()],
        }
    };
    Snapshot {
        cluster: cluster.parse().unwrap(),
        version: Version { epoch, generation },
        routes: prefixes.iter().map(route).collect(),
        services: fronts.iter().map(service).collect(),
    }
}
