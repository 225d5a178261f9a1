//! The virtual services: one listener each, least connections to the ready pods behind it.
//!
//! This file keeps the set of listeners as accepted. [`listen`] accepts, [`service`] knows the members and counts
//! (`portolan_core` picks), [`connection`] dials and relays, [`metrics`] tells Prometheus.
//!
//! Guarantees: a change of members touches no listener; a member that is removed gets no new connection and keeps
//! those it has. A service that is removed resets its connections: its address may be somebody else's from now on, and a
//! client should not wait for an answer that cannot come.

mod connection;
mod counted;
mod listen;
pub mod metrics;
pub mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use portolan_daemon::backoff::Backoff;
use portolan_daemon::drain::Drain;
use portolan_daemon::ready::Task;
use portolan_daemon::reconcile::{Loop, Next, Wake};
use portolan_wire::engine::{Front, Protocol, Service};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::state::Accepted;
use service::Virtual;

/// How often a listener that could not be opened is tried again, and dead ones are looked for.
const REPAIR: Duration = Duration::from_secs(3);
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), most: REPAIR };
/// How long the connections of removed services may take to be reset. Each only has to be scheduled.
const CLOSE: Duration = Duration::from_secs(2);

/// What listens.
#[derive(Debug, Default)]
pub struct Status {
    services: BTreeMap<Front, Arc<Virtual>>,
    problems: BTreeMap<Front, String>,
}

impl Status {
    /// Why a service does not listen; `None` when it does.
    pub fn problem(&self, front: Front) -> Option<String> {
        if self.services.contains_key(&front) {
            return None;
        }
        let problem = self.problems.get(&front).cloned();
        Some(problem.unwrap_or_else(|| "not brought about yet".to_owned()))
    }

    /// The open connections of a service, those to members that are leaving included.
    pub fn connections(&self, front: Front) -> u64 {
        self.services.get(&front).map_or(0, |service| service.open())
    }

    /// The services that listen.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Virtual>> {
        self.services.values()
    }
}

/// A listener that ends when it is dropped. Its connections only do when its service is removed.
#[derive(Debug)]
struct Listener {
    service: Arc<Virtual>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// Ends it and resets its connections. Returns when all of that has left the host.
    async fn close(mut self) {
        self.service.remove();
        self.task.abort();
        // Aborted, or ended before: either way nobody accepts any more.
        let _ = (&mut self.task).await;
        self.service.idle().await;
    }
}

/// Held by every connection; closed when the last one has ended.
type Alive = watch::Sender<()>;

/// Keeps the listeners as accepted until the drain begins, then waits up to `grace` for the open connections. `ready`
/// is done with the first pass.
pub async fn run(
    accepted: watch::Receiver<Arc<Accepted>>,
    status: watch::Sender<Arc<Status>>,
    ready: Task,
    drain: Drain,
    grace: Duration,
) {
    let alive = Alive::default();
    let wake = Wake::new();
    wake.follow(accepted.clone());
    let mut ready = Some(ready);
    let mut listeners = BTreeMap::new();
    let held = alive.clone();
    let pass = async move |_cause| {
        let snapshots = accepted.borrow().clone();
        close_removed(&mut listeners, &snapshots).await;
        let problems = converge(&mut listeners, &snapshots, &held);
        let first = problems.first_key_value().map(|(front, problem)| format!("{front}: {problem}"));
        let services = listeners.iter().map(|(front, listener)| (*front, listener.service.clone()));
        status.send_replace(Arc::new(Status { services: services.collect(), problems }));
        ready.take().into_iter().for_each(Task::done);
        first.map_or(Ok(Next::Change), Err)
    };
    // The listeners end with the loop; the connections go on.
    Loop::new("services", REPAIR, wake).with_backoff(BACKOFF).run(drain, pass).await;
    if timeout(grace, alive.closed()).await.is_err() {
        tracing::warn!(connections = alive.receiver_count(), "cut off at the end of the drain");
    }
}

/// Closes what is accepted no more. Its resets leave before the status says that it is gone: its address is taken away
/// then, and nothing can be said in its name any more.
async fn close_removed(listeners: &mut BTreeMap<Front, Listener>, accepted: &Accepted) {
    let wanted: BTreeSet<Front> = wanted(accepted).map(|service| service.front).collect();
    let removed: Vec<Listener> =
        listeners.extract_if(.., |front, _| !wanted.contains(front)).map(|(_, listener)| listener).collect();
    if removed.is_empty() {
        return;
    }
    for Listener { service, .. } in &removed {
        tracing::info!(service = %service.current().name, front = %service.front, "closed");
    }
    if timeout(CLOSE, join_all(removed.into_iter().map(Listener::close))).await.is_err() {
        tracing::warn!("connections of removed services are slow to end");
    }
}

/// Opens and changes listeners. Returns those that could not be opened, and why.
fn converge(
    listeners: &mut BTreeMap<Front, Listener>,
    accepted: &Accepted,
    alive: &Alive,
) -> BTreeMap<Front, String> {
    listeners.retain(|_, listener| !listener.task.is_finished());
    let mut problems = BTreeMap::new();
    for service in wanted(accepted) {
        let front = service.front;
        if let Some(listener) = listeners.get(&front) {
            listener.service.update(service);
            continue;
        }
        match listen::open(front) {
            Ok(socket) => {
                tracing::info!(service = %service.name, %front, members = service.members.len(), "listening");
                let service = Arc::new(Virtual::new(service));
                let task = tokio::spawn(listen::accept(socket, service.clone(), alive.clone()));
                listeners.insert(front, Listener { service, task });
            }
            Err(error) => {
                problems.insert(front, format!("cannot listen: {error}"));
            }
        }
    }
    problems
}

/// The accepted services that are listened for here.
fn wanted(accepted: &Accepted) -> impl Iterator<Item = &Service> {
    accepted.services().filter(|service| service.front.protocol == Protocol::Tcp)
}
