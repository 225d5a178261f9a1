//! The unix socket that the CNI binary calls: one connection, one request, one response.
//!
//! Owns the socket. Each connection is a task of its own that hands its request to the node's owner and waits for the
//! answer; a peer that sends rubbish or hangs up ends its own task and nothing else.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use portolan_wire::cni::{self, Failure, PROTOCOL, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use crate::node::Event;

/// A request on its way to the owner.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// The pod's network namespace, where the plugin gave one.
    pub netns: Option<OwnedFd>,
    /// Where the answer goes. A runtime that has given up has dropped the other end.
    pub reply: oneshot::Sender<Response>,
}

/// A peer has this long to send its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes the socket's place from whoever had it before. Only root may call.
///
/// # Errors
/// When the directory or the socket cannot be made.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(listener: UnixListener, owner: Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let owner = owner.clone();
                tokio::spawn(async move {
                    if let Err(why) = converse(stream, &owner).await {
                        tracing::warn!(%why, "a call on the CNI socket was cut off");
                    }
                });
            }
            // Out of descriptors: the ones in use have to end first.
            Err(why) => {
                tracing::warn!(%why, "the CNI socket accepts nobody");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, owner: &Sender<Event>) -> io::Result<()> {
    let (request, netns) = tokio::time::timeout(PATIENCE, receive(&mut stream)).await??;
    let response = if request.protocol == PROTOCOL {
        ask(request, netns, owner).await
    } else {
        let message = format!("the CNI binary speaks protocol {}, the agent {PROTOCOL}", request.protocol);
        Response::Failed(Failure::later(message, "an upgrade is under way"))
    };
    stream.write_all(&cni::encode(&response)?).await
}

async fn ask(request: Request, netns: Option<OwnedFd>, owner: &Sender<Event>) -> Response {
    let (reply, answer) = oneshot::channel();
    let stopping = || Response::Failed(Failure::later("the agent is stopping", "its successor will answer"));
    if owner.send(Event::Call(Call { request, netns, reply })).is_err() {
        return stopping();
    }
    answer.await.unwrap_or_else(|_| stopping())
}

/// One frame, and the descriptor that came with its first byte.
async fn receive(stream: &mut UnixStream) -> io::Result<(Request, Option<OwnedFd>)> {
    let mut prefix = [0; 4];
    let (got, netns) = loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || receive_first(stream.as_raw_fd(), &mut prefix)) {
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            other => break other?,
        }
    };
    stream.read_exact(prefix.get_mut(got..).unwrap_or_default()).await?;
    let mut body = vec![0; cni::body_length(prefix)?];
    stream.read_exact(&mut body).await?;
    Ok((cni::decode(&body)?, netns))
}

#[allow(unsafe_code)]
fn receive_first(socket: RawFd, prefix: &mut [u8; 4]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(prefix)];
    let message = recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut netns = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            for descriptor in descriptors {
                // SAFETY: the kernel has just made this descriptor for us and nobody else knows it; owning it here
                // closes it also where more than one was sent.
                netns = Some(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
    }
    Ok((message.bytes, netns))
}
