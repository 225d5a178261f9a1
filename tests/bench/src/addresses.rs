//! Allocations and releases in `core`, on one core: a node's pods start and end, as many as a node may have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use portolan_core::ipam::decide::{Decision, Known, decide};
use portolan_core::ipam::lease::blocks;
use portolan_core::ipam::{Book, Lease, Millis, Need, Pool, View};
use portolan_core::labels::Labels;

use crate::report::Figure;
use crate::{Clock, Size, median};

/// What this measures.
pub const FIGURES: [&str; 1] = ["ipam-core-ops-per-second"];

/// The pods of a full node (kubelet's largest usual number); they start and end so often that 10,000 addresses are given
/// and released.
const PODS: usize = 250;
const TURNS: usize = 40;
const SAMPLES: usize = 15;
const NODES: usize = 10;

/// Measures. An operation is one allocation (the decision, and its entry in the book) or one release.
pub fn measure(clock: &Clock, _: Size) -> Result<Vec<Figure>> {
    clock.step(&format!("addresses: {SAMPLES} times {} allocations and as many releases", PODS * TURNS));
    let times: Result<Vec<_>> = (0..SAMPLES).map(|_| once()).collect();
    let middle = median(&times?);
    let operations = u32::try_from(2 * PODS * TURNS)?;
    clock.note("one allocation or release: median", &format!("{} ns", (middle / operations).as_nanos()));
    let [name] = FIGURES;
    Ok(vec![Figure::at_least(1e6, name, "per second", f64::from(operations) / middle.as_secs_f64())])
}

fn once() -> Result<Duration> {
    let mut node = Node::new()?;
    let candidates = ["bench".to_owned()];
    let mut held = Vec::with_capacity(PODS);
    let started = Instant::now();
    for _ in 0..TURNS {
        // What rested has rested.
        node.now += 60_000;
        for _ in 0..PODS {
            held.push(node.allocate(&candidates)?);
        }
        held.drain(..).for_each(|address| node.book.give_back(address, node.now));
    }
    Ok(started.elapsed())
}

/// A node as its agent sees it: with sixteen blocks of a pool of which the other nodes have as many.
struct Node {
    pools: BTreeMap<String, Pool>,
    view: View,
    book: Book,
    now: Millis,
}

impl Node {
    fn new() -> Result<Self> {
        let range: IpNet = "10.40.0.0/20".parse()?;
        let pool = Pool::new("bench", [range].into_iter().collect());
        let held = blocks(&pool).take(NODES * PODS.div_ceil(pool.lease_size as usize)).enumerate();
        let view: View = held
            .map(|(number, block)| Lease::new("bench", block, &format!("node-{}", number % NODES)))
            .collect();
        let pools = [(pool.name.clone(), pool)].into();
        let (mut book, now) = (Book::default(), 0);
        book.sync("node-0", &["10.10.1.0/24".parse()?], &view, &pools, now);
        Ok(Self { pools, view, book, now })
    }

    fn allocate(&mut self, candidates: &[String]) -> Result<IpAddr> {
        let known = Known {
            node: "node-0",
            labels: &Labels::new(),
            cidrs: &[],
            pools: &self.pools,
            view: &self.view,
            book: &self.book,
            pending: &BTreeMap::new(),
            vain: &BTreeSet::new(),
            now: self.now,
        };
        let Decision::Take(chosen) = decide(candidates, &Need::Any, known) else { bail!("no address left") };
        let address = chosen.first().context("an allocation without an address")?.address;
        if self.book.take(address) { Ok(address) } else { bail!("{address} is held already") }
    }
}
