//! Packet marks: which Egress a packet belongs to and which gateway it is sent to.

use std::fmt;

use crate::numbers::{EGRESS_MASK, GATEWAY_MASK, GATEWAY_SHIFT};

/// The number that stands for an Egress in marks: 1 to 16383.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EgressId(u16);

impl EgressId {
    /// The smallest id.
    pub const FIRST: Self = Self(1);
    /// The largest id.
    pub const LAST: Self = Self(EGRESS_MASK as u16);

    /// An id, where the number is one.
    pub fn new(number: u16) -> Option<Self> {
        (Self::FIRST.0..=Self::LAST.0).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// A node-local number of another node that owns egress addresses: 1 to 254.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayNumber(u8);

impl GatewayNumber {
    /// A gateway number, where the number is one.
    pub fn new(number: u8) -> Option<Self> {
        (1..=254).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// All of them, smallest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=254).map(Self)
    }
}

/// A packet mark.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u32);

impl Mark {
    /// Such a packet does not leave: its Egress has no way out at the moment.
    pub const BLOCK: Self = Self(GATEWAY_MASK);

    /// The packet belongs to this Egress and leaves through this gateway; `None` is the node itself.
    pub fn new(id: EgressId, gateway: Option<GatewayNumber>) -> Self {
        let gateway = gateway.map_or(0, |gateway| u32::from(gateway.0) << GATEWAY_SHIFT);
        Self(gateway | u32::from(id.0))
    }

    /// As the kernel has it.
    pub fn value(self) -> u32 {
        self.0
    }

    /// The bits of a mark that choose this gateway.
    pub fn of_gateway(gateway: GatewayNumber) -> u32 {
        u32::from(gateway.0) << GATEWAY_SHIFT
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_never_touches_the_bits_of_others() {
        let foreign = (1 << 14) | (1 << 15) | (1 << 19) | (1 << 22);
        let mark = Mark::new(EgressId::LAST, GatewayNumber::new(254));
        assert_eq!(mark.value() & foreign, 0);
        assert_eq!(mark.value() & EGRESS_MASK, 0x3fff);
        assert_ne!(mark.value() & GATEWAY_MASK, Mark::BLOCK.value());
        assert_eq!((EgressId::new(0), EgressId::new(16384), GatewayNumber::new(255)), (None, None, None));
    }
}
