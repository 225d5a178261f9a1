//! The CNI binary: reads the call, asks the agent, prints the answer.
//!
//! Owns nothing and decides nothing: addresses, wiring and policy are the agent's. What it does itself is the contract
//! with the runtime (CNI specification 1.1.0, sections 2, 4 and 5): environment, configuration, versions, error codes.
//! It starts in a fraction of a millisecond, because every pod start waits for it: no async runtime, no log, no `std`
//! ([`process`]), static.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(all(not(test), panic = "abort"), no_std)]

extern crate alloc;

mod agent;
mod answer;
mod arguments;
mod call;
mod configuration;
mod ports;
mod process;

use alloc::string::String;
use core::ffi::{c_char, c_int};

use call::{Ask, Call, Input};
use portolan_wire::cni::{Command, Failure, Response, Scope, code};

/// What the C library starts: the same with `std` and without it.
#[allow(unsafe_code, reason = "a C library starts a program by this name")]
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, allow(dead_code, reason = "the tests have a main of their own"))]
extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    let input = Input::of_this_process();
    let (text, exit) = match run(&input) {
        Ok(text) => (text, 0),
        Err(failure) => (answer::error(input.version(), &failure), 1),
    };
    // A runtime that closed our stdout has gone; there is nobody left to tell.
    let _ = process::print(&text);
    exit
}

/// What goes to stdout. All verbs but ADD and VERSION succeed with nothing (rules 18 to 21).
fn run(input: &Input) -> Result<String, Failure> {
    match input.parse()? {
        Call::Version => Ok(answer::versions()),
        Call::Nothing => Ok(String::new()),
        Call::Ask(ask) => match ask.request.command {
            Command::Status => relay(&ask).map_err(unavailable),
            Command::Add | Command::Del | Command::Check | Command::Gc => relay(&ask),
        },
    }
}

/// The agent's answer, in the runtime's words.
fn relay(ask: &Ask) -> Result<String, Failure> {
    let command = ask.request.command;
    match (command, agent::ask(&ask.request, ask.netns.as_deref())) {
        (_, Ok(Response::Failed(failure))) => Err(failure),
        (Command::Add, Ok(Response::Added(attachment)))
            if attachment.link.is_some() == (ask.request.scope == Scope::Interface) =>
        {
            Ok(answer::result(ask, &attachment))
        }
        (Command::Del | Command::Check | Command::Status | Command::Gc, Ok(Response::Done)) => {
            Ok(String::new())
        }
        // The agent releases the address itself once the pod's end of the pair is gone with its namespace (rule 16). Where
        // another plugin made the interface there is no such sign, and the runtime has to come back.
        (Command::Del, Err(agent::Error::Away(_))) if ask.request.scope == Scope::Interface => {
            Ok(String::new())
        }
        (_, Err(error)) => Err(error.into()),
        (Command::Add, Ok(Response::Added(_) | Response::Done))
        | (Command::Del | Command::Check | Command::Status | Command::Gc, Ok(Response::Added(_))) => {
            let remedy = "is its version older? see to it that its pod has been replaced";
            Err(Failure::new(code::IO_FAILURE, "the agent answered another question", remedy))
        }
    }
}

/// STATUS has two codes of its own (rule 20): whatever keeps an ADD from being served is the first, unless it is the second.
fn unavailable(failure: Failure) -> Failure {
    match failure.code {
        code::NOT_AVAILABLE | code::NOT_AVAILABLE_LIMITED => failure,
        _ => Failure { code: code::NOT_AVAILABLE, ..failure },
    }
}
