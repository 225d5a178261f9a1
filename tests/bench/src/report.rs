//! The figures: a table for people, a file for machines.

use anyhow::{Context, Result};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use portolan_bed::repository;
use serde::Serialize;
use serde_json::json;

/// What was measured, and its bound.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Its name in the report.
    pub name: &'static str,
    /// What was measured.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it may be at most, or has to be at least.
    pub bound: f64,
    /// Whether it is.
    pub ok: bool,
    #[serde(skip)]
    at_least: bool,
}

impl Figure {
    /// May be at most so much.
    pub fn at_most(bound: f64, name: &'static str, unit: &'static str, value: f64) -> Self {
        Self { name, value, unit, bound, ok: value <= bound, at_least: false }
    }

    /// Has to be at least so much.
    pub fn at_least(bound: f64, name: &'static str, unit: &'static str, value: f64) -> Self {
        Self { name, value, unit, bound, ok: value >= bound, at_least: true }
    }
}

/// Shows and writes them; whether every bound holds. No figure at all is no success.
pub fn write(figures: &[Figure]) -> Result<bool> {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["figure", "value", "bound", "unit", ""]);
    for figure in figures {
        let sign = if figure.at_least { '≥' } else { '≤' };
        let verdict = if figure.ok { "ok" } else { "MISSED" };
        let (value, bound) = (number(figure.value), format!("{sign} {}", number(figure.bound)));
        table.add_row([figure.name, &value, &bound, figure.unit, verdict]);
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("\n{table}");
    let folder = repository().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("report.json");
    std::fs::write(&file, format!("{:#}\n", json!({ "results": figures })))
        .with_context(|| file.display().to_string())?;
    let ok = figures.iter().filter(|figure| figure.ok).count();
    println!("{ok} of {} bounds hold; {}", figures.len(), file.display());
    Ok(ok == figures.len() && ok > 0)
}

/// With as many places as mean something.
fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.4}") }
}
