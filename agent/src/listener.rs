//! The unix socket that the CNI binary calls: one connection, one request, one response.
//!
//! The node's owner accepts ([`crate::inbox`]), reads the request and writes the answer, all in its one thread. A peer that does
//! not send at once gets a thread of its own; one that sends rubbish or hangs up ends its own connection and nothing else.

use std::fs;
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream as Connection};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recv, recvmsg};
use portolan_wire::cni::{self, Failure, Malformed, PROTOCOL, Request, Response};

use crate::inbox::Post;
use crate::node::Event;

/// A request on its way to the owner.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// The pod's network namespace, where the plugin gave one.
    pub netns: Option<OwnedFd>,
    /// Where the answer goes.
    pub reply: Reply,
}

/// The way back to the plugin. Where it is dropped without an answer, the plugin is told that the agent is stopping.
#[derive(Debug)]
pub struct Reply(Option<Connection>);

impl Reply {
    /// Answers. An answer fits into the socket's buffer, so this waits for nobody.
    ///
    /// # Errors
    /// When the plugin has gone.
    pub fn send(mut self, response: Response) -> io::Result<()> {
        self.write(&response)
    }

    /// Whether the plugin has gone, with the runtime's patience.
    pub fn is_closed(&self) -> bool {
        let Some(connection) = &self.0 else { return true };
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(connection.as_raw_fd(), &mut [0], flags) == Ok(0)
    }

    fn write(&mut self, response: &Response) -> io::Result<()> {
        let Some(mut connection) = self.0.take() else { return Ok(()) };
        connection.write_all(&cni::encode(response).map_err(malformed)?)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let stopping = Failure::later("the agent is stopping", "its successor will answer");
        // Who has gone needs no answer.
        let _ = self.write(&Response::Failed(stopping));
    }
}

/// A peer has this long to send its request.
const PATIENCE: Duration = Duration::from_secs(5);
/// A peer that has not begun to send by then is waited for by a thread of its own; the plugin sends as soon as it is
/// connected. In milliseconds.
const AT_ONCE: u8 = 2;

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

/// The call of a peer that has just connected; `None` where it comes by post, or not at all.
pub fn meet(connection: Connection, post: &Post) -> Option<Event> {
    let begun = poll(&mut [PollFd::new(connection.as_fd(), PollFlags::POLLIN)], PollTimeout::from(AT_ONCE));
    if begun.is_ok_and(|ready| ready > 0) {
        return converse(connection);
    }
    let post = post.clone();
    // Where the owner has ended, the call is dropped with its reply, which says so.
    let wait = move || converse(connection).map(|call| post.send(call));
    if let Err(why) = thread::Builder::new().name("cni".to_owned()).spawn(wait) {
        tracing::warn!(%why, "no thread for a call on the CNI socket");
    }
    None
}

fn converse(mut connection: Connection) -> Option<Event> {
    let received = connection.set_read_timeout(Some(PATIENCE)).and_then(|()| receive(&mut connection));
    let (request, netns) = match received {
        Ok(received) => received,
        Err(why) => {
            tracing::warn!(%why, "a call on the CNI socket was cut off");
            return None;
        }
    };
    let reply = Reply(Some(connection));
    if request.protocol == PROTOCOL {
        return Some(Event::Call(Box::new(Call { request, netns, reply })));
    }
    let message = format!("the CNI binary speaks protocol {}, the agent {PROTOCOL}", request.protocol);
    // Who has gone needs no answer.
    let _ = reply.send(Response::Failed(Failure::later(message, "an upgrade is under way")));
    None
}

/// One frame, and the descriptor that came with its first byte.
fn receive(connection: &mut Connection) -> io::Result<(Request, Option<OwnedFd>)> {
    let mut prefix = [0; 4];
    let (got, netns) = receive_first(connection.as_raw_fd(), &mut prefix)?;
    connection.read_exact(prefix.get_mut(got..).unwrap_or_default())?;
    let mut body = vec![0; cni::body_length(prefix).map_err(malformed)?];
    connection.read_exact(&mut body)?;
    Ok((cni::decode(&body).map_err(malformed)?, netns))
}

fn malformed(why: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::inbox::Inbox;

    /// The one answer, after which the agent hangs up.
    fn heard(plugin: &mut Connection) -> Response {
        let mut bytes = vec![];
        plugin.read_to_end(&mut bytes).unwrap();
        let (prefix, body) = bytes.split_first_chunk().unwrap();
        assert_eq!(cni::body_length(*prefix).unwrap(), body.len());
        cni::decode(body).unwrap()
    }

    #[test]
    fn a_call_that_nobody_answers_is_told_that_the_agent_is_stopping() {
        let (mut plugin, agent) = Connection::pair().unwrap();
        drop(Reply(Some(agent)));
        assert!(
            matches!(heard(&mut plugin), Response::Failed(failure) if failure.message.contains("stopping"))
        );
    }

    #[test]
    fn an_answer_is_given_once_and_a_plugin_that_has_gone_is_noticed() {
        let (mut plugin, agent) = Connection::pair().unwrap();
        let reply = Reply(Some(agent));
        assert!(!reply.is_closed());
        reply.send(Response::Done).unwrap();
        assert_eq!(heard(&mut plugin), Response::Done);
        let (plugin, agent) = Connection::pair().unwrap();
        drop(plugin);
        assert!(Reply(Some(agent)).is_closed());
    }

    #[test]
    fn a_peer_that_does_not_send_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let (inbox, _post) = Inbox::new(bind(&path).unwrap()).unwrap();
        let mut slow = Connection::connect(&path).unwrap();
        let mut quick = Connection::connect(&path).unwrap();
        let frame = |network: &str| cni::encode(&Request::new(cni::Command::Status, network)).unwrap();
        quick.write_all(&frame("quick")).unwrap();
        let next = || match inbox.wait(Instant::now() + PATIENCE).pop().unwrap() {
            Event::Call(call) => call.request.network,
            other @ (Event::Changed | Event::Answer(_) | Event::Inspect(_) | Event::Stop) => {
                panic!("{other:?}")
            }
        };
        assert_eq!(next(), "quick");
        slow.write_all(&frame("slow")).unwrap();
        assert_eq!(next(), "slow");
    }
}
