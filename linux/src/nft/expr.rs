//! The small language in which rules are written: matches, all of which must hold, then actions.

use super::Family;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Why it is there; `nft list table inet portolan` shows it. The first 100 bytes count.
    pub comment: String,
    /// The family of packets it is for; `None` for both. Rules that look at addresses need one.
    pub family: Option<Family>,
    /// All must hold, in this order.
    pub matches: Vec<Match>,
    /// What is done then, in this order.
    pub actions: Vec<Action>,
}

/// A condition on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The packet goes in the direction of its connection's first packet. A packet that connection
    /// tracking does not know has no direction and does not match.
    CtOriginal,
    /// Connection tracking refuses the packet (it belongs to no connection and opens none) or was told
    /// to leave it alone. Such a packet is never translated.
    CtUnknown,
    /// The source address is (not, if `negate`) in a set of addresses or networks.
    SourceIn {
        /// The set's name.
        set: String,
        /// Match what is not in it.
        negate: bool,
    },
    /// The destination address is (not, if `negate`) in a set of addresses or networks.
    DestinationIn {
        /// The set's name.
        set: String,
        /// Match what is not in it.
        negate: bool,
    },
    /// The source address is a key of a map.
    SourceInMap(String),
    /// The pair of source and destination address is in a set of [`super::SetKind::AddressPairs`].
    SourceAndDestinationIn(String),
    /// The destination is an address of this node (`fib daddr type local`), on whatever device.
    ToThisNode,
    /// The packet leaves (not, if `negate`) through this device.
    OutputDevice {
        /// The device's name, at most 15 bytes.
        name: String,
        /// Match all other devices.
        negate: bool,
    },
    /// The packet came (not, if `negate`) through this device.
    InputDevice {
        /// The device's name, at most 15 bytes.
        name: String,
        /// Match all other devices.
        negate: bool,
    },
    /// The packet came through a device whose name begins so, e.g. `ptl` for all pods.
    InputDevices(String),
    /// The source address is not routed back to the device that the packet came through: it is not the
    /// sender's own. (A strict reverse-path filter, whatever the kernel's settings are.)
    ForeignSource,
    /// The mark's bits under `mask` compare so with `value`.
    Mark {
        /// The bits looked at.
        mask: u32,
        /// How.
        compare: Compare,
        /// With what.
        value: u32,
    },
    /// The pair of the mark's bits under `mask` and the source address is (not) in a set of pairs.
    MarkAndSourceIn {
        /// The bits looked at.
        mask: u32,
        /// The set's name.
        set: String,
        /// Match what is not in it.
        negate: bool,
    },
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Is,
    /// Not equal.
    IsNot,
}

/// What a rule does with a packet that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Counts packets and bytes.
    Counter,
    /// Sets the whole mark to the map's value for the source address. Where the map has none, the rule
    /// ends here.
    SetMarkFromSource(String),
    /// Translates the source to the map's address for the mark's bits under `mask`; the port is kept
    /// where it is free. Where the map has none, the rule ends here.
    SnatFromMark {
        /// The bits looked at.
        mask: u32,
        /// The map's name.
        map: String,
    },
    /// Translates the source to the address of the device that the packet leaves through.
    Masquerade,
    /// Translates destination and port to what the map has for the packet's protocol and port. Where the map has
    /// nothing, the rule ends here.
    DnatFromPort(String),
    /// Translates destination and port to what the map has for the packet's destination, protocol and port. Where the
    /// map has nothing, the rule ends here.
    DnatFromAddressAndPort(String),
    /// Drops the packet.
    Drop,
    /// Ends this chain.
    Accept,
}
