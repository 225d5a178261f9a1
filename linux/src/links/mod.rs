//! Network devices: what there is, which one carries an address, and the VXLAN device between nodes.

mod observe;
mod vxlan;

use std::{
    fmt::{self, Display},
    net::IpAddr,
    str::FromStr,
};

pub(crate) use observe::Names;
pub(crate) use vxlan::{delete, up};

/// A device's hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: not a hardware address, such as 02:50:0a:00:00:01");
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
            .collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(wrong)
    }
}

/// A device as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number, valid until the device is deleted.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Largest packet (bytes).
    pub mtu: u32,
    /// Hardware address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Set up by the administrator (not: has a carrier).
    pub up: bool,
    /// The kernel's name of its kind, e.g. `veth` or `vxlan`; none for a hardware device.
    pub kind: Option<String>,
    /// The local number of the namespace that the other end is in, for one end of a veth pair.
    pub peer_netns: Option<i32>,
    /// The attributes of a VXLAN device.
    pub vxlan: Option<VxlanView>,
}

/// Attributes of a VXLAN device as observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VxlanView {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Source address of the outer packets.
    pub local: Option<IpAddr>,
    /// Group policy: the low 16 bits of the mark travel along.
    pub gbp: bool,
    /// Learns where addresses are from received packets.
    pub learning: bool,
}

/// The VXLAN device between nodes, as desired. Learning is always off.
///
/// It needs two things more, which other parts of this crate bring: `local` as an address of its own
/// ([`crate::Address`], full length) and the reverse-path filter set to loose. On a device *without* an
/// address the kernel's loose filter is a strict one, and switching it off does not help where the host
/// has a filter for all devices (the larger value counts).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Its name; must be one of ours (`portolan…`).
    pub name: String,
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Source address of the outer packets: the node's own.
    pub local: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
    /// Largest inner packet (bytes): the uplink's less 50.
    pub mtu: u32,
    /// Group policy.
    pub gbp: bool,
}

/// What it took to make a device as desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// Nothing.
    Unchanged,
    /// It was set up, or given another size or hardware address. Its routes and neighbours remain.
    Changed,
    /// It did not exist.
    Created,
    /// It existed with attributes that cannot be changed. Its routes and neighbours went with it.
    Recreated,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_reads_as_it_prints() {
        let mac = Mac([2, 0x50, 10, 0, 0, 255]);
        assert_eq!(mac.to_string(), "02:50:0a:00:00:ff");
        assert_eq!("02:50:0a:00:00:ff".parse(), Ok(mac));
        assert!("02:50:0a:00:00".parse::<Mac>().is_err());
        assert!("02:50:0a:00:00:1".parse::<Mac>().is_err());
    }
}
