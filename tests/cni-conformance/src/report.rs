//! What was found, as a table for people, as Markdown for the archive, as JSON for programs.

use anyhow::Result;
use serde::Serialize;

use crate::bench::Bench;

/// How a rule was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It says nothing about this plugin, configuration or version.
    NotApplicable,
}

/// One rule, or one chain.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The rule's number, or "chain".
    pub rule: String,
    /// What it is about.
    pub title: String,
    /// How it was met.
    pub verdict: Verdict,
    /// What was seen that should not have been, or why it does not apply.
    pub why: Vec<String>,
    /// What was seen that is as it should be.
    pub seen: Vec<String>,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    title: String,
    plugin: String,
    version: String,
    findings: Vec<Finding>,
}

impl Report {
    /// A report that has nothing in it yet.
    pub fn of(bench: &Bench, title: Option<String>) -> Self {
        let (plugin, version) = (bench.plugin.display().to_string(), bench.version.clone());
        let title = title.unwrap_or_else(|| format!("{plugin}, CNI {version}"));
        Self { title, plugin, version, findings: vec![] }
    }

    /// One more.
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Whether everything that applies holds, and something does.
    pub fn holds(&self) -> bool {
        self.count(&Verdict::Failed) == 0 && self.count(&Verdict::Passed) > 0
    }

    fn count(&self, verdict: &Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == *verdict).count()
    }

    fn closing(&self) -> String {
        format!(
            "{} passed, {} failed, {} not applicable",
            self.count(&Verdict::Passed),
            self.count(&Verdict::Failed),
            self.count(&Verdict::NotApplicable)
        )
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {} in CNI {}\n", self.title, self.plugin, self.version);
        for finding in &self.findings {
            text += &format!("{:>5}  {:<14}  {}\n", finding.rule, words(&finding.verdict), finding.title);
            for why in &finding.why {
                text += &format!("       {:14}    {}{why}\n", "", mark(&finding.verdict));
            }
            for seen in &finding.seen {
                text += &format!("       {:14}    {seen}\n", "");
            }
        }
        text + &self.closing() + "\n"
    }

    /// For the archive.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "## {}\n\n`{}` in CNI {}: {}.\n\n| rule | about | verdict | seen |\n| --- | --- | --- | --- |\n",
            self.title,
            self.plugin,
            self.version,
            self.closing()
        );
        for finding in &self.findings {
            let bold = finding.why.iter().map(|why| match finding.verdict {
                Verdict::Failed => format!("**{}**", cell(why)),
                Verdict::Passed | Verdict::NotApplicable => cell(why),
            });
            let seen: Vec<_> = bold.chain(finding.seen.iter().map(|seen| cell(seen))).collect();
            let verdict = words(&finding.verdict);
            text +=
                &format!("| {} | {} | {verdict} | {} |\n", finding.rule, finding.title, seen.join("<br>"));
        }
        text
    }

    /// For programs.
    ///
    /// # Errors
    /// Never in practice.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

fn words(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::NotApplicable => "not applicable",
    }
}

fn mark(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Failed => "! ",
        Verdict::Passed | Verdict::NotApplicable => "",
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        let finding = |verdict: &Verdict| Finding {
            rule: "7".to_owned(),
            title: "versions".to_owned(),
            verdict: verdict.clone(),
            why: vec!["a|b".to_owned()],
            seen: vec![],
        };
        let findings = verdicts.iter().map(finding).collect();
        Report { title: "t".to_owned(), plugin: "/p".to_owned(), version: "1.0.0".to_owned(), findings }
    }

    #[test]
    fn a_report_holds_when_nothing_failed_and_something_was_looked_at() {
        assert!(report(&[Verdict::Passed, Verdict::NotApplicable]).holds());
        assert!(!report(&[Verdict::Passed, Verdict::Failed]).holds());
        assert!(!report(&[Verdict::NotApplicable]).holds() && !report(&[]).holds());
    }

    #[test]
    fn a_row_stays_a_row() {
        let text = report(&[Verdict::Failed]).markdown();
        assert!(text.contains("| 7 | versions | FAILED | **a\\|b** |"), "{text}");
        assert!(text.contains("0 passed, 1 failed, 0 not applicable"));
    }
}
