//! Rules 16 to 18: DEL.

use anyhow::Result;
use serde_json::json;

use super::Look;
use crate::bench::{Bench, Container, INTERFACE};

/// Twice, for nobody, without a namespace, without an interface: success, and the address can be had again.
pub fn rule_16_idempotent(bench: &Bench, look: &mut Look) -> Result<()> {
    let (container, _) = bench.added()?;
    for which in ["first", "second"] {
        let answer = container.call("DEL")?;
        look.holds(answer.ok(), format!("{which} DEL: {}", answer.said()));
    }
    let left = container.netns.link(INTERFACE)?.is_some();
    look.holds(!left, format!("the interface is left: {left}"));
    let never = bench.container()?;
    let answer = never.call("DEL")?;
    look.holds(answer.ok(), format!("never added: {}", answer.said()));
    let config = bench.config.clone().with("prevResult", json!(null));
    let answer = never.call_with("DEL", &[], &config)?;
    look.holds(answer.ok(), format!("empty prevResult: {}", answer.said()));
    for (what, prepare) in SURPRISES {
        let config = bench.single.as_ref().unwrap_or(&bench.config);
        let (container, added) = bench.added_of(config)?;
        let netns = prepare(&container)?;
        let config = config.clone().with("prevResult", added.0.clone());
        let answer = container.call_with("DEL", &[("CNI_NETNS", &netns)], &config)?;
        look.holds(answer.ok(), format!("{what}: {}", answer.said()));
        if bench.single.is_some() {
            let answer = bench.container_of(&config.with("prevResult", json!(null)))?.call("ADD")?;
            look.holds(answer.ok(), format!("{what}: its address can be had again: {}", answer.said()));
        }
    }
    if bench.single.is_none() {
        look.does_not_apply("whether the address came back needs --single");
    }
    Ok(())
}

/// Something is done to a container; the answer is what DEL gets as its namespace.
type Surprise = (&'static str, fn(&Container<'_>) -> Result<String>);

const SURPRISES: [Surprise; 3] = [
    ("the namespace is gone", |container| {
        container.netns.delete()?;
        Ok(container.netns.path())
    }),
    ("the namespace is gone, CNI_NETNS is empty", |container| {
        container.netns.delete()?;
        Ok(String::new())
    }),
    ("the interface is gone", |container| {
        container.netns.ip(&format!("link delete {INTERFACE}"))?;
        Ok(container.netns.path())
    }),
];

/// The address of one container is the next one's when the first is deleted once more.
pub fn rule_17_next_holder(bench: &Bench, look: &mut Look) -> Result<()> {
    let Some(config) = &bench.single else {
        look.does_not_apply("that the next container gets the same address needs --single");
        return Ok(());
    };
    let (old, before) = bench.added_of(config)?;
    let answer = old.call("DEL")?;
    look.holds(answer.ok(), format!("DEL of the holder of {}: {}", before.list(), answer.said()));
    let (new, after) = bench.added_of(config)?;
    look.holds(after.addresses() == before.addresses(), format!("the next container has {}", after.list()));
    let netns = new.netns.path();
    for (whose, netns) in [("its own", old.netns.path()), ("no", String::new()), ("the new one's", netns)] {
        let late = old.call_with("DEL", &[("CNI_NETNS", &netns)], config)?;
        // Who names the namespace of another container has that one's interface removed, in many plugins.
        if whose == "the new one's" {
            look.notes(format!(
                "late DEL with {whose} namespace: {}, the new one intact: {}",
                late.said(),
                new.intact(&after)?
            ));
            continue;
        }
        look.holds(late.ok(), format!("late DEL with {whose} namespace: {}", late.said()));
        look.holds(new.intact(&after)?, "the new container has all that it had");
        let third = bench.container_of(config)?.call("ADD")?;
        look.holds(third.code().is_some(), format!("a third container gets no address: {}", third.said()));
    }
    Ok(())
}

/// Standard output is for results, and DEL has none.
pub fn rule_18_silent(bench: &Bench, look: &mut Look) -> Result<()> {
    let (container, added) = bench.added()?;
    let config = bench.config.clone().with("prevResult", added.0.clone());
    for what in ["DEL", "DEL once more"] {
        let answer = container.call_with("DEL", &[], &config)?;
        look.holds(answer.silent(), format!("{what}: {}", answer.said()));
    }
    Ok(())
}
