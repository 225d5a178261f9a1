//! portolan-engine: the load balancer outside the cluster.
//!
//! Its tasks, and who owns what:
//!
//! | task | owns | hears | tells |
//! | --- | --- | --- | --- |
//! | `desk` | what is accepted, and the state directory | snapshots from `feed` (a small mpsc: who is too fast waits) | `accepted` (a watch: the last value counts) |
//! | `feed` | the gRPC socket | controllers | `desk`; answers Observe from everybody's watches |
//! | `routes` | routes of ours in the kernel | `accepted`, a timer | its status (a watch) |
//! | `vips` | addresses of ours, their announcements | `accepted`, `services` (an address goes after its listener), a timer | its status (a watch) |
//! | `services` | listeners and members | `accepted`, a timer | its status (a watch) |
//! | `admin` | the HTTP socket | all statuses | Prometheus |
//!
//! Each may be stopped at any moment: what was accepted is on disk before it is acknowledged, and the kernel's state
//! is found again by its protocol number. The engine's end leaves routes and addresses in place.
//!
//! At the start everything on disk is loaded before the first pass, so nothing is swept that was promised.

mod feed;
mod flags;
mod metrics;
mod proxy;
mod routes;
mod state;
mod vips;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use portolan_daemon::admin::Admin;
use portolan_daemon::drain::{self, Drain};
use portolan_daemon::log;
use portolan_daemon::ready::Ready;
use portolan_daemon::tasks::Tasks;
use portolan_wire::engine::Credentials;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use feed::desk::Desk;
use feed::observe::Observer;
use feed::server::{Calls, Feed, Verdicts};
use flags::Flags;
use state::Accepted;
use state::store::Store;

/// What the other tasks get on top of the connections' grace.
const FINISH: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    log::init("portolan-engine", env!("CARGO_PKG_VERSION"), &flags.log)?;
    let drain = drain::on_signal().context("signal handlers")?;
    let credentials = Credentials::read(&flags.tls_cert, &flags.tls_key, &flags.tls_client_ca)?;
    let store = Store::open(flags.state_dir.clone())?;
    let loaded = store.load()?;
    let feed = Feed::bind(flags.listen, &credentials).await?;
    let admin = Admin::bind(flags.metrics_listen).await.context("--metrics-listen")?;
    tracing::info!(feed = %flags.listen, clusters = loaded.snapshots().count(), "state loaded");
    wire(&flags, store, loaded, feed, admin, &drain).run(&drain, flags.drain_seconds + FINISH).await?;
    tracing::info!("ended in order");
    Ok(())
}

/// Connects the tasks with each other.
fn wire(flags: &Flags, store: Store, loaded: Accepted, feed: Feed, admin: Admin, drain: &Drain) -> Tasks {
    let (ready, mut tasks) = (Ready::new(), Tasks::new());
    let (routes_status, routes) = watch::channel(Arc::default());
    let (vips_status, vips) = watch::channel(Arc::default());
    let (proxy_status, proxy) = watch::channel(Arc::default());
    let (desk, counter, accepted) = Desk::new(store, loaded);

    let (verdicts, mut registry) = (Verdicts::default(), Registry::with_prefix("portolan_engine"));
    registry.register("snapshots", "Snapshots by verdict", verdicts.clone());
    registry.register_collector(Box::new(proxy::metrics::Services(proxy.clone())));
    let clusters = metrics::Clusters { accepted: accepted.clone(), routes: routes.clone() };
    registry.register_collector(Box::new(clusters));

    tasks.spawn("desk", desk.run(drain.clone()));
    let task = ready.task("routes brought about");
    tasks.spawn("routes", routes::run(accepted.clone(), routes_status, task, drain.clone()));
    match flags.vip_interface.clone() {
        Some(interface) => {
            let task = ready.task("virtual addresses brought about");
            let sources = vips::Sources { accepted: accepted.clone(), proxy: proxy.clone() };
            tasks.spawn("vips", vips::run(interface, sources, vips_status, task, drain.clone()));
            let (task, grace) = (ready.task("services listening"), flags.drain_seconds);
            let services = proxy::run(accepted.clone(), proxy_status, task, drain.clone(), grace);
            tasks.spawn("services", services);
        }
        None => tasks.spawn("vips", vips::routes_only(accepted.clone(), vips_status, drain.clone())),
    }
    let observer = Observer { accepted, routes, vips, proxy };
    tasks.spawn("feed", feed.serve(Calls { desk: counter, observer, verdicts }, drain.clone()));
    tasks.spawn("admin", admin.serve(ready, registry, drain.clone()));
    tasks
}
