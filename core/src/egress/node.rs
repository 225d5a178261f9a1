//! What one node has to do for egress: which addresses it holds, which marks its pods' packets get, which gateways it
//! must be able to reach.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Egress, OnUnavailable};
use crate::mark::{EgressId, GatewayNumber, Mark};

/// What the node knows.
#[derive(Debug, Clone, Copy)]
pub struct Knowledge<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The address of every node that has one.
    pub addresses: &'a BTreeMap<String, IpAddr>,
    /// Every Egress, by name.
    pub egresses: &'a BTreeMap<String, Egress>,
    /// The owner of each egress address.
    pub owners: &'a BTreeMap<IpAddr, String>,
    /// The Egress that each local pod, by its address, was selected by.
    pub pods: &'a BTreeMap<IpAddr, String>,
    /// The numbers that gateways have on this node already. They are kept: packets in flight carry them.
    pub numbers: &'a BTreeMap<String, GatewayNumber>,
}

/// What the node has to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Duty {
    /// Egress addresses that this node owns.
    pub own: BTreeSet<IpAddr>,
    /// For every Egress this node is the gateway of, its address.
    pub translate: BTreeMap<EgressId, IpAddr>,
    /// The mark of each local pod that an Egress selects.
    pub marks: BTreeMap<IpAddr, Mark>,
    /// The number of every other node that owns an egress address.
    pub numbers: BTreeMap<String, GatewayNumber>,
    /// The address of each of these gateways.
    pub gateways: BTreeMap<GatewayNumber, IpAddr>,
}

/// Decides for one node.
pub fn duty(known: Knowledge<'_>) -> Duty {
    let numbers = numbers(known);
    let mut duty = Duty::default();
    for egress in known.egresses.values() {
        if let (Some(id), Some(address)) = (egress.id, egress.address)
            && known.owners.get(&address).is_some_and(|owner| owner == known.node)
        {
            duty.own.insert(address);
            duty.translate.insert(id, address);
        }
    }
    for (pod, egress) in known.pods {
        if let Some(mark) = mark(known, &numbers, *pod, egress) {
            duty.marks.insert(*pod, mark);
        }
    }
    let address = |(name, number): (&String, &GatewayNumber)| Some((*number, *known.addresses.get(name)?));
    duty.gateways = numbers.iter().filter_map(address).collect();
    duty.numbers = numbers;
    duty
}

/// The mark of a pod that this Egress selects. `None`: its packets leave as if it were not selected, which happens only
/// where its Egress says so. A pod's address of a family that the Egress has no address of has no way out at all: nothing
/// will become available there, and every source it could leave with is a wrong one.
fn mark(
    known: Knowledge<'_>,
    numbers: &BTreeMap<String, GatewayNumber>,
    pod: IpAddr,
    egress: &str,
) -> Option<Mark> {
    let Some(egress) = known.egresses.get(egress) else { return Some(Mark::BLOCK) };
    if egress.address.is_some_and(|address| address.is_ipv4() != pod.is_ipv4()) {
        return Some(Mark::BLOCK);
    }
    let way_out = || {
        let (id, address) = (egress.id?, egress.address?);
        let owner = known.owners.get(&address)?;
        if owner == known.node {
            return Some(Mark::new(id, None));
        }
        numbers.get(owner).map(|number| Mark::new(id, Some(*number)))
    };
    match (way_out(), egress.on_unavailable) {
        (Some(mark), _) => Some(mark),
        (None, OnUnavailable::Drop) => Some(Mark::BLOCK),
        (None, OnUnavailable::NodeAddress) => None,
    }
}

/// Numbers for all owners but this node: known ones stay, new ones get the lowest free number, nodes that own nothing any
/// more lose theirs. More than 254 gateways cannot be told apart; the rest get none, and their Egresses are as if nobody
/// owned their address.
fn numbers(known: Knowledge<'_>) -> BTreeMap<String, GatewayNumber> {
    let owners =
        known.owners.values().filter(|owner| *owner != known.node && known.addresses.contains_key(*owner));
    let gateways: BTreeSet<&String> = owners.collect();
    let mut numbers: BTreeMap<String, GatewayNumber> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for gateway in &gateways {
        if let Some(number) = known.numbers.get(*gateway).filter(|number| taken.insert(**number)) {
            numbers.insert((*gateway).clone(), *number);
        }
    }
    let mut free = GatewayNumber::all().filter(|number| !taken.contains(number));
    for gateway in gateways {
        if !numbers.contains_key(gateway)
            && let Some(number) = free.next()
        {
            numbers.insert(gateway.clone(), number);
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::super::egress;
    use super::*;

    const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 20, 0, 1));
    const EGRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 11, 200));

    struct World {
        addresses: BTreeMap<String, IpAddr>,
        egresses: BTreeMap<String, Egress>,
        owners: BTreeMap<IpAddr, String>,
        pods: BTreeMap<IpAddr, String>,
        numbers: BTreeMap<String, GatewayNumber>,
    }

    impl World {
        fn new(owner: Option<&str>) -> Self {
            let erp = Egress { id: EgressId::new(5), address: Some(EGRESS), ..egress("erp") };
            Self {
                addresses: (1..=3u8)
                    .map(|n| (format!("node-{n}"), IpAddr::from([172, 16, 11, 10 + n])))
                    .collect(),
                egresses: [("erp".to_owned(), erp)].into(),
                owners: owner.map(|owner| (EGRESS, owner.to_owned())).into_iter().collect(),
                pods: [(POD, "erp".to_owned())].into(),
                numbers: BTreeMap::new(),
            }
        }

        fn duty(&self) -> Duty {
            duty(Knowledge {
                node: "node-1",
                addresses: &self.addresses,
                egresses: &self.egresses,
                owners: &self.owners,
                pods: &self.pods,
                numbers: &self.numbers,
            })
        }
    }

    #[test]
    fn the_owner_translates_and_the_others_send_to_it() {
        let own = World::new(Some("node-1")).duty();
        assert_eq!(own.marks[&POD].value(), 5);
        assert_eq!(own.translate, [(EgressId::new(5).unwrap(), EGRESS)].into());
        let other = World::new(Some("node-2")).duty();
        assert_eq!(other.marks[&POD].value(), 0x0100_0005);
        assert_eq!(
            other.gateways,
            [(GatewayNumber::new(1).unwrap(), IpAddr::from([172, 16, 11, 12]))].into()
        );
        assert!(other.own.is_empty() && other.translate.is_empty());
    }

    #[test]
    fn without_a_way_out_a_pod_is_blocked_unless_its_egress_says_otherwise() {
        let mut world = World::new(None);
        assert_eq!(world.duty().marks[&POD], Mark::BLOCK);
        world.egresses.get_mut("erp").unwrap().on_unavailable = OnUnavailable::NodeAddress;
        assert!(world.duty().marks.is_empty());
        let mut unassigned = World::new(Some("node-1"));
        unassigned.egresses.get_mut("erp").unwrap().id = None;
        assert_eq!(unassigned.duty().marks[&POD], Mark::BLOCK);
        let mut unknown = World::new(Some("node-9"));
        assert_eq!(unknown.duty().marks[&POD], Mark::BLOCK);
        unknown.egresses.clear();
        assert_eq!(unknown.duty().marks[&POD], Mark::BLOCK);
    }

    #[test]
    fn the_address_of_a_family_that_the_egress_has_none_of_is_blocked() {
        let six: IpAddr = "fd20::5".parse().unwrap();
        for on_unavailable in [OnUnavailable::Drop, OnUnavailable::NodeAddress] {
            let mut world = World::new(Some("node-1"));
            world.pods.insert(six, "erp".into());
            world.egresses.get_mut("erp").unwrap().on_unavailable = on_unavailable;
            let marks = world.duty().marks;
            assert_eq!((marks[&POD].value(), marks[&six]), (5, Mark::BLOCK));
        }
    }

    #[test]
    fn a_gateway_keeps_its_number_when_others_come_and_go() {
        let mut world = World::new(Some("node-3"));
        world.numbers = [("node-3".to_owned(), GatewayNumber::new(9).unwrap())].into();
        assert_eq!(world.duty().marks[&POD].value(), 0x0900_0005);
        world.owners.insert(IpAddr::from([172, 16, 11, 201]), "node-2".into());
        let duty = world.duty();
        assert_eq!(duty.marks[&POD].value(), 0x0900_0005);
        assert_eq!(duty.numbers["node-2"].number(), 1);
    }
}
