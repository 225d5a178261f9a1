//! From what users wrote to core types: one function per kind, with errors that name object, field, value and remedy.

use std::net::IpAddr;

use ipnet::IpNet;
use portolan_core::address::{self, Ranges};
use portolan_core::egress;
use portolan_core::external::ExternalPool;
use portolan_core::ipam::{self, Lease, Pool, pool};
use portolan_core::labels::Selector;
use portolan_core::mark::EgressId;

use crate::ip_pool::{IPRange, SubnetInfo};
use crate::{Egress, ExternalIPPool, IPLease, IPPool, OnUnavailable, Outbound, selector};

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
            lease_size: lease_size(spec.lease_size)?,
            nodes: selector("spec.nodeSelector", &spec.node_selector)?.unwrap_or_default(),
            namespaces: selector("spec.namespaceSelector", &spec.namespace_selector)?,
            outbound: match spec.outbound.unwrap_or_default() {
                Outbound::NodeAddress => ipam::Outbound::NodeAddress,
                Outbound::PodAddress => ipam::Outbound::PodAddress,
            },
            enabled: !spec.disabled,
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
            created: from.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()),
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
        let name = from.metadata.name.clone().unwrap_or_default();
        Ok(Self { name, pool: spec.pool.clone(), block, node: spec.node.clone(), released: spec.released })
    }
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
