//! The node agent: addresses, wiring, routes and egress of one node.
//!
//! | task | owns | hears of the others by |
//! | --- | --- | --- |
//! | `owner` (a thread of its own) | records, leases, the kernel, the CNI socket | one inbox: calls, and what others post |
//! | `watch of …`, `world` | the stores | publishes the world (`watch`: the last value counts) |
//! | `newer` | nothing | wakes the owner when there is a newer world |
//! | `changes` | nothing | carries the owner's changes of leases to the API server |
//! | `history` (a thread of its own) | the record on disk | one queue, that nobody waits for |
//! | `events` | nothing | one queue of notes, that nobody waits for |
//! | `admin` | the HTTP port | readiness, metrics, the answers of `inspect` |
//!
//! Any of them may be stopped at any time: the kernel keeps what it has, records are complete at every moment.

mod addresses;
mod attach;
mod changes;
mod events;
mod history;
mod inbox;
mod inspect;
mod install;
mod kernel;
mod leases;
mod listener;
mod metrics;
mod node;
mod records;
mod state;
mod table;
mod watch;
mod words;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use jiff::Timestamp;
use kube::Client;
use portolan_daemon::admin::Admin;
use portolan_daemon::tasks::Tasks;
use portolan_daemon::{drain, log, ready::Ready};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use events::Events;
use history::{History, Limits};
use inbox::Inbox;
use install::Install;
use leases::Leases;
use metrics::Metrics;
use node::{Event, Owner, Reports, Start};
use records::{Record, Records};

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
    /// Where the record of who held which address is kept, on disk.
    #[arg(long, default_value = "/var/lib/portolan/history")]
    history_dir: PathBuf,
    /// Files of that record older than this many days go.
    #[arg(long, default_value_t = 90)]
    history_days: u64,
    /// All files of that record together take at most this many MiB; the oldest go first.
    #[arg(long, default_value_t = 64)]
    history_mib: u64,
    /// Do not write a Kubernetes Event for each address that a pod gets; those for pods that get none are written anyhow.
    #[arg(long)]
    no_assigned_events: bool,
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
    let listener = listener::bind(&flags.run_dir.join("agent.sock")).context("the CNI socket")?;
    let (inbox, events) = Inbox::new(listener).context("the CNI socket")?;
    let (changes, carried) = unbounded_channel();
    tasks.spawn("changes", changes::carry(client.clone(), carried, events.clone()));
    let (notes, written) =
        Events::start(client, flags.node.clone(), !flags.no_assigned_events, &mut registry);
    tasks.spawn("events", written);

    let start = Start { ready: ready.task("the node's network is as it should be"), install };
    let records = Records::open(flags.run_dir.join("pods")).context("local records")?;
    let limits = Limits {
        bytes: flags.history_mib.saturating_mul(1 << 20),
        age: Duration::from_secs(flags.history_days.saturating_mul(24 * 3600)),
    };
    let (history, past) = History::open(&flags.history_dir, &flags.node, limits).context("the history")?;
    let mut leases = Leases::new(&flags.node, changes);
    for (address, rested) in past.rested(Timestamp::now()) {
        leases.rests(address, rested);
    }
    history.settle(records.iter(), Timestamp::now());
    records.iter().flat_map(Record::ips).for_each(|address| {
        leases.take(address);
    });
    let asked = events.clone();
    let admin = inspect::pages(admin, move |ask| asked.send(Event::Inspect(ask)), history.reader());
    let reports = Reports { history, notes, metrics };
    let (node, seen) = (flags.node, worlds.clone());
    let (gone, over) = oneshot::channel::<()>();
    let owner = std::thread::Builder::new().name("owner".to_owned()).spawn(move || -> Result<()> {
        let _gone = gone;
        Owner::new(node, seen, records, leases, reports, start)?.run(&inbox);
        Ok(())
    })?;
    tasks.spawn("owner", async move {
        // The sender is dropped with the thread, which is what is waited for.
        let _ = over.await;
    });
    let wake = events.clone();
    tasks.spawn("newer", async move { while worlds.changed().await.is_ok() && wake.send(Event::Changed) {} });
    tasks.spawn("admin", admin.serve(ready, registry, drain.clone()));

    let ended = tasks.run(&drain, Duration::from_secs(5)).await;
    // The owner may have ended by itself; then its result says why.
    events.send(Event::Stop);
    owner.join().map_err(|_| anyhow::anyhow!("the node's owner panicked"))??;
    Ok(ended?)
}
