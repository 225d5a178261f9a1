//! What runs in the bed's pods and on its hosts: a server that tells every client whom it sees, and a client whose first
//! connection attempt is the first thing it does.
//!
//! Static, so that it runs in an image that holds nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde_json::json;

#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Answers every connection with one line: this host's name, and the address it sees.
    Serve {
        /// The port.
        #[arg(long)]
        port: u16,
        /// A file that gets a JSON line for every connection.
        #[arg(long)]
        record: Option<String>,
    },
    /// Connects, says a tag, prints the answer.
    Dial {
        /// Address and port.
        to: SocketAddr,
        /// What to say.
        #[arg(long, default_value = "")]
        tag: String,
        /// How many connections, one after the other.
        #[arg(long, default_value_t = 1)]
        times: u32,
        /// The longest wait for each, in milliseconds.
        #[arg(long, default_value_t = 1000)]
        timeout_ms: u64,
        /// Goes on after the last connection, as a pod's main process has to.
        #[arg(long)]
        stay: bool,
    },
}

fn main() -> io::Result<()> {
    match Flags::parse().what {
        What::Serve { port, record } => serve(port, record.as_deref()),
        What::Dial { to, tag, times, timeout_ms, stay } => {
            let failed = dial(to, &tag, times, Duration::from_millis(timeout_ms))?;
            if stay {
                loop {
                    std::thread::park();
                }
            }
            std::process::exit(i32::from(failed > 0))
        }
    }
}

fn serve(port: u16, record: Option<&str>) -> io::Result<()> {
    let log = match record {
        Some(path) => Some(Arc::new(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?))),
        None => None,
    };
    // Both families at once; a kernel or a pod without IPv6 has IPv4 alone.
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    for stream in listener.incoming() {
        // A peer that is gone already is nobody to answer.
        let Ok(stream) = stream else { continue };
        let log = log.clone();
        std::thread::spawn(move || answer(stream, log.as_deref()));
    }
    Ok(())
}

/// Reads one line, records it, answers one line; to HTTP with a response.
fn answer(mut stream: TcpStream, log: Option<&Mutex<File>>) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let source = peer.ip().to_canonical();
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut first = String::new();
    let read = BufReader::new(&stream).read_line(&mut first);
    if let Some(log) = log {
        let line = json!({ "source": source, "port": peer.port(), "said": first.trim_end() });
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(log, "{line}")?;
    }
    read?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let body = format!("{} sees {}\n", host.trim(), source);
    if first.contains("HTTP/1") {
        let length = body.len();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n")?;
    }
    stream.write_all(body.as_bytes())
}

/// How many attempts failed.
fn dial(to: SocketAddr, tag: &str, times: u32, patience: Duration) -> io::Result<u32> {
    let mut failed = 0;
    for _ in 0..times {
        let started = Instant::now();
        let line = match once(to, tag, patience) {
            Ok(answer) => answer,
            Err(why) => {
                failed += 1;
                format!("failed after {} ms: {why}\n", started.elapsed().as_millis())
            }
        };
        io::stdout().write_all(line.as_bytes())?;
    }
    Ok(failed)
}

fn once(to: SocketAddr, tag: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    writeln!(stream, "{tag}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}
