//! Addresses that mean something: pools in order, all of a pool's addresses, addresses that stay, and who had them.

use std::collections::{BTreeMap, BTreeSet};

use libtest_mimic::Trial;
use portolan_suites::{Bank, PATIENCE, Pod, Shared};
use serde_json::{Value, json};

pub fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        shared.trial("as_many_pods_as_addresses_all_run_and_one_more_is_told_why_not", all_addresses),
        shared.trial("pools_are_used_in_the_order_of_the_list_and_nobody_leaves_them", order),
        shared.trial("a_pool_in_use_is_neither_deleted_nor_cut", in_use),
        shared.trial("a_stateful_sets_pods_keep_their_addresses", stateful_set),
        shared.trial("a_deployments_fixed_addresses_survive_a_rolling_update", fixed_set),
        shared.trial("a_virtual_machine_keeps_its_address_while_it_migrates", virtual_machine),
        shared.trial("who_held_an_address_is_remembered_over_a_restart_of_the_agent", who),
    ]
}

/// A pool, and a namespace that it is given to by its annotation. Gone again at the end.
struct Tenant<'a> {
    bank: &'a Bank,
    namespace: &'static str,
    pools: Vec<&'static str>,
}

impl<'a> Tenant<'a> {
    fn new(bank: &'a Bank, namespace: &'static str, pools: &[(&'static str, Value)]) -> Self {
        for (name, spec) in pools {
            bank.bed.apply(&pool(name, spec)).unwrap();
            if spec["disabled"] != true {
                let ready = ["wait", "--for=condition=Ready", "ippool", name, "--timeout=90s"];
                bank.bed.kubectl(&ready).unwrap();
            }
        }
        let names: Vec<_> = pools.iter().map(|(name, _)| *name).collect();
        let annotations = json!({ "portolan.dev/ippools": names.join(",") });
        let metadata = json!({ "name": namespace, "annotations": annotations });
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
        bank.bed.apply(&object.to_string()).unwrap();
        Self { bank, namespace, pools: names }
    }

    fn apply(&self, object: &Value) {
        self.bank.bed.apply(&object.to_string()).unwrap();
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let all: Vec<_> = ["-n", self.namespace].iter().chain(arguments).copied().collect();
        self.bank.bed.kubectl(&all).unwrap()
    }

    /// Waits until so many pods run, and returns them by name.
    fn running(&self, many: usize) -> BTreeMap<String, Pod> {
        let look = || {
            let pods: BTreeMap<_, _> =
                self.bank.pods(self.namespace)?.into_iter().map(|pod| (pod.name.clone(), pod)).collect();
            let addressed = pods.values().all(|pod| !pod.address.is_empty());
            Ok(if pods.len() == many && addressed { Ok(pods) } else { Err(format!("{pods:?}")) })
        };
        self.bank.bed.wait(&format!("{many} pods of {} run", self.namespace), PATIENCE * 2, look).unwrap()
    }

    /// Waits until an Event of this namespace has these words.
    fn event(&self, words: &str) {
        let look = || {
            let events =
                self.kubectl(&["get", "events", "-o", "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}"]);
            Ok(if events.contains(words) { Ok(()) } else { Err(events) })
        };
        self.bank.bed.wait(&format!("an event says {words:?}"), PATIENCE, look).unwrap();
    }

    /// Waits until no lease of its pools is left, or only these many.
    fn leases(&self, left: usize) {
        let look = || {
            let leases = self.bank.bed.get(&["ipleases"])?;
            let mine: Vec<_> = leases["items"].as_array().into_iter().flatten().collect();
            let mine = mine.iter().filter(|one| self.pools.iter().any(|pool| one["spec"]["pool"] == **pool));
            let mine: Vec<_> = mine.map(|one| one["spec"].to_string()).collect();
            Ok(if mine.len() == left { Ok(()) } else { Err(mine.join(" ")) })
        };
        self.bank.bed.wait(&format!("{left} leases of {:?} are left", self.pools), PATIENCE, look).unwrap();
    }

    fn end(self) {
        self.bank.bed.kubectl(&["delete", "namespace", self.namespace]).unwrap();
        self.leases(0);
        for pool in &self.pools {
            self.bank.bed.kubectl(&["delete", "ippool", pool]).unwrap();
        }
    }
}

fn pool(name: &str, spec: &Value) -> String {
    json!({ "apiVersion": "portolan.dev/v1alpha1", "kind": "IPPool", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

/// No cooldown, so that a test need not wait it out.
fn range(cidr: &str) -> Value {
    json!({ "ipRanges": [{ "cidr": cidr }], "cooldownSeconds": 0 })
}

fn pod_spec() -> Value {
    json!({ "terminationGracePeriodSeconds": 0, "containers": [{
        "name": "c", "image": "localhost/bed/workload:1", "args": ["serve", "--port", "8080"] }] })
}

fn pod(namespace: &str, name: &str, annotations: &Value) -> Value {
    let metadata = json!({ "name": name, "namespace": namespace, "annotations": annotations });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec() })
}

/// A Deployment or StatefulSet of pods that are all the same.
fn workload(kind: &str, namespace: &str, name: &str, replicas: usize, annotations: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name }, "annotations": annotations }, "spec": pod_spec() },
        },
    });
    if kind == "StatefulSet" {
        object["spec"]["podManagementPolicy"] = json!("Parallel");
    }
    object
}

fn addresses(pods: &BTreeMap<String, Pod>) -> BTreeMap<String, String> {
    pods.iter().map(|(name, pod)| (name.clone(), pod.address.clone())).collect()
}

/// Eight addresses on three nodes, eight pods. The ninth is refused with its pools named, and comes when one goes.
fn all_addresses(bank: &mut Bank) {
    let tenant = Tenant::new(bank, "full", &[("full", range("10.20.10.0/29"))]);
    tenant.apply(&workload("Deployment", "full", "web", 8, &json!({})));
    let pods = tenant.running(8);
    let distinct: BTreeSet<_> = pods.values().map(|pod| &pod.address).collect();
    let nodes: BTreeSet<_> = pods.values().map(|pod| &pod.node).collect();
    assert!(distinct.len() == 8 && nodes.len() > 1, "{pods:?}");
    bank.bed.kubectl(&["wait", "--for=condition=Exhausted", "ippool", "full", "--timeout=90s"]).unwrap();
    let usage = bank.bed.kubectl(&["get", "ippool", "full", "-o", "jsonpath={.status.usage}"]).unwrap();
    let usage: Value = serde_json::from_str(&usage).unwrap();
    assert_eq!((&usage["total"], &usage["used"], &usage["free"]), (&json!(8), &json!(8), &json!(0)));

    tenant.apply(&pod("full", "ninth", &json!({})));
    tenant.event("pool full: it has no free IPv4 address: add a range to spec.ipRanges");
    let explained = || {
        let (code, text) = bank.portolan(&["explain", "pod", "full/ninth"])?;
        let says = text.contains("no address") && text.contains("full") && text.contains("add a range");
        Ok(if code == Some(1) && says { Ok(()) } else { Err(text) })
    };
    bank.bed.wait("kubectl portolan explain names the pool", PATIENCE, explained).unwrap();
    // A range that is added serves it.
    let more = json!({ "spec": { "ipRanges": [{ "cidr": "10.20.10.0/29" }, { "cidr": "10.20.10.8/32" }] } });
    bank.bed.kubectl(&["patch", "ippool", "full", "--type=merge", "-p", &more.to_string()]).unwrap();
    let pods = tenant.running(9);
    assert_eq!(pods["ninth"].address, "10.20.10.8");
    let (code, text) = bank.portolan(&["explain", "pod", "full/ninth"]).unwrap();
    assert!(code == Some(0) && text.contains("10.20.10.8 from IPPool full"), "{text}");
    tenant.end();
}

/// The first pool of the list is used up before the second; one that is disabled is passed over; a pod chooses among what its
/// namespace was given, and gets nothing else.
fn order(bank: &mut Bank) {
    let off = json!({ "ipRanges": [{ "cidr": "10.20.11.8/31" }], "disabled": true });
    let pools = [("off", off), ("one", range("10.20.11.0/31")), ("two", range("10.20.11.2/31"))];
    let tenant = Tenant::new(bank, "listed", &pools);
    let mut first = BTreeSet::new();
    for number in 1..=2 {
        tenant.apply(&pod("listed", &format!("p{number}"), &json!({})));
        first = tenant.running(number).values().map(|pod| pod.address.clone()).collect();
    }
    assert_eq!(first, ["10.20.11.0", "10.20.11.1"].map(str::to_owned).into());
    tenant.apply(&pod("listed", "p3", &json!({})));
    let third = tenant.running(3)["p3"].address.clone();
    assert!(["10.20.11.2", "10.20.11.3"].contains(&third.as_str()), "{third}");
    tenant.apply(&pod("listed", "chooses", &json!({ "portolan.dev/ippools": "two" })));
    tenant.running(4);
    tenant.apply(&pod("listed", "strays", &json!({ "ipam.antrea.io/ippools": "erp" })));
    tenant.event("IPPool \"erp\" was not given to namespace \"listed\"");
    tenant.apply(&pod("listed", "late", &json!({})));
    tenant.event("pool off: it is disabled: set spec.disabled to false");
    tenant.event("pool two: it has no free IPv4 address");
    tenant.end();
}

fn in_use(bank: &mut Bank) {
    let tenant = Tenant::new(bank, "kept", &[("kept", range("10.20.12.0/30"))]);
    tenant.apply(&pod("kept", "p", &json!({})));
    tenant.running(1);
    let refused = bank.bed.kubectl(&["delete", "ippool", "kept"]).unwrap_err().to_string();
    assert!(refused.contains("IPPool kept is in use") && refused.contains("spec.disabled"), "{refused}");
    let shown = || {
        let ranges = bank.bed.kubectl(&["get", "ippool", "kept", "-o", "jsonpath={.status.rangesInUse}"])?;
        Ok(if ranges.contains("10.20.12.0/30") { Ok(()) } else { Err(ranges) })
    };
    bank.bed.wait("the status names the range in use", PATIENCE, shown).unwrap();
    let other = json!({ "spec": { "ipRanges": [{ "cidr": "10.20.12.8/30" }] } }).to_string();
    let patch = ["patch", "ippool", "kept", "--type=merge", "-p", other.as_str()];
    let refused = bank.bed.kubectl(&patch).unwrap_err().to_string();
    assert!(refused.contains("10.20.12.0/30 is in use"), "{refused}");
    tenant.kubectl(&["delete", "pod", "p"]);
    let removed = || Ok(bank.bed.kubectl(&patch).map(drop).map_err(|error| error.to_string()));
    bank.bed.wait("the range is removed once nobody holds an address in it", PATIENCE, removed).unwrap();
    tenant.end();
}

/// Over deletion of a pod, scaling down and up, and a move to another node; given back when the StatefulSet goes.
fn stateful_set(bank: &mut Bank) {
    let tenant = Tenant::new(bank, "sticky", &[("sticky", range("10.20.13.0/28"))]);
    tenant.apply(&workload("StatefulSet", "sticky", "db", 3, &json!({})));
    let before = tenant.running(3);
    tenant.kubectl(&["delete", "pod", "db-0", "db-1", "--wait=true"]);
    assert_eq!(addresses(&tenant.running(3)), addresses(&before));
    tenant.kubectl(&["scale", "statefulset", "db", "--replicas=1"]);
    tenant.running(1);
    // Others want addresses meanwhile, and get none of these.
    tenant.apply(&workload("Deployment", "sticky", "others", 8, &json!({})));
    let others = tenant.running(9);
    let kept: BTreeSet<_> = before.values().map(|pod| &pod.address).collect();
    let taken = others.values().filter(|pod| pod.name != "db-0" && kept.contains(&pod.address));
    assert_eq!(taken.count(), 0, "{others:?}");
    tenant.kubectl(&["delete", "deployment", "others"]);
    tenant.running(1);
    tenant.kubectl(&["scale", "statefulset", "db", "--replicas=3"]);
    assert_eq!(addresses(&tenant.running(3)), addresses(&before));

    let node = tenant.running(3)["db-2"].node.clone();
    bank.bed.kubectl(&["cordon", &node]).unwrap();
    tenant.kubectl(&["delete", "pod", "db-2", "--wait=true"]);
    let moved = tenant.running(3);
    bank.bed.kubectl(&["uncordon", &node]).unwrap();
    assert!(addresses(&moved) == addresses(&before) && moved["db-2"].node != node, "{moved:?}");
    let answer = bank.bed.wait("the address is reached where it is now", PATIENCE, || {
        Ok(Ok(bank.bed.host("client-1").dial(&format!("{}:8080", moved["db-2"].address))?))
    });
    assert!(answer.unwrap().contains("172.16.30.10"));
    tenant.kubectl(&["delete", "statefulset", "db"]);
    tenant.leases(0);
    tenant.end();
}

/// Two addresses, two replicas, maxSurge 1: the third pod has no address to get and says so. Without a surge the update
/// goes through with the same two, also where every agent and controller starts anew meanwhile.
fn fixed_set(bank: &mut Bank) {
    let tenant = Tenant::new(bank, "fixed", &[("fixed", range("10.20.14.0/28"))]);
    let annotations = json!({ "portolan.dev/pod-ips": "10.20.14.5,10.20.14.9" });
    tenant.apply(&workload("Deployment", "fixed", "web", 2, &annotations));
    let set = |pods: BTreeMap<String, Pod>| -> BTreeSet<String> {
        pods.into_values().map(|pod| pod.address).collect()
    };
    let both: BTreeSet<_> = ["10.20.14.5", "10.20.14.9"].map(str::to_owned).into();
    assert_eq!(set(tenant.running(2)), both);
    tenant.kubectl(&["rollout", "restart", "deployment", "web"]);
    tenant.event("a rolling update needs an address for each replica and its maxSurge, or maxUnavailable of at least 1");
    let strategy =
        json!({ "spec": { "strategy": { "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } } } });
    tenant.kubectl(&["patch", "deployment", "web", "--type=merge", "-p", &strategy.to_string()]);
    bank.bed.kubectl(&["-n", "portolan-system", "delete", "pods", "--all", "--wait=false"]).unwrap();
    bank.rolled_out("fixed", "deployment/web").unwrap();
    bank.rolled_out("portolan-system", "daemonset/portolan-agent").unwrap();
    bank.rolled_out("portolan-system", "deployment/portolan-controller").unwrap();
    assert_eq!(set(tenant.running(2)), both);
    // An address that its pools do not have is a refusal, not another address.
    tenant.apply(&pod("fixed", "astray", &json!({ "ipam.antrea.io/pod-ips": "10.99.0.1" })));
    tenant.event("10.99.0.1, which is in none of the pools this pod may use");
    tenant.end();
}

/// KubeVirt's objects as it makes them, without its machinery: two pods of one VirtualMachineInstance while it migrates.
fn virtual_machine(bank: &mut Bank) {
    for (plural, kind) in
        [("virtualmachines", "VirtualMachine"), ("virtualmachineinstances", "VirtualMachineInstance")]
    {
        bank.bed.apply(&kubevirt(plural, kind)).unwrap();
        let name = format!("crd/{plural}.kubevirt.io");
        bank.bed.kubectl(&["wait", "--for=condition=Established", &name, "--timeout=60s"]).unwrap();
    }
    let tenant = Tenant::new(bank, "vms", &[("vms", range("10.20.15.0/28"))]);
    for kind in ["VirtualMachine", "VirtualMachineInstance"] {
        let metadata = json!({ "name": "legacy", "namespace": "vms" });
        tenant.apply(
            &json!({ "apiVersion": "kubevirt.io/v1", "kind": kind, "metadata": metadata, "spec": {} }),
        );
    }
    let uid = tenant.kubectl(&["get", "virtualmachineinstance", "legacy", "-o", "jsonpath={.metadata.uid}"]);
    let launcher = |name: &str, node: &str| {
        let mut launcher = pod("vms", name, &json!({}));
        launcher["metadata"]["labels"] =
            json!({ "kubevirt.io": "virt-launcher", "vm.kubevirt.io/name": "legacy" });
        launcher["metadata"]["ownerReferences"] = json!([{ "apiVersion": "kubevirt.io/v1", "controller": true,
            "kind": "VirtualMachineInstance", "name": "legacy", "uid": uid, "blockOwnerDeletion": true }]);
        launcher["spec"]["nodeName"] = json!(node);
        tenant.apply(&launcher);
    };
    launcher("virt-launcher-legacy-aaaaa", "node-1");
    let address = tenant.running(1)["virt-launcher-legacy-aaaaa"].address.clone();
    launcher("virt-launcher-legacy-bbbbb", "node-2");
    let both = tenant.running(2);
    assert!(both.values().all(|pod| pod.address == address), "{both:?}");
    // While both run, the source has the traffic. Who answers is told by its name.
    assert_eq!(answers(bank, &address), "virt-launcher-legacy-aaaaa");
    bank.agrees().unwrap();
    tenant.kubectl(&["delete", "pod", "virt-launcher-legacy-aaaaa", "--wait=true"]);
    bank.bed
        .wait("the target has the traffic", PATIENCE, || {
            let name = answers(bank, &address);
            Ok(if name == "virt-launcher-legacy-bbbbb" { Ok(()) } else { Err(name) })
        })
        .unwrap();
    tenant.kubectl(&["delete", "virtualmachine,virtualmachineinstance", "legacy"]);
    tenant.end();
}

/// The name of the pod that answers under an address: on which node's link the rack's packets to it end.
fn answers(bank: &Bank, address: &str) -> String {
    let client = bank.bed.host("client-1");
    if client.dial(&format!("{address}:8080")).is_err() {
        return "nobody".to_owned();
    }
    let pods = bank.pods("vms").unwrap();
    let routed = |pod: &&Pod| {
        let node = bank.bed.nodes().iter().find(|node| node.name() == pod.node).unwrap();
        node.host().exec(&["ip", "route", "get", address]).is_ok_and(|route| route.contains("dev ptl"))
    };
    pods.iter().find(routed).map(|pod| pod.name.clone()).unwrap_or_default()
}

fn kubevirt(plural: &str, kind: &str) -> String {
    let schema =
        json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.kubevirt.io") },
        "spec": {
            "group": "kubevirt.io", "scope": "Namespaced", "names": { "plural": plural, "kind": kind },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": schema }],
        },
    })
    .to_string()
}

/// An address goes from one pod to another; the record tells them apart by time, before and after the agents' restart.
fn who(bank: &mut Bank) {
    let tenant = Tenant::new(bank, "past", &[("past", range("10.20.16.0/32"))]);
    tenant.apply(&pod("past", "first", &json!({})));
    assert_eq!(tenant.running(1)["first"].address, "10.20.16.0");
    tenant.event("10.20.16.0 from IPPool past");
    let then = bank.bed.host("control").exec(&["date", "-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"]).unwrap();
    tenant.kubectl(&["delete", "pod", "first", "--wait=true"]);
    tenant.apply(&pod("past", "second", &json!({})));
    assert_eq!(tenant.running(1)["second"].address, "10.20.16.0");
    let ask = |arguments: &[&str], words: &str| {
        let asked = || {
            let (code, text) = bank.portolan(arguments)?;
            Ok(if code == Some(0) && text.contains(words) { Ok(()) } else { Err(text) })
        };
        bank.bed.wait(&format!("{arguments:?} answers {words:?}"), PATIENCE, asked).unwrap();
    };
    for restarted in [false, true] {
        if restarted {
            let restart = ["-n", "portolan-system", "rollout", "restart", "daemonset/portolan-agent"];
            bank.bed.kubectl(&restart).unwrap();
            bank.rolled_out("portolan-system", "daemonset/portolan-agent").unwrap();
        }
        ask(&["who", "10.20.16.0", "--at", then.trim()], "past/first");
        ask(&["who", "10.20.16.0"], "past/second");
    }
    let (code, text) = bank.portolan(&["who", "10.20.16.99"]).unwrap();
    assert_eq!(code, Some(1), "{text}");
    tenant.end();
}
