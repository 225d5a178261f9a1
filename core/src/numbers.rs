//! The numbers by which the kernel knows Portolan, in one place.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The nftables table, of family `inet`.
pub const TABLE: &str = "portolan";
/// Protocol number of our routes, rules and addresses (`rtnetlink(7)`, `rtm_protocol`).
pub const PROTOCOL: u8 = 107;
/// Bits of a packet mark that hold the Egress's id.
pub const EGRESS_MASK: u32 = 0x3fff;
/// Bits of a packet mark that hold the gateway's number. Bits 14 and 15 are kube-proxy's and kubelet's, 19 and 22 belong
/// to VXLAN group policy.
pub const GATEWAY_MASK: u32 = 0xff00_0000;
/// How far the gateway's number is shifted in a mark.
pub const GATEWAY_SHIFT: u32 = 24;
/// Priority of the policy rules that send marked packets to their gateway.
pub const RULE_PRIORITY: u32 = 5107;
/// The routing table of gateway n is this plus n.
pub const GATEWAY_TABLE: u32 = 20480;
/// The VXLAN device.
pub const VXLAN_DEVICE: &str = "portolan.vx";
/// Its network identifier.
pub const VXLAN_VNI: u32 = 20559;
/// Its UDP port (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;
/// Pods' gateway of IPv4: nobody holds it, a permanent neighbour entry in each pod answers for it.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Pods' gateway of IPv6, likewise.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// What VXLAN over IPv4 adds to a packet, in bytes: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const VXLAN_OVERHEAD: u32 = 50;
