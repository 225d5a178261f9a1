//! `explain pod`: which address from which pool and why, or why none. The agent of the pod's node answers; a pod that is on
//! no node yet is explained from what the API server knows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use portolan_core::ipam::Pool;
use portolan_core::ipam::choose::{Asker, choose};
use portolan_crds::IPPool;
use portolan_crds::annotation::{self, POOLS};
use portolan_wire::inspect::{EXPLAIN, Explanation, HISTORY, HistoryAnswer, Verdict};
use serde_json::json;

use crate::Ended;
use crate::cluster::Cluster;
use crate::output::Out;
use crate::who;

/// Asks and tells.
///
/// # Errors
/// When the API server or the pod's node does not answer.
pub async fn run(cluster: &Cluster, namespace: &str, name: &str, out: &mut Out) -> Result<Ended> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let Some(pod) = pods.get_opt(name).await.with_context(|| format!("Pod {namespace}/{name}"))? else {
        return gone(cluster, namespace, name, out).await;
    };
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.host_network == Some(true) {
        let words = "uses its node's network (hostNetwork): it has the node's address, and no pool is asked";
        return sentence(namespace, name, words, out).map(|()| Ended::Answered);
    }
    let Some(node) = spec.node_name else { return unscheduled(cluster, &pod, out).await };
    let path = format!("{EXPLAIN}?pod={namespace}/{name}");
    let explanation = cluster.ask::<Explanation>(&node, &path).await;
    let explanation = explanation.with_context(|| format!("node {node}, where the pod is"))?;
    tell(&explanation, &node, namespace, name, out)?;
    Ok(if explanation.addresses.is_empty() { Ended::Nothing } else { Ended::Answered })
}

fn sentence(namespace: &str, name: &str, words: &str, out: &mut Out) -> Result<()> {
    if out.is_json() {
        return out.json(&json!({ "namespace": namespace, "pod": name, "says": words }));
    }
    out.line(&format!("Pod {namespace}/{name} {words}."))
}

fn tell(explained: &Explanation, node: &str, namespace: &str, name: &str, out: &mut Out) -> Result<()> {
    if out.is_json() {
        return out.json(explained);
    }
    lines(explained, node, namespace, name).iter().try_for_each(|line| out.line(line))?;
    if explained.candidates.is_empty() {
        return Ok(());
    }
    let verdict = |verdict| match verdict {
        Verdict::Gives => "gives",
        Verdict::GivesLater => "gives later",
        Verdict::PassedOver => "is passed over",
    };
    let pool = |pool: &Option<String>| pool.clone().unwrap_or_else(|| "the node's pod CIDR".to_owned());
    let rows = explained.candidates.iter().enumerate().map(|(index, one)| {
        vec![(index + 1).to_string(), pool(&one.pool), verdict(one.verdict).to_owned(), one.why.clone()]
    });
    out.line("")?;
    out.table(&["", "POOL", "NOW", "BECAUSE"], rows.collect())
}

/// What is said before the table.
fn lines(explained: &Explanation, node: &str, namespace: &str, name: &str) -> Vec<String> {
    let pod = format!("Pod {namespace}/{name} on {node}");
    let one = |given: &portolan_wire::inspect::Given| match &given.pool {
        Some(pool) => format!("{} from IPPool {pool}", given.address),
        None => format!("{} from the node's pod CIDR", given.address),
    };
    let has: Vec<_> = explained.addresses.iter().map(one).collect();
    let mut lines = match (has.as_slice(), &explained.refusal, &explained.waits_for) {
        ([], _, Some(waits_for)) => vec![format!("{pod} has no address yet: it waits for {waits_for}.")],
        ([], Some(refusal), None) => {
            vec![format!("{pod} has no address, and none can be given now: {refusal}.")]
        }
        ([], None, None) => {
            vec![format!("{pod} has no address yet; one can be given. The runtime will ask, or ask again.")]
        }
        (has, ..) => vec![format!("{pod} has {}.", has.join(" and "))],
    };
    if !explained.chosen_by.is_empty() {
        lines.push(format!("Its pools are chosen by {}.", explained.chosen_by));
    }
    lines
}

/// A pod that is on no node: what it may use is known, what a node would give is not.
async fn unscheduled(cluster: &Cluster, pod: &Pod, out: &mut Out) -> Result<Ended> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let why = conditions.into_iter().flatten().find(|one| one.type_ == "PodScheduled");
    let why = why
        .and_then(|one| one.message.clone())
        .unwrap_or_else(|| "the scheduler has not said why".to_owned());
    let pools = candidates(cluster, pod).await?;
    let words = format!("is on no node yet, so no address was asked for ({why}); {pools}");
    sentence(&pod.namespace().unwrap_or_default(), &pod.name_any(), &words, out)?;
    Ok(Ended::Nothing)
}

async fn candidates(cluster: &Cluster, pod: &Pod) -> Result<String> {
    let client = cluster.client.clone();
    let name = pod.namespace().unwrap_or_default();
    let namespace = Api::<Namespace>::all(client.clone()).get(&name).await?;
    let pools = Api::<IPPool>::all(client).list(&ListParams::default()).await?;
    let pools: BTreeMap<_, _> =
        pools.iter().filter_map(|pool| Some((pool.name_any(), Pool::try_from(pool).ok()?))).collect();
    let listed = |annotations: &BTreeMap<String, String>| {
        annotation::first(Some(annotations), &POOLS).map(annotation::list).unwrap_or_default()
    };
    let (pod_pools, namespace_pools) = (listed(pod.annotations()), listed(namespace.annotations()));
    let asker = Asker {
        namespace: &name,
        namespace_labels: namespace.labels(),
        namespace_pools: &namespace_pools,
        pod_pools: &pod_pools,
        network_pools: &[],
    };
    Ok(match choose(asker, &pools) {
        Ok(names) if names.is_empty() => "it will get one of its node's pod CIDR".to_owned(),
        Ok(names) => format!("it may use the pools {}, in this order", names.join(", ")),
        Err(refusal) => format!("it would get none: {refusal}"),
    })
}

/// A pod that does not exist: the records may know it.
async fn gone(cluster: &Cluster, namespace: &str, name: &str, out: &mut Out) -> Result<Ended> {
    let path = format!("{HISTORY}?pod={namespace}/{name}");
    let answers = cluster.ask_all::<HistoryAnswer>(cluster.nodes(), &path).await;
    let mut holdings: Vec<_> = answers.answers.into_values().flat_map(|one| one.holdings).collect();
    holdings.sort_by_key(|one| one.from);
    if out.is_json() {
        let silent = &answers.silent;
        out.json(&json!({ "namespace": namespace, "pod": name, "exists": false, "held": holdings, "silent": silent }))?;
    } else {
        let held = if holdings.is_empty() { "no address of it is on record" } else { "it held" };
        out.line(&format!(
            "Pod {namespace}/{name} does not exist; {held}{}",
            if holdings.is_empty() { "." } else { ":" }
        ))?;
        if !holdings.is_empty() {
            let head = ["ADDRESS", "POD", "NODE", "POOL", "FROM", "UNTIL", "ENDED BY", "CONTAINER"];
            out.table(&head, holdings.iter().map(who::row).collect())?;
        }
        for one in &answers.silent {
            out.bad(&format!("node {} did not answer: {}", one.node, one.why))?;
        }
    }
    Ok(if answers.silent.is_empty() { Ended::Nothing } else { Ended::Incomplete })
}

#[cfg(test)]
mod tests {
    use portolan_wire::inspect::Given;

    use super::*;

    fn said(explanation: &Explanation) -> String {
        lines(explanation, "node-1", "erp", "db-0").join("\n")
    }

    #[test]
    fn a_pod_with_an_address_one_that_waits_and_one_that_gets_none_are_told_apart() {
        let given = Given { address: "10.20.1.5".parse().unwrap(), pool: Some("erp".into()) };
        let mut one = Explanation { chosen_by: "the Pod's annotation".into(), ..Explanation::default() };
        assert!(said(&one).contains("one can be given"), "{}", said(&one));
        one.refusal = Some("pool erp: it has no free address".into());
        assert!(said(&one).contains("none can be given now: pool erp"), "{}", said(&one));
        one.waits_for = Some("lease erp-10-20-1-0-28".into());
        assert!(said(&one).contains("waits for lease erp-10-20-1-0-28"), "{}", said(&one));
        one.addresses = vec![given];
        assert_eq!(
            said(&one),
            "Pod erp/db-0 on node-1 has 10.20.1.5 from IPPool erp.\nIts pools are chosen by the Pod's annotation."
        );
    }
}
