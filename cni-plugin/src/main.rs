//! The CNI binary: reads the call, asks the agent, prints the answer.
//!
//! Owns nothing and decides nothing: addresses, wiring and policy are the agent's. What it does itself is the contract
//! with the runtime (CNI specification 1.0.0, sections 2, 4 and 5): environment, configuration, versions, error codes.
//! It starts in about a millisecond, because every pod start waits for it: no async runtime, no log, static.

mod agent;
mod answer;
mod call;

use std::io::Write;
use std::process::ExitCode;

use call::{Call, Input};
use portolan_wire::cni::{Command, Failure, Response, code};

fn main() -> ExitCode {
    let input = Input::of_this_process();
    let (text, exit) = match run(&input) {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(failure) => (answer::error(&input.version(), &failure), ExitCode::FAILURE),
    };
    // A runtime that closed our stdout has gone; there is nobody left to tell.
    let _ = std::io::stdout().write_all(text.as_bytes());
    exit
}

/// What goes to stdout. DEL and CHECK succeed with nothing (rules 18 and 19 of the field notes).
fn run(input: &Input) -> Result<String, Failure> {
    match input.parse()? {
        Call::Version => Ok(answer::versions(&input.version())),
        Call::Ask { request, netns } => {
            let command = request.command;
            let response = agent::ask(&request, netns.as_deref());
            match (command, response) {
                (_, Ok(Response::Failed(failure))) => Err(failure),
                (Command::Add, Ok(Response::Added(attachment))) => {
                    Ok(answer::result(&input.version(), &request, netns.as_deref(), &attachment))
                }
                (Command::Del | Command::Check | Command::Status | Command::Gc, Ok(Response::Done)) => {
                    Ok(String::new())
                }
                // The agent releases the address itself once the pod's end of the pair is gone with its namespace.
                (Command::Del, Err(agent::Error::Away(_))) => Ok(String::new()),
                (_, Err(error)) => Err(error.into()),
                (Command::Add, Ok(Response::Done))
                | (Command::Del | Command::Check | Command::Status | Command::Gc, Ok(Response::Added(_))) => {
                    Err(Failure::new(
                        code::IO_FAILURE,
                        "the agent answered another question",
                        "is its version older?",
                    ))
                }
            }
        }
    }
}
