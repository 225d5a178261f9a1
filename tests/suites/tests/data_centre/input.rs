//! Bad input: refused by the API server with the field named, or a condition that says what to do.

use libtest_mimic::Trial;
use portolan_suites::{Bank, PATIENCE, Shared};
use serde_json::{Value, json};

pub fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        shared.trial("a_pool_that_makes_no_sense_is_refused_with_its_field", refused),
        shared.trial("pools_that_overlap_say_with_whom", overlapping),
        shared.trial("an_egress_with_an_address_outside_its_pool_says_so", outside),
        shared.trial("a_pod_without_an_address_names_the_pool", exhausted),
    ]
}

fn object(kind: &str, name: &str, spec: &Value) -> String {
    json!({ "apiVersion": "portolan.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
        .to_string()
}

fn refused(bank: &mut Bank) {
    for (spec, words) in [
        (json!({ "ipRanges": [{ "cidr": "10.20.0.0/33" }] }), "cidr is not a CIDR"),
        (json!({ "ipRanges": [{ "cidr": "10.20.0.1/24" }] }), "network address"),
        (json!({ "ipRanges": [{ "cidr": "10.0.0.0/8" }] }), "at most 1,048,576"),
        (json!({ "ipRanges": [] }), "spec.ipRanges"),
        (json!({ "ipRanges": [{ "start": "10.0.0.1" }] }), "start and end"),
        (json!({ "ipRanges": [{ "start": "zehn", "end": "10.0.0.1" }] }), "not an IP address"),
        (json!({ "ipRanges": [{ "cidr": "10.20.0.0/24" }], "leaseSize": 3 }), "power of two"),
        (json!({ "ipRanges": [{ "cidr": "10.20.0.0/24" }], "colour": "red" }), "colour"),
    ] {
        let error = bank.bed.apply(&object("IPPool", "bad", &spec)).unwrap_err().to_string();
        assert!(error.contains(words), "{spec}: {error}");
    }
    let egress = json!({ "appliedTo": {}, "egressIP": "nowhere" });
    let error = bank.bed.apply(&object("Egress", "bad", &egress)).unwrap_err().to_string();
    assert!(error.contains("egressIP is not an IP address"), "{error}");
}

/// Waits until a condition has these words in its message.
fn says(bank: &Bank, kind: &str, name: &str, condition: &str, words: &str) {
    let path = format!("jsonpath={{.status.conditions[?(@.type==\"{condition}\")].message}}");
    let asks = || {
        let message = bank.bed.kubectl(&["get", kind, name, "-o", &path])?;
        Ok(if message.contains(words) { Ok(()) } else { Err(message) })
    };
    bank.bed.wait(&format!("{kind} {name} says {words:?}"), PATIENCE, asks).unwrap();
}

fn delete(bank: &Bank, kind: &str, name: &str) {
    bank.bed.kubectl(&["delete", kind, name]).unwrap();
}

fn overlapping(bank: &mut Bank) {
    let spec = json!({ "ipRanges": [{ "cidr": "10.20.1.128/25" }] });
    bank.bed.apply(&object("IPPool", "greedy", &spec)).unwrap();
    says(bank, "ippool", "greedy", "Overlapping", "10.20.1.128 to 10.20.1.255 with IPPool erp");
    says(bank, "ippool", "erp", "Overlapping", "IPPool greedy");
    delete(bank, "ippool", "greedy");
    says(bank, "ippool", "erp", "Overlapping", "overlaps nothing");
}

fn outside(bank: &mut Bank) {
    let spec = json!({
        "appliedTo": { "podSelector": { "matchLabels": { "app": "nobody" } } },
        "egressIP": "10.9.9.9", "externalIPPool": "egress",
    });
    bank.bed.apply(&object("Egress", "astray", &spec)).unwrap();
    says(bank, "egress", "astray", "Ready", "spec.egressIP 10.9.9.9 is not in ExternalIPPool \"egress\"");
    delete(bank, "egress", "astray");
}

/// Three pods want two addresses: one waits, its event says why, and it gets the address that another gives up.
fn exhausted(bank: &mut Bank) {
    let bed = &bank.bed;
    let spec = json!({ "ipRanges": [{ "cidr": "10.20.9.0/31" }], "leaseSize": 1 });
    bed.apply(&object("IPPool", "tiny", &spec)).unwrap();
    bed.apply(
        &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "tiny", "annotations": { "ipam.antrea.io/ippools": "tiny" } } })
        .to_string(),
    )
    .unwrap();
    for number in 1..=3 {
        bed.apply(
            &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("p{number}"), "namespace": "tiny" },
                "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
                    "name": "p", "image": "localhost/bed/workload:1", "args": ["serve", "--port", "8080"] }] } })
            .to_string(),
        )
        .unwrap();
    }
    bed.wait("two pods run", PATIENCE, || {
        let running = bank.pods("tiny")?.len();
        Ok(if running == 2 { Ok(()) } else { Err(format!("{running}")) })
    })
    .unwrap();
    bed.wait("an event names the pool", PATIENCE, || {
        let events = bed.kubectl(&["-n", "tiny", "get", "events", "-o", "jsonpath={.items[*].message}"])?;
        Ok(if events.contains("pool tiny: it has no free IPv4 address") { Ok(()) } else { Err(events) })
    })
    .unwrap();
    let first = bank.pods("tiny").unwrap().remove(0);
    bed.kubectl(&["-n", "tiny", "delete", "pod", &first.name, "--wait=true"]).unwrap();
    bed.wait("the waiting pod gets the free address", PATIENCE, || {
        let pods = bank.pods("tiny")?;
        let taken = pods.iter().any(|pod| pod.address == first.address);
        Ok(if pods.len() == 2 && taken { Ok(()) } else { Err(format!("{pods:?}")) })
    })
    .unwrap();
    bed.kubectl(&["delete", "namespace", "tiny"]).unwrap();
    bed.wait("all leases of the pool come back", PATIENCE, || {
        let leases = bed.get(&["ipleases"])?;
        let left = leases["items"]
            .as_array()
            .map_or(0, |all| all.iter().filter(|one| one["spec"]["pool"] == "tiny").count());
        Ok(if left == 0 { Ok(()) } else { Err(format!("{left} leases")) })
    })
    .unwrap();
    delete(bank, "ippool", "tiny");
}
