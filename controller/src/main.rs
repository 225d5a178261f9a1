//! The cluster-wide reconcilers: addresses of Egresses and Services, state of pools, leases of nodes that are gone, and
//! the feed of the service engines.
//!
//! | task | owns | hears of the others by |
//! | --- | --- | --- |
//! | `watch of …` | one store each | wakes the pass |
//! | `candidate` | the leader lease | leadership (`watch`) |
//! | `pass` | every status that is written | one loop: fetch, decide in core, patch |
//! | one `engine …` per ServiceEngine | the connection | the desired feed (`watch`: the last value counts) |
//! | `admin` | the HTTP port | readiness, metrics |
//!
//! Only the leader makes passes, and one that loses its lease ends; the status of objects is the record, so a new leader
//! knows what the old one knew. Nothing is assigned before every kind has been listed.

mod egress;
mod engines;
mod facts;
mod feed;
mod leases;
mod pools;
mod services;
mod status;
mod stores;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use kube::Client;
use portolan_crds::NAMESPACE;
use portolan_daemon::admin::Admin;
use portolan_daemon::lease::Candidate;
use portolan_daemon::lease::election::Terms;
use portolan_daemon::reconcile::{Loop, Next, Wake};
use portolan_daemon::tasks::Tasks;
use portolan_daemon::{drain, log, ready::Ready};
use portolan_wire::engine::ClusterName;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use engines::Engines;
use leases::Gone;
use stores::Stores;

#[derive(Parser)]
#[command(version, about)]
struct Flags {
    /// This cluster's name, as the engines know it; unique among the clusters that share an engine.
    #[arg(long, default_value = "k8s")]
    cluster_name: ClusterName,
    /// Where readiness and metrics are served.
    #[arg(long, default_value = "127.0.0.1:9472")]
    admin_listen: SocketAddr,
    /// Who this replica is among the candidates.
    #[arg(long, env = "POD_NAME")]
    identity: String,
    #[command(flatten)]
    log: log::Flags,
}

/// Without any change everything is looked at this often.
const RESYNC: Duration = Duration::from_secs(15);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    log::init("portolan-controller", env!("CARGO_PKG_VERSION"), &flags.log)?;
    let drain = drain::on_signal()?;
    let (ready, mut registry, mut tasks) = (Ready::new(), Registry::default(), Tasks::new());
    let leading = Gauge::<i64>::default();
    registry.register("portolan_controller_leading", "1 while this replica is the leader", leading.clone());
    let admin = Admin::bind(flags.admin_listen).await?;
    let client = Client::try_default().await.context("no way to the API server is configured")?;

    let (wake, listed) = (Wake::new(), ready.task("every kind has been listed"));
    let stores = Stores::start(&client, &wake, &mut tasks);
    let (candidate, mut leadership) =
        Candidate::new(client.clone(), NAMESPACE, "portolan-controller", flags.identity, Terms::default());
    tasks.spawn("candidate", candidate.run(drain.clone()));
    let (cluster, until) = (flags.cluster_name, drain.clone());
    tasks.spawn("pass", async move {
        if stores.listed().await.is_err() {
            return;
        }
        listed.done();
        if until.or(leadership.gained()).await.is_none() {
            return;
        }
        leading.set(1);
        tracing::info!("leads");
        let (mut engines, mut gone) = (Engines::new(client.clone(), cluster.clone()), Gone::default());
        let passes = Loop::new("pass", RESYNC, wake).run(until.clone(), async move |_| {
            pass(&client, cluster.as_str(), &stores, &mut engines, &mut gone).await.map(|()| Next::Change)
        });
        tokio::select! {
            () = passes => {}
            // Another replica leads: this one starts again as a candidate, with nothing remembered.
            () = leadership.lost() => tracing::warn!("leads no more, ends"),
        }
    });
    tasks.spawn("admin", admin.serve(ready, registry, drain.clone()));
    Ok(tasks.run(&drain, Duration::from_secs(5)).await?)
}

/// One pass over everything. Addresses come first, because the feed is made of them; one kind's trouble does not keep the
/// others from their turn.
async fn pass(
    client: &Client,
    cluster: &str,
    stores: &Stores,
    engines: &mut Engines,
    gone: &mut Gone,
) -> Result<()> {
    let facts = facts::Facts::of(stores);
    let (services, vips) = services::reconcile(client, &facts).await;
    let egresses = egress::reconcile(client, &facts, &vips).await;
    let pools = pools::reconcile(client, &facts, &vips).await;
    let leases = leases::reconcile(client, &facts, gone).await;
    engines.follow(&facts, &feed::feed(cluster, &facts, &vips));
    status::all([services, egresses, pools, leases])
}
