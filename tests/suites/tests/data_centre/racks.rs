//! Two racks, two subnets: what direct routes cannot do, VXLAN does.

use libtest_mimic::Trial;
use portolan_bed::Plan;
use portolan_suites::{Bank, PATIENCE};

pub fn trial() -> Trial {
    Trial::test("two_racks_reach_each_other_over_vxlan_and_leave_through_the_owner_in_the_other_rack", || {
        across();
        Ok(())
    })
}

fn across() {
    let bank = Bank::start(Plan::bank(2).with_second_rack(), &mut |step| println!("{step}")).unwrap();
    // The address belongs to rack 1's subnet, so only a node there can own it.
    bank.bed.kubectl(&["label", "node", "node-1", "rack=one"]).unwrap();
    bank.bed
        .apply(
            "apiVersion: portolan.dev/v1alpha1\nkind: ExternalIPPool\nmetadata: {name: egress}\nspec:\n  ipRanges: \
             [{cidr: 172.16.11.200/32}]\n  nodeSelector: {matchLabels: {rack: one}}\n---\napiVersion: \
             portolan.dev/v1alpha1\nkind: Egress\nmetadata: {name: erp}\nspec:\n  appliedTo: {namespaceSelector: \
             {matchLabels: {kubernetes.io/metadata.name: erp}}}\n  externalIPPool: egress\n",
        )
        .unwrap();
    bank.applications().unwrap();
    bank.bed.kubectl(&["wait", "--for=condition=Ready", "egress", "erp", "--timeout=90s"]).unwrap();
    let owner = || {
        let node = bank.bed.kubectl(&["get", "egress", "erp", "-o", "jsonpath={.status.egressNode}"])?;
        Ok(if node == "node-1" { Ok(()) } else { Err(node) })
    };
    bank.bed.wait("the owner is the node in rack 1", PATIENCE, owner).unwrap();
    let pods = bank.pods("erp").unwrap();
    let on = |node: &str| {
        pods.iter().find(|pod| pod.node == node).unwrap_or_else(|| panic!("no pod on {node}: {pods:?}"))
    };
    let (near, far) = (on("node-1"), on("node-2"));
    let answer = bank.dial(near, &format!("{}:8080", far.address), "across").unwrap();
    assert!(answer.contains(&near.address), "pod to pod is translated: {answer}");
    let route = bank.bed.nodes()[0].host().exec(&["ip", "route", "get", &far.address]).unwrap();
    assert!(route.contains("portolan.vx"), "{route}");
    for pod in [near, far] {
        bank.bed
            .wait("the database sees the Egress's address", PATIENCE, || {
                let answer = bank.dial(pod, "172.16.20.9:5432", "racks")?;
                Ok(if answer.contains("172.16.11.200") { Ok(()) } else { Err(answer) })
            })
            .unwrap();
    }
    bank.agrees().unwrap();
}
