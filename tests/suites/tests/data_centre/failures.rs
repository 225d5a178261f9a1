//! Failures: what dies, what is left, and what comes back by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Trial;
use portolan_suites::{Bank, PATIENCE, Pod, Shared};

const ERP: &str = "172.16.11.200";

pub fn trials(shared: &Shared) -> Vec<Trial> {
    vec![
        shared.trial("what_somebody_deletes_on_a_node_comes_back", repair),
        shared.trial("agents_that_are_killed_under_traffic_never_let_a_wrong_source_out", killed_agents),
        shared.trial("an_egress_address_leaves_a_cordoned_node", cordoned),
        shared.trial("a_route_that_somebody_deletes_on_the_engine_comes_back", engine_repair),
        shared.trial("a_deleted_egress_disturbs_nobody_else", deletion),
        shared.trial("the_leases_of_a_node_that_is_gone_are_reclaimed", lost_node),
        shared.last("without_an_api_server_running_pods_keep_their_network", no_api_server),
    ]
}

/// The node that owns ERP's address, as the kernel has it.
fn owner(bank: &Bank) -> Option<String> {
    let holds = |node: &&portolan_bed::Node| {
        node.host().exec(&["ip", "-4", "addr", "show", "eth0"]).is_ok_and(|t| t.contains(ERP))
    };
    bank.bed.nodes().iter().find(holds).map(|node| node.name().to_owned())
}

fn erp(bank: &Bank) -> Pod {
    bank.pods("erp").unwrap().remove(0)
}

fn reaches(bank: &Bank, pod: &Pod, what: &str) {
    bank.bed
        .wait(what, PATIENCE, || {
            let answer = bank.dial(pod, "172.16.20.9:5432", "again")?;
            Ok(if answer.contains(ERP) { Ok(()) } else { Err(answer) })
        })
        .unwrap();
}

fn repair(bank: &mut Bank) {
    let name = owner(bank).unwrap();
    let node = bank.bed.nodes().iter().find(|node| node.name() == name).unwrap();
    let pod = erp(bank);
    for (what, command) in [
        ("the nftables table", vec!["nft", "delete", "table", "inet", "portolan"]),
        ("its rules", vec!["nft", "flush", "table", "inet", "portolan"]),
        ("the egress address", vec!["ip", "addr", "del", "172.16.11.200/32", "dev", "eth0"]),
        ("the VXLAN device", vec!["ip", "link", "del", "portolan.vx"]),
        ("the routes", vec!["ip", "route", "flush", "proto", "107"]),
    ] {
        node.host().exec(&command).unwrap();
        let restored = || {
            let table = node.host().exec(&["nft", "list", "table", "inet", "portolan"])?;
            let complete =
                table.contains("snat ip to") && table.contains(ERP) && owner(bank).as_deref() == Some(&name);
            let routes = node.host().exec(&["ip", "route", "show", "proto", "107"])?;
            let device = node.host().exec(&["ip", "link", "show", "portolan.vx"])?;
            let whole = complete && routes.contains("via") && device.contains("UP");
            Ok(if whole { Ok(()) } else { Err(format!("{table}\n{routes}\n{device}")) })
        };
        bank.bed.wait(&format!("{what} comes back"), PATIENCE, restored).unwrap();
        reaches(bank, &pod, &format!("after {what} was deleted, ERP reaches its database"));
    }
    let host = bank.bed.nodes().iter().find(|node| node.name() == pod.node).unwrap().host();
    let route = host.ip(&["route", "get", &pod.address]).unwrap();
    host.exec(&["ip", "link", "set", route[0]["dev"].as_str().unwrap(), "down"]).unwrap();
    let client = bank.bed.host("client-1");
    let answers = || Ok(Ok(client.dial(&format!("{}:8080", pod.address))?));
    bank.bed.wait("a pod whose link was set down is reached again", PATIENCE, answers).unwrap();
}

/// Connections of all ERP pods go on while the agents are killed at once, and while they are replaced one by one: none
/// fails, and none has a wrong source. The kernel carries them, not the agent.
fn killed_agents(bank: &mut Bank) {
    let before = bank.bed.host("erp-db").seen().unwrap().len();
    let stop = Arc::new(AtomicBool::new(false));
    let kubeconfig = bank.bed.kubeconfig().display().to_string();
    let pods = bank.pods("erp").unwrap();
    let flows: Vec<_> = pods
        .iter()
        .map(|pod| {
            let (name, stop, kubeconfig) = (pod.name.clone(), stop.clone(), kubeconfig.clone());
            std::thread::spawn(move || flow(&name, &stop, &kubeconfig))
        })
        .collect();
    for node in bank.bed.nodes() {
        node.exec(&["pkill", "-KILL", "portolan-agent"]).unwrap();
    }
    bank.rolled_out("portolan-system", "daemonset/portolan-agent").unwrap();
    bank.bed.kubectl(&["-n", "portolan-system", "rollout", "restart", "daemonset/portolan-agent"]).unwrap();
    bank.rolled_out("portolan-system", "daemonset/portolan-agent").unwrap();
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<_> = flows.into_iter().flat_map(|flow| flow.join().unwrap()).collect();
    let seen = bank.bed.host("erp-db").seen().unwrap();
    let flow: Vec<_> = seen.iter().skip(before).filter(|one| one.said.starts_with("flow-")).collect();
    let wrong: BTreeSet<_> = flow.iter().map(|one| &one.source).filter(|source| *source != ERP).collect();
    assert!(wrong.is_empty(), "wrong sources {wrong:?} among {} connections", flow.len());
    assert!(failures.is_empty(), "of {} connections some failed: {failures:#?}", flow.len());
    for pod in pods {
        let tag = format!("flow-{}", pod.name);
        let count = flow.iter().filter(|one| one.said == tag).count();
        assert!(count >= 20, "{} made only {count} connections", pod.name);
    }
}

/// Lets a pod connect to the database until told to stop, and returns what failed.
fn flow(pod: &str, stop: &AtomicBool, kubeconfig: &str) -> Vec<String> {
    let kubectl = portolan_bed::repository().join("target/hyperkube/kubectl").display().to_string();
    let tag = format!("flow-{pod}");
    let mut failures = vec![];
    while !stop.load(Ordering::Relaxed) {
        let dial = ["bed-probe", "dial", "172.16.20.9:5432", "--tag", &tag, "--times", "20"];
        let mut command = vec![kubectl.as_str(), "--kubeconfig", kubeconfig, "-n", "erp", "exec", pod, "--"];
        command.extend(dial);
        failures.extend(portolan_bed::run(&command).err().map(|error| format!("{pod}: {error:#}")));
    }
    failures
}

fn cordoned(bank: &mut Bank) {
    let first = owner(bank).unwrap();
    bank.bed.kubectl(&["cordon", &first]).unwrap();
    let moved = || {
        Ok(match owner(bank) {
            Some(node) if node != first => Ok(node),
            other => Err(format!("{other:?}")),
        })
    };
    let second = bank.bed.wait("the address moves", PATIENCE, moved).unwrap();
    reaches(bank, &erp(bank), "ERP reaches its database through the new owner");
    let said = || {
        let node = bank.bed.kubectl(&["get", "egress", "erp", "-o", "jsonpath={.status.egressNode}"])?;
        Ok(if node == second { Ok(()) } else { Err(node) })
    };
    bank.bed.wait("the Egress says who owns it", PATIENCE, said).unwrap();
    bank.bed.kubectl(&["uncordon", &first]).unwrap();
}

fn engine_repair(bank: &mut Bank) {
    let engine = bank.bed.host("se-1");
    engine.exec(&["ip", "route", "add", "198.51.100.0/24", "via", "172.16.11.1"]).unwrap();
    engine.exec(&["ip", "route", "flush", "proto", "107"]).unwrap();
    let back = || {
        let routes = engine.exec(&["ip", "route", "show", "proto", "107"])?;
        Ok(if routes.contains("10.10.1.0/24 via 172.16.11.11") { Ok(()) } else { Err(routes) })
    };
    bank.bed.wait("the engine's routes come back", PATIENCE, back).unwrap();
    assert!(engine.exec(&["ip", "route"]).unwrap().contains("198.51.100.0/24"), "a human's route is gone");
}

fn deletion(bank: &mut Bank) {
    bank.bed.kubectl(&["delete", "egress", "portal"]).unwrap();
    let portal = || {
        let sources = bank.sources("portal", "unbound")?;
        let node = sources.iter().all(|(_, source)| source.starts_with("172.16.11.1"));
        Ok(if node { Ok(()) } else { Err(format!("{sources:?}")) })
    };
    bank.bed.wait("the portal leaves with its nodes' addresses", PATIENCE, portal).unwrap();
    reaches(bank, &erp(bank), "ERP is not disturbed");
}

/// A node loses its power, and its administrator says so with the taint that Kubernetes has for it. Its addresses serve
/// others; when it comes back it has none of them.
fn lost_node(bank: &mut Bank) {
    let leases = |bank: &Bank| -> usize {
        let all = bank.bed.get(&["ipleases"]).unwrap();
        let all = all["items"].as_array().unwrap();
        all.iter().filter(|one| one["spec"]["node"] == "node-3").count()
    };
    assert!(leases(bank) > 0, "node-3 has no lease to lose");
    bank.bed.node_mut("node-3").unwrap().kill().unwrap();
    let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    bank.bed.kubectl(&["taint", "node", "node-3", taint]).unwrap();
    let reclaimed = || {
        let left = leases(bank);
        Ok(if left == 0 { Ok(()) } else { Err(format!("{left} leases")) })
    };
    bank.bed.wait("the leases of node-3 are reclaimed", PATIENCE * 2, reclaimed).unwrap();
    let node = bank.bed.node_mut("node-3").unwrap();
    node.plug().unwrap();
    node.start().unwrap();
    bank.bed.kubectl(&["taint", "node", "node-3", &format!("{taint}-")]).unwrap();
    bank.bed.kubectl(&["wait", "--for=condition=Ready", "node/node-3", "--timeout=90s"]).unwrap();
    bank.rolled_out("portolan-system", "daemonset/portolan-agent").unwrap();
    reaches(bank, &erp(bank), "ERP is not disturbed");
}

/// The last: the API server does not come back.
fn no_api_server(bank: &mut Bank) {
    let pods = bank.pods("erp").unwrap();
    let pod = &pods[0];
    bank.bed.kill("kube-apiserver");
    // The witness is the client outside: the pods answer it, and their records are on the nodes.
    let client = bank.bed.host("client-1");
    for pod in &pods {
        assert!(client.dial(&format!("{}:8080", pod.address)).unwrap().contains("172.16.30.10"));
    }
    let vip = client.dial("172.16.251.1:80").unwrap();
    assert!(vip.contains("sees 172.16.11.101"), "{vip}");
    // An agent that starts now has no world: not ready, and it leaves everything as it is.
    let node = bank.bed.nodes().iter().find(|node| node.name() == pod.node).unwrap();
    node.exec(&["pkill", "-KILL", "portolan-agent"]).unwrap();
    let unready = || {
        let log = node.exec(&["sh", "-c", "busybox wget -q -O - http://127.0.0.1:9471/readyz 2>&1; true"])?;
        Ok(if log.contains("503") { Ok(()) } else { Err(log) })
    };
    bank.bed.wait("the agent without an API server is not ready", PATIENCE, unready).unwrap();
    assert!(client.dial(&format!("{}:8080", pod.address)).unwrap().contains("172.16.30.10"));
}
