//! The nftables table `inet portolan` as one value: sets and maps, chains of typed rules, elements.
//!
//! Policy lives in elements; rules are few, the same on every node, and never one per pod. A pass dumps
//! the table, compares, and commits *one* transaction: no packet ever sees half of a change, and a table
//! that somebody flushed comes back together with its elements. A rule is known to be unchanged by its
//! comment, which ends in a hash of what was rendered: a rule that was changed, added, moved or deleted
//! by hand shows.
//!
//! Requests are built by libnftnl (`sys.rs`, the only unsafe code of this folder), answers are read
//! without it.

mod apply;
mod compile;
mod element;
mod expr;
mod observe;
mod plan;
mod sys;

use std::collections::{BTreeMap, BTreeSet};

use netlink_sys::protocols::NETLINK_NETFILTER;

pub use element::{Datum, Element, Key};
pub use expr::{Action, Compare, Match, Rule};
pub use plan::NftReport;

pub use crate::rules::Family;
use crate::{Result, netlink::Connection};

/// All there should be in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Named sets and maps.
    pub sets: Vec<Set>,
    /// Base chains.
    pub chains: Vec<Chain>,
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set {
    /// Its name, at most 255 bytes.
    pub name: String,
    /// What its elements are.
    pub kind: SetKind,
}

impl Set {
    /// A set of this name and kind.
    pub fn new(name: impl Into<String>, kind: SetKind) -> Self {
        Self { name: name.into(), kind }
    }
}

/// What the elements of a set or map are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetKind {
    /// Set of address ranges.
    Networks(Family),
    /// Set of single addresses.
    Addresses(Family),
    /// Set of pairs: a mark and an address.
    MarkedAddresses(Family),
    /// Map from an address to a mark.
    AddressToMark(Family),
    /// Map from a mark to an address.
    MarkToAddress(Family),
    /// Set of pairs of addresses: source and destination.
    AddressPairs(Family),
    /// Map from a protocol and its port to an address and a port.
    PortToEndpoint(Family),
    /// Map from an address, a protocol and its port to an address and a port.
    AddressPortToEndpoint(Family),
}

/// A chain that the kernel calls at one hook. Its policy is to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Filter or NAT.
    pub kind: ChainKind,
    /// Where packets meet it.
    pub hook: Hook,
    /// Chains at the same hook are called in ascending order; conntrack is -200, dstnat -100, srcnat 100.
    pub priority: i32,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Let pass, drop, mark. Sees every packet.
    Filter,
    /// Translate. Sees the first packet of a connection.
    Nat,
}

/// Where a packet meets a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// On arrival, before routing.
    Prerouting,
    /// For this node, after routing.
    Input,
    /// For others, after routing.
    Forward,
    /// From this node.
    Output,
    /// On departure, after routing.
    Postrouting,
}

/// The elements that sets and maps should have, by name. A set that is not named here keeps what it has.
pub type Contents = BTreeMap<String, BTreeSet<Element>>;

/// A change to one set or map. Deletions come first, so that a value is changed by deleting and adding.
#[derive(Debug, Clone)]
pub struct Change {
    /// The set or map.
    pub set: Set,
    /// Elements that are there and should not be.
    pub delete: Vec<Element>,
    /// Elements that should be there.
    pub add: Vec<Element>,
}

/// The owner of the table `inet portolan` in one network namespace.
pub struct Nft {
    pub(crate) connection: Connection,
}

impl Nft {
    /// Opens the nftables of the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { connection: Connection::open(NETLINK_NETFILTER)? })
    }
}
