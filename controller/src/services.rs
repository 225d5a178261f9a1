//! Services of type LoadBalancer: their virtual address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use portolan_core::external::{ExternalPool, choose};
use portolan_crds::annotation::{self, EXTERNAL_POOL};
use serde_json::json;

use crate::facts::Facts;

/// The class of Services that are ours; those without a class are too.
const CLASS: &str = "portolan.dev/service-engine";

/// The virtual addresses in force.
#[derive(Default)]
pub struct Vips {
    owners: BTreeMap<IpAddr, String>,
    services: Vec<(Arc<Service>, IpAddr)>,
}

impl Vips {
    /// Whose each address is, in words.
    pub fn owners(&self) -> &BTreeMap<IpAddr, String> {
        &self.owners
    }

    /// Services and their addresses.
    pub fn services(&self) -> &[(Arc<Service>, IpAddr)] {
        &self.services
    }
}

/// Assigns addresses, oldest Service first, and writes them. The answer holds those that are in force, whatever could
/// not be written.
pub async fn reconcile(client: &Client, facts: &Facts) -> (Result<()>, Vips) {
    let pools = facts.external_pools();
    let default = facts.engines.iter().find_map(|engine| engine.spec.vip_pool.clone());
    let egress =
        facts.egresses.iter().filter_map(|one| one.status.as_ref()?.egress_ip.as_ref()?.parse().ok());
    let mut used: BTreeSet<IpAddr> = egress.collect();
    let mut ours: Vec<_> = facts.services.iter().filter(|service| is_ours(service)).cloned().collect();
    // Who has an address keeps it before who needs one gets it.
    ours.sort_by_key(|service| {
        (current(service).is_none(), service.creation_timestamp(), service.name_any())
    });
    let (mut vips, mut outcome) = (Vips::default(), Ok(()));
    for service in ours {
        let pool = annotation::first(Some(service.annotations()), &EXTERNAL_POOL).map(str::to_owned);
        let Some(name) = pool.or_else(|| default.clone()) else { continue };
        let vip = match pools.get(&name).map(|pool| address(&service, pool, &used)) {
            Some(Ok(vip)) => Some(vip),
            Some(Err(why)) => {
                outcome = outcome.and(Err(anyhow::anyhow!(why)));
                None
            }
            // A pool that is gone or invalid gives nothing new, but what it gave stays given.
            None => current(&service),
        };
        if let Err(error) = write(client, &service, vip).await {
            outcome = outcome.and(Err(error));
        }
        let Some(vip) = vip else { continue };
        used.insert(vip);
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        vips.owners.insert(vip, format!("Service {namespace}/{name}"));
        vips.services.push((service, vip));
    }
    // Only those that are no load balancers any more: what another class serves is not ours to clear.
    let stale = facts.services.iter().filter(|service| {
        let balancer =
            service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
        !balancer && current(service).is_some_and(|one| pools.values().any(|pool| pool.usable.contains(one)))
    });
    for service in stale {
        if let Err(error) = write(client, service, None).await {
            outcome = outcome.and(Err(error));
        }
    }
    (outcome, vips)
}

fn is_ours(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() == Some("LoadBalancer")
        && spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS)
        && service.metadata.deletion_timestamp.is_none()
}

fn current(service: &Service) -> Option<IpAddr> {
    let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
    balancer.ingress.as_ref()?.first()?.ip.as_ref()?.parse().ok()
}

/// `spec.loadBalancerIP` where it is given, else what the Service has, else the lowest free address.
fn address(service: &Service, pool: &ExternalPool, used: &BTreeSet<IpAddr>) -> Result<IpAddr, String> {
    let name = format!("Service {}/{}", service.namespace().unwrap_or_default(), service.name_any());
    let wanted =
        service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.clone()).filter(|ip| !ip.is_empty());
    let Some(wanted) = wanted else {
        return choose(pool, current(service), used).map_err(|refusal| format!("{name}: {refusal}"));
    };
    let address = wanted.parse::<IpAddr>().ok().filter(|address| pool.usable.contains(*address));
    let address = address.ok_or_else(|| {
        format!(
            "{name}: spec.loadBalancerIP {wanted:?} is not in ExternalIPPool {}: choose one of its addresses",
            pool.name
        )
    })?;
    if used.contains(&address) {
        return Err(format!("{name}: spec.loadBalancerIP {address} is in use: choose another"));
    }
    Ok(address)
}

async fn write(client: &Client, service: &Service, vip: Option<IpAddr>) -> Result<()> {
    if current(service) == vip {
        return Ok(());
    }
    let namespace = service.namespace().unwrap_or_default();
    let api = Api::<Service>::namespaced(client.clone(), &namespace);
    let ingress = vip.map(|ip| json!([{ "ip": ip, "ipMode": "VIP" }]));
    let patch = json!({
        "metadata": { "resourceVersion": service.resource_version() },
        "status": { "loadBalancer": { "ingress": ingress } },
    });
    let name = service.name_any();
    match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("status of Service {namespace}/{name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_core::labels::Selector;
    use serde_json::from_value;

    fn service(spec: serde_json::Value) -> Service {
        from_value(json!({ "metadata": { "name": "nginx1", "namespace": "default" }, "spec": spec })).unwrap()
    }

    fn pool() -> ExternalPool {
        let usable = ["172.16.251.0/30".parse::<ipnet::IpNet>().unwrap()].into_iter().collect();
        ExternalPool { name: "vips".into(), usable, nodes: Selector::default() }
    }

    #[test]
    fn an_address_that_was_asked_for_is_given_or_refused_by_name() {
        let wants = |ip: &str| service(json!({ "type": "LoadBalancer", "loadBalancerIP": ip }));
        let used = ["172.16.251.1".parse().unwrap()].into();
        assert_eq!(address(&wants("172.16.251.2"), &pool(), &used).unwrap().to_string(), "172.16.251.2");
        assert!(address(&wants("172.16.251.1"), &pool(), &used).unwrap_err().contains("in use"));
        assert!(address(&wants("10.0.0.1"), &pool(), &used).unwrap_err().contains("vips"));
    }

    #[test]
    fn only_services_of_our_class_are_ours() {
        assert!(is_ours(&service(json!({ "type": "LoadBalancer" }))));
        assert!(is_ours(&service(json!({ "type": "LoadBalancer", "loadBalancerClass": CLASS }))));
        assert!(!is_ours(&service(json!({ "type": "LoadBalancer", "loadBalancerClass": "other" }))));
        assert!(!is_ours(&service(json!({ "type": "ClusterIP" }))));
    }
}
