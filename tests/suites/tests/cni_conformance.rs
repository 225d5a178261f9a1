//! The contract with the runtime, as `cni-conformance` judges it on a node of a real cluster: in each version, as the IPAM of
//! other plugins, first in a chain; and the reference `ptp` by the same rules. Needs root.
//!
//! Leaves `target/cni-conformance.md`, of which `docs/cni-conformance.md` is a copy.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};
use portolan_bed::{Node, Plan, repository};
use portolan_suites::{Bank, PATIENCE, Shared};
use serde_json::{Value, json};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The first lines of the report.
const HEAD: &str = "# The CNI contract, rule by rule\n\n\
    Written by `cargo test -p portolan-suites --test cni_conformance` (part of `make test`) to \
    `target/cni-conformance.md`; this is a copy of it. The program is `tests/cni-conformance`: \
    `cni-conformance --help` says how to hold any other plugin against the same rules. What should not have been seen is \
    in bold.\n";

/// Of two nodes, as its controllers want.
fn start() -> Bank {
    let bank = Bank::start(Plan::bank(2), &mut |step| println!("{step}")).unwrap();
    bank.bed.kubectl(&["apply", "-f", &file("cni/pools.yaml")]).unwrap();
    bank.bed.kubectl(&["wait", "--for=condition=Ready", "ippools", "--all", "--timeout=90s"]).unwrap();
    bank
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let shared = Shared::new(start);
    let mut trials = vec![Trial::test("the_reference_ptp_is_judged_by_the_same_rules", || {
        reference();
        Ok(())
    })];
    for version in VERSIONS {
        let name = format!("every_rule_that_applies_holds_in_{}", version.replace('.', "_"));
        trials.push(shared.trial(name, move |bank| every_rule(bank, version)));
    }
    trials.push(shared.trial("a_host_port_leads_to_its_pod_until_the_pod_is_gone", host_port));
    trials.push(shared.trial("rule_20_status_is_51_while_the_data_path_is_damaged", impaired));
    trials.push(
        shared
            .last("rules_14_and_16_without_an_api_server_add_is_to_be_tried_again_and_del_succeeds", cut_off),
    );
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The cluster ends before the process does.
    shared.end();
    write_report();
    conclusion.exit();
}

fn file(name: &str) -> String {
    repository().join("tests/suites").join(name).display().to_string()
}

fn program() -> String {
    repository().join("target/debug/cni-conformance").display().to_string()
}

/// Where the part of the report with this name goes.
fn part(name: &str) -> PathBuf {
    let folder = repository().join("target/cni-conformance");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// What has been found in this run, together: first Portolan in its newest version, then the reference.
fn write_report() {
    let parts: Vec<_> = ["portolan-1.1.0.md", "ptp.md"]
        .iter()
        .filter_map(|name| fs::read_to_string(part(name)).ok())
        .collect();
    if parts.len() == 2 {
        fs::write(repository().join("target/cni-conformance.md"), format!("{HEAD}\n{}", parts.join("\n")))
            .unwrap();
    }
}

/// The reference plugins of Debian 12 are of 2022: what fails is what the specification has added since, and what their
/// library leaves out. Should this change with a newer package, the report in `docs/` is out of date.
fn reference() {
    let config =
        |name: &str| repository().join("tests/cni-conformance/configs").join(name).display().to_string();
    let judge = |report: &PathBuf| {
        let report = report.display().to_string();
        let output = Command::new(program())
            .args(["--plugin", "/usr/lib/cni/ptp", "--config", &config("ptp.json")])
            .args(["--single", &config("ptp-single.json"), "--chain", &config("ptp-chain.conflist")])
            .args(["--title", "The reference: ptp with host-local (Debian)", "--report", &report])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    };
    judge(&part("ptp.md"));
    judge(&part("ptp.json"));
    let found: Value = serde_json::from_slice(&fs::read(part("ptp.json")).unwrap()).unwrap();
    let findings = found["findings"].as_array().unwrap().iter();
    let failed: BTreeSet<_> =
        findings.filter(|one| one["verdict"] == "failed").map(|one| one["rule"].as_str().unwrap()).collect();
    assert_eq!(failed, BTreeSet::from(["11", "13", "5", "6", "7"]), "{found:#}");
}

/// Portolan as it was installed on a node, by the program that knows nothing of it.
fn every_rule(bank: &Bank, version: &str) {
    let report = part(&format!("portolan-{version}.md")).display().to_string();
    let title = format!("Portolan in CNI {version}");
    let (program, network, single) = (program(), file("cni/network.json"), file("cni/single.json"));
    let (bridge, macvlan, chain) =
        (file("cni/bridge.json"), file("cni/macvlan.json"), file("cni/chain.conflist"));
    let found = node(bank).exec(&[
        &program,
        "--here",
        "--plugin=/opt/cni/bin/portolan",
        "--config",
        &network,
        "--single",
        &single,
        "--delegate",
        &bridge,
        "--delegate",
        &macvlan,
        "--chain",
        &chain,
        "--without-service=PORTOLAN_SOCKET=/nowhere",
        "--installed=/etc/cni/net.d/05-portolan.conflist",
        "--cni-version",
        version,
        "--title",
        &title,
        "--report",
        &report,
    ]);
    found.unwrap_or_else(|found| panic!("{found:#}"));
}

fn node(bank: &Bank) -> &Node {
    &bank.bed.nodes()[0]
}

/// A client outside reaches the pod by the node's address, and the pod sees the client's; the port goes with the pod.
fn host_port(bank: &mut Bank) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "nodeName": node(bank).name(), "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "web", "image": "localhost/bed/workload:1", "args": ["serve", "--port", "8080"],
            "ports": [{ "hostPort": 18080, "containerPort": 8080 }] }] },
    });
    bank.bed.apply(&pod.to_string()).unwrap();
    bank.bed.kubectl(&["wait", "--for=condition=Ready", "pod", "web", "--timeout=90s"]).unwrap();
    let (client, to) = (bank.bed.host("client-1"), format!("{}:18080", node(bank).address()));
    let answer = bank.bed.wait("the host port answers", PATIENCE, || client.dial(&to).map(Ok)).unwrap();
    assert!(answer.starts_with("web ") && answer.contains("172.16.30.10"), "{answer}");
    bank.bed.kubectl(&["delete", "pod", "web", "--wait=true"]).unwrap();
    let closed = || Ok(if client.dial(&to).is_err() { Ok(()) } else { Err("it answers".to_owned()) });
    bank.bed.wait("the host port is closed", PATIENCE, closed).unwrap();
}

/// Calls the plugin on a node; what it wrote.
fn call(node: &Node, variables: &str) -> Result<String> {
    let config = r#"{"cniVersion":"1.1.0","name":"conformance","type":"portolan"}"#;
    node.exec(&["sh", "-c", &format!("echo '{config}' | {variables} /opt/cni/bin/portolan; true")])
}

/// The last: the API server does not come back. The agent is killed, too, and its successor knows nothing of the cluster.
fn cut_off(bank: &mut Bank) {
    let of = |verb: &str, number: u8| {
        format!(
            "CNI_COMMAND={verb} CNI_CONTAINERID=cut{number} CNI_NETNS=/run/netns/cut{number} CNI_IFNAME=eth0"
        )
    };
    for number in [1, 2, 3] {
        node(bank).exec(&["ip", "netns", "add", &format!("cut{number}")]).unwrap();
    }
    for number in [1, 2] {
        let said = call(node(bank), &of("ADD", number)).unwrap();
        assert!(said.contains("\"ips\""), "{said}");
    }
    assert!(is_held(node(bank), 1).unwrap() && is_held(node(bank), 2).unwrap());
    node(bank).exec(&["pkill", "-KILL", "portolan-agent"]).unwrap();
    assert_eq!(call(node(bank), &of("DEL", 1)).unwrap(), "");
    node(bank).exec(&["ip", "netns", "delete", "cut1"]).unwrap();
    let what = "what was deleted while no agent was there is released";
    let released = || Ok(if is_held(node(bank), 1)? { Err("it is held".to_owned()) } else { Ok(()) });
    bank.bed.wait(what, PATIENCE, released).unwrap();
    bank.bed.kill("kube-apiserver");
    let node = &bank.bed.nodes()[0];
    node.exec(&["pkill", "-KILL", "portolan-agent"]).unwrap();
    let knows_nothing = || {
        let said = call(node, "CNI_COMMAND=STATUS")?;
        Ok(if said.contains("the API server has not been reached yet") { Ok(()) } else { Err(said) })
    };
    bank.bed.wait("the agent is back and knows nothing", PATIENCE, knows_nothing).unwrap();
    let said = call(node, &of("ADD", 3)).unwrap();
    assert!(said.contains("\"code\":11"), "{said}");
    for number in [2, 3] {
        assert_eq!(call(node, &of("DEL", number)).unwrap(), "");
    }
    assert!(!is_held(node, 2).unwrap(), "DEL releases the address without an API server, too");
}

/// Whether the node has a record of a container of [`cut_off`].
fn is_held(node: &Node, number: u8) -> Result<bool> {
    let records = format!("grep -l cut{number} /run/portolan/pods/*; true");
    node.exec(&["sh", "-c", &records]).map(|found| !found.is_empty())
}

/// The node loses the address that its routes are made of, and gets it back.
fn impaired(bank: &mut Bank) {
    let node = node(bank);
    let says = |wanted: &str| {
        let said = call(node, "CNI_COMMAND=STATUS")?;
        let code =
            serde_json::from_str::<Value>(&said).map_or(String::new(), |body| body["code"].to_string());
        Ok(if code == wanted { Ok(()) } else { Err(said) })
    };
    let address = format!("{}/24", node.address());
    bank.bed.wait("STATUS succeeds", PATIENCE, || says("")).unwrap();
    node.exec(&["ip", "addr", "del", &address, "dev", "eth0"]).unwrap();
    bank.bed.wait("STATUS is 51", PATIENCE, || says("51")).unwrap();
    node.exec(&["ip", "addr", "add", &address, "dev", "eth0"]).unwrap();
    node.plug().unwrap();
    bank.bed.wait("STATUS succeeds again", PATIENCE, || says("")).unwrap();
}
