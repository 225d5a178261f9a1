//! Both families: a pool with ranges of each gives every pod an address of each, and pods reach each other by both.

use libtest_mimic::Trial;
use portolan_bed::Plan;
use portolan_suites::{Bank, PATIENCE};
use serde_json::json;

pub fn trial() -> Trial {
    Trial::test("pods_of_both_families_have_an_address_of_each_and_reach_each_other_by_both", || {
        both();
        Ok(())
    })
}

fn both() {
    let plan = Plan::bank(2).with_both_families();
    let bank = Bank::start(plan, &mut |step| println!("{step}")).unwrap();
    let spec = json!({
        "ipRanges": [{ "cidr": "10.20.1.0/28" }, { "cidr": "fd00:20:1::/124" }],
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "erp" } },
    });
    let pool = json!({ "apiVersion": "portolan.dev/v1alpha1", "kind": "IPPool", "metadata": { "name": "erp" }, "spec": spec });
    bank.bed.apply(&pool.to_string()).unwrap();
    bank.bed.kubectl(&["wait", "--for=condition=Ready", "ippool", "erp", "--timeout=90s"]).unwrap();
    bank.applications().unwrap();
    let list = bank.bed.get(&["pods", "-n", "erp"]).unwrap();
    let of = |pod: &serde_json::Value| -> Vec<String> {
        let all = pod["status"]["podIPs"].as_array().unwrap();
        all.iter().map(|one| one["ip"].as_str().unwrap().to_owned()).collect()
    };
    let pods = bank.pods("erp").unwrap();
    let on = |node: &str| pods.iter().find(|pod| pod.node == node).unwrap();
    let addresses: Vec<_> = list["items"].as_array().unwrap().iter().map(of).collect();
    for both in &addresses {
        assert!(
            both.len() == 2 && both[0].starts_with("10.20.1.") && both[1].starts_with("fd00:20:1::"),
            "{both:?}"
        );
    }
    let sixth = |name: &str| {
        let path = "jsonpath={.status.podIPs[1].ip}";
        bank.bed.kubectl(&["-n", "erp", "get", "pod", name, "-o", path]).unwrap()
    };
    let (near, far) = (on("node-1"), on("node-2"));
    let (own, peer) = (sixth(&near.name), sixth(&far.name));
    for (to, source) in [(format!("[{peer}]:8080"), &own), (format!("{}:8080", far.address), &near.address)] {
        bank.bed
            .wait("a pod reaches one on another node and is seen as itself", PATIENCE, || {
                let answer = bank.dial(near, &to, "families")?;
                Ok(if answer.contains(source.as_str()) { Ok(()) } else { Err(answer) })
            })
            .unwrap();
    }
    bank.agrees().unwrap();
}
