//! Pools: how much of each is used, whether it is valid, and with what it overlaps.

use std::collections::BTreeMap;

use anyhow::Result;
use ipnet::IpNet;
use kube::{Api, Client, ResourceExt};
use portolan_core::address::{Range, Ranges};
use portolan_core::external::ExternalPool;
use portolan_core::ipam::Pool;
use portolan_core::ipam::overlap::{self, Claim, overlaps};
use portolan_core::ipam::usage::usage;
use portolan_crds::condition::{self, Statement};
use portolan_crds::{
    ExternalIPPool, ExternalIPPoolStatus, IPPool, IPPoolStatus, IPRange, Invalid, PoolUsage, Usage, ranges,
};

use crate::facts::Facts;
use crate::services::Vips;
use crate::status;

/// How a claim of a pool of pod addresses begins.
const POOL: &str = "IPPool";

/// Says of every pool what there is to say.
pub async fn reconcile(client: &Client, facts: &Facts, vips: &Vips) -> Result<()> {
    let claims = claims(facts);
    let (api, now) = (Api::<IPPool>::all(client.clone()), status::now());
    let mut outcomes = Vec::new();
    let (pods, pools) = (facts.pod_addresses(), effective(facts));
    for (object, pool) in &facts.pools {
        let before = object.status.clone().unwrap_or_default();
        let counted = pools.get(&object.name_any()).map(|pool| usage(pool, &facts.leases, &pods));
        let used = used(facts, &object.name_any(), &pods);
        let mut after = IPPoolStatus {
            usage: counted.map(|usage| PoolUsage {
                total: count(usage.total),
                used: count(usage.used),
                reserved: count(usage.reserved),
                free: count(usage.free()),
            }),
            ranges_in_use: object
                .spec
                .ip_ranges
                .iter()
                .filter(|range| is_in(range, &used))
                .map(written)
                .collect(),
            ..before.clone()
        };
        let owner = format!("{POOL} {}", object.name_any());
        let mut all = statements(&owner, pool.as_ref(), &claims);
        all.extend(counted.map(|usage| exhaustion(usage.exhausted)));
        for statement in all {
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
        pools.map(|pool| claim(format!("{POOL} {}", pool.name), pool.usable.clone())).collect();
    let external = facts.external.iter().filter_map(|(_, pool)| pool.as_ref().ok());
    claims.extend(external.map(|pool| claim(format!("ExternalIPPool {}", pool.name), pool.usable.clone())));
    claims.extend(facts.cidrs.iter().map(|cidr| claim(format!("the Service CIDR {cidr}"), net(cidr))));
    for node in &facts.nodes {
        claims.extend(
            node.pod_cidrs
                .iter()
                .map(|cidr| claim(format!("Node {}'s pod CIDR {cidr}", node.name), net(cidr))),
        );
        let addresses = node.addresses().filter_map(|address| Range::new(address, address));
        claims.extend(
            addresses
                .map(|range| claim(format!("Node {}'s address", node.name), [range].into_iter().collect())),
        );
    }
    claims
}

fn exhaustion(exhausted: bool) -> Statement<'static> {
    let (reason, message) = if exhausted {
        ("NoAddressLeft", "every address has a pod or is kept for a workload: add a range to spec.ipRanges")
    } else {
        ("AddressesLeft", "has addresses for more pods")
    };
    Statement { kind: "Exhausted", holds: exhausted, reason, message: message.to_owned() }
}

/// The pools as the agents see them: each without what is not its to give.
fn effective(facts: &Facts) -> BTreeMap<String, Pool> {
    let pools = facts.pools.iter().filter_map(|(_, pool)| pool.as_ref().ok());
    let taken = claims(facts).into_iter().filter(|claim| !claim.owner.starts_with(POOL));
    let taken = taken.fold(Ranges::default(), |all, claim| all.union(&claim.ranges));
    overlap::effective(pools.cloned(), &taken)
}

/// What somebody holds of a pool, or of what it once had.
fn used(facts: &Facts, pool: &str, pods: &Ranges) -> Ranges {
    let leases = facts.leases.iter().filter(|lease| lease.pool == pool);
    leases.map(|lease| lease.block).collect::<Ranges>().union(pods)
}

fn is_in(range: &IPRange, used: &Ranges) -> bool {
    let range = ranges("spec.ipRanges", std::slice::from_ref(range));
    range.is_ok_and(|range| !range.intersect(used).is_empty())
}

/// A range as it stands in `status.rangesInUse`, which a rule of the schema compares with the spec.
fn written(range: &IPRange) -> String {
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    match &range.cidr {
        Some(cidr) => cidr.clone(),
        None => format!("{}-{}", or_empty(&range.start), or_empty(&range.end)),
    }
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
    fn an_overlap_names_the_other_pool() {
        let pools = [pool("erp", "10.20.1.0/24"), pool("crm", "10.20.1.128/25"), pool("v6", "fd00::/120")];
        let claims: Vec<_> = pools
            .iter()
            .map(|p| Claim { owner: format!("IPPool {}", p.name), ranges: p.usable.clone() })
            .collect();
        let said = statements("IPPool erp", Ok(&pools[0]), &claims);
        assert!(said[0].holds && said[1].holds && said[1].message.contains("IPPool crm"), "{said:?}");
        let said = statements("IPPool v6", Ok(&pools[2]), &claims);
        assert_eq!((said[0].reason, said[1].holds), ("Valid", false));
    }
}
