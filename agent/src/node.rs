//! The owner of this node: one thread that has the records, the leases and the kernel, and takes one event at a time.
//!
//! Events in by one channel: calls of the CNI binary, changes of the world, answers of the API server. Requests out by
//! one queue (`claims`). It never waits for anything but the kernel: a pod that needs a lease or is not yet seen by the
//! watch is parked, and tried again at every event until its time is up.
//!
//! Every few seconds it compares the kernel with what should be and repairs it, and releases what no pod holds any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use portolan_core::egress::node::{Duty, Knowledge, duty};
use portolan_core::ipam::reclaim;
use portolan_core::mark::GatewayNumber;
use portolan_core::routes;
use portolan_daemon::flood::Flood;
use portolan_daemon::ready::Task;
use portolan_wire::cni::{Command, Failure, Response, Scope};
use tokio::sync::watch;

use crate::claims::Outcome;
use crate::install::Install;
use crate::kernel::{Desired, Hands};
use crate::leases::Leases;
use crate::listener::Call;
use crate::metrics::Metrics;
use crate::records::{Record, Records};
use crate::world::World;

/// What the owner is told.
#[derive(Debug)]
pub enum Event {
    /// The CNI binary asks for something.
    Call(Call),
    /// There is a newer world.
    Changed,
    /// The API server has answered a wish.
    Claim(Outcome),
    /// The agent ends.
    Stop,
}

/// The kernel is compared with what should be at least this often.
const REPAIR: Duration = Duration::from_secs(3);
/// A pod waits this long for what it needs before the runtime is told to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// The owner's state.
pub struct Owner {
    /// This node's name.
    pub(crate) node: String,
    pub(crate) worlds: watch::Receiver<Option<Arc<World>>>,
    pub(crate) world: Option<Arc<World>>,
    pub(crate) records: Records,
    pub(crate) leases: Leases,
    pub(crate) hands: Hands,
    /// The Egress that selects each local pod, by the pod's address.
    pub(crate) selected: BTreeMap<IpAddr, String>,
    pub(crate) duty: Duty,
    pub(crate) mtu: Option<u32>,
    numbers: Option<BTreeMap<String, GatewayNumber>>,
    parked: Vec<(Call, Instant)>,
    flood: Flood,
    start: Option<Start>,
    metrics: Metrics,
}

/// What is to be done once, when the node's network first is as it should be.
pub struct Start {
    /// Until then the agent is not ready.
    pub ready: Task,
    /// From then on the runtime may call.
    pub install: Install,
}

impl Owner {
    /// An owner that knows nothing of the cluster yet. Opens the kernel of the calling thread.
    ///
    /// # Errors
    /// When the process may not.
    pub fn new(
        node: String,
        worlds: watch::Receiver<Option<Arc<World>>>,
        records: Records,
        leases: Leases,
        start: Start,
        metrics: Metrics,
    ) -> Result<Self> {
        Ok(Self {
            node,
            worlds,
            world: None,
            records,
            leases,
            hands: Hands::open()?,
            selected: BTreeMap::new(),
            duty: Duty::default(),
            mtu: None,
            numbers: None,
            parked: vec![],
            flood: Flood::new(Duration::from_secs(60)),
            start: Some(start),
            metrics,
        })
    }

    /// Takes events until the agent ends. The kernel stays as it is then: running pods keep their network.
    pub fn run(mut self, events: &Receiver<Event>) {
        let mut repair = Instant::now();
        loop {
            let event = events.recv_timeout(repair.saturating_duration_since(Instant::now()));
            let (mut changed, mut call) = (false, None);
            match event {
                Ok(Event::Call(asked)) => call = Some(asked),
                Ok(Event::Changed) => changed = true,
                Ok(Event::Claim(outcome)) => self.learn(outcome),
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let due = Instant::now() >= repair;
            if self.look() || changed || due {
                self.pass(due);
            }
            if due {
                repair = Instant::now() + REPAIR;
            }
            if let Some(call) = call {
                self.parked.push((call, Instant::now() + PATIENCE));
            }
            self.serve();
        }
    }

    fn learn(&mut self, outcome: Outcome) {
        if let Some(trouble) = self.leases.learn(outcome, Instant::now()) {
            self.complain(&trouble);
        }
    }

    /// Whether there is a newer world.
    fn look(&mut self) -> bool {
        if !self.worlds.has_changed().unwrap_or_default() {
            return false;
        }
        self.world.clone_from(&self.worlds.borrow_and_update());
        true
    }

    /// One pass: observe, decide, bring about.
    fn pass(&mut self, due: bool) {
        let Some(world) = self.world.clone() else { return };
        self.leases.settle(&world, Instant::now());
        if due {
            self.release_what_no_pod_holds();
            self.give_back_what_is_not_used(&world);
        }
        match self.bring_about(&world) {
            Ok(()) => self.begin(),
            Err(errors) => self.complain(&errors),
        }
        self.metrics.pods.set(i64::try_from(self.records.iter().count()).unwrap_or(i64::MAX));
        self.metrics.owned.set(i64::try_from(self.duty.own.len()).unwrap_or(i64::MAX));
    }

    fn bring_about(&mut self, world: &World) -> Result<(), String> {
        let address = self.address(world).map_err(|error| format!("{error:#}"))?;
        let uplink = self.hands.uplink(address).map_err(|error| format!("{error:#}"))?;
        self.mtu = Some(Hands::pod_mtu(&uplink));
        let pods = self.records.iter();
        let egress =
            |namespace: &str, pod: &str| world.egress(namespace, pod).map(|egress| egress.name.clone());
        self.selected = pods
            .filter_map(|record| Some((record, egress(&record.namespace, &record.pod)?)))
            .flat_map(|(record, egress)| record.ips().map(move |ip| (ip, egress.clone())))
            .collect();
        self.duty = self.decide(world)?;
        let leases = self.leases.known(world);
        let table = routes::table(&world.nodes, leases.values());
        let desired = Desired {
            address,
            pods: self.links().collect(),
            remote: routes::for_node(&table, &self.node, &uplink.subnets),
            nodes: world.addresses().values().filter_map(only_ipv4).collect(),
            cluster: world.cluster(),
            masquerade: world.masquerade(),
            duty: self.duty.clone(),
        };
        self.hands.converge(&desired).map_err(|errors| errors.join("; "))
    }

    /// Addresses of local pods and the node's end of each one's link.
    fn links(&self) -> impl Iterator<Item = (IpAddr, String)> + '_ {
        let wired = self.records.iter().filter(|record| record.scope == Scope::Interface);
        wired.flat_map(|record| record.ips().map(|ip| (ip, record.host_interface.clone())))
    }

    /// What this node has to do for egress; the numbers of gateways are kept from pass to pass and over restarts.
    pub(crate) fn decide(&mut self, world: &World) -> Result<Duty, String> {
        let addresses = world.addresses();
        let numbers = match &self.numbers {
            Some(numbers) => numbers.clone(),
            None => {
                let used = self.hands.numbers().map_err(|error| format!("{error:#}"))?;
                let name = |(node, address): (&String, &IpAddr)| Some((node.clone(), *used.get(address)?));
                addresses.iter().filter_map(name).collect()
            }
        };
        let duty = duty(Knowledge {
            node: &self.node,
            addresses: &addresses,
            egresses: &world.egresses,
            owners: &world.owners(),
            pods: &self.selected,
            numbers: &numbers,
        });
        self.numbers = Some(duty.numbers.clone());
        Ok(duty)
    }

    fn address(&self, world: &World) -> Result<Ipv4Addr> {
        let node = world.nodes.iter().find(|node| node.name == self.node);
        let node =
            node.with_context(|| format!("Node {} does not exist: has its kubelet registered?", self.node))?;
        let address = node.address.as_ref().and_then(only_ipv4);
        address.with_context(|| format!("Node {} has no IPv4 InternalIP in status.addresses", self.node))
    }

    /// A record whose link is gone belongs to a pod whose namespace is gone: its DEL never came, or found no agent.
    fn release_what_no_pod_holds(&mut self) {
        let links = match self.hands.links() {
            Ok(links) => links,
            Err(error) => return self.complain(&format!("links: {error:#}")),
        };
        let wired = self.records.iter().filter(|record| record.scope == Scope::Interface);
        let gone: Vec<_> = wired.filter(|record| !links.contains(&record.host_interface)).cloned().collect();
        for record in gone {
            tracing::info!(addresses = ?record.ips().collect::<Vec<_>>(), pod = %record.pod, "released: its namespace is gone");
            if let Err(error) = self.records.remove(&record.key()) {
                self.complain(&format!("record of {}: {error}", record.pod));
            }
        }
    }

    fn give_back_what_is_not_used(&mut self, world: &World) {
        let held: BTreeSet<_> = self.records.iter().flat_map(Record::ips).collect();
        let known = self.leases.known(world);
        let unused = reclaim::unused(&self.node, &known, &held);
        self.leases.give_back_idle(&unused, Instant::now());
    }

    /// Tries what is parked. Nothing overtakes: a DEL waits for the ADD before it, in this one thread.
    fn serve(&mut self) {
        for (call, deadline) in std::mem::take(&mut self.parked) {
            // A runtime that has given up wants no answer, and no address.
            if call.reply.is_closed() && call.request.command == Command::Add {
                continue;
            }
            let answer = match call.request.command {
                Command::Add => self.add(&call.request, call.netns.as_ref()),
                Command::Del => self.del(&call.request).map(|()| Ok(Response::Done)),
                Command::Check => self.check(&call.request, call.netns.as_ref()).map(|()| Ok(Response::Done)),
                Command::Status | Command::Gc => Ok(Ok(Response::Done)),
            };
            match answer {
                Ok(Ok(response)) => reply(call, response),
                Err(failure) => reply(call, Response::Failed(failure)),
                Ok(Err(waits_for)) if Instant::now() >= deadline => {
                    let message = format!("waited {} s for {waits_for}", PATIENCE.as_secs());
                    reply(call, Response::Failed(Failure::later(message, "the runtime will come back")));
                }
                Ok(Err(_)) => self.parked.push((call, deadline)),
            }
        }
    }

    /// The node's network is as it should be: now pods may come.
    fn begin(&mut self) {
        let Some(Start { ready, install }) = self.start.take() else { return };
        if let Err(error) = install.configuration() {
            self.complain(&format!("{error:#}"));
            self.start = Some(Start { ready, install });
            return;
        }
        ready.done();
    }

    fn complain(&mut self, trouble: &str) {
        if let Some(before) = self.flood.admit(trouble, Instant::now()) {
            tracing::warn!(before, "{trouble}");
        }
    }
}

fn reply(call: Call, response: Response) {
    if let Response::Failed(failure) = &response {
        tracing::warn!(container = call.request.container_id, command = ?call.request.command, %failure, "refused");
    }
    if call.reply.send(response).is_err() {
        tracing::debug!("the runtime has given up");
    }
}

fn only_ipv4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}
