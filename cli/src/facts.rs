//! `check`: gathers what everybody says, compares, and looks a second time at what does not agree.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use portolan_core::ipam::{Lease, Pool};
use portolan_crds::node::hop;
use portolan_crds::{IPLease, IPPool};
use portolan_wire::inspect::{NODE, NodeState};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Ended;
use crate::check::{Facts, Finding, PodFacts, check};
use crate::cluster::{Cluster, Silent};
use crate::output::Out;

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// What is told.
#[derive(Debug, Serialize)]
struct Report {
    findings: BTreeSet<Finding>,
    silent: Vec<Silent>,
    looked: Looked,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Serialize)]
struct Looked {
    nodes: usize,
    pools: usize,
    leases: usize,
    pods: usize,
    records: usize,
}

/// Looks and tells.
///
/// # Errors
/// When the API server does not answer.
pub async fn run(cluster: &Cluster, settle: Duration, out: &mut Out) -> Result<Ended> {
    let (mut facts, mut silent) = gather(cluster).await?;
    let mut findings = check(&facts);
    if !findings.is_empty() {
        tokio::time::sleep(settle).await;
        (facts, silent) = gather(cluster).await?;
        let again = check(&facts);
        findings.retain(|finding| again.contains(finding));
    }
    let records = facts.nodes.values().map(|node| node.records.len()).sum();
    let (pools, leases, pods) = (facts.pools.len(), facts.leases.len(), facts.pods.len());
    let looked = Looked { nodes: facts.nodes.len(), pools, leases, pods, records };
    let report = Report { findings, silent, looked };
    tell(&report, out)?;
    Ok(match report {
        Report { findings, .. } if !findings.is_empty() => Ended::Nothing,
        Report { silent, .. } if !silent.is_empty() => Ended::Incomplete,
        Report { .. } => Ended::Answered,
    })
}

fn tell(report: &Report, out: &mut Out) -> Result<()> {
    if out.is_json() {
        return out.json(report);
    }
    report.findings.iter().try_for_each(|finding| out.bad(&finding.to_string()))?;
    let silent = |one: &Silent| out.bad(&format!("Node {}: not looked at: {}", one.node, one.why));
    report.silent.iter().try_for_each(silent)?;
    let Looked { nodes, pools, leases, pods, records } = report.looked;
    let looked = format!("{nodes} nodes, {pools} pools, {leases} leases, {records} records and {pods} pods");
    match (report.findings.len(), report.silent.len()) {
        (0, 0) => out.good(&format!("{looked} agree")),
        (0, silent) => out.line(&format!("{looked} agree; {silent} nodes were not looked at")),
        (findings, _) => out.line(&format!("{looked}: {findings} findings")),
    }
}

async fn gather(cluster: &Cluster) -> Result<(Facts, Vec<Silent>)> {
    let mut facts = Facts::default();
    let mut nodes: BTreeSet<String> = cluster.nodes().map(str::to_owned).collect();
    for lease in all::<IPLease>(cluster).await? {
        match Lease::try_from(&lease) {
            Ok(lease) => drop(facts.leases.insert(lease.name.clone(), lease)),
            Err(error) => facts.invalid.push((format!("IPLease {}", lease.name_any()), error.to_string())),
        }
    }
    for pool in all::<IPPool>(cluster).await? {
        match Pool::try_from(&pool) {
            Ok(pool) => drop(facts.pools.insert(pool.name.clone(), pool)),
            Err(error) => facts.invalid.push((format!("IPPool {}", pool.name_any()), error.to_string())),
        }
    }
    for node in all::<Node>(cluster).await? {
        facts.cidrs.insert(node.name_any(), hop(&node).pod_cidrs);
    }
    facts.pods = all::<Pod>(cluster).await?.iter().map(pod).collect();
    // A node whose pods have addresses must be heard, whether or not an agent is meant to be there.
    let with_pods = facts.pods.iter().filter(|pod| pod.is_ours()).filter_map(|pod| pod.node.clone());
    nodes.extend(with_pods);
    let answers = cluster.ask_all::<NodeState>(nodes.iter().map(String::as_str), NODE).await;
    facts.nodes = answers.answers;
    let mut silent = answers.silent;
    for (node, state) in &facts.nodes {
        let unread = state.kernel.unread.iter();
        silent.extend(unread.map(|why| Silent { node: node.clone(), why: format!("its kernel: {why}") }));
    }
    Ok((facts, silent))
}

/// All objects of a kind, page by page.
async fn all<K>(cluster: &Cluster) -> Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(cluster.client.clone());
    let (mut objects, mut next) = (Vec::new(), None::<String>);
    loop {
        let mut page = ListParams::default().limit(PAGE);
        page.continue_token.clone_from(&next);
        let list = api.list(&page).await.with_context(|| format!("{} cannot be listed", K::plural(&())))?;
        objects.extend(list.items);
        next = list.metadata.continue_.filter(|token| !token.is_empty());
        if next.is_none() {
            return Ok(objects);
        }
    }
}

fn pod(pod: &Pod) -> PodFacts {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let addresses = status.pod_ips.into_iter().flatten().filter_map(|one| one.ip.parse().ok());
    PodFacts {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node: spec.node_name,
        addresses: addresses.collect(),
        host_network: spec.host_network == Some(true),
        ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
    }
}
