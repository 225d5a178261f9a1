//! The engine itself: the binary, in its namespace.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::certificates::Authority;
use super::{Bed, ENGINE, eventually, inside};

/// A running engine. Killed when it is dropped.
pub struct Engine<'a> {
    bed: &'a Bed,
    process: Child,
}

/// What survives an engine: its certificate and its state.
pub struct Host {
    pub authority: Authority,
    directory: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
        let (certificate, key) = authority.sign(ENGINE);
        for (name, text) in [("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &authority.pem)] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        Self { authority, directory }
    }

    /// Starts an engine and waits until it is ready.
    pub fn start<'a>(&self, bed: &'a Bed, flags: &[&str]) -> Engine<'a> {
        let file = |name: &str| self.directory.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan-engine"));
        command.arg("--state-dir").arg(file("state"));
        command.arg("--tls-cert").arg(file("tls.crt")).arg("--tls-key").arg(file("tls.key"));
        command.arg("--tls-client-ca").arg(file("ca.crt")).args(flags);
        let process = inside(&bed.engine, || command.spawn().unwrap());
        let engine = Engine { bed, process };
        eventually("the engine is ready", || engine.fetch("/readyz").starts_with("HTTP/1.1 200"));
        engine
    }

    /// Starts one that also serves virtual addresses.
    pub fn start_with_vips<'a>(&self, bed: &'a Bed) -> Engine<'a> {
        self.start(bed, &["--vip-interface", "eth0"])
    }
}

impl Engine<'_> {
    /// Asks the admin server; empty when it does not answer.
    pub fn fetch(&self, path: &str) -> String {
        inside(&self.bed.engine, || {
            let mut answer = String::new();
            if let Ok(mut stream) = TcpStream::connect("127.0.0.1:7480") {
                let request = format!("GET {path} HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).unwrap();
                stream.read_to_string(&mut answer).unwrap();
            }
            answer
        })
    }

    /// Asks it to end, and waits.
    pub fn end(mut self) -> ExitStatus {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.process.wait().unwrap()
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
