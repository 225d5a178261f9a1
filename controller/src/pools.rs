//! Pools: how much of each is used, whether it is valid, and with what it overlaps.

use anyhow::Result;
use ipnet::IpNet;
use kube::{Api, Client, ResourceExt};
use portolan_core::address::{Range, Ranges};
use portolan_core::external::ExternalPool;
use portolan_core::ipam::overlap::{Claim, overlaps};
use portolan_core::ipam::{Pool, lease};
use portolan_crds::condition::{self, Statement};
use portolan_crds::{ExternalIPPool, ExternalIPPoolStatus, IPPool, IPPoolStatus, Invalid, Usage};

use crate::facts::Facts;
use crate::services::Vips;
use crate::status;

/// Says of every pool what there is to say.
pub async fn reconcile(client: &Client, facts: &Facts, vips: &Vips) -> Result<()> {
    let claims = claims(facts);
    let (api, now) = (Api::<IPPool>::all(client.clone()), status::now());
    let mut outcomes = Vec::new();
    for (object, pool) in &facts.pools {
        let before = object.status.clone().unwrap_or_default();
        let mut after = IPPoolStatus { usage: usage(facts, pool), ..before.clone() };
        for statement in statements(&format!("IPPool {}", object.name_any()), pool.as_ref(), &claims) {
            condition::set(&mut after.conditions, object.metadata.generation, &now, statement);
        }
        outcomes.push(status::write(&api, object, &before, &after).await);
    }
    let api = Api::<ExternalIPPool>::all(client.clone());
    for (object, pool) in &facts.external {
        let before = object.status.clone().unwrap_or_default();
        let mut after = ExternalIPPoolStatus { usage: external_usage(facts, vips, pool), ..before.clone() };
        condition::set(
            &mut after.conditions,
            object.metadata.generation,
            &now,
            validity(pool.as_ref().err()),
        );
        outcomes.push(status::write(&api, object, &before, &after).await);
    }
    status::all(outcomes)
}

fn statements(owner: &str, pool: Result<&Pool, &Invalid>, claims: &[Claim]) -> Vec<Statement<'static>> {
    let ready = match pool {
        Ok(pool) if !pool.usable.ranges().iter().any(|range| range.first().is_ipv4()) => {
            let message =
                "spec.ipRanges has no usable IPv4 address, and IPv6 is not served yet: add an IPv4 range";
            Statement { kind: "Ready", holds: false, reason: "FamilyNotServed", message: message.to_owned() }
        }
        Ok(pool) if !pool.enabled => {
            let message = "spec.disabled is true: set it to false to give addresses again".to_owned();
            Statement { kind: "Ready", holds: false, reason: "Disabled", message }
        }
        other => validity(other.err()),
    };
    let claim = claims.iter().find(|claim| claim.owner == owner);
    let found = claim.map(|claim| overlaps(claim, claims)).unwrap_or_default();
    let overlapping = match found.first() {
        Some((other, range)) => Statement {
            kind: "Overlapping",
            holds: true,
            reason: "Overlap",
            message: format!("spec.ipRanges shares {range} with {other}: take it out of one of them"),
        },
        None => Statement {
            kind: "Overlapping",
            holds: false,
            reason: "None",
            message: "overlaps nothing".to_owned(),
        },
    };
    vec![ready, overlapping]
}

fn validity(invalid: Option<&Invalid>) -> Statement<'static> {
    match invalid {
        Some(invalid) => {
            Statement { kind: "Ready", holds: false, reason: "Invalid", message: invalid.to_string() }
        }
        None => {
            Statement { kind: "Ready", holds: true, reason: "Valid", message: "gives addresses".to_owned() }
        }
    }
}

/// Everything that claims addresses, with its owner in words.
fn claims(facts: &Facts) -> Vec<Claim> {
    let claim = |owner: String, ranges: Ranges| Claim { owner, ranges };
    let net = |net: &IpNet| [*net].into_iter().collect::<Ranges>();
    let pools = facts.pools.iter().filter_map(|(_, pool)| pool.as_ref().ok());
    let mut claims: Vec<_> =
        pools.map(|pool| claim(format!("IPPool {}", pool.name), pool.usable.clone())).collect();
    let external = facts.external.iter().filter_map(|(_, pool)| pool.as_ref().ok());
    claims.extend(external.map(|pool| claim(format!("ExternalIPPool {}", pool.name), pool.usable.clone())));
    claims.extend(facts.cidrs.iter().map(|cidr| claim(format!("the Service CIDR {cidr}"), net(cidr))));
    for node in &facts.nodes {
        claims.extend(
            node.pod_cidrs
                .iter()
                .map(|cidr| claim(format!("Node {}'s pod CIDR {cidr}", node.name), net(cidr))),
        );
        let address = node.address.and_then(|address| Range::new(address, address));
        claims.extend(
            address
                .map(|range| claim(format!("Node {}'s address", node.name), [range].into_iter().collect())),
        );
    }
    claims
}

fn usage(facts: &Facts, pool: &Result<Pool, Invalid>) -> Option<Usage> {
    let pool = pool.as_ref().ok()?;
    let leases = facts.leases.values().filter(|lease| lease.pool == pool.name);
    let used = leases.map(|one| lease::usable(pool, one.block).len()).sum();
    Some(Usage { total: count(pool.usable.len()), used: count(used) })
}

fn external_usage(facts: &Facts, vips: &Vips, pool: &Result<ExternalPool, Invalid>) -> Option<Usage> {
    let pool = pool.as_ref().ok()?;
    let egress =
        facts.egresses.iter().filter_map(|one| one.status.as_ref()?.egress_ip.as_ref()?.parse().ok());
    let used: std::collections::BTreeSet<_> = egress
        .chain(vips.owners().keys().copied())
        .filter(|address| pool.usable.contains(*address))
        .collect();
    Some(Usage { total: count(pool.usable.len()), used: count(used.len() as u128) })
}

fn count(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_crds::{IPPoolSpec, IPRange};

    fn pool(name: &str, cidr: &str) -> Pool {
        let range = IPRange { cidr: Some(cidr.into()), ..IPRange::default() };
        Pool::try_from(&IPPool::new(name, IPPoolSpec { ip_ranges: vec![range], ..IPPoolSpec::default() }))
            .unwrap()
    }

    #[test]
    fn an_overlap_names_the_other_pool_and_an_ipv6_pool_says_that_it_is_not_served() {
        let pools = [pool("erp", "10.20.1.0/24"), pool("crm", "10.20.1.128/25"), pool("v6", "fd00::/120")];
        let claims: Vec<_> = pools
            .iter()
            .map(|p| Claim { owner: format!("IPPool {}", p.name), ranges: p.usable.clone() })
            .collect();
        let said = statements("IPPool erp", Ok(&pools[0]), &claims);
        assert!(said[0].holds && said[1].holds && said[1].message.contains("IPPool crm"), "{said:?}");
        let said = statements("IPPool v6", Ok(&pools[2]), &claims);
        assert_eq!((said[0].reason, said[1].holds), ("FamilyNotServed", false));
    }
}
