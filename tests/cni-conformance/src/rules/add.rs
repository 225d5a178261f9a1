//! Rules 9 to 13, 15 and 23: what ADD makes, and what it leaves when it fails.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Look;
use crate::bench::{Added, Bench, Container, INTERFACE, fresh_id};
use crate::call::Answer;
use crate::config::{Config, number};
use crate::netns::{node_address, node_links, node_reaches, node_state};

/// The interface is there and up, with the addresses and routes of the result; packets pass in both directions.
pub fn rule_09_result(bench: &Bench, look: &mut Look) -> Result<()> {
    let (container, added) = bench.added()?;
    let (netns, result) = (&container.netns, &added.0);
    let link = netns.link(INTERFACE)?.context("ADD succeeded, and there is no interface")?;
    let up = link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
    look.holds(up, format!("{INTERFACE} is there, up: {up}"));
    let found = netns.addresses(INTERFACE)?;
    let wanted = added.addresses();
    look.holds(
        !wanted.is_empty() && wanted == found,
        format!("result has {wanted:?}, the namespace {found:?}"),
    );
    interfaces(look, &container, result, &link)?;
    ips(look, result);
    routes(look, &container, result)?;
    if !bench.has("1.1.0") {
        let newer = newer_words(result);
        look.holds(newer.is_empty(), format!("words of 1.1.0 in a result of {}: {newer:?}", bench.version));
    }
    let dns = &result["dns"];
    look.holds(dns.is_null() || dns.is_object(), format!("dns {dns}"));
    for address in wanted {
        let Some(node) = node_address(address.is_ipv4())? else { continue };
        look.holds(netns.reaches(node), format!("a packet from the container to the node's {node} and back"));
        look.holds(
            node_reaches(address),
            format!("a packet from the node to the container's {address} and back"),
        );
    }
    Ok(())
}

fn interfaces(look: &mut Look, container: &Container<'_>, result: &Value, link: &Value) -> Result<()> {
    let all: Vec<_> = result["interfaces"].as_array().into_iter().flatten().collect();
    let own = all.iter().find(|one| one["sandbox"] == container.netns.path().as_str());
    let named = own.is_some_and(|one| one["name"] == INTERFACE);
    look.holds(named, format!("interfaces has {INTERFACE} with sandbox CNI_NETNS: {named}"));
    let mac = own.map(|one| &one["mac"]);
    look.holds(
        mac.is_some_and(|mac| mac.is_null() || *mac == link["address"]),
        format!("its mac {}", mac.unwrap_or(&Value::Null)),
    );
    let links: BTreeSet<_> = node_links()?.iter().map(|one| one["ifname"].to_string()).collect();
    let node: Vec<_> = all.iter().filter(|one| one["sandbox"].as_str().is_none_or(str::is_empty)).collect();
    let there = node.iter().all(|one| links.contains(&one["name"].to_string()));
    look.holds(there && !node.is_empty(), format!("{} of them on the node, all there: {there}", node.len()));
    Ok(())
}

fn ips(look: &mut Look, result: &Value) {
    let count = result["interfaces"].as_array().map_or(0, Vec::len);
    for ip in result["ips"].as_array().into_iter().flatten() {
        let index = ip["interface"].as_u64().and_then(|index| usize::try_from(index).ok());
        let of = index.and_then(|index| result["interfaces"].get(index)).map(|one| &one["name"]);
        let prefix = ip["address"].as_str().is_some_and(|address| address.contains('/'));
        let good =
            prefix && index.is_some_and(|index| index < count) && of.is_some_and(|name| *name == INTERFACE);
        look.holds(
            good,
            format!("{} of interface {}, gateway {}", ip["address"], ip["interface"], ip["gateway"]),
        );
    }
}

/// Every route of the result is in the namespace.
fn routes(look: &mut Look, container: &Container<'_>, result: &Value) -> Result<()> {
    let found = container.netns.routes()?;
    for route in result["routes"].as_array().into_iter().flatten() {
        let wanted = route["dst"].as_str().unwrap_or_default();
        let there = found.iter().any(|one| same_prefix(one["dst"].as_str().unwrap_or_default(), wanted));
        look.holds(there, format!("route {wanted} is in the namespace: {there}"));
    }
    Ok(())
}

/// `ip` writes "default" and leaves the length of a host's route out.
fn same_prefix(ip: &str, cni: &str) -> bool {
    let whole = ["0.0.0.0/0", "::/0"].contains(&cni);
    ip == cni
        || (ip == "default" && whole)
        || cni.strip_suffix("/32").or(cni.strip_suffix("/128")) == Some(ip)
}

/// Fields that results before 1.1.0 do not have.
fn newer_words(result: &Value) -> Vec<String> {
    let of = |list: &str, words: &'static [&'static str]| {
        let all = result[list].as_array().cloned().unwrap_or_default();
        words
            .iter()
            .filter(move |word| all.iter().any(|one| one.get(**word).is_some()))
            .map(|word| (*word).to_owned())
    };
    of("interfaces", &["mtu", "socketPath", "pciID"])
        .chain(of("routes", &["mtu", "advmss", "priority", "table", "scope"]))
        .collect()
}

/// A name that is taken is refused; the same container twice keeps one address.
pub fn rule_10_interface_taken(bench: &Bench, look: &mut Look) -> Result<()> {
    let (first, added) = bench.added()?;
    let other = fresh_id();
    let answer = first.call_with("ADD", &[("CNI_CONTAINERID", &other)], &bench.config)?;
    look.holds(
        answer.code().is_some(),
        format!("{INTERFACE} of another container is there already: {}", answer.said()),
    );
    look.holds(first.intact(&added)?, format!("the first container keeps {}", added.list()));
    let again = first.call("ADD")?;
    let addresses = first.netns.addresses(INTERFACE)?;
    let same = again.json().map(Added).is_ok_and(|again| again.addresses() == added.addresses());
    look.holds(
        (again.code().is_some() || same) && addresses == added.addresses(),
        format!("ADD of the same container again: {}; it has {addresses:?}", again.said()),
    );
    // The other one has no namespace of its own: only what is noted of it goes.
    let answer = bench.call(
        &[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", &other), ("CNI_IFNAME", INTERFACE), ("CNI_NETNS", "")],
        &bench.config,
    )?;
    look.holds(answer.ok(), format!("DEL after the refusal: {}", answer.said()));
    Ok(())
}

/// After another plugin: its entries are in the result, or the call is refused and nothing made.
pub fn rule_11_previous_result(bench: &Bench, look: &mut Look) -> Result<()> {
    let mut ip = json!({ "address": "192.0.2.7/24", "interface": 0 });
    if !bench.has("1.0.0") {
        ip["version"] = json!("4");
    }
    let previous = json!({
        "cniVersion": bench.version, "interfaces": [{ "name": "earlier0", "sandbox": "/earlier" }], "ips": [ip],
    });
    let config = bench.config.clone().with("prevResult", previous);
    let container = bench.container_of(&config)?;
    let answer = container.call("ADD")?;
    if answer.ok() {
        let added = Added(answer.json()?);
        let kept = added.addresses().iter().any(|address| address.to_string() == "192.0.2.7");
        look.holds(kept, format!("accepted; the earlier plugin's 192.0.2.7 is in the result: {kept}"));
    } else {
        look.holds(answer.code().is_some(), format!("refused: {}", answer.said()));
        let made = container.netns.link(INTERFACE)?.is_some();
        look.holds(!made, format!("an interface was made nevertheless: {made}"));
    }
    Ok(())
}

/// ADDs that fail late leave the node as it was, and the address free; DEL after them succeeds.
pub fn rule_12_rolled_back(bench: &Bench, look: &mut Look) -> Result<()> {
    let config = bench.single.as_ref().unwrap_or(&bench.config);
    let before = node_state()?;
    // The name is taken: found out when the interface is to be made, after an address has been chosen.
    let taken = bench.container_of(config)?;
    taken.netns.ip(&format!("link add {INTERFACE} type veth peer name other0"))?;
    let answer = taken.call("ADD")?;
    look.holds(answer.code().is_some(), format!("{INTERFACE} is there already: {}", answer.said()));
    taken.netns.ip(&format!("link show {INTERFACE}"))?;
    let none = bench.container_of(config)?;
    let answer = none.call_with("ADD", &[("CNI_NETNS", "/dev/null")], config)?;
    look.holds(answer.code().is_some(), format!("a namespace that is none: {}", answer.said()));
    let after = node_state()?;
    let left: Vec<_> = after.difference(&before).collect();
    look.holds(left.is_empty(), format!("left on the node: {left:?}"));
    if bench.single.is_some() {
        let next = bench.container_of(config)?;
        let answer = next.call("ADD")?;
        look.holds(answer.ok(), format!("the one address can be had afterwards: {}", answer.said()));
    } else {
        look.does_not_apply("whether the address came back needs --single");
    }
    for container in [&taken, &none] {
        let answer = container.call("DEL")?;
        look.holds(answer.ok(), format!("DEL after the failure: {}", answer.said()));
    }
    Ok(())
}

/// The namespace that the plugin runs in is the node's.
pub fn rule_13_own_namespace(bench: &Bench, look: &mut Look) -> Result<()> {
    let (id, name) = (fresh_id(), "own-namespace0");
    let variables = |verb| {
        [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", id.as_str()),
            ("CNI_NETNS", "/proc/self/ns/net"),
            ("CNI_IFNAME", name),
        ]
    };
    let answer = bench.call(&variables("ADD"), &bench.config)?;
    let made = node_links()?.iter().any(|link| link["ifname"] == name);
    look.holds(
        answer.code().is_some() && !made,
        format!("ADD: {}; an interface was made: {made}", answer.said()),
    );
    if made {
        bench.call(&variables("DEL"), &bench.config)?;
    }
    Ok(())
}

/// Many at once: all succeed, no address twice, all go.
pub fn rule_15_parallel(bench: &Bench, look: &mut Look) -> Result<()> {
    let containers = (0..bench.parallel).map(|_| bench.container()).collect::<Result<Vec<_>>>()?;
    let added = together(&containers, Container::added);
    let failed: Vec<_> =
        added.iter().filter_map(|one| one.as_ref().err()).map(|why| format!("{why:#}")).collect();
    look.holds(
        failed.is_empty(),
        format!(
            "{} ADDs at once, failed: {}{}",
            added.len(),
            failed.len(),
            failed.first().map_or_else(String::new, |why| format!(", {why}"))
        ),
    );
    let mut holders: BTreeMap<_, usize> = BTreeMap::new();
    let mut wrong = 0;
    for (container, added) in containers.iter().zip(&added) {
        let Ok(added) = added else { continue };
        added.addresses().into_iter().for_each(|address| *holders.entry(address).or_default() += 1);
        wrong += usize::from(!container.intact(added)?);
    }
    let twice: Vec<_> = holders.iter().filter(|(_, count)| **count > 1).collect();
    look.holds(twice.is_empty(), format!("{} addresses, given twice: {twice:?}", holders.len()));
    look.holds(wrong == 0, format!("containers that have not what their result says: {wrong}"));
    let gone = together(&containers, |container| container.call("DEL"));
    let failed = gone.iter().filter(|one| !one.as_ref().is_ok_and(Answer::ok)).count();
    look.holds(failed == 0, format!("{} DELs at once, {failed} failed", gone.len()));
    Ok(())
}

/// Does the same for all containers at the same time.
fn together<'a, T: Send>(
    containers: &[Container<'a>],
    act: impl Fn(&Container<'a>) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    std::thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> = containers.iter().map(|one| scope.spawn(move || act(one))).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|one| one.unwrap_or_else(|_| anyhow::bail!("a thread panicked"))).collect()
    })
}

/// Called as an IPAM: addresses and no interface; and the main plugin that calls it makes them true.
pub fn rule_23_delegate(bench: &Bench, look: &mut Look) -> Result<()> {
    if bench.delegates.is_empty() {
        look.does_not_apply("no configuration in which the plugin is another's IPAM (--delegate)");
    }
    for config in &bench.delegates {
        let main = config.text("type").to_owned();
        abbreviated(bench, look, config, &main)?;
        let version = bench.common_version(&[&main])?;
        let config = &config.clone().version(version);
        let program = bench.program(&main)?;
        let container = bench.container_of(config)?;
        let netns = container.netns.path();
        let call = |verb, config: &Config| {
            let variables = [
                ("CNI_COMMAND", verb),
                ("CNI_CONTAINERID", container.id.as_str()),
                ("CNI_NETNS", &netns),
                ("CNI_IFNAME", INTERFACE),
            ];
            bench.call_other(&program, &variables, config)
        };
        let answer = call("ADD", config)?;
        look.holds(answer.ok(), format!("{main} with it in {version}, ADD: {}", answer.said()));
        if answer.ok() {
            let added = Added(answer.json()?);
            let found = container.netns.addresses(INTERFACE)?;
            look.holds(found == added.addresses(), format!("{main} gave {found:?}"));
            if number(version) >= number("0.4.0") {
                let answer = call("CHECK", &config.clone().with("prevResult", added.0.clone()))?;
                look.holds(answer.silent(), format!("{main}, CHECK: {}", answer.said()));
            }
        }
        for _ in 0..2 {
            let answer = call("DEL", config)?;
            look.holds(answer.silent(), format!("{main}, DEL: {}", answer.said()));
        }
    }
    Ok(())
}

fn abbreviated(bench: &Bench, look: &mut Look, config: &Config, main: &str) -> Result<()> {
    let (container, added) = bench.added_of(config)?;
    let result = &added.0;
    let of_interface = result["ips"].as_array().into_iter().flatten().any(|ip| ip.get("interface").is_some());
    let interfaces = result.get("interfaces").is_some_and(|all| !all.as_array().is_some_and(Vec::is_empty));
    let made = container.netns.link(INTERFACE)?.is_some();
    look.holds(
        !of_interface && !interfaces && !made && !added.addresses().is_empty(),
        format!(
            "called as the IPAM of {main}: {}; interfaces in the result {interfaces}, made {made}",
            added.list()
        ),
    );
    let answer = container.call("DEL")?;
    look.holds(answer.silent(), format!("its DEL: {}", answer.said()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefixes_of_ip_and_of_cni_are_the_same_in_other_words() {
        assert!(same_prefix("default", "0.0.0.0/0") && same_prefix("default", "::/0"));
        assert!(same_prefix("10.0.0.7", "10.0.0.7/32") && same_prefix("10.0.0.0/8", "10.0.0.0/8"));
        assert!(!same_prefix("10.0.0.0/8", "0.0.0.0/0") && !same_prefix("default", "10.0.0.0/8"));
    }

    #[test]
    fn rule_9_words_of_a_newer_version_are_found() {
        let result =
            json!({ "interfaces": [{ "name": "a", "mtu": 1 }], "routes": [{ "dst": "::/0", "scope": 0 }] });
        assert_eq!(newer_words(&result), ["mtu", "scope"]);
        assert!(newer_words(&json!({ "interfaces": [{ "name": "a" }] })).is_empty());
    }
}
