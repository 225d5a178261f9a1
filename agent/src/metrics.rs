//! What the agent counts.

use std::time::Duration;

use portolan_wire::cni::Command;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A pool, "node" for the node's own pod CIDRs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfPool {
    /// Its name.
    pub pool: String,
}

/// A verb of the CNI specification.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfVerb {
    /// ADD, DEL, …
    pub verb: &'static str,
}

/// A verb that failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Failed {
    /// ADD, DEL, …
    pub verb: &'static str,
    /// The code of the answer.
    pub code: u32,
}

/// Why addresses came back without a DEL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Because {
    /// In two words.
    pub reason: String,
}

/// The agent's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Addresses that pods of this node hold.
    pub held: Family<OfPool, Gauge>,
    /// Addresses that this node could give without asking anybody, those that rest among them.
    pub free: Family<OfPool, Gauge>,
    /// From the arrival of an ADD until its addresses are decided.
    pub allocation: Histogram,
    /// Addresses that came back without a DEL.
    pub reclaimed: Family<Because, Counter>,
    /// From the arrival of a call to its answer.
    pub calls: Family<OfVerb, Histogram>,
    /// Calls that failed.
    pub failed: Family<Failed, Counter>,
    /// Egress addresses that this node owns.
    pub owned: Gauge,
}

/// From 50 microseconds to 13 seconds.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 19))
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            held: Family::default(),
            free: Family::default(),
            allocation: seconds(),
            reclaimed: Family::default(),
            calls: Family::new_with_constructor(seconds),
            failed: Family::default(),
            owned: Gauge::default(),
        };
        let Self { held, free, allocation, reclaimed, calls, failed, owned } = metrics.clone();
        registry.register("portolan_ipam_held_addresses", "Addresses that pods of this node hold", held);
        registry.register("portolan_ipam_free_addresses", "Addresses this node can give by itself", free);
        let help = "From the arrival of an ADD until its addresses are decided";
        registry.register("portolan_ipam_allocation_seconds", help, allocation);
        let help = "Addresses that came back without a DEL";
        registry.register("portolan_ipam_reclaimed_addresses", help, reclaimed);
        registry.register("portolan_cni_duration_seconds", "From a call's arrival to its answer", calls);
        registry.register("portolan_cni_errors", "Calls that failed, by the code of the answer", failed);
        registry.register("portolan_egress_owned_addresses", "Egress addresses this node owns", owned);
        metrics
    }

    /// A call was answered.
    pub fn answered(&self, command: Command, took: Duration, failure: Option<u32>) {
        let verb = verb(command);
        self.calls.get_or_create(&OfVerb { verb }).observe(took.as_secs_f64());
        if let Some(code) = failure {
            self.failed.get_or_create(&Failed { verb, code }).inc();
        }
    }
}

fn verb(command: Command) -> &'static str {
    match command {
        Command::Add => "ADD",
        Command::Del => "DEL",
        Command::Check => "CHECK",
        Command::Status => "STATUS",
        Command::Gc => "GC",
    }
}
