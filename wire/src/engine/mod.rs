//! The controller to a service engine: whole snapshots one way, verdicts and observations the other.
//!
//! [`proto`] is what travels (`wire/proto/engine.proto`); the types here are what both sides work with and cannot be
//! wrong. The border between them is `parse.rs`, with errors ([`Malformed`]) that name the field. [`Client`] is the
//! controller's side of the call, [`Credentials`] the mutual TLS of both.
//!
//! How a controller keeps an engine right: on taking over it observes, takes the accepted epoch plus one as its own
//! and applies generation 1; it applies the next generation for every change; it observes every few seconds, and
//! whenever the accepted version is not the one it sent last (the engine lost its disk), applies again. A rejection
//! as [`Reason::Stale`] of an epoch says that another controller took over.

mod client;
mod name;
mod parse;
mod tls;

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

pub use client::{CallError, Client};
pub use name::{ClusterName, ServiceName};
pub use parse::Malformed;
pub use tls::{Credentials, CredentialsError};

/// The messages as they travel, and the generated client and server.
#[allow(missing_docs, clippy::all, clippy::wildcard_enum_match_arm, unused_qualifications)]
pub mod proto {
    tonic::include_proto!("portolan.engine.v1");
}

/// The port an engine listens on unless told otherwise.
pub const PORT: u16 = 7443;

/// The largest message either side accepts, in bytes: a snapshot of 100,000 routes is 4 MiB.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Orders the snapshots of one cluster: by epoch, then by generation. Both are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Which controller's reign, counted by the controllers.
    pub epoch: u64,
    /// Which change within it.
    pub generation: u64,
}

impl Version {
    /// The first version of a controller that takes over from whoever sent `accepted`.
    #[must_use]
    pub fn taking_over(accepted: Option<Self>) -> Self {
        let epoch = accepted.map_or(0, |version| version.epoch).saturating_add(1);
        Self { epoch, generation: 1 }
    }

    /// The version of the next change.
    #[must_use]
    pub fn next(self) -> Self {
        Self { generation: self.generation.saturating_add(1), ..self }
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.generation)
    }
}

/// Everything one cluster wants of an engine. No prefix and no address and port occurs twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Who wants it.
    pub cluster: ClusterName,
    /// Which of its snapshots this is.
    pub version: Version,
    /// The routes, by prefix.
    pub routes: Vec<Route>,
    /// The virtual services, by address and port.
    pub services: Vec<Service>,
}

/// Packets for a prefix go to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Destinations; host bits are zero, and it is not everything.
    pub prefix: IpNet,
    /// The node's address, of the same family.
    pub via: IpAddr,
}

impl Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} via {}", self.prefix, self.via)
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Where a virtual service listens. Unique on one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Front {
    /// The virtual address.
    pub vip: IpAddr,
    /// The port, not 0.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.vip, self.port), self.protocol)
    }
}

/// One port of a Service of type LoadBalancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `CLUSTER--NAMESPACE-SERVICE`, further ports with `-PORT`. Not unique: what identifies a service is its front.
    pub name: ServiceName,
    /// Where clients connect.
    pub front: Front,
    /// Ready pods, each once, in order. Empty: connections are refused.
    pub members: Vec<SocketAddr>,
}

/// What an engine says about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is on the engine's disk.
    Accepted(Version),
    /// Nothing of it is taken; what was accepted before goes on.
    Rejected(Rejection),
}

/// Why a snapshot is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Rejection {
    /// For programs.
    pub reason: Reason,
    /// For people: which field, which value, which other cluster.
    pub message: String,
}

/// Why a snapshot is not taken, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A field cannot be what it says: a bug of the sender, or a newer protocol.
    Invalid,
    /// This engine cannot serve it yet.
    Unsupported,
    /// Not newer than what was accepted.
    Stale,
    /// Another cluster has the same prefix, or the same address and port.
    Conflict,
    /// The engine could not keep it; worth trying again.
    Unavailable,
}

impl Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "Invalid",
            Self::Unsupported => "Unsupported",
            Self::Stale => "Stale",
            Self::Conflict => "Conflict",
            Self::Unavailable => "Unavailable",
        })
    }
}

/// What an engine has of one cluster, and how much of it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The engine's own version.
    pub engine: String,
    /// What was accepted last; `None`: nothing ever.
    pub accepted: Option<Version>,
    /// The routes of that snapshot.
    pub routes: Vec<RouteState>,
    /// Its services.
    pub services: Vec<ServiceState>,
}

/// A route of the accepted snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteState {
    /// The route.
    pub route: Route,
    /// `None`: it is in the kernel.
    pub problem: Option<String>,
}

/// A virtual service of the accepted snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceState {
    /// Its name.
    pub name: ServiceName,
    /// Where it listens.
    pub front: Front,
    /// `None`: its address is there and it accepts connections.
    pub problem: Option<String>,
    /// Connections open now, leaving members included.
    pub connections: u64,
}

#[cfg(test)]
mod tests;
