//! Egresses: id and address, owner, condition.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client, ResourceExt};
use portolan_core::egress::assign::{Assignment, Request, assign};
use portolan_core::egress::owner::owners;
use portolan_core::external::Refusal;
use portolan_core::labels::Selector;
use portolan_core::mark::EgressId;
use portolan_crds::condition::{self, Statement};
use portolan_crds::{Egress, EgressStatus};

use crate::facts::Facts;
use crate::services::Vips;
use crate::status;

/// Assigns, and says so.
pub async fn reconcile(client: &Client, facts: &Facts, vips: &Vips) -> Result<()> {
    let (api, now) = (Api::<Egress>::all(client.clone()), status::now());
    let pools = facts.external_pools();
    let requests: Vec<_> = facts.egresses.iter().map(|egress| request(egress)).collect();
    let assigned = assign(&requests, &pools, vips.owners());
    // The agents compute the same owners from what is written here.
    let selector = |egress: &Egress| {
        let pool = egress.spec.external_ip_pool.as_ref().and_then(|pool| pools.get(pool));
        pool.map(|pool| pool.nodes.clone()).unwrap_or_default()
    };
    let address = |egress: &Egress| Some(assigned.get(&egress.name_any())?.as_ref().ok()?.address);
    let addresses: BTreeMap<IpAddr, Selector> =
        facts.egresses.iter().filter_map(|egress| Some((address(egress)?, selector(egress)))).collect();
    let owners = owners(&addresses, &facts.members);
    let mut outcomes = Vec::new();
    for egress in &facts.egresses {
        let Some(outcome) = assigned.get(&egress.name_any()) else { continue };
        let before = egress.status.clone().unwrap_or_default();
        let after = state(egress, outcome, &owners, &now);
        outcomes.push(status::write(&api, egress, &before, &after).await);
    }
    status::all(outcomes)
}

fn request(egress: &Egress) -> Request {
    let status = egress.status.clone().unwrap_or_default();
    Request {
        name: egress.name_any(),
        created: egress.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
        wanted: egress.spec.egress_ip.clone(),
        pool: egress.spec.external_ip_pool.clone(),
        id: status.egress_id.and_then(EgressId::new),
        address: status.egress_ip.and_then(|address| address.parse().ok()),
    }
}

/// What is to be said of one Egress. An id, once given, stays: packets carry it.
fn state(
    egress: &Egress,
    outcome: &Result<Assignment, Refusal>,
    owners: &BTreeMap<IpAddr, String>,
    now: &Time,
) -> EgressStatus {
    let mut status = egress.status.clone().unwrap_or_default();
    let statement = match outcome {
        Ok(given) => {
            let owner = owners.get(&given.address).cloned();
            status.egress_id = Some(given.id.number());
            status.egress_ip = Some(given.address.to_string());
            status.egress_node.clone_from(&owner);
            match owner {
                Some(node) => ready(true, "Assigned", format!("{} is owned by {node}", given.address)),
                None => {
                    let message = "no node that is Ready and schedulable matches the pool's nodeSelector: make one \
                                   Ready or widen the selector; until then the pods' connections do not leave";
                    ready(false, "NoReadyNode", message.to_owned())
                }
            }
        }
        Err(refusal) => {
            (status.egress_ip, status.egress_node) = (None, None);
            ready(false, refusal.reason(), refusal.to_string())
        }
    };
    condition::set(&mut status.conditions, egress.metadata.generation, now, statement);
    status
}

fn ready(holds: bool, reason: &'static str, message: String) -> Statement<'static> {
    Statement { kind: "Ready", holds, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_crds::EgressSpec;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 11, 200));

    #[test]
    fn an_egress_says_who_owns_its_address_or_what_to_do() {
        let mut egress = Egress::new("erp", EgressSpec::default());
        let given = Ok(Assignment { id: EgressId::FIRST, address: ADDRESS });
        let owned = state(&egress, &given, &[(ADDRESS, "node-1".to_owned())].into(), &status::now());
        assert_eq!((owned.egress_id, owned.egress_node.as_deref()), (Some(1), Some("node-1")));
        egress.status = Some(owned);
        let orphan = state(&egress, &given, &BTreeMap::new(), &status::now());
        assert_eq!((orphan.egress_node, orphan.conditions[0].reason.as_str()), (None, "NoReadyNode"));
        let refused = Err(Refusal::Exhausted { pool: "p".into() });
        let refused = state(&egress, &refused, &BTreeMap::new(), &status::now());
        assert_eq!((refused.egress_id, refused.egress_ip), (Some(1), None));
        assert_eq!(refused.conditions[0].reason, "PoolExhausted");
        assert_eq!(refused.conditions.len(), 1);
    }
}
