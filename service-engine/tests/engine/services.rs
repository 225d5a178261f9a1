//! Virtual services from a client's side.

use std::collections::BTreeMap;

use crate::bed::controller::Controller;
use crate::bed::engine::{Engine, Host};
use crate::bed::pods::{self, Conversation};
use crate::bed::{Bed, POD_A, POD_C, VIP, eventually, ip};

const FRONT: &str = "172.16.251.1:8080";
const MEMBER_A: &str = "192.168.101.13:8080";
const MEMBER_C: &str = "192.168.102.17:8080";
const ROUTES: [(&str, &str); 2] =
    [("192.168.101.0/24", "10.100.1.101"), ("192.168.102.0/24", "10.100.1.102")];

#[test]
fn a_virtual_address_reaches_pods_on_all_nodes_and_spreads_over_them() {
    let (bed, host) = (Bed::new(), Host::new());
    let (engine, _controller) = serve(&bed, &host, &[MEMBER_A, MEMBER_C]);
    let mut counts = BTreeMap::new();
    let mut held: Vec<Conversation> = (0..10).map(|_| Conversation::begin(&bed.client).unwrap()).collect();
    for conversation in &mut held {
        assert_eq!(conversation.say("hello").unwrap(), "hello");
        *counts.entry(conversation.pod.clone()).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(POD_A.to_owned(), 5), (POD_C.to_owned(), 5)]));
    let labels = format!("service=\"k8s--default-nginx1\",vip=\"{VIP}\",port=\"8080\"");
    let metrics = engine.fetch("/metrics");
    for line in [
        format!("portolan_engine_service_open_connections{{{labels}}} 10"),
        format!("portolan_engine_member_connections_total{{{labels},member=\"{MEMBER_A}\"}} 5"),
        format!("portolan_engine_member_received_bytes_total{{{labels},member=\"{MEMBER_A}\"}} 30"),
    ] {
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
}

#[test]
fn a_client_that_has_said_all_still_hears_the_answer() {
    let (bed, host) = (Bed::new(), Host::new());
    let _serving = serve(&bed, &host, &[MEMBER_A]);
    let conversation = Conversation::begin(&bed.client).unwrap();
    assert_eq!(conversation.end().unwrap(), "bye");
}

#[test]
fn a_member_that_is_removed_keeps_its_connections_and_gets_no_new_one() {
    let (bed, host) = (Bed::new(), Host::new());
    let (_engine, mut controller) = serve(&bed, &host, &[MEMBER_A]);
    let mut running = Conversation::begin(&bed.client).unwrap();
    assert_eq!(running.pod, POD_A);
    controller.service(FRONT, &[MEMBER_C]).push();
    eventually("new connections go to the other pod", || {
        Conversation::begin(&bed.client).is_ok_and(|conversation| conversation.pod == POD_C)
    });
    for _ in 0..5 {
        assert_eq!(Conversation::begin(&bed.client).unwrap().pod, POD_C);
    }
    assert_eq!(running.say("still there?").unwrap(), "still there?");
    assert_eq!(running.end().unwrap(), "bye");
}

#[test]
fn a_service_that_is_removed_resets_its_connections_and_gives_the_address_back() {
    let (bed, host) = (Bed::new(), Host::new());
    let (_engine, mut controller) = serve(&bed, &host, &[MEMBER_A]);
    // Enough of them that they cannot all be reset in one go before the address is taken away.
    let running: Vec<Conversation> = (0..200).map(|_| Conversation::begin(&bed.client).unwrap()).collect();
    controller.no_services().push();
    for conversation in running {
        assert_eq!(conversation.wait().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    eventually("the address is gone", || !ip(&bed.engine, "address show dev eth0").contains(VIP));
}

#[test]
fn a_member_that_does_not_answer_costs_no_client_its_connection() {
    let (bed, host) = (Bed::new(), Host::new());
    // Nobody listens on this port of the node.
    let (_engine, _controller) = serve(&bed, &host, &["192.168.101.13:9", MEMBER_C]);
    for _ in 0..5 {
        assert_eq!(Conversation::begin(&bed.client).unwrap().pod, POD_C);
    }
}

#[test]
fn a_service_without_a_ready_pod_refuses() {
    let (bed, host) = (Bed::new(), Host::new());
    let (engine, mut controller) = serve(&bed, &host, &[]);
    assert!(Conversation::begin(&bed.client).is_err());
    let metrics = engine.fetch("/metrics");
    assert!(metrics.contains("portolan_engine_service_refused_total"), "{metrics}");
    controller.service(FRONT, &[MEMBER_A]).push();
    eventually("the first pod is served", || Conversation::begin(&bed.client).is_ok());
}

#[test]
fn an_engine_that_restarts_without_a_controller_serves_what_it_had_accepted() {
    let (bed, host) = (Bed::new(), Host::new());
    let (engine, controller) = serve(&bed, &host, &[MEMBER_A, MEMBER_C]);
    drop(controller);
    // A power cut: nothing in order, nothing in the kernel.
    drop(engine);
    ip(&bed.engine, &format!("address del {VIP}/32 dev eth0"));
    ip(&bed.engine, "route flush proto 107");
    let _engine = host.start_with_vips(&bed);
    eventually("the pods are served", || Conversation::begin(&bed.client).is_ok());
}

#[test]
fn a_virtual_address_that_somebody_deletes_comes_back_and_is_announced() {
    let (bed, host) = (Bed::new(), Host::new());
    let _serving = serve(&bed, &host, &[MEMBER_A]);
    ip(&bed.engine, &format!("address del {VIP}/32 dev eth0"));
    // The client believes that somebody else has it, and is not due to ask.
    ip(&bed.client, &format!("neighbour replace {VIP} lladdr 02:00:00:00:00:66 dev eth0 nud reachable"));
    eventually("the address is back", || ip(&bed.engine, "address show dev eth0").contains(VIP));
    eventually("the client has been told", || {
        !ip(&bed.client, &format!("neighbour show {VIP}")).contains("02:00:00:00:00:66")
    });
    Conversation::begin(&bed.client).unwrap();
}

#[test]
fn addresses_that_are_not_ours_are_left_alone() {
    let (bed, host) = (Bed::new(), Host::new());
    let (_engine, mut controller) = serve(&bed, &host, &[MEMBER_A]);
    ip(&bed.engine, "address add 172.16.251.77/32 dev eth0");
    controller.no_services().push();
    eventually("ours is gone", || !ip(&bed.engine, "address show dev eth0").contains(VIP));
    assert!(ip(&bed.engine, "address show dev eth0").contains("172.16.251.77/32"));
}

#[test]
fn an_engine_for_routes_only_says_why_it_does_not_serve() {
    let (bed, host) = (Bed::new(), Host::new());
    let _engine = host.start(&bed, &[]);
    let mut controller = Controller::new(&bed, "k8s", host.authority.controller());
    controller.routes(&ROUTES).service(FRONT, &[MEMBER_A]).push();
    eventually("the reason is there", || {
        let problem = controller.observe().unwrap().services[0].problem.clone();
        problem.is_some_and(|problem| problem.contains("--vip-interface"))
    });
}

#[test]
fn an_engine_that_is_asked_to_end_lets_connections_finish() {
    let (bed, host) = (Bed::new(), Host::new());
    let (engine, _controller) = serve(&bed, &host, &[MEMBER_A]);
    let mut running = Conversation::begin(&bed.client).unwrap();
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| engine.end());
        eventually("no new connection is taken", || Conversation::begin(&bed.client).is_err());
        assert_eq!(running.say("one more").unwrap(), "one more");
        assert_eq!(running.end().unwrap(), "bye");
        assert!(ending.join().unwrap().success());
    });
    assert!(ip(&bed.engine, "address show dev eth0").contains(VIP), "the address stays for the next engine");
}

/// An engine that serves these members, with pods on both nodes.
fn serve<'a>(bed: &'a Bed, host: &Host, members: &[&str]) -> (Engine<'a>, Controller<'a>) {
    pods::start(&bed.node_1, POD_A);
    pods::start(&bed.node_2, POD_C);
    let engine = host.start_with_vips(bed);
    let mut controller = Controller::new(bed, "k8s", host.authority.controller());
    controller.routes(&ROUTES).service(FRONT, members).push();
    eventually("all is well", || controller.all_well());
    (engine, controller)
}
