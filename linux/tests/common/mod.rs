//! What the tests share: namespaces, the tools that serve as oracles, and the table of the product.
//!
//! Every test works in namespaces of its own and needs root; without it the first call fails and says so.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod bench;
pub mod packets;
pub mod rack;
pub mod table;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::Command,
};

use portolan_linux::netns;

/// A network namespace of a test.
pub struct Space(OwnedFd);

impl Space {
    pub fn new() -> Self {
        let made = netns::anonymous();
        let space = Self(made.expect("these tests make network namespaces and need root"));
        space.ip("link set lo up");
        space
    }

    /// Runs `work` inside, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(self.as_fd(), work).expect("enter a namespace")
    }

    /// Runs a program inside; it must succeed.
    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(|| Command::new(program).args(arguments).output());
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `ip`, the words separated by spaces.
    pub fn ip(&self, words: &str) -> String {
        self.command("ip", &words.split(' ').collect::<Vec<_>>())
    }

    /// `nft` with one command line.
    pub fn nft(&self, line: &str) -> String {
        self.command("nft", &[line])
    }

    /// The JSON that a program prints.
    pub fn json(&self, program: &str, words: &str) -> serde_json::Value {
        let text = self.command(program, &words.split(' ').collect::<Vec<_>>());
        if text.trim().is_empty() {
            return serde_json::Value::Array(vec![]);
        }
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{program} {words}: {error}"))
    }
}

impl AsFd for Space {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
