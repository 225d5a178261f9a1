//! One call of a plugin, as a runtime makes it: a program with variables and standard input, and what it answered.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

/// A plugin that has not answered after so many seconds is ended: every verb has to end in bounded time.
const PATIENCE: &str = "60";

/// What a plugin reads.
#[derive(Debug, Clone)]
pub enum Input {
    /// This, and then its end.
    Text(String),
    /// Nothing at all: an open pipe into which nobody writes.
    Silence,
    /// Something that cannot be read.
    Unreadable,
}

/// What a plugin answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code; absent where a signal ended it.
    pub exit: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Calls a program with these variables and nothing else of ours but `PATH`.
///
/// # Errors
/// When it cannot be started.
pub fn call(program: &Path, variables: &[(&str, &str)], input: &Input) -> Result<Answer> {
    let stdin = match input {
        Input::Text(_) | Input::Silence => Stdio::piped(),
        Input::Unreadable => File::open("/")?.into(),
    };
    let mut child = Command::new("timeout")
        .args(["--signal=KILL", PATIENCE])
        .arg(program)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(variables.iter().copied())
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.display().to_string())?;
    // The pipe is open until the answer is there, unless all has been said.
    let mut held = child.stdin.take();
    if let (Some(mut pipe), Input::Text(text)) = (held.take_if(|_| matches!(input, Input::Text(_))), input) {
        // A plugin may refuse before it has read everything.
        let _ = pipe.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    drop(held);
    Ok(Answer {
        exit: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Answer {
    /// Whether it succeeded.
    pub fn ok(&self) -> bool {
        self.exit == Some(0)
    }

    /// Whether it succeeded without a word.
    pub fn silent(&self) -> bool {
        self.ok() && self.stdout.is_empty()
    }

    /// The one JSON object on standard output.
    ///
    /// # Errors
    /// When there is something else.
    pub fn json(&self) -> Result<Value> {
        let value: Value = serde_json::from_str(&self.stdout)
            .with_context(|| format!("stdout is not one JSON object: {:?}", shortened(&self.stdout)))?;
        value.is_object().then_some(value).context("stdout is not a JSON object")
    }

    /// The code of an error: a failing exit, and one JSON object with code and message.
    pub fn code(&self) -> Option<u64> {
        let body = self.json().ok().filter(|_| !self.ok())?;
        body.get("code").and_then(Value::as_u64).filter(|_| has_text(&body, "msg"))
    }

    /// Whether the error names the version it is written in, too (rule 6).
    pub fn is_whole_error(&self) -> bool {
        self.code().is_some() && self.json().is_ok_and(|body| has_text(&body, "cniVersion"))
    }

    /// What the error says.
    pub fn message(&self) -> String {
        let body = self.json().unwrap_or_default();
        body.get("msg").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// All of it, in a few words.
    pub fn said(&self) -> String {
        match (self.exit, self.code()) {
            (_, Some(code)) => format!("code {code} ({})", shortened(&self.message())),
            (Some(0), _) if self.stdout.is_empty() => "success without a word".to_owned(),
            (Some(0), _) => "success".to_owned(),
            (Some(exit), _) => format!("exit {exit}, stdout {:?}", shortened(&self.stdout)),
            (None, _) => format!("no answer within {PATIENCE} s"),
        }
    }
}

fn has_text(body: &Value, name: &str) -> bool {
    body.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 100;
    let line = text.trim().replace('\n', " ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(exit: i32, stdout: &str) -> Answer {
        Answer { exit: Some(exit), stdout: stdout.to_owned(), stderr: String::new() }
    }

    #[test]
    fn rule_6_an_error_is_one_object_with_version_code_and_message_and_a_failing_exit() {
        let good = r#"{"cniVersion":"1.0.0","code":7,"msg":"name"}"#;
        assert_eq!(answer(1, good).code(), Some(7));
        assert_eq!(answer(1, good).message(), "name");
        assert!(answer(1, good).is_whole_error());
        assert_eq!(answer(0, good).code(), None);
        let without_version = answer(1, r#"{"code":7,"msg":"m"}"#);
        assert_eq!((without_version.code(), without_version.is_whole_error()), (Some(7), false));
        for bad in [
            "",
            "oops",
            r#"{"cniVersion":"1.0.0","code":"7","msg":"m"}"#,
            r#"{"cniVersion":"1.0.0","code":7,"msg":""}"#,
            r#"{"cniVersion":"1.0.0","code":7,"msg":"m"} more"#,
        ] {
            assert_eq!(answer(1, bad).code(), None, "{bad}");
        }
    }

    #[test]
    fn what_was_said_fits_on_a_line() {
        let long = "x\n".repeat(500);
        assert!(answer(3, &long).said().chars().count() < 140);
        assert_eq!(answer(0, "").said(), "success without a word");
    }

    #[test]
    fn a_program_that_reads_to_the_end_reads_all_of_it_and_one_that_cannot_read_fails() {
        let cat = Path::new("/bin/cat");
        let read = call(cat, &[], &Input::Text("{}".to_owned())).unwrap();
        assert_eq!((read.ok(), read.stdout.as_str()), (true, "{}"));
        assert!(!call(cat, &[], &Input::Unreadable).unwrap().ok());
        let echo = call(Path::new("/bin/true"), &[], &Input::Silence).unwrap();
        assert!(echo.silent());
    }
}
