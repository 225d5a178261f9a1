//! Rules 1 to 8: what a plugin reads, and what it says when that will not do.

use anyhow::Result;
use serde_json::json;

use super::Look;
use crate::bench::{Bench, INTERFACE, fresh_id};
use crate::call::{Answer, Input};
use crate::config::{Config, VERSIONS, number};

/// VERSION: nothing but `CNI_COMMAND`, whatever standard input is.
pub fn rule_01_version(bench: &Bench, look: &mut Look) -> Result<()> {
    let asked = Input::Text(json!({ "cniVersion": bench.version }).to_string());
    let inputs = [
        ("no input", Input::Text(String::new())),
        ("an input that never ends", Input::Silence),
        ("{cniVersion}", asked),
    ];
    for (what, input) in inputs {
        let answer = bench.raw(&[("CNI_COMMAND", "VERSION")], &input)?;
        let body = answer.json().unwrap_or_default();
        let listed = body["supportedVersions"].as_array().is_some_and(|all| !all.is_empty());
        let good = answer.ok() && listed && body["cniVersion"].is_string();
        look.holds(good, format!("with {what}: {}", answer.said()));
    }
    look.notes(format!("supports {}", bench.supported.join(", ")));
    Ok(())
}

/// An unknown or missing command is code 4; with nothing set at all, a text about the plugin will do.
pub fn rule_02_command(bench: &Bench, look: &mut Look) -> Result<()> {
    let answer = parameters(bench, "GRILL", &[])?;
    look.holds(answer.code() == Some(4), format!("unknown command: {}", answer.said()));
    let answer = parameters(bench, "", &[])?;
    look.holds(answer.code() == Some(4) || is_about(&answer), format!("empty command: {}", answer.said()));
    let answer = bench.raw(&[], &Input::Text(String::new()))?;
    look.holds(answer.code() == Some(4) || is_about(&answer), format!("nothing set: {}", answer.said()));
    Ok(())
}

/// What the reference library does for a human who calls a plugin by hand.
fn is_about(answer: &Answer) -> bool {
    answer.silent() && !answer.stderr.trim().is_empty()
}

/// The variables each verb needs, all missing ones in one message.
pub fn rule_03_missing_variables(bench: &Bench, look: &mut Look) -> Result<()> {
    let mut needed = vec![
        ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"].as_slice()),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
    ];
    if bench.has("0.4.0") {
        needed.push(("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]));
    }
    for (verb, names) in needed {
        let answer = bench.call(&[("CNI_COMMAND", verb)], &bench.config)?;
        let all = names.iter().all(|name| answer.message().contains(name));
        look.holds(answer.code() == Some(4) && all, format!("{verb} with nothing else: {}", answer.said()));
    }
    let id = fresh_id();
    let without_netns = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", &id), ("CNI_IFNAME", INTERFACE)];
    let answer = bench.call(&without_netns, &bench.config)?;
    look.holds(answer.ok(), format!("DEL without CNI_NETNS: {}", answer.said()));
    // The specification has CNI_PATH optional here; the reference library asks for it, and every runtime sets it.
    let answer = bench.raw(&without_netns, &Input::Text(bench.config.stdin()))?;
    look.notes(format!("DEL without CNI_PATH, which is left to the plugin: {}", answer.said()));
    Ok(())
}

/// Container id and interface: code 4 (an empty id may be 3); the network's name: code 7.
pub fn rule_04_names(bench: &Bench, look: &mut Look) -> Result<()> {
    let mut wrong = vec![];
    let mut tried = 0;
    for (name, values) in [
        ("CNI_CONTAINERID", ["../etc", "-a", "a b", "a/b", "é"].as_slice()),
        ("CNI_IFNAME", &["sixteen-letters-", ".", "..", "a/b", "a:b", "a b"]),
    ] {
        for value in values {
            let answer = parameters(bench, "ADD", &[(name, value)])?;
            tried += 1;
            if answer.code() != Some(4) {
                wrong.push(format!("; {name}={value:?}: {}", answer.said()));
            }
        }
    }
    look.holds(
        wrong.is_empty(),
        format!("{tried} bad variables, not refused with code 4: {}{}", wrong.len(), wrong.concat()),
    );
    let answer = parameters(bench, "ADD", &[("CNI_CONTAINERID", "")])?;
    look.holds(matches!(answer.code(), Some(3 | 4)), format!("empty id: {}", answer.said()));
    for name in [json!("a b"), json!("../n"), json!("")] {
        let answer = with_config(bench, "ADD", &bench.config.clone().with("name", name.clone()))?;
        look.holds(answer.code() == Some(7), format!("network name {name}: {}", answer.said()));
    }
    Ok(())
}

/// 5, 6, 1, 7 for the faults of standard input; never a code that is the library's own.
pub fn rule_05_input(bench: &Bench, look: &mut Look) -> Result<()> {
    let (id, netns) = (fresh_id(), "/run/netns/none".to_owned());
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", id.as_str()),
        ("CNI_NETNS", &netns),
        ("CNI_IFNAME", INTERFACE),
        ("CNI_PATH", "/"),
    ];
    let answer = bench.raw(&variables, &Input::Unreadable)?;
    look.holds(answer.code() == Some(5), format!("unreadable: {}", answer.said()));
    for broken in ["", "{", "3"] {
        let answer = bench.raw(&variables, &Input::Text(broken.to_owned()))?;
        look.holds(answer.code() == Some(6), format!("{broken:?}: {}", answer.said()));
    }
    let answer = with_config(bench, "ADD", &bench.config.clone().version("9.9.9"))?;
    look.holds(answer.code() == Some(1), format!("cniVersion 9.9.9: {}", answer.said()));
    for (field, value) in [("ipam", json!(7)), ("runtimeConfig", json!([])), ("dns", json!("10.0.0.10"))] {
        let answer = with_config(bench, "ADD", &bench.config.clone().with(field, value.clone()))?;
        look.holds(answer.code() == Some(7), format!("{field} {value}: {}", answer.said()));
    }
    let answer = parameters(bench, "ADD", &[])?;
    let own = matches!(answer.code(), Some(8 | 999) | None);
    look.holds(
        !own,
        format!(
            "a namespace that is not there, not with the library's own codes 8 and 999: {}",
            answer.said()
        ),
    );
    let odd =
        bench.config.clone().with("x-unknown", json!({ "a": [1] })).with("cni.dev/unknown", json!(true));
    let container = bench.container_of(&odd)?;
    let answer = container.call("ADD")?;
    let read = answer.ok() || (answer.code() == Some(2) && answer.message().contains("unknown"));
    look.holds(read, format!("unknown fields: {}", answer.said()));
    Ok(())
}

/// Whatever fails: a failing exit, and one object on standard output with `cniVersion`, `code` and `msg`.
pub fn rule_06_errors(bench: &Bench, look: &mut Look) -> Result<()> {
    let cases = [
        ("unknown command", parameters(bench, "GRILL", &[])?),
        ("missing variables", bench.call(&[("CNI_COMMAND", "ADD")], &bench.config)?),
        ("bad id", parameters(bench, "DEL", &[("CNI_CONTAINERID", "../etc")])?),
        ("bad version", with_config(bench, "ADD", &bench.config.clone().version("9.9.9"))?),
        ("a namespace that is not there", parameters(bench, "ADD", &[])?),
        ("a namespace that is none", parameters(bench, "ADD", &[("CNI_NETNS", "/dev/null")])?),
    ];
    for (what, answer) in cases {
        let version = if answer.is_whole_error() { "with" } else { "without" };
        look.holds(answer.is_whole_error(), format!("{what}: {}, {version} cniVersion", answer.said()));
    }
    Ok(())
}

/// Each version in its own words, and verbs only in the versions that have them.
pub fn rule_07_versions(bench: &Bench, look: &mut Look) -> Result<()> {
    for version in VERSIONS {
        if !bench.supported.iter().any(|one| one == version) {
            look.holds(false, format!("{version} is not supported"));
            continue;
        }
        let container = bench.container_of(&bench.config.clone().version(version))?;
        let result = container.added()?.0;
        let families =
            result["ips"].as_array().into_iter().flatten().map(|ip| &ip["version"]).collect::<Vec<_>>();
        let old = number(version) < number("1.0.0");
        let good = families
            .iter()
            .all(|family| if old { *family == "4" || *family == "6" } else { family.is_null() });
        let said = &result["cniVersion"];
        let families: Vec<_> = families.iter().filter_map(|family| family.as_str()).collect();
        look.holds(
            *said == version && good,
            format!("{version}: cniVersion {said}, ips[].version {families:?}"),
        );
    }
    for (verb, since, before) in
        [("CHECK", "0.4.0", "0.3.1"), ("STATUS", "1.1.0", "1.0.0"), ("GC", "1.1.0", "1.0.0")]
    {
        let has = |version: &str| bench.supported.iter().any(|one| one == version);
        if has(since) && has(before) {
            let old =
                bench.config.clone().version(before).with("prevResult", json!({ "cniVersion": before }));
            let answer = with_config(bench, verb, &old)?;
            look.holds(answer.code() == Some(1), format!("{verb} in {before}: {}", answer.said()));
        }
    }
    Ok(())
}

/// Unknown keys of `CNI_ARGS` do not fail when `IgnoreUnknown` is set.
pub fn rule_08_arguments(bench: &Bench, look: &mut Look) -> Result<()> {
    for args in ["IgnoreUnknown=1;COLOUR=red", "IgnoreUnknown=true"] {
        let container = bench.container()?;
        let answer = container.call_with("ADD", &[("CNI_ARGS", args)], &bench.config)?;
        look.holds(answer.ok(), format!("{args}: {}", answer.said()));
    }
    Ok(())
}

/// A call for a container whose namespace is not there, with some variables changed.
fn parameters(bench: &Bench, verb: &str, changed: &[(&str, &str)]) -> Result<Answer> {
    let id = fresh_id();
    let mut variables = vec![
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", id.as_str()),
        ("CNI_NETNS", "/run/netns/none"),
        ("CNI_IFNAME", INTERFACE),
    ];
    variables.extend_from_slice(changed);
    bench.call(&variables, &bench.config)
}

/// A call for a container that has a namespace, with another configuration.
fn with_config(bench: &Bench, verb: &str, config: &Config) -> Result<Answer> {
    let container = bench.container()?;
    container.call_with(verb, &[], config)
}
