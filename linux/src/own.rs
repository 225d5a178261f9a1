//! How we know after a restart that something in the kernel is ours, and what a mistake would cost.
//!
//! To leak something of ours is bounded: a stale route, an address too many, until the next pass. To
//! delete something of somebody else is not: it can cut the node off. So each mark below errs towards
//! leaking, and a thing without a mark is never touched.
//!
//! | object | how we know | foreign taken for ours | ours taken for foreign |
//! | --- | --- | --- | --- |
//! | route | protocol 107 (`rtm_protocol`); the kernel compares it on deletion too | another program must use 107: its route is deleted | the stale route stays; adding ours beside it fails with EEXIST and is reported |
//! | policy rule | protocol 107 (`FRA_PROTOCOL`); compared on deletion too | as above | the old rule stays and still looks up its table |
//! | address | protocol 107 (`IFA_PROTO`, Linux 5.18) | as above | the address stays; adding it fails with EEXIST and is reported |
//! | neighbour | protocol 107 (`NDA_PROTOCOL`) and state permanent; on a pod's link it belongs to the link | as above | the entry stays until its device goes |
//! | fdb entry | permanent entry on a VXLAN device that is ours (the kernel stores no protocol for it) | an entry that a human added to *our* device is deleted | cannot happen: the device is ours |
//! | link | name begins with `ptl` (pod's end on the node) or is `portolan.vx`, and its kind is the one we create | a human's veth named `ptl…`; nothing is deleted by prefix alone, only by exact name | a veth stays until its namespace goes |
//! | nftables | the table `inet portolan` with everything in it | whatever a human adds to *our* table is deleted | cannot happen: the name is ours |
//!
//! Two programs of ours on one host and in one network namespace (an agent and a service engine) would
//! take each other's routes and addresses for their own: they must not share a namespace.
//!
//! Replacing a route, neighbour or fdb entry in place is done only where the observed one is ours.

/// The protocol number on routes, rules, addresses and neighbours. Not assigned in
/// `/etc/iproute2/rt_protos` and not used by any routing daemon we know.
pub const PROTOCOL: u8 = 107;

/// Names of the node's ends of pod links begin with this.
pub const POD_LINK_PREFIX: &str = "ptl";

/// Names of the devices that are not pod links begin with this, e.g. `portolan.vx`.
pub const DEVICE_PREFIX: &str = "portolan";

/// The nftables table (family inet) that is ours with everything in it.
pub const TABLE: &str = "portolan";

/// May we create, change or delete a device of this name?
#[must_use]
pub fn is_our_device_name(name: &str) -> bool {
    name.starts_with(POD_LINK_PREFIX) || name.starts_with(DEVICE_PREFIX)
}
