//! A chain of plugins, driven as libcni does: ADD in order with the result of the one before, CHECK in order and DEL in
//! reverse with the last result; and what it made, seen from outside.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::bench::{Added, Bench, INTERFACE, fresh_id};
use crate::config::{Config, List, number};
use crate::netns::{Netns, node_address, run};
use crate::report::Finding;
use crate::rules::Look;

/// The port in the container, and on the node where a plugin of the chain has `portMappings`.
const PORT: u16 = 8080;
const HOST_PORT: u16 = 18_080;
/// Bits per second, where a plugin of the chain has `bandwidth`.
const RATE: u64 = 8_000_000;

/// Drives a chain, and says what was seen.
pub fn judge(path: &Path, bench: &Bench) -> Finding {
    let mut look = Look::default();
    let kinds = List::read(path).map(|list| {
        list.plugins.iter().map(|plugin| plugin.text("type").to_owned()).collect::<Vec<_>>().join(", ")
    });
    let title = kinds.as_deref().unwrap_or("a chain").to_owned();
    let outcome = drive(path, bench, &mut look);
    look.into_finding("chain".to_owned(), title, outcome)
}

fn drive(path: &Path, bench: &Bench, look: &mut Look) -> Result<()> {
    let list = List::read(path)?.plugins;
    let version = bench.common_version(&list.iter().map(|plugin| plugin.text("type")).collect::<Vec<_>>())?;
    look.notes(format!("in {version}, the newest that all of them have"));
    let plugins = list.into_iter().map(|plugin| ready(plugin).version(version)).collect();
    let runner = Runner { bench, id: fresh_id(), netns: Netns::new()?, version, plugins };
    let outcome = runner.walk(look);
    // Whatever was seen: nothing stays. DEL of what is not there succeeds.
    for _ in 0..2 {
        for plugin in runner.plugins.iter().rev() {
            let answer = runner.call("DEL", plugin, None)?;
            look.holds(answer.silent(), format!("{}, DEL: {}", plugin.text("type"), answer.said()));
        }
    }
    outcome
}

/// A capability gets what a runtime would hand over for it.
fn ready(plugin: Config) -> Config {
    let mut runtime = json!({});
    if plugin.has_capability("portMappings") {
        runtime["portMappings"] =
            json!([{ "hostPort": HOST_PORT, "containerPort": PORT, "protocol": "tcp" }]);
    }
    if plugin.has_capability("bandwidth") {
        runtime["bandwidth"] =
            json!({ "ingressRate": RATE, "ingressBurst": RATE, "egressRate": RATE, "egressBurst": RATE });
    }
    plugin.with("runtimeConfig", runtime)
}

struct Runner<'a> {
    bench: &'a Bench,
    id: String,
    netns: Netns,
    version: &'static str,
    plugins: Vec<Config>,
}

impl Runner<'_> {
    fn call(&self, verb: &str, plugin: &Config, previous: Option<&Value>) -> Result<crate::call::Answer> {
        let netns = self.netns.path();
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", self.id.as_str()),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", INTERFACE),
        ];
        let config = match previous {
            Some(previous) => plugin.clone().with("prevResult", previous.clone()),
            None => plugin.clone(),
        };
        let kind = plugin.text("type");
        let program =
            if self.is_own(plugin) { self.bench.plugin.clone() } else { self.bench.program(kind)? };
        self.bench.call_other(&program, &variables, &config)
    }

    fn is_own(&self, plugin: &Config) -> bool {
        self.bench.plugin.file_name().is_some_and(|name| name == plugin.text("type"))
    }

    fn walk(&self, look: &mut Look) -> Result<()> {
        let mut result: Option<Value> = None;
        let mut first: Option<Added> = None;
        for plugin in &self.plugins {
            let answer = self.call("ADD", plugin, result.as_ref())?;
            let kind = plugin.text("type");
            if !answer.ok() {
                bail!("{kind}, ADD: {}", answer.said());
            }
            look.notes(format!("{kind}, ADD: {}", answer.said()));
            let said = answer.json()?;
            first.get_or_insert(Added(said.clone()));
            result = Some(said);
        }
        let (first, last) = (first.context("an empty chain")?, Added(result.context("an empty chain")?));
        let kept = first.addresses() == last.addresses();
        look.holds(kept, format!("the chain's result has {}", last.list()));
        if number(self.version) >= number("0.4.0") {
            for plugin in &self.plugins {
                let answer = self.call("CHECK", plugin, Some(&last.0))?;
                let seen = format!("{}, CHECK: {}", plugin.text("type"), answer.said());
                // The others are not under test: portmap 1.1.1, for one, misses its own rules for IPv6.
                if self.is_own(plugin) { look.holds(answer.silent(), seen) } else { look.notes(seen) }
            }
        }
        for plugin in &self.plugins {
            self.witness(look, plugin, &last)?;
        }
        Ok(())
    }

    /// What the plugin has made, seen from outside.
    fn witness(&self, look: &mut Look, plugin: &Config, last: &Added) -> Result<()> {
        if plugin.has_capability("portMappings") {
            let node = node_address(true)?.context("the node has no address")?;
            let said = self.served(node, HOST_PORT).unwrap_or_else(|why| format!("{why:#}"));
            look.holds(
                said == "served",
                format!("{node}:{HOST_PORT} on the node leads into the container: {said}"),
            );
        }
        if plugin.has_capability("bandwidth") {
            let link = host_link(&last.0).context("the result names no link on the node")?;
            let queue = run(&["tc", "qdisc", "show", "dev", &link])?;
            look.holds(
                queue.contains("tbf"),
                format!("{link} is shaped: {}", queue.trim().replace('\n', ", ")),
            );
        }
        if plugin.text("type") == "tuning" {
            for (name, wanted) in settings(plugin) {
                let file = format!("/proc/sys/{}", name.replace('.', "/"));
                let net = format!("--net={}", self.netns.path());
                let found = run(&["nsenter", &net, "--", "cat", &file])?.trim().to_owned();
                look.holds(found == wanted, format!("{name} is {found} in the container"));
            }
        }
        Ok(())
    }

    /// Connects from the node; what the container says.
    fn served(&self, to: IpAddr, port: u16) -> Result<String> {
        let listener = self.netns.listen(PORT)?;
        let serving = std::thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            Ok(stream.write_all(b"served")?)
        });
        let mut stream = TcpStream::connect_timeout(&(to, port).into(), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        serving.join().unwrap_or_else(|_| bail!("the serving thread panicked"))?;
        Ok(text)
    }
}

/// The node's end, by the result.
fn host_link(result: &Value) -> Option<String> {
    let all = result["interfaces"].as_array()?;
    let on_node = |one: &&Value| one["sandbox"].as_str().is_none_or(str::is_empty);
    Some(all.iter().find(on_node)?["name"].as_str()?.to_owned())
}

/// The settings that `tuning` is to make.
fn settings(plugin: &Config) -> Vec<(String, String)> {
    let all = plugin.object("sysctl").into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_end_is_the_one_without_a_sandbox() {
        let result = json!({ "interfaces": [{ "name": "eth0", "sandbox": "/n" }, { "name": "veth1", "sandbox": "" }] });
        assert_eq!(host_link(&result).as_deref(), Some("veth1"));
        assert_eq!(host_link(&json!({})), None);
    }
}
