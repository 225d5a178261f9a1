//! Rules 14, 20 and 21: the service behind a plugin, whether it can serve, and what it forgets.

use anyhow::Result;
use serde_json::{Value, json};

use super::Look;
use crate::bench::{Bench, Container};
use crate::call::Answer;
use crate::config::Config;

const VALID: &str = "cni.dev/valid-attachments";
const OLD: &str = "cni.dev/attachments";

/// The service is away: the runtime is told to come back.
pub fn rule_14_try_again_later(bench: &Bench, look: &mut Look) -> Result<()> {
    let Some((key, value)) = &bench.without_service else {
        look.does_not_apply("the plugin depends on no service (--without-service)");
        return Ok(());
    };
    let away = [(key.as_str(), value.as_str())];
    let container = bench.container()?;
    let answer = container.call_with("ADD", &away, &bench.config)?;
    look.holds(answer.code() == Some(11), format!("ADD without the service: {}", answer.said()));
    if bench.has("0.4.0") {
        let (container, added) = bench.added()?;
        let config = bench.config.clone().with("prevResult", added.0.clone());
        let answer = container.call_with("CHECK", &away, &config)?;
        look.holds(answer.code() == Some(11), format!("CHECK without the service: {}", answer.said()));
    }
    let answer = container.call_with("DEL", &away, &bench.config)?;
    look.notes(format!("DEL without the service: {}", answer.said()));
    let answer = container.call("ADD")?;
    look.holds(answer.ok(), format!("ADD when it is back: {}", answer.said()));
    Ok(())
}

/// 0 when an ADD can be served; 50 when not, for want of the service or of addresses; other verbs go on.
pub fn rule_20_status(bench: &Bench, look: &mut Look) -> Result<()> {
    if !bench.has("1.1.0") {
        look.does_not_apply(format!("STATUS came with 1.1.0, this is {}", bench.version));
        return Ok(());
    }
    let status = |config: &Config, more: &[(&str, &str)]| {
        let mut variables = vec![("CNI_COMMAND", "STATUS")];
        variables.extend_from_slice(more);
        bench.call(&variables, config)
    };
    let answer = status(&bench.config, &[])?;
    look.holds(answer.silent(), format!("all is well: {}", answer.said()));
    if let Some((key, value)) = &bench.without_service {
        let answer = status(&bench.config, &[(key, value)])?;
        look.holds(answer.code() == Some(50), format!("without the service: {}", answer.said()));
    }
    if let Some(config) = &bench.single {
        let answer = status(config, &[])?;
        look.holds(answer.silent(), format!("one address, free: {}", answer.said()));
        let (holder, _) = bench.added_of(config)?;
        let answer = status(config, &[])?;
        look.holds(answer.code() == Some(50), format!("one address, held: {}", answer.said()));
        let answer = holder.call("DEL")?;
        look.holds(answer.ok(), format!("DEL after that: {}", answer.said()));
        let answer = status(config, &[])?;
        look.holds(answer.silent(), format!("one address, free again: {}", answer.said()));
        let answer = holder.call("ADD")?;
        look.holds(answer.ok(), format!("ADD after that: {}", answer.said()));
    } else {
        look.does_not_apply("code 50 for want of addresses needs --single");
    }
    look.does_not_apply("code 51 needs a damaged data path, which only the plugin's own tests can make");
    Ok(())
}

/// What is listed stays, what is not goes; no list changes nothing; another network is not touched.
pub fn rule_21_gc(bench: &Bench, look: &mut Look) -> Result<()> {
    if !bench.has("1.1.0") {
        look.does_not_apply(format!("GC came with 1.1.0, this is {}", bench.version));
        return Ok(());
    }
    let (kept, kept_result) = bench.added()?;
    let (stale, stale_result) = bench.added()?;
    let other_network =
        bench.config.clone().with("name", json!(format!("{}-other", bench.config.text("name"))));
    let (foreign, foreign_result) = bench.added_of(&other_network)?;

    let answer = gc(bench, bench.config.clone())?;
    look.holds(answer.silent(), format!("no list: {}", answer.said()));
    look.holds(kept.intact(&kept_result)? && stale.intact(&stale_result)?, "no list: nothing changes");

    let answer = gc(bench, bench.config.clone().with(VALID, listed(&[&kept])))?;
    look.holds(answer.silent(), format!("one of two listed: {}", answer.said()));
    look.holds(kept.intact(&kept_result)?, "the listed one keeps everything");
    let checked = stale.check(&stale_result)?;
    look.holds(checked.code().is_some(), format!("CHECK of the one that was not listed: {}", checked.said()));
    let answer = stale.call("DEL")?;
    look.holds(answer.ok(), format!("its DEL, later: {}", answer.said()));

    let answer = gc(bench, bench.config.clone().with(OLD, listed(&[&kept])))?;
    look.holds(answer.silent() && kept.intact(&kept_result)?, format!("{OLD}: {}", answer.said()));
    let answer = gc(bench, bench.config.clone().with(VALID, json!([])))?;
    look.holds(answer.silent(), format!("an empty list: {}", answer.said()));
    let checked = kept.check(&kept_result)?;
    look.holds(checked.code().is_some(), format!("CHECK after that: {}", checked.said()));
    look.holds(foreign.intact(&foreign_result)?, "a container of another network keeps everything");
    if let Some(config) = &bench.single {
        let (_lost, _) = bench.added_of(config)?;
        gc(bench, config.clone().with(VALID, json!([])))?;
        let answer = bench.container_of(config)?.call("ADD")?;
        look.holds(answer.ok(), format!("the one address can be had after GC: {}", answer.said()));
    }
    Ok(())
}

fn gc(bench: &Bench, config: Config) -> Result<Answer> {
    bench.call(&[("CNI_COMMAND", "GC")], &config)
}

fn listed(containers: &[&Container<'_>]) -> Value {
    let entry = |one: &&Container<'_>| json!({ "containerID": one.id, "ifname": crate::bench::INTERFACE });
    containers.iter().map(entry).collect()
}
