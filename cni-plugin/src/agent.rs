//! The way to the agent: one connection, one request with the pod's namespace beside it, one response.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use portolan_wire::cni::{self, Failure, Request, Response, code};

use crate::call::environment;

/// A pod start may wait for a block to be claimed; a dead agent must not hold the runtime for longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the agent gave no answer.
pub enum Error {
    /// Nobody listens, or it hung up.
    Away(io::Error),
    /// The pod's namespace cannot be used.
    Namespace(Failure),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Away(why) => {
                let remedy = "is the portolan-agent pod of this node running? kubectl -n portolan-system get pods -o wide";
                let place = socket();
                let place = place.to_string_lossy();
                Self::new(
                    code::TRY_AGAIN_LATER,
                    format!("the agent at {place} does not answer: {why}"),
                    remedy,
                )
            }
            Error::Namespace(refusal) => refusal,
        }
    }
}

/// Asks the agent. A namespace is there for the verbs that need one.
pub fn ask(request: &Request, netns: Option<&str>) -> Result<Response, Error> {
    let namespace = netns.map(namespace).transpose().map_err(Error::Namespace)?;
    exchange(request, namespace.as_ref()).map_err(Error::Away)
}

/// The pod's namespace. That of this process is the node's own, and not to be given away (rule 13).
fn namespace(path: &str) -> Result<File, Failure> {
    let unusable = |why: io::Error| environment(format!("CNI_NETNS {path:?}: {why}"));
    let file = File::open(path).map_err(unusable)?;
    let given = file.metadata().map_err(unusable)?;
    let own = std::fs::metadata("/proc/self/ns/net").map_err(unusable)?;
    if (given.dev(), given.ino()) == (own.dev(), own.ino()) {
        return Err(environment(format!("CNI_NETNS {path:?} is the network namespace of the node")));
    }
    Ok(file)
}

fn exchange(request: &Request, namespace: Option<&File>) -> io::Result<Response> {
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
fn socket() -> std::ffi::OsString {
    std::env::var_os("PORTOLAN_SOCKET").unwrap_or_else(|| cni::SOCKET.into())
}
