//! Announcements reach the neighbourhood, and namespaces are made and ended without a process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::{os::fd::AsFd, path::Path, time::Instant};

use common::{Space, packets::PATIENCE, rack::Rack};
use portolan_linux::{announce::Announcer, netns};

#[test]
fn an_announcement_moves_an_address_in_the_neighbours_eyes() {
    let rack = Rack::new();
    let mut owner = rack.host("owner", [10, 0, 0, 1]);
    let router = rack.host("router", [10, 0, 0, 2]);
    router.space.ip("neigh add 10.0.0.100 lladdr 02:00:00:00:00:99 dev eth0 nud reachable");
    let uplink = owner.kernel.link_with_address(owner.ip.into()).unwrap().unwrap();
    let announcer = owner.space.run(|| Announcer::open(&uplink)).unwrap();
    announcer.announce([10, 0, 0, 100].into()).unwrap();
    let mac = uplink.mac.unwrap().to_string();
    let start = Instant::now();
    while !router.space.ip("neigh show 10.0.0.100").contains(&mac) {
        assert!(start.elapsed() < PATIENCE, "{}", router.space.ip("neigh"));
    }
}

#[test]
fn a_device_without_a_hardware_address_cannot_announce() {
    let space = Space::new();
    let mut kernel = space.run(portolan_linux::Kernel::open).unwrap();
    let mut lo = kernel.link("lo").unwrap().unwrap();
    lo.mac = None;
    assert!(space.run(|| Announcer::open(&lo)).is_err());
}

#[test]
fn a_named_namespace_lasts_as_long_as_its_value() {
    let name = format!("ptl-test-{}", std::process::id());
    let named = netns::Named::create(&name).unwrap();
    assert!(netns::Named::create(&name).is_err(), "the name is taken");
    let again = netns::open(named.path()).unwrap();
    assert!(netns::is_same(named.as_fd(), again.as_fd()).unwrap());
    assert!(!netns::is_same(named.as_fd(), netns::own().unwrap().as_fd()).unwrap());
    let path = named.path().to_owned();
    drop(named);
    assert!(!Path::new(&path).exists());
}
