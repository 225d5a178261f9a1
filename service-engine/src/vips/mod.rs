//! Virtual addresses on the front interface: brought about, announced, repaired.
//!
//! Guarantees: only addresses marked as ours are removed; an address is announced once it is on the interface, never
//! before; the engine's end leaves the addresses in place, so that a restart costs no neighbour its entry.

mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ipnet::IpNet;
use portolan_daemon::backoff::Backoff;
use portolan_daemon::drain::Drain;
use portolan_daemon::ready::Task;
use portolan_daemon::reconcile::{Loop, Next, Wake};
use portolan_linux::announce::Announcer;
use portolan_linux::{Address, Kernel};
use tokio::sync::watch;

use crate::proxy;
use crate::state::Accepted;
use schedule::Schedule;

/// How often the kernel is looked at when nothing has changed.
const REPAIR: Duration = Duration::from_secs(3);
/// One address that cannot be must not slow down the repair of the others.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), most: REPAIR };

/// Which virtual addresses are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    present: BTreeSet<IpAddr>,
    problems: BTreeMap<IpAddr, String>,
}

impl Status {
    /// Why an address is not there; `None` when it is.
    pub fn problem(&self, vip: IpAddr) -> Option<String> {
        if self.present.contains(&vip) {
            return None;
        }
        let problem = self.problems.get(&vip).cloned();
        Some(problem.unwrap_or_else(|| "not brought about yet".to_owned()))
    }
}

/// Where the addresses come from.
#[derive(Debug)]
pub struct Sources {
    /// What is promised.
    pub accepted: watch::Receiver<Arc<Accepted>>,
    /// What listens.
    pub proxy: watch::Receiver<Arc<proxy::Status>>,
}

impl Sources {
    /// The addresses of the accepted services, and of those that have not closed yet: what they still have to say to
    /// their clients leaves with that address.
    fn vips(&self) -> BTreeSet<IpAddr> {
        let accepted = self.accepted.borrow().clone();
        let listening = self.proxy.borrow().clone();
        let accepted = accepted.services().map(|service| service.front.vip);
        accepted.chain(listening.services().map(|service| service.front.vip)).collect()
    }
}

/// Keeps the services' addresses on `interface` until the drain begins. `ready` is done with the first pass.
pub async fn run(
    interface: String,
    sources: Sources,
    status: watch::Sender<Arc<Status>>,
    ready: Task,
    drain: Drain,
) {
    let wake = Wake::new();
    wake.follow(sources.accepted.clone());
    wake.follow(sources.proxy.clone());
    let mut ready = Some(ready);
    let mut schedule = Schedule::default();
    let pass = async move |_cause| {
        let vips = sources.vips();
        let outcome = bring_about(interface.clone(), vips.clone(), &mut schedule).await;
        let new = match &outcome {
            Ok(new) => new.clone(),
            Err(error) => {
                let failed = vips.into_iter().map(|vip| (vip, format!("{error:#}")));
                Status { problems: failed.collect(), ..Status::default() }
            }
        };
        status.send_replace(Arc::new(new));
        ready.take().into_iter().for_each(Task::done);
        match outcome?.problems.first_key_value() {
            Some((vip, problem)) => Err(anyhow::anyhow!("address {vip}: {problem}")),
            None => Ok(schedule.next_deadline().map_or(Next::Change, |deadline| {
                Next::After(deadline.saturating_duration_since(Instant::now()))
            })),
        }
    };
    Loop::new("vips", REPAIR, wake).with_backoff(BACKOFF).run(drain, pass).await;
}

/// What stands in for [`run`] without `--vip-interface`: says of every service that it is not served.
pub async fn routes_only(
    mut accepted: watch::Receiver<Arc<Accepted>>,
    status: watch::Sender<Arc<Status>>,
    drain: Drain,
) {
    loop {
        let problem = "this engine was started without --vip-interface: it holds routes only";
        let snapshots = accepted.borrow_and_update().clone();
        let problems = snapshots.services().map(|service| (service.front.vip, problem.to_owned()));
        status.send_replace(Arc::new(Status { problems: problems.collect(), ..Status::default() }));
        match drain.or(accepted.changed()).await {
            Some(Ok(())) => {}
            // The desk ends with the drain, a moment before this task may hear of it.
            Some(Err(_)) | None => return,
        }
    }
}

/// One pass: observe, converge, announce what is due.
async fn bring_about(
    interface: String,
    vips: BTreeSet<IpAddr>,
    schedule: &mut Schedule,
) -> anyhow::Result<Status> {
    let now = Instant::now();
    let mut work = schedule.clone();
    let pass = move || -> anyhow::Result<(Status, Schedule)> {
        let mut kernel = Kernel::open()?;
        let (status, fresh) = converge(&mut kernel, &interface, &vips)?;
        let present = status.present.iter().copied().filter_map(v4).collect();
        let due = work.due(&present, &fresh, now);
        announce(&mut kernel, &interface, &due)?;
        Ok((status, work))
    };
    let (status, after) = tokio::task::spawn_blocking(pass).await??;
    *schedule = after;
    Ok(status)
}

/// Brings the addresses about. Also says which of them were not there before.
fn converge(
    kernel: &mut Kernel,
    interface: &str,
    vips: &BTreeSet<IpAddr>,
) -> anyhow::Result<(Status, BTreeSet<Ipv4Addr>)> {
    let address = |vip: &IpAddr| Address { dev: interface.to_owned(), address: IpNet::from(*vip) };
    let before = kernel.addresses()?;
    let report = kernel.converge_addresses(&vips.iter().map(address).collect())?;
    if report.added + report.replaced + report.deleted > 0 {
        tracing::info!(%report, "virtual addresses");
    }
    let mut status = Status::default();
    for vip in vips {
        let wanted = format!(" {}", address(vip));
        match report.errors.iter().find(|error| error.step.ends_with(&wanted)) {
            None => {
                status.present.insert(*vip);
            }
            Some(error) => {
                status.problems.insert(*vip, error.error.to_string());
            }
        }
    }
    let fresh = status.present.iter().filter(|vip| !before.contains(&address(vip)));
    let fresh = fresh.copied().filter_map(v4).collect();
    Ok((status, fresh))
}

fn announce(kernel: &mut Kernel, interface: &str, due: &[Ipv4Addr]) -> anyhow::Result<()> {
    if due.is_empty() {
        return Ok(());
    }
    let link = kernel.link(interface)?.with_context(|| format!("there is no interface {interface}"))?;
    let announcer = Announcer::open(&link)?;
    for vip in due {
        tracing::debug!(%vip, interface, "announced");
        announcer.announce(*vip)?;
    }
    Ok(())
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}
