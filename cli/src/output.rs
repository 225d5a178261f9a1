//! What people and programs read: lines, tables and JSON on standard output, troubles on standard error.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use jiff::Timestamp;
use serde::Serialize;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs; one object.
    Json,
}

/// Where answers go.
#[derive(Debug)]
pub struct Out {
    format: Format,
    colours: bool,
}

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

impl Out {
    /// Standard output; colours only on a terminal, and only where nobody has asked for none (`NO_COLOR`).
    pub fn new(format: Format) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { format, colours: wanted && io::stdout().is_terminal() }
    }

    /// Whether a program reads it.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// One object.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        self.line(&serde_json::to_string_pretty(value)?)
    }

    /// One line.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn line(&mut self, text: &str) -> Result<()> {
        Ok(writeln!(io::stdout().lock(), "{text}")?)
    }

    /// One line that says that something is well.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn good(&mut self, text: &str) -> Result<()> {
        self.coloured(GREEN, text)
    }

    /// One line that says that something is not.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn bad(&mut self, text: &str) -> Result<()> {
        self.coloured(RED, text)
    }

    /// Columns that line up, without lines between them, as kubectl's.
    ///
    /// # Errors
    /// When nobody reads.
    pub fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) -> Result<()> {
        rendered(head, rows).iter().try_for_each(|line| self.line(line))
    }

    /// On standard error: why there is no answer, or not a whole one. If that cannot be written either, the exit code
    /// still tells.
    pub fn trouble(&mut self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "kubectl portolan: {text}");
    }

    fn coloured(&mut self, colour: &str, text: &str) -> Result<()> {
        if self.colours { self.line(&format!("{colour}{text}{PLAIN}")) } else { self.line(text) }
    }
}

fn rendered(head: &[&str], rows: Vec<Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head.to_vec()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// A time as people read it: in UTC, to the second.
pub fn time(time: Option<Timestamp>, absent: &str) -> String {
    time.map_or_else(|| absent.to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows = vec![vec!["10.20.1.5".into(), "erp".into()], vec!["fd00::1:5".into(), String::new()]];
        assert_eq!(
            rendered(&["ADDRESS", "POOL"], rows),
            ["ADDRESS     POOL", "10.20.1.5   erp", "fd00::1:5"]
        );
    }

    #[test]
    fn a_time_is_told_to_the_second_in_utc() {
        assert_eq!(time("2026-11-20T11:00:00.9+01:00".parse().ok(), "now"), "2026-11-20T10:00:00Z");
        assert_eq!(time(None, "now"), "now");
    }
}
