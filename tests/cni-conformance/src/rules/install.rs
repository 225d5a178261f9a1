//! Rules 22 and 24: the configuration as it was installed, for the runtime to read.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Look;
use crate::bench::Bench;
use crate::config::List;

const NOT_GIVEN: &str = "no installed configuration is given (--installed)";

/// `cniVersions`, from which newer runtimes choose, has only versions that the plugin has.
pub fn rule_22_versions_of_the_list(bench: &Bench, look: &mut Look) -> Result<()> {
    let Some(path) = &bench.installed else {
        look.does_not_apply(NOT_GIVEN);
        return Ok(());
    };
    let whole: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let own = whole["cniVersion"].as_str().context("the list has no cniVersion")?;
    let listed: BTreeSet<_> =
        whole["cniVersions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    look.holds(!listed.is_empty(), format!("cniVersion {own}, cniVersions {listed:?}"));
    let foreign: Vec<_> =
        listed.iter().chain([&own]).filter(|one| !bench.supported.iter().any(|has| has == **one)).collect();
    look.holds(foreign.is_empty(), format!("versions that the plugin has not: {foreign:?}"));
    Ok(())
}

/// The list is complete, names plugins that are there, and nothing half-written lies beside it.
pub fn rule_24_whole(bench: &Bench, look: &mut Look) -> Result<()> {
    let Some(path) = &bench.installed else {
        look.does_not_apply(NOT_GIVEN);
        return Ok(());
    };
    let list = List::read(path)?;
    for plugin in &list.plugins {
        let kind = plugin.text("type");
        look.holds(bench.program(kind).is_ok(), format!("{} names {kind}, which is there", path.display()));
    }
    let folder = path.parent().context("the list is in no folder")?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?.path();
        let read =
            entry.extension().is_some_and(|end| ["conf", "conflist", "json"].iter().any(|one| end == *one));
        if read && entry != *path {
            let whole = List::read(&entry).is_ok();
            look.holds(whole, format!("{} beside it is whole: {whole}", entry.display()));
        } else if !read {
            look.holds(false, format!("{} was left beside it", entry.display()));
        }
    }
    Ok(())
}
