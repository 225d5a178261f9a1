//! One line of the record.

use std::net::IpAddr;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use serde::{Deserialize, Serialize};

/// What happened to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// A pod got it.
    Assigned,
    /// The pod has it no more.
    Released,
}

/// An address was assigned or released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// One more than the entry before, over restarts and clock changes; given when it is written.
    pub number: u64,
    /// When, on the node's clock, in whole milliseconds.
    pub time: Timestamp,
    /// What happened.
    pub verb: Verb,
    /// The address.
    pub address: IpAddr,
    /// Its pool; `None` for the node's own pod CIDR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The pod's namespace; empty for a caller that is not Kubernetes.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid, where the runtime named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The container.
    pub container: String,
    /// The node.
    pub node: String,
    /// Why: `ADD`, `DEL`, `GC`, `namespace gone`, `found at start`, …
    pub reason: String,
}

impl Entry {
    /// The line of the audit log.
    pub(super) fn audit(&self) {
        let Self { address, pool, namespace, pod, uid, container, node, reason, .. } = self;
        let (verb, time) = (self.verb.as_str(), self.time);
        let (pool, uid) = (pool.as_deref().unwrap_or("node"), uid.as_deref().unwrap_or_default());
        tracing::info!(
            target: "audit",
            %time, verb, %address, pool, namespace, pod, uid, container, node, reason,
            "address {verb}"
        );
    }
}

impl Verb {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Released => "released",
        }
    }
}

/// The time in whole milliseconds.
pub(super) fn milliseconds(time: Timestamp) -> Timestamp {
    let down = TimestampRound::new().smallest(Unit::Millisecond).mode(RoundMode::Trunc);
    time.round(down).unwrap_or(time)
}

/// Instead of an entry: this many were never written before the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gap {
    /// How many.
    pub lost: u64,
}
