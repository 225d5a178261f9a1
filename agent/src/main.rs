//! The node agent: addresses, wiring, routes and egress of one node.
//!
//! | task | owns | hears of the others by |
//! | --- | --- | --- |
//! | `owner` (a thread of its own) | records, leases, the kernel | one channel of events |
//! | `watch of …`, `world` | the stores | publishes the world (`watch`: the last value counts) |
//! | `changes` | nothing | wakes the owner when there is a newer world |
//! | `claims` | nothing | carries the owner's wishes to the API server, one at a time |
//! | `cni` | the socket | one event per call, answered once |
//! | `admin` | the HTTP port | readiness, metrics |
//!
//! Any of them may be stopped at any time: the kernel keeps what it has, records are complete at every moment.

mod attach;
mod claims;
mod install;
mod kernel;
mod leases;
mod listener;
mod metrics;
mod node;
mod records;
mod table;
mod watch;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use kube::Client;
use portolan_daemon::admin::Admin;
use portolan_daemon::tasks::Tasks;
use portolan_daemon::{drain, log, ready::Ready};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use install::Install;
use leases::Leases;
use metrics::Metrics;
use node::{Event, Owner, Start};
use records::Records;

#[derive(Parser)]
#[command(version, about)]
struct Flags {
    /// This node's name.
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Where readiness and metrics are served.
    #[arg(long, default_value = "127.0.0.1:9471")]
    admin_listen: SocketAddr,
    /// Where local records and the CNI socket live; has to be on tmpfs.
    #[arg(long, default_value = "/run/portolan")]
    run_dir: PathBuf,
    /// The CNI binary to install.
    #[arg(long, default_value = "/portolan-cni")]
    cni_binary: PathBuf,
    /// The node's directory of CNI binaries, as mounted here.
    #[arg(long, default_value = "/host/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// The node's directory of CNI configurations, as mounted here.
    #[arg(long, default_value = "/host/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    #[command(flatten)]
    log: log::Flags,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    log::init("portolan-agent", env!("CARGO_PKG_VERSION"), &flags.log)?;
    let drain = drain::on_signal()?;
    let (ready, mut registry, mut tasks) = (Ready::new(), Registry::default(), Tasks::new());
    let admin = Admin::bind(flags.admin_listen).await?;
    let metrics = Metrics::register(&mut registry);
    let install =
        Install { binary: flags.cni_binary, binaries: flags.cni_bin_dir, configurations: flags.cni_conf_dir };
    install.binary().context("the CNI binary cannot be installed")?;

    let client = Client::try_default().await.context("no way to the API server is configured")?;
    let mut worlds = watch::start(&client, &flags.node, &mut tasks);
    let (events, inbox) = mpsc::channel();
    let (wishes, carried) = unbounded_channel();
    tasks.spawn("claims", claims::carry(client, carried, events.clone()));
    let listener = listener::bind(&flags.run_dir.join("agent.sock")).context("the CNI socket")?;
    tasks.spawn("cni", listener::serve(listener, events.clone()));

    let start = Start { ready: ready.task("the node's network is as it should be"), install };
    let records = Records::open(flags.run_dir.join("pods")).context("local records")?;
    let (node, seen) = (flags.node, worlds.clone());
    let (gone, over) = oneshot::channel::<()>();
    let owner = std::thread::Builder::new().name("owner".to_owned()).spawn(move || -> Result<()> {
        let _gone = gone;
        Owner::new(node, seen, records, Leases::new(wishes), start, metrics)?.run(&inbox);
        Ok(())
    })?;
    tasks.spawn("owner", async move {
        // The sender is dropped with the thread, which is what is waited for.
        let _ = over.await;
    });
    let wake = events.clone();
    tasks.spawn("changes", async move {
        while worlds.changed().await.is_ok() && wake.send(Event::Changed).is_ok() {}
    });
    tasks.spawn("admin", admin.serve(ready, registry, drain.clone()));

    let ended = tasks.run(&drain, Duration::from_secs(5)).await;
    // The owner may have ended by itself; then its result says why.
    let _ = events.send(Event::Stop);
    owner.join().map_err(|_| anyhow::anyhow!("the node's owner panicked"))??;
    Ok(ended?)
}
