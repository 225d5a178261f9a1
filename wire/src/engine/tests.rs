//! The border, from both sides.

use super::*;

#[test]
fn a_snapshot_survives_the_wire() {
    let message = good();
    let snapshot = Snapshot::try_from(message.clone()).unwrap();
    assert_eq!(snapshot.routes[0].to_string(), "192.168.101.0/24 via 10.100.1.101");
    assert_eq!(snapshot.services[0].front.to_string(), "172.16.251.1:80/tcp");
    assert_eq!(proto::Snapshot::from(&snapshot), message);
}

#[test]
fn a_snapshot_on_disk_is_the_message_as_json() {
    let text = serde_json::to_string(&good()).unwrap();
    assert_eq!(serde_json::from_str::<proto::Snapshot>(&text).unwrap(), good());
    assert_eq!(serde_json::from_str::<proto::Snapshot>("{}").unwrap(), proto::Snapshot::default());
}

#[test]
fn what_cannot_be_right_is_refused_with_the_name_of_the_field() {
    type Change = fn(&mut proto::Snapshot);
    let cases: [(Change, &str); 17] = [
        (|s| s.cluster = "../etc".into(), "cluster"),
        (|s| s.version = None, "version"),
        (|s| s.version = Some(proto::Version { epoch: 0, generation: 1 }), "version"),
        (|s| s.routes[0].prefix = "192.168.101.0".into(), "routes[0].prefix"),
        (|s| s.routes[0].prefix = "192.168.101.7/24".into(), "routes[0].prefix"),
        (|s| s.routes[0].prefix = "0.0.0.0/0".into(), "routes[0].prefix"),
        (|s| s.routes[0].prefix = "127.0.0.0/8".into(), "routes[0].prefix"),
        (|s| s.routes[0].via = "fd00::1".into(), "routes[0].via"),
        (|s| s.routes[0].via = "0.0.0.0".into(), "routes[0].via"),
        (|s| s.routes.push(s.routes[0].clone()), "routes[1]"),
        (|s| s.services[0].name = "k8s default".into(), "services[0].name"),
        (|s| s.services[0].vip = "255.255.255.255".into(), "services[0].vip"),
        (|s| s.services[0].port = 65_536, "services[0].port"),
        (|s| s.services[0].protocol = 7, "services[0].protocol"),
        (|s| s.services[0].members[0].port = 0, "services[0].members[0].port"),
        (|s| s.services[0].members[0].address = "pod".into(), "services[0].members[0].address"),
        (|s| s.services.push(s.services[0].clone()), "services[1]"),
    ];
    for (change, field) in cases {
        let mut message = good();
        change(&mut message);
        let error = Snapshot::try_from(message).unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }
}

#[test]
fn the_same_pod_twice_is_one_member() {
    let mut message = good();
    let member = message.services[0].members[0].clone();
    message.services[0].members.push(member);
    assert_eq!(Snapshot::try_from(message).unwrap().services[0].members.len(), 1);
}

#[test]
fn verdicts_and_observations_survive_the_wire() {
    let version = Version { epoch: 2, generation: 9 };
    let rejection = Rejection { reason: Reason::Conflict, message: "cluster b has it".into() };
    for verdict in [Verdict::Accepted(version), Verdict::Rejected(rejection)] {
        assert_eq!(Verdict::try_from(proto::Verdict::from(verdict.clone())), Ok(verdict));
    }
    let snapshot = Snapshot::try_from(good()).unwrap();
    let service = &snapshot.services[0];
    let observation = Observation {
        engine: "0.1.0".into(),
        accepted: Some(version),
        routes: vec![RouteState { route: snapshot.routes[0], problem: Some("no interface".into()) }],
        services: vec![ServiceState {
            name: service.name.clone(),
            front: service.front,
            problem: None,
            connections: 3,
        }],
    };
    let message = proto::Observation::from(observation.clone());
    assert_eq!(Observation::try_from(message), Ok(observation));
}

#[test]
fn a_controller_that_takes_over_is_newer_than_any_before() {
    let old = Version { epoch: 4, generation: 1_000 };
    assert!(Version::taking_over(Some(old)) > old);
    assert!(Version::taking_over(None).next() > Version::taking_over(None));
}

#[test]
fn credentials_in_the_wrong_order_are_named() {
    let certificate = "-----BEGIN CERTIFICATE-----";
    let error = Credentials::new(certificate, certificate, certificate).unwrap_err();
    assert!(error.to_string().contains("the private key"), "{error}");
}

fn good() -> proto::Snapshot {
    proto::Snapshot {
        cluster: "k8s".into(),
        version: Some(proto::Version { epoch: 1, generation: 1 }),
        routes: vec![proto::Route { prefix: "192.168.101.0/24".into(), via: "10.100.1.101".into() }],
        services: vec![proto::Service {
            name: "k8s--default-nginx1".into(),
            vip: "172.16.251.1".into(),
            port: 80,
            protocol: proto::Protocol::Tcp.into(),
            members: vec![proto::Member { address: "10.244.3.23".into(), port: 8080 }],
        }],
    }
}
