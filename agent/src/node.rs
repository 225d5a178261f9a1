//! The owner of this node: one thread that has the records, the leases and the kernel, and takes one event at a time.
//!
//! Events in by one inbox: calls of the CNI binary, changes of the world, answers of the API server. Requests out by
//! one queue (`changes`). It never waits for anything but the kernel: a pod that needs a lease or is not yet seen by the
//! watch is parked, and tried again at every event until its time is up.
//!
//! Every few seconds it compares the kernel with what should be and repairs it, and releases what no pod holds any more.
//! `addresses` says which addresses a pod gets, `attach` does the verbs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use portolan_core::egress::node::{Duty, Knowledge, duty};
use portolan_core::mark::GatewayNumber;
use portolan_core::routes;
use portolan_daemon::flood::Flood;
use portolan_daemon::ready::Task;
use portolan_wire::cni::{Command, Failure, Request, Response, Scope, code};
use tokio::sync::watch;

use crate::addresses::WaitsFor;
use crate::changes::Answer;
use crate::events::{Events, Subject};
use crate::history::History;
use crate::inbox::Inbox;
use crate::inspect::Ask;
use crate::install::Install;
use crate::kernel::{Desired, Hands, NodeAddresses, Place};
use crate::leases::Leases;
use crate::listener::Call;
use crate::metrics::{Metrics, OfPool};
use crate::records::{Key, Record, Records};
use crate::words::{QUIET, Word, Words};
use crate::world::World;

/// What the owner is told.
#[derive(Debug)]
pub enum Event {
    /// The CNI binary asks for something.
    Call(Box<Call>),
    /// There is a newer world.
    Changed,
    /// The API server has answered a change.
    Answer(Answer),
    /// Somebody asks about this node.
    Inspect(Ask),
    /// The agent ends.
    Stop,
}

/// The kernel is compared with what should be at least this often.
const REPAIR: Duration = Duration::from_secs(3);
/// The kernel gets one part of the owner's time, what waits for the owner this many.
const OTHERS_SHARE: u32 = 3;
/// A call that waits is looked at again after this long, also where nothing has changed: a time may have come.
const RETRY: Duration = Duration::from_millis(250);
/// A pod waits this long for what it needs before the runtime is told to come back.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses that were given to another main plugin come back when their pod has been gone for so long: nothing here shows
/// whether its interface still exists.
const GONE: Duration = Duration::from_secs(300);

/// The owner's state.
pub struct Owner {
    /// This node's name.
    pub(crate) node: String,
    pub(crate) worlds: watch::Receiver<Option<Arc<World>>>,
    pub(crate) world: Option<Arc<World>>,
    pub(crate) records: Records,
    pub(crate) leases: Leases,
    history: History,
    notes: Events,
    pub(crate) hands: Hands,
    /// The Egress that selects each local pod, by the pod's address.
    pub(crate) selected: BTreeMap<IpAddr, String>,
    pub(crate) duty: Duty,
    pub(crate) mtu: Option<u32>,
    /// What the last pass could not bring about.
    pub(crate) impaired: Option<String>,
    pub(crate) metrics: Metrics,
    numbers: Option<BTreeMap<String, GatewayNumber>>,
    parked: Vec<Parked>,
    /// What the history and the pods' Events have not been told yet.
    pub(crate) words: Words,
    /// When the first address that a parked pod waits for has rested.
    wake: Option<Instant>,
    /// Attachments of other main plugins whose pod is gone, since when.
    orphans: BTreeMap<Key, Instant>,
    /// Pods that are bound to this node and have no address yet, since when.
    pub(crate) bound: BTreeMap<(String, String), Instant>,
    flood: Flood,
    start: Option<Start>,
}

/// A call that has not been answered.
struct Parked {
    call: Box<Call>,
    since: Instant,
    waits_for: String,
}

/// What is to be done once, when the node's network first is as it should be.
pub struct Start {
    /// Until then the agent is not ready.
    pub ready: Task,
    /// From then on the runtime may call.
    pub install: Install,
}

/// Where the owner says what it does.
pub struct Reports {
    /// Who held which address when.
    pub history: History,
    /// Events on pods.
    pub notes: Events,
    /// Counters and gauges.
    pub metrics: Metrics,
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
        reports: Reports,
        start: Start,
    ) -> Result<Self> {
        let Reports { history, notes, metrics } = reports;
        Ok(Self {
            node,
            worlds,
            world: None,
            records,
            leases,
            history,
            notes,
            hands: Hands::open()?,
            selected: BTreeMap::new(),
            duty: Duty::default(),
            mtu: None,
            impaired: None,
            metrics,
            numbers: None,
            parked: vec![],
            words: Words::default(),
            wake: None,
            orphans: BTreeMap::new(),
            bound: BTreeMap::new(),
            flood: Flood::new(Duration::from_secs(60)),
            start: Some(start),
        })
    }

    /// Takes events until the agent ends. The kernel stays as it is then: running pods keep their network.
    ///
    /// All that have come are taken at once. Leases and calls are looked at every time, the kernel only so often that it has
    /// a part of this thread: while many pods start, a pass takes longer than the next change takes to come.
    pub fn run(mut self, inbox: &Inbox) {
        let (mut repair, mut pass_from, mut changed) = (Instant::now(), Instant::now(), true);
        loop {
            let pass_at = if changed { pass_from.min(repair) } else { repair };
            let retry = (!self.parked.is_empty()).then(|| Instant::now() + RETRY);
            let turn = self.leases.next_turn(Instant::now());
            let quiet = (!self.words.is_empty()).then(|| Instant::now() + QUIET);
            let next = [self.wake, retry, turn, quiet].into_iter().flatten().fold(pass_at, Instant::min);
            let events = inbox.wait(next);
            if events.is_empty() || self.words.are_due() {
                self.words.say(&self.history, &self.notes);
            }
            if events.into_iter().any(|event| !self.take(event)) {
                return self.words.say(&self.history, &self.notes);
            }
            let newer = self.look();
            if newer {
                changed = true;
                self.heed_leases();
            }
            self.serve();
            let (begun, due) = (Instant::now(), Instant::now() >= repair);
            let my_turn = turn.is_some_and(|turn| begun >= turn);
            if !newer && (due || my_turn || !self.parked.is_empty()) {
                self.heed_leases();
            }
            if due || changed && begun >= pass_from {
                self.pass(due);
                self.serve();
                changed = false;
                pass_from = Instant::now() + (begun.elapsed() * OTHERS_SHARE).min(REPAIR);
                if due {
                    repair = Instant::now() + REPAIR;
                }
            }
        }
    }

    /// Takes an event in. False when it is the last.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Call(call) => {
                self.parked.push(Parked { call, since: Instant::now(), waits_for: String::new() });
            }
            // The world itself says whether it is newer than the one that was looked at.
            Event::Changed => {}
            Event::Answer(answer) => self.learn(answer),
            Event::Inspect(ask) => self.tell(ask),
            Event::Stop => return false,
        }
        true
    }

    fn learn(&mut self, answer: Answer) {
        if let Some(trouble) = self.leases.learn(answer, Instant::now()) {
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

    /// Looks at the leases as the watch shows them, asks for what will soon be needed, and gives what is owed.
    fn heed_leases(&mut self) {
        let Some(world) = self.world.clone() else { return };
        let (now, (_, cidrs)) = (Instant::now(), world.node(&self.node));
        self.leases.look(cidrs, &world.leases, &world.pools, now);
        self.claim_ahead(&world);
        self.leases.fulfil(world.nodes.len(), now);
    }

    /// One pass over the kernel: observe, decide, bring about.
    fn pass(&mut self, due: bool) {
        let Some(world) = self.world.clone() else { return };
        if due {
            self.release_what_no_pod_holds(&world);
        }
        self.impaired = self.bring_about(&world).err();
        match self.impaired.clone() {
            None => self.begin(),
            Some(errors) => self.complain(&errors),
        }
        self.count(&world);
    }

    fn count(&self, world: &World) {
        self.metrics.held.clear();
        self.metrics.free.clear();
        let whole = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
        for given in self.records.iter().flat_map(|record| &record.addresses) {
            self.metrics.held.get_or_create(&of_pool(given.pool.as_deref())).inc();
        }
        for pool in world.pools.keys() {
            let free = whole(self.leases.book().free(pool));
            self.metrics.free.get_or_create(&of_pool(Some(pool))).set(free);
        }
        self.metrics.free.get_or_create(&of_pool(None)).set(whole(self.leases.book().free("")));
        self.metrics.owned.set(i64::try_from(self.duty.own.len()).unwrap_or(i64::MAX));
    }

    fn bring_about(&mut self, world: &World) -> Result<(), String> {
        let addresses = self.addresses(world).map_err(|error| format!("{error:#}"))?;
        let uplink = self.hands.uplink(addresses).map_err(|error| format!("{error:#}"))?;
        self.mtu = Some(Hands::pod_mtu(&uplink));
        let pods = self.records.iter();
        let egress =
            |namespace: &str, pod: &str| world.egress(namespace, pod).map(|egress| egress.name.clone());
        self.selected = pods
            .filter_map(|record| Some((record, egress(&record.namespace, &record.pod)?)))
            .flat_map(|(record, egress)| record.ips().map(move |ip| (ip, egress.clone())))
            .collect();
        self.duty = self.decide(world)?;
        let table = routes::table(&world.nodes, &world.leases);
        let desired = Desired {
            addresses,
            pods: self.links().collect(),
            remote: routes::for_node(&table, &self.node, &uplink.subnets),
            nodes: world.nodes.iter().filter_map(|node| NodeAddresses::of(node).v4).collect(),
            cluster: world.cluster(),
            masquerade: world.masquerade(),
            openings: self.records.iter().flat_map(Record::openings).collect(),
            duty: self.duty.clone(),
        };
        self.hands.converge(&desired).map_err(|errors| errors.join("; "))
    }

    /// Where the addresses of local pods are. What an ADD left behind that did not come to its end is not set right: the next
    /// ADD or DEL of its container takes it back.
    fn links(&self) -> impl Iterator<Item = (IpAddr, Place)> + '_ {
        let wired = self.records.iter().filter(|record| record.scope == Scope::Interface && record.complete);
        let place =
            |record: &Record| Place { link: record.host_interface.clone(), routed: self.routed(record) };
        wired.flat_map(move |record| record.ips().map(move |ip| (ip, place(record))))
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

    fn addresses(&self, world: &World) -> Result<NodeAddresses> {
        let node = world.nodes.iter().find(|node| node.name == self.node);
        let node =
            node.with_context(|| format!("Node {} does not exist: has its kubelet registered?", self.node))?;
        let first = node.address.map(|_| NodeAddresses::of(node));
        first.with_context(|| format!("Node {} has no InternalIP in status.addresses", self.node))
    }

    /// Pools that pods here have addresses of.
    pub(crate) fn pools_in_use(&self) -> BTreeSet<String> {
        self.records
            .iter()
            .flat_map(|record| &record.addresses)
            .filter_map(|given| given.pool.clone())
            .collect()
    }

    /// What the pod's ADD waits for, where one is parked.
    pub(crate) fn waits_for(&self, namespace: &str, name: &str) -> Option<String> {
        let of_pod = |parked: &&Parked| {
            let pod = parked.call.request.pod.as_ref();
            pod.is_some_and(|pod| pod.namespace == namespace && pod.name == name)
        };
        self.parked.iter().find(of_pod).map(|parked| parked.waits_for.clone())
    }

    /// A record whose link is gone belongs to a pod whose namespace is gone: its DEL never came, or found no agent. One
    /// without a link belongs to a pod that the API server may know no more.
    fn release_what_no_pod_holds(&mut self, world: &World) {
        let links = match self.hands.links() {
            Ok(links) => links,
            Err(error) => return self.complain(&format!("links: {error:#}")),
        };
        let wired = self.records.iter().filter(|record| record.scope == Scope::Interface);
        let gone: Vec<_> = wired.filter(|record| !links.contains(&record.host_interface)).cloned().collect();
        let lost = self.orphaned(world, Instant::now());
        let gone = gone.into_iter().map(|record| (record, "namespace gone"));
        for (record, reason) in gone.chain(lost.into_iter().map(|record| (record, "pod gone"))) {
            if let Err(failure) = self.reclaim(&record, reason) {
                self.complain(&format!("record of {}: {failure}", record.pod));
            }
        }
    }

    fn orphaned(&mut self, world: &World, now: Instant) -> Vec<Record> {
        let addresses = self.records.iter().filter(|record| record.scope == Scope::Addresses);
        let gone = addresses.filter(|record| {
            let known = world.pods.get(&(record.namespace.clone(), record.pod.clone()));
            let same = known.is_some_and(|pod| record.uid.as_ref().is_none_or(|uid| *uid == pod.uid));
            !record.pod.is_empty() && !same
        });
        let gone: BTreeMap<_, _> = gone.map(|record| (record.key(), record)).collect();
        self.orphans.retain(|key, _| gone.contains_key(key));
        for key in gone.keys() {
            self.orphans.entry(key.clone()).or_insert(now);
        }
        let long = |key: &Key| self.orphans.get(key).is_some_and(|since| now.duration_since(*since) >= GONE);
        gone.into_iter().filter(|(key, _)| long(key)).map(|(_, record)| record.clone()).collect()
    }

    /// Tries what is parked. Nothing overtakes: a DEL waits for the ADD before it, in this one thread.
    fn serve(&mut self) {
        self.wake = None;
        let mut freed = false;
        for mut parked in std::mem::take(&mut self.parked) {
            let call = &parked.call;
            // A runtime that has given up wants no answer, and no address.
            if call.reply.is_closed() && call.request.command == Command::Add {
                continue;
            }
            let (request, netns) = (&call.request, call.netns.as_ref());
            let done = |()| Ok(Response::Done);
            let answer = match request.command {
                Command::Add => self.add(request, netns),
                Command::Del => self.del(request).map(done),
                Command::Check => self.check(request, netns).map(done),
                Command::Status => self.status(request).map(done),
                Command::Gc => self.collect(request).map(done),
            };
            match answer {
                Ok(Ok(response)) => {
                    freed |= response == Response::Done;
                    self.answer(parked, response);
                }
                Err(failure) => self.answer(parked, Response::Failed(failure)),
                Ok(Err(waits_for)) if parked.since.elapsed() >= PATIENCE => {
                    let message = format!("waited {} s for {}", PATIENCE.as_secs(), waits_for.what);
                    let later = Failure::later(message, "the runtime will come back");
                    self.answer(parked, Response::Failed(later));
                }
                Ok(Err(WaitsFor { what, until })) => {
                    let until = until.map(|until| self.leases.instant(until));
                    self.wake = self.wake.into_iter().chain(until).min();
                    if parked.waits_for != what {
                        let since = parked.since.elapsed();
                        tracing::debug!(container = parked.call.request.container_id, ?since, what, "waits");
                    }
                    parked.waits_for = what;
                    self.parked.push(parked);
                }
            }
        }
        if let Some(world) = self.world.clone().filter(|_| freed) {
            self.leases.fulfil(world.nodes.len(), Instant::now());
        }
    }

    fn answer(&mut self, parked: Parked, response: Response) {
        let Parked { call, since, .. } = parked;
        let failure = match &response {
            Response::Failed(failure) => Some(failure),
            Response::Added(_) | Response::Done => None,
        };
        if let Some(failure) = failure {
            tracing::warn!(container = call.request.container_id, command = ?call.request.command, %failure, "refused");
        }
        tracing::debug!(container = call.request.container_id, command = ?call.request.command, since = ?since.elapsed(), "answers");
        self.metrics.answered(call.request.command, since.elapsed(), failure.map(|failure| failure.code));
        // The runtime first; everybody else has time.
        let Call { request, reply, .. } = *call;
        if reply.send(response.clone()).is_err() {
            tracing::debug!("the runtime has given up");
        }
        self.note(&request, &response);
    }

    /// Tells the pod's own Events what became of its ADD.
    fn note(&mut self, request: &Request, response: &Response) {
        let Some(pod) = request.pod.as_ref().filter(|_| request.command == Command::Add) else { return };
        let uid = || {
            let world = self.world.as_ref()?;
            let (facts, _) = world.pod(&pod.namespace, &pod.name, pod.uid.as_deref())?;
            Some(facts.uid.clone())
        };
        let Some(uid) = pod.uid.clone().or_else(uid) else { return };
        let subject = Subject { namespace: pod.namespace.clone(), name: pod.name.clone(), uid };
        match response {
            Response::Added(_) => {
                let key = (request.container_id.clone(), request.interface.clone());
                let given = self.records.get(&key).into_iter().flat_map(|record| &record.addresses);
                let given: Vec<_> = given.map(|one| (one.address, one.pool.clone())).collect();
                self.words.push(Word::Given(subject, given));
            }
            Response::Failed(failure) if matches!(failure.code, code::ADDRESS | code::TRY_AGAIN_LATER) => {
                self.words.push(Word::Refused(subject, failure.to_string()));
            }
            Response::Failed(_) | Response::Done => {}
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

fn of_pool(pool: Option<&str>) -> OfPool {
    OfPool { pool: pool.unwrap_or("node").to_owned() }
}
