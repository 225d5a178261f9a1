//! Routes of all clusters in the kernel: [`render`] says what they are on this host, this file brings them about and
//! repairs them every few seconds.
//!
//! Guarantees: routes of others, a human's included, are never touched; a route that somebody deletes is back after
//! three seconds at the latest; the engine's end leaves all of them in place.

mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portolan_daemon::backoff::Backoff;
use portolan_daemon::drain::Drain;
use portolan_daemon::ready::Task;
use portolan_daemon::reconcile::{Loop, Next, Wake};
use portolan_linux::{Kernel, Report};
use portolan_wire::engine::Route;
use tokio::sync::watch;

use crate::state::Accepted;
use render::{Rendered, Subnet};

/// How often the kernel is looked at when nothing has changed.
const REPAIR: Duration = Duration::from_secs(3);
/// One route that cannot be must not slow down the repair of the others.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), most: REPAIR };

/// What is in the kernel of what was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    installed: BTreeSet<Route>,
    problems: BTreeMap<Route, String>,
}

impl Status {
    /// Why a route is not in the kernel; `None` when it is.
    pub fn problem(&self, route: &Route) -> Option<String> {
        if self.installed.contains(route) {
            return None;
        }
        let problem = self.problems.get(route).cloned();
        Some(problem.unwrap_or_else(|| "not brought about yet".to_owned()))
    }

    /// Whether a route is in the kernel.
    pub fn is_installed(&self, route: &Route) -> bool {
        self.installed.contains(route)
    }
}

/// Keeps the kernel's routes as accepted until the drain begins. `ready` is done with the first pass.
pub async fn run(
    accepted: watch::Receiver<Arc<Accepted>>,
    status: watch::Sender<Arc<Status>>,
    ready: Task,
    drain: Drain,
) {
    let wake = Wake::new();
    wake.follow(accepted.clone());
    let mut ready = Some(ready);
    let pass = async move |_cause| {
        let snapshots = accepted.borrow().clone();
        let outcome = bring_about(snapshots.clone()).await;
        let new = match &outcome {
            Ok(new) => new.clone(),
            Err(error) => {
                let failed = snapshots.routes().map(|route| (route, format!("{error:#}")));
                Status { problems: failed.collect(), ..Status::default() }
            }
        };
        status.send_replace(Arc::new(new));
        ready.take().into_iter().for_each(Task::done);
        match outcome?.problems.first_key_value() {
            None => Ok(Next::Change),
            Some((route, problem)) => Err(anyhow::anyhow!("route {route}: {problem}")),
        }
    };
    Loop::new("routes", REPAIR, wake).with_backoff(BACKOFF).run(drain, pass).await;
}

/// One pass: observe, render, converge.
async fn bring_about(accepted: Arc<Accepted>) -> anyhow::Result<Status> {
    let pass = move || -> anyhow::Result<Status> {
        let mut kernel = Kernel::open()?;
        let rendered = render::render(accepted.routes(), &subnets(&mut kernel)?);
        let desired = rendered.routes.values().cloned().collect();
        let report = kernel.converge_routes(&desired)?;
        if report.added + report.replaced + report.deleted > 0 {
            tracing::info!(%report, "routes");
        }
        Ok(judge(rendered, &report))
    };
    // Netlink calls block: not on a thread that carries connections.
    tokio::task::spawn_blocking(pass).await?
}

/// The subnets that this host is in.
fn subnets(kernel: &mut Kernel) -> anyhow::Result<Vec<Subnet>> {
    let names: BTreeMap<u32, String> =
        kernel.links()?.into_iter().filter(|link| link.up).map(|link| (link.index, link.name)).collect();
    let subnet = |address: portolan_linux::addresses::AddressView| {
        Some(Subnet {
            dev: names.get(&address.index)?.clone(),
            address: address.ip,
            length: address.prefix_len,
        })
    };
    Ok(kernel.all_addresses()?.into_iter().filter_map(subnet).collect())
}

/// Which of the rendered routes are there now.
fn judge(rendered: Rendered, report: &Report) -> Status {
    let Rendered { routes, problems } = rendered;
    let mut status = Status { installed: BTreeSet::new(), problems };
    for (route, wanted) in routes {
        let wanted = format!(" {wanted}");
        match report.errors.iter().find(|error| error.step.ends_with(&wanted)) {
            None => {
                status.installed.insert(route);
            }
            Some(error) => {
                status.problems.insert(route, error.error.to_string());
            }
        }
    }
    status
}
