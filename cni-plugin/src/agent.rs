//! The way to the agent: one connection, one request with the pod's namespace beside it, one response.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use portolan_wire::cni::{self, Command, Failure, Request, Response, code};

/// A pod start may wait for a block to be claimed; a dead agent must not hold the runtime for longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the agent gave no answer.
pub enum Error {
    /// Nobody listens, or it hung up.
    Away(std::io::Error),
    /// The pod's namespace cannot be opened.
    Namespace(String, std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Away(why) => {
                let remedy =
                    "is the portolan-agent pod of this node running? kubectl -n portolan-system get pods";
                Self::later(format!("the agent at {} does not answer: {why}", socket()), remedy)
            }
            Error::Namespace(path, why) => Self::new(
                code::INVALID_ENVIRONMENT,
                format!("CNI_NETNS {path:?}: {why}"),
                "the runtime has to make it",
            ),
        }
    }
}

/// Asks the agent.
pub fn ask(request: &Request, netns: Option<&str>) -> Result<Response, Error> {
    let namespace = match (request.command, netns) {
        // DEL works without a namespace: what is left of the pod is known to the agent (rule 16).
        (Command::Del | Command::Status | Command::Gc, _) | (_, None) => None,
        (Command::Add | Command::Check, Some(path)) => {
            Some(File::open(path).map_err(|why| Error::Namespace(path.to_owned(), why))?)
        }
    };
    exchange(request, namespace.as_ref()).map_err(Error::Away)
}

fn exchange(request: &Request, namespace: Option<&File>) -> std::io::Result<Response> {
    let mut stream = UnixStream::connect(socket())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let frame = cni::encode(request)?;
    let descriptors: Vec<_> = namespace.iter().map(|file| file.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control: &[ControlMessage] = if descriptors.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<UnixAddr>(
        stream.as_raw_fd(),
        &[IoSlice::new(&frame)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    stream.write_all(frame.get(sent..).unwrap_or_default())?;
    cni::read(&mut stream)
}

/// Where the agent listens; a test of this binary names another place.
fn socket() -> String {
    std::env::var("PORTOLAN_SOCKET").unwrap_or_else(|_| cni::SOCKET.to_owned())
}
