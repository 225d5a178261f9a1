//! The tender: a process that outlives a bed's owner by as long as it takes to clean up.
//!
//! It holds the reading end of a pipe. When the pipe breaks, the owner is gone, however it went, and the tender ends the
//! bed. Told to keep the bed, it stays, because it also forwards the machine's loopback port to the API server.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::cleanup::{clean, state_of};
use crate::network::namespace;
use crate::plan::CONTROL;
use crate::shell::repository;

/// The owner's end.
pub(crate) struct Tender {
    child: Child,
    pipe: Option<ChildStdin>,
    port: u16,
}

impl Tender {
    pub(crate) fn start(id: &str) -> Result<Self> {
        let binary = binary()?;
        let log = fs::File::create(state_of(id).join("tender.log"))?;
        let mut child = Command::new(&binary)
            .args(["tend", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| binary.display().to_string())?;
        let mut line = String::new();
        let output = child.stdout.take().context("the tender has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let port = line.trim().parse().context("the tender said no port")?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe, port })
    }

    /// The loopback port that leads to the API server.
    pub(crate) fn forward_port(&self) -> Result<u16> {
        Ok(self.port)
    }

    /// The bed goes on without its owner.
    pub(crate) fn keep(mut self) -> Result<()> {
        let mut pipe = self.pipe.take().context("the tender is gone")?;
        pipe.write_all(b"keep\n")?;
        Ok(())
    }

    /// Ends the bed and waits until it is gone.
    pub(crate) fn end(mut self) {
        drop(self.pipe.take());
        // Its log says what it could not clean.
        let _ = self.child.wait();
    }
}

/// The `bed` program, built beside whatever is running: a test, the demo, or itself.
fn binary() -> Result<std::path::PathBuf> {
    let here = std::env::current_exe()?;
    let mut folders = here.ancestors().skip(1).take(2).map(|folder| folder.join("bed"));
    let found = folders.find(|path| path.is_file());
    found
        .or_else(|| Some(repository().join("target/debug/bed")).filter(|path| path.is_file()))
        .context("the program `bed` is not built: cargo build -p portolan-bed --bin bed")
}

/// What the tender process does: forwards, and cleans up when the owner is gone.
///
/// # Errors
/// When there is no port, or the bed does not go away.
pub fn tend(id: &str) -> Result<()> {
    // Signals to the owner's terminal are the owner's; the broken pipe is ours.
    nix::unistd::setsid()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut output = std::io::stdout();
    writeln!(output, "{}", listener.local_addr()?.port())?;
    output.flush()?;
    fs::write(state_of(id).join("tender.pid"), std::process::id().to_string())?;
    let control = namespace(id, "control");
    std::thread::spawn(move || forward(&listener, &control));
    let mut said = String::new();
    std::io::stdin().read_to_string(&mut said)?;
    if said.trim() == "keep" {
        fs::write(kept(id), "")?;
        loop {
            std::thread::park();
        }
    }
    clean(id)
}

/// The file that says that a bed outlives its owner.
pub(crate) fn kept(id: &str) -> std::path::PathBuf {
    state_of(id).join("kept")
}

fn forward(listener: &TcpListener, control: &str) {
    for stream in listener.incoming().flatten() {
        let control = control.to_owned();
        std::thread::spawn(move || {
            if let Ok(upstream) = connect(&control) {
                splice(stream, upstream);
            }
        });
    }
}

/// A connection to the API server. The socket is made inside the namespace by a thread that ends with it.
fn connect(control: &str) -> Result<TcpStream> {
    let file = fs::File::open(format!("/run/netns/{control}"))?;
    let inside = std::thread::spawn(move || -> Result<TcpStream> {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        let to: SocketAddr = format!("{CONTROL}:6443").parse()?;
        Ok(TcpStream::connect_timeout(&to, Duration::from_secs(2))?)
    });
    inside.join().unwrap_or_else(|_| anyhow::bail!("the connecting thread panicked"))
}

fn splice(one: TcpStream, two: TcpStream) {
    let (Ok(mut from_one), Ok(mut from_two)) = (one.try_clone(), two.try_clone()) else { return };
    let (mut to_one, mut to_two) = (one, two);
    let back = std::thread::spawn(move || {
        // Either side may hang up at any time; the other is told and that is all.
        let _ = copy(&mut from_two, &mut to_one);
        let _ = to_one.shutdown(Shutdown::Both);
    });
    let _ = copy(&mut from_one, &mut to_two);
    let _ = to_two.shutdown(Shutdown::Both);
    let _ = back.join();
}
