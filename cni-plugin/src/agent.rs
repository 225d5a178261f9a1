//! The way to the agent: one connection, one request with the pod's namespace beside it, one response.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::time::Duration;

use portolan_wire::cni::{self, Failure, Malformed, Request, Response};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, IoSlice};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, send, sendmsg, socket_with,
};

use crate::call::environment;
use crate::process;

/// A pod start may wait for a block to be claimed; a dead agent must not hold the runtime for longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the agent gave no answer.
pub enum Error {
    /// Nobody listens, or it hung up, or says what nobody understands: in words.
    Away(String),
    /// The pod's namespace cannot be used.
    Namespace(Failure),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Away(why) => {
                let remedy = "is the portolan-agent pod of this node running? kubectl -n portolan-system get pods -o wide";
                let place = String::from_utf8_lossy(&place()).into_owned();
                Self::later(format!("the agent at {place} does not answer: {why}"), remedy)
            }
            Error::Namespace(refusal) => refusal,
        }
    }
}

impl From<Errno> for Error {
    fn from(why: Errno) -> Self {
        Self::Away(match why {
            Errno::NOENT | Errno::CONNREFUSED => "nobody listens there".to_owned(),
            Errno::AGAIN => format!("it has said nothing for {} s", PATIENCE.as_secs()),
            Errno::PIPE | Errno::CONNRESET => "it hung up".to_owned(),
            other => other.to_string(),
        })
    }
}

impl From<Malformed> for Error {
    fn from(why: Malformed) -> Self {
        Self::Away(why.to_string())
    }
}

/// Asks the agent. A namespace is there for the verbs that need one.
pub fn ask(request: &Request, netns: Option<&str>) -> Result<Response, Error> {
    let namespace = netns.map(namespace).transpose().map_err(Error::Namespace)?;
    exchange(request, namespace.as_ref().map(OwnedFd::as_fd))
}

/// The pod's namespace. That of this process is the node's own, and not to be given away (rule 13).
fn namespace(path: &str) -> Result<OwnedFd, Failure> {
    let unusable = |why: Errno| environment(format!("CNI_NETNS {path:?}: {}", process::words(why)));
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(unusable)?;
    let given = rustix::fs::fstat(&file).map_err(unusable)?;
    let own = rustix::fs::stat("/proc/self/ns/net").map_err(unusable)?;
    if (given.st_dev, given.st_ino) == (own.st_dev, own.st_ino) {
        return Err(environment(format!("CNI_NETNS {path:?} is the network namespace of the node")));
    }
    Ok(file)
}

fn exchange(request: &Request, namespace: Option<BorrowedFd<'_>>) -> Result<Response, Error> {
    let agent = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&agent, &SocketAddrUnix::new(place().as_slice())?)?;
    set_socket_timeout(&agent, Timeout::Recv, Some(PATIENCE))?;
    set_socket_timeout(&agent, Timeout::Send, Some(PATIENCE))?;
    let frame = cni::encode(request)?;
    let mut rest = frame.get(send_first(&agent, &frame, namespace)?..).unwrap_or_default();
    while !rest.is_empty() {
        rest = rest.get(send(&agent, rest, SendFlags::NOSIGNAL)?..).unwrap_or_default();
    }
    let mut prefix = [0; 4];
    receive(&agent, &mut prefix)?;
    let mut body = vec![0; cni::body_length(prefix)?];
    receive(&agent, &mut body)?;
    Ok(cni::decode(&body)?)
}

/// Sends as much as goes at once, with the namespace beside it; how much that was, in bytes.
fn send_first(agent: &OwnedFd, frame: &[u8], namespace: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = namespace.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    sendmsg(agent, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL)
}

/// Fills the buffer.
fn receive(agent: &OwnedFd, mut rest: &mut [u8]) -> Result<(), Errno> {
    while !rest.is_empty() {
        match recv(agent, &mut *rest, RecvFlags::empty())? {
            (0, _) => return Err(Errno::CONNRESET),
            (got, _) => rest = rest.get_mut(got..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Where the agent listens; a test of this binary names another place.
fn place() -> Vec<u8> {
    process::variable("PORTOLAN_SOCKET").unwrap_or_else(|| cni::SOCKET.into())
}
