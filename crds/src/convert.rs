//! From what users wrote to core types: one function per kind, with errors that name object, field, value and remedy.

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_core::address::{self, Ranges};
use portolan_core::egress;
use portolan_core::external::ExternalPool;
use portolan_core::ipam::lease::Version;
use portolan_core::ipam::{self, Lease, Millis, Owner, Pool, pool};
use portolan_core::labels::Selector;
use portolan_core::mark::EgressId;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::ip_pool::{IPRange, SubnetInfo};
use crate::{
    Egress, ExternalIPPool, IPLease, IPLeaseSpec, IPPool, LeaseOwner, OnUnavailable, Outbound, selector,
};

/// A value that its field does not take.
pub use portolan_core::address::Invalid;

impl TryFrom<&IPPool> for Pool {
    type Error = Invalid;

    fn try_from(from: &IPPool) -> Result<Self, Invalid> {
        let spec = &from.spec;
        let written = ranges("spec.ipRanges", &spec.ip_ranges)?;
        let exclusions = ranges("spec.exclusions", &spec.exclusions)?;
        let subnet = subnet(spec.subnet_info.as_ref())?;
        let selector = |field, from: &Option<_>| from.as_ref().map(|from| selector(field, from)).transpose();
        Ok(Self {
            name: from.metadata.name.clone().unwrap_or_default(),
            usable: pool::usable(&written, &exclusions, subnet),
            ranges: written,
            lease_size: lease_size(spec.lease_size)?,
            nodes: selector("spec.nodeSelector", &spec.node_selector)?.unwrap_or_default(),
            namespaces: selector("spec.namespaceSelector", &spec.namespace_selector)?,
            on_request: spec.on_request,
            outbound: match spec.outbound.unwrap_or_default() {
                Outbound::NodeAddress => ipam::Outbound::NodeAddress,
                Outbound::PodAddress => ipam::Outbound::PodAddress,
            },
            enabled: !spec.disabled,
            keeps: spec.keep_addresses.unwrap_or(true),
            cooldown: seconds("spec.cooldownSeconds", spec.cooldown_seconds)?.unwrap_or(pool::COOLDOWN),
            retention: seconds("spec.retentionSeconds", spec.retention_seconds)?.unwrap_or_default(),
            created: created(&from.metadata),
            subnet,
        })
    }
}

impl TryFrom<&ExternalIPPool> for ExternalPool {
    type Error = Invalid;

    fn try_from(from: &ExternalIPPool) -> Result<Self, Invalid> {
        let written = ranges("spec.ipRanges", &from.spec.ip_ranges)?;
        Ok(Self {
            name: from.metadata.name.clone().unwrap_or_default(),
            usable: pool::usable(&written, &Ranges::default(), subnet(from.spec.subnet_info.as_ref())?),
            nodes: selector("spec.nodeSelector", &from.spec.node_selector)?,
        })
    }
}

impl TryFrom<&Egress> for egress::Egress {
    type Error = Invalid;

    fn try_from(from: &Egress) -> Result<Self, Invalid> {
        let (spec, applied, status) =
            (&from.spec, &from.spec.applied_to, from.status.clone().unwrap_or_default());
        let selector = |field, from: &Option<_>| -> Result<Option<Selector>, Invalid> {
            from.as_ref().map(|from| selector(field, from)).transpose()
        };
        Ok(Self {
            name: from.metadata.name.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or_default(),
            created: created(&from.metadata),
            pods: selector("spec.appliedTo.podSelector", &applied.pod_selector)?,
            namespaces: selector("spec.appliedTo.namespaceSelector", &applied.namespace_selector)?,
            id: status.egress_id.and_then(EgressId::new),
            address: status.egress_ip.as_deref().and_then(|address| address.parse().ok()),
            pool: spec.external_ip_pool.clone(),
            on_unavailable: match spec.on_unavailable.unwrap_or_default() {
                OnUnavailable::Drop => egress::OnUnavailable::Drop,
                OnUnavailable::NodeAddress => egress::OnUnavailable::NodeAddress,
            },
        })
    }
}

impl TryFrom<&IPLease> for Lease {
    type Error = Invalid;

    fn try_from(from: &IPLease) -> Result<Self, Invalid> {
        let spec = &from.spec;
        let block = spec.block.parse::<IpNet>().ok().filter(|block| block.trunc() == *block);
        let block = block.ok_or_else(|| Invalid::new("spec.block", &spec.block, "delete this lease"))?;
        let metadata = from.metadata.clone();
        Ok(Self {
            name: metadata.name.unwrap_or_default(),
            pool: spec.pool.clone(),
            block,
            node: spec.node.clone(),
            second: spec.second.clone(),
            leaving: spec.leaving,
            owner: spec.owner.as_ref().map(Owner::try_from).transpose()?,
            released: spec.released,
            granted: spec.granted,
            asks: spec.asks.iter().cloned().collect(),
            version: Version {
                uid: metadata.uid.unwrap_or_default(),
                resource: metadata.resource_version.unwrap_or_default(),
            },
        })
    }
}

impl TryFrom<&LeaseOwner> for Owner {
    type Error = Invalid;

    fn try_from(from: &LeaseOwner) -> Result<Self, Invalid> {
        let kind = from.kind.parse();
        let kind = kind.map_err(|()| Invalid::new("spec.owner.kind", &from.kind, "delete this lease"))?;
        let (namespace, name, pod) = (from.namespace.clone(), from.name.clone(), from.pod.clone());
        Ok(Self { kind, namespace, name, pod })
    }
}

/// The object that says what this lease says. It carries the version that was seen, so that writing it is a
/// compare-and-swap.
impl From<&Lease> for IPLease {
    fn from(lease: &Lease) -> Self {
        let owner = lease.owner.as_ref().map(|owner| LeaseOwner {
            kind: owner.kind.to_string(),
            namespace: owner.namespace.clone(),
            name: owner.name.clone(),
            pod: owner.pod.clone(),
        });
        let spec = IPLeaseSpec {
            pool: lease.pool.clone(),
            block: lease.block.to_string(),
            node: lease.node.clone(),
            second: lease.second.clone(),
            leaving: lease.leaving,
            owner,
            released: lease.released,
            granted: lease.granted,
            asks: lease.asks.iter().cloned().collect(),
        };
        let mut object = Self::new(&lease.name, spec);
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        object.metadata.uid = some(&lease.version.uid);
        object.metadata.resource_version = some(&lease.version.resource);
        object
    }
}

/// When an object was created, in seconds since 1970. One that was not yet is younger than every other.
fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second())
}

fn seconds(field: &str, from: Option<i64>) -> Result<Option<Millis>, Invalid> {
    let millis = |seconds: i64| u64::try_from(seconds).ok()?.checked_mul(1000);
    let wrong =
        |seconds: i64| Invalid::new(field, seconds.to_string(), "write a number of seconds from 0 on");
    from.map(|seconds| millis(seconds).ok_or_else(|| wrong(seconds))).transpose()
}

/// Ranges as users write them.
///
/// # Errors
/// Names the entry.
pub fn ranges(field: &str, from: &[IPRange]) -> Result<Ranges, Invalid> {
    let one = |(index, range): (usize, &IPRange)| {
        let field = format!("{field}[{index}]");
        address::range(&field, range.cidr.as_deref(), range.start.as_deref(), range.end.as_deref())
    };
    from.iter().enumerate().map(one).collect()
}

fn subnet(from: Option<&SubnetInfo>) -> Result<Option<(IpAddr, u8)>, Invalid> {
    let Some(info) = from else { return Ok(None) };
    let gateway = info.gateway.parse();
    let gateway: IpAddr =
        gateway.map_err(|_| Invalid::new("spec.subnetInfo.gateway", &info.gateway, "write an IP address"))?;
    let most = if gateway.is_ipv4() { 32 } else { 128 };
    let length = u8::try_from(info.prefix_length).ok().filter(|length| (1..=most).contains(length));
    let length = length.ok_or_else(|| {
        Invalid::new(
            "spec.subnetInfo.prefixLength",
            info.prefix_length.to_string(),
            format!("write 1 to {most}"),
        )
    })?;
    Ok(Some((gateway, length)))
}

fn lease_size(from: Option<i64>) -> Result<u32, Invalid> {
    let Some(size) = from else { return Ok(pool::LEASE_SIZE) };
    let good = u32::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= 65536);
    good.ok_or_else(|| {
        Invalid::new("spec.leaseSize", size.to_string(), "write a power of two from 1 to 65536")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_core::ipam::owner::Kind;

    use crate::{EgressSpec, IPPoolSpec};

    fn cidr(text: &str) -> IPRange {
        IPRange { cidr: Some(text.into()), ..IPRange::default() }
    }

    #[test]
    fn a_pool_becomes_what_core_decides_with() {
        let spec = IPPoolSpec {
            ip_ranges: vec![cidr("10.20.1.0/24")],
            exclusions: vec![cidr("10.20.1.0/28")],
            subnet_info: Some(SubnetInfo { gateway: "10.20.1.254".into(), prefix_length: 24, vlan: None }),
            ..IPPoolSpec::default()
        };
        let pool = Pool::try_from(&IPPool::new("erp", spec)).unwrap();
        assert_eq!((pool.name.as_str(), pool.usable.len(), pool.lease_size), ("erp", 256 - 16 - 2, 16));
    }

    #[test]
    fn a_lease_says_the_same_after_a_round_through_its_object() {
        let owner = Owner {
            kind: Kind::StatefulSet,
            namespace: "erp".into(),
            name: "db".into(),
            pod: Some("db-0".into()),
        };
        let lease = Lease {
            second: Some("node-2".into()),
            leaving: true,
            released: true,
            granted: true,
            asks: ["node-2".to_owned()].into(),
            version: Version { uid: "u".into(), resource: "7".into() },
            ..Lease::single("erp", "10.20.1.5".parse().unwrap(), "node-1", Some(owner))
        };
        assert_eq!(Lease::try_from(&IPLease::from(&lease)).unwrap(), lease);
        let new = IPLease::from(&Lease::new("erp", "10.20.1.0/28".parse().unwrap(), "node-1"));
        assert_eq!((new.metadata.uid, new.metadata.resource_version), (None, None));
    }

    #[test]
    fn what_got_past_the_schema_is_refused_with_the_field() {
        let spec = IPPoolSpec { ip_ranges: vec![cidr("10.0.0.0/24"), cidr("zehn")], ..IPPoolSpec::default() };
        let error = Pool::try_from(&IPPool::new("erp", spec)).unwrap_err().to_string();
        assert!(error.contains("spec.ipRanges[1].cidr") && error.contains("zehn"), "{error}");
    }

    #[test]
    fn an_egress_that_was_just_created_has_neither_id_nor_address() {
        let egress = egress::Egress::try_from(&Egress::new("erp", EgressSpec::default())).unwrap();
        assert_eq!(
            (egress.id, egress.address, egress.on_unavailable),
            (None, None, egress::OnUnavailable::Drop)
        );
    }
}
