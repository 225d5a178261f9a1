//! Connections as the kernel tracks them. What is translated is decided by a connection's first packet; a client of UDP that
//! goes on sending from one port keeps an old decision alive for ever. So where a decision changes, the connections that it
//! was made for are forgotten, and their next packet is a first one again.
//!
//! Nothing here is ours: a forgotten connection belongs to whoever sends, and costs it at most a retransmission.

mod apply;
mod observe;

use std::net::SocketAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{Result, netlink::Connection};

/// A tracked connection, by its first packet, before any translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The transport protocol's number in IP headers.
    pub protocol: u8,
    /// From where.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
}

/// Connection tracking in one network namespace.
pub struct Conntrack {
    connection: Connection,
}

impl Conntrack {
    /// Opens connection tracking of the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { connection: Connection::open(NETLINK_NETFILTER)? })
    }

    /// Every connection of a protocol that has ports.
    pub fn flows(&mut self) -> Result<Vec<Flow>> {
        Ok(self.entries()?.into_iter().map(|entry| entry.flow).collect())
    }

    /// Forgets the connections that `which` says. Returns how many there were. One that ends meanwhile is forgotten already.
    pub fn forget(&mut self, which: impl Fn(&Flow) -> bool) -> Result<usize> {
        let entries: Vec<_> = self.entries()?.into_iter().filter(|entry| which(&entry.flow)).collect();
        self.delete(&entries)?;
        Ok(entries.len())
    }
}

/// A connection with what the kernel names it by.
struct Entry {
    flow: Flow,
    family: u8,
    /// The attributes that a deletion needs: the original tuple and the entry's number, as they came.
    name: Vec<(u16, Vec<u8>)>,
}

/// The kernel's number of connection tracking, in the kinds of its messages.
const SUBSYSTEM: u16 = 1 << 8;
const ORIGINAL: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// This attribute contains others.
const NESTED: u16 = 0x8000;
