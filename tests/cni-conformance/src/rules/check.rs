//! Rule 19: CHECK.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Look;
use crate::bench::{Bench, Container, INTERFACE, fresh_id};

/// CRI-O calls CHECK on every ADD and waits for it.
const BOUND: Duration = Duration::from_secs(10);

/// Success without a word right after ADD and after later plugins; an error for whatever ADD made and is gone.
pub fn rule_19_check(bench: &Bench, look: &mut Look) -> Result<()> {
    if !bench.has("0.4.0") {
        look.does_not_apply(format!("CHECK came with 0.4.0, this is {}", bench.version));
        return Ok(());
    }
    let (container, added) = bench.added()?;
    let begun = Instant::now();
    let answer = container.check(&added)?;
    look.holds(answer.silent(), format!("right after ADD: {}", answer.said()));
    look.holds(begun.elapsed() < BOUND, format!("within {} s", BOUND.as_secs()));
    container.netns.ip(&format!("addr add 198.51.100.7/32 dev {INTERFACE}"))?;
    container.netns.ip(&format!("route add 203.0.113.0/24 dev {INTERFACE}"))?;
    let answer = container.check(&added)?;
    look.holds(answer.silent(), format!("with an address and a route of a later plugin: {}", answer.said()));
    for (what, harm) in HARMS {
        let (container, added) = bench.added()?;
        harm(&container)?;
        let answer = container.check(&added)?;
        look.holds(answer.code().is_some(), format!("{what}: {}", answer.said()));
    }
    // The same namespace, but nothing is noted for this container.
    let stranger = fresh_id();
    let config = bench.config.clone().with("prevResult", added.0.clone());
    let answer = container.call_with("CHECK", &[("CNI_CONTAINERID", &stranger)], &config)?;
    look.holds(answer.code().is_some(), format!("no reservation: {}", answer.said()));
    Ok(())
}

/// What can be taken from a container.
type Harm = (&'static str, fn(&Container<'_>) -> Result<()>);

const HARMS: [Harm; 5] = [
    ("no interface", |container| container.netns.ip(&format!("link delete {INTERFACE}")).map(drop)),
    ("the interface is down", |container| {
        container.netns.ip(&format!("link set {INTERFACE} down")).map(drop)
    }),
    ("no address", |container| {
        container.netns.ip(&format!("addr flush dev {INTERFACE} scope global")).map(drop)
    }),
    ("another address", |container| {
        container.netns.ip(&format!("addr flush dev {INTERFACE} scope global"))?;
        container.netns.ip(&format!("addr add 198.51.100.7/32 dev {INTERFACE}")).map(drop)
    }),
    ("no route", |container| {
        let routes = container.netns.routes()?;
        let default =
            routes.iter().find(|route| route["dst"] == "default").context("ADD made no default route")?;
        let family = if default["gateway"].as_str().is_some_and(|gateway| gateway.contains(':')) {
            "-6"
        } else {
            "-4"
        };
        container.netns.ip(&format!("{family} route delete default")).map(drop)
    }),
];
