//! Addresses that the outside sees, and how one is chosen: the same for Egresses and for virtual services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::address::Ranges;
use crate::labels::Selector;

/// A pool of external addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalPool {
    /// Its name.
    pub name: String,
    /// The addresses that may be given.
    pub usable: Ranges,
    /// Nodes that may own its egress addresses.
    pub nodes: Selector,
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The named pool does not exist.
    #[error("ExternalIPPool {pool:?} does not exist: create it, or name another in {field}")]
    UnknownPool {
        /// The pool.
        pool: String,
        /// Where it is named.
        field: &'static str,
    },
    /// All addresses are in use.
    #[error("ExternalIPPool {pool:?} has no free address: add a range to spec.ipRanges")]
    Exhausted {
        /// The pool.
        pool: String,
    },
    /// The wanted address is not the pool's to give.
    #[error(
        "{field} {address} is not in ExternalIPPool {pool:?}: choose one of its addresses, or add a range to it"
    )]
    Outside {
        /// Where it is written.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: String,
    },
    /// Somebody else has it.
    #[error("{field} {address} is in use by {by}: choose another")]
    InUse {
        /// Where it is written.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// Who has it.
        by: String,
    },
    /// What is written is no address, or of a family that is not served.
    #[error("{field} {value:?} is not an IPv4 address (IPv6 is not served yet): correct it")]
    NotAnAddress {
        /// Where it is written.
        field: &'static str,
        /// What is written.
        value: String,
    },
    /// Every id is taken.
    #[error("all 16383 Egress ids are in use: delete an Egress that is not needed")]
    NoId,
}

impl Refusal {
    /// One word for machines.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownPool { .. } => "UnknownPool",
            Self::Exhausted { .. } => "PoolExhausted",
            Self::Outside { .. } => "AddressOutsidePool",
            Self::InUse { .. } => "AddressInUse",
            Self::NotAnAddress { .. } => "AddressInvalid",
            Self::NoId => "IdsExhausted",
        }
    }
}

/// An address of the pool: the current one while it is still valid, else the lowest that is free.
///
/// # Errors
/// When none is free.
pub fn choose(
    pool: &ExternalPool,
    current: Option<IpAddr>,
    used: &BTreeSet<IpAddr>,
) -> Result<IpAddr, Refusal> {
    let free = |address: &IpAddr| address.is_ipv4() && !used.contains(address);
    let kept = current.filter(|address| pool.usable.contains(*address) && free(address));
    let address = kept.or_else(|| pool.usable.addresses().find(free));
    address.ok_or_else(|| Refusal::Exhausted { pool: pool.name.clone() })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pool(name: &str, net: &str) -> ExternalPool {
        let usable = [net.parse::<ipnet::IpNet>().unwrap()].into_iter().collect();
        ExternalPool { name: name.into(), usable, nodes: Selector::default() }
    }

    #[test]
    fn an_address_is_kept_while_it_is_valid_and_else_the_lowest_free_one_is_taken() {
        let pool = pool("vips", "172.16.251.0/30");
        let ip = |last: u8| IpAddr::from([172, 16, 251, last]);
        let used: BTreeSet<_> = [ip(0), ip(1)].into();
        assert_eq!(choose(&pool, Some(ip(3)), &used), Ok(ip(3)));
        assert_eq!(choose(&pool, Some(ip(1)), &used), Ok(ip(2)));
        assert_eq!(choose(&pool, Some(ip(9)), &used), Ok(ip(2)));
        let all: BTreeSet<_> = (0..4).map(ip).collect();
        assert_eq!(choose(&pool, None, &all), Err(Refusal::Exhausted { pool: "vips".into() }));
    }
}
