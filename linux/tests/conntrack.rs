//! Connections are seen as their first packet was, and forgotten one by one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::net::{SocketAddr, UdpSocket};

use common::Space;
use portolan_linux::conntrack::{Conntrack, Flow};

const UDP: u8 = 17;

#[test]
fn what_is_asked_for_is_forgotten_and_nothing_else() {
    let space = Space::new();
    space.nft("table inet t { chain c { type filter hook output priority 0; ct state new counter; }; }");
    let send = |from: &str, to: &str| {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let (_server, client) = space.run(|| (UdpSocket::bind(to).unwrap(), UdpSocket::bind(from).unwrap()));
        client.send_to(b"hello", to).unwrap();
        Flow { protocol: UDP, source: from, destination: to }
    };
    let mut flows = vec![
        send("127.0.0.1:4001", "127.0.0.1:53"),
        send("127.0.0.1:4002", "127.0.0.1:5353"),
        send("[::1]:4001", "[::1]:53"),
    ];
    flows.sort_unstable();
    let mut conntrack = space.run(Conntrack::open).unwrap();
    let seen = |conntrack: &mut Conntrack| {
        let mut seen = conntrack.flows().unwrap();
        seen.sort_unstable();
        seen
    };
    assert_eq!(seen(&mut conntrack), flows);
    let to_53 = |flow: &Flow| flow.protocol == UDP && flow.destination.port() == 53;
    assert_eq!(conntrack.forget(to_53).unwrap(), 2);
    flows.retain(|flow| !to_53(flow));
    assert_eq!(seen(&mut conntrack), flows);
    assert_eq!(conntrack.forget(to_53).unwrap(), 0);
}

#[test]
fn thousands_are_forgotten_in_one_pass() {
    const COUNT: u16 = 3000;
    let space = Space::new();
    space.nft("table inet t { chain c { type filter hook output priority 0; ct state new counter; }; }");
    space.run(|| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in 0..COUNT {
            // Nobody listens there; the refusal comes with the next call.
            let _ = client.send_to(b"hello", ("127.0.0.1", 10_000 + port));
            let _ = client.take_error();
        }
    });
    let mut conntrack = space.run(Conntrack::open).unwrap();
    let there = conntrack.flows().unwrap().len();
    assert!(there >= usize::from(COUNT) / 2, "{there}");
    assert_eq!(conntrack.forget(|_| true).unwrap(), there);
    assert_eq!(conntrack.flows().unwrap(), []);
}
