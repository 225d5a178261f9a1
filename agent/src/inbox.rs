//! Where the node's owner hears of everything: a queue that other tasks post to, and the CNI socket itself.
//!
//! The owner's thread waits for both at once, so that a call of the CNI binary wakes one thread and not two: on a busy node each
//! thread that has to be woken costs a pod start more than what it then does.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::listener::meet;
use crate::node::Event;

/// The pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// The owner's end.
#[derive(Debug)]
pub struct Inbox {
    queue: Receiver<Event>,
    bell: Arc<EventFd>,
    listener: UnixListener,
    post: Post,
}

/// Everybody else's end.
#[derive(Debug, Clone)]
pub struct Post {
    queue: Sender<Event>,
    bell: Arc<EventFd>,
}

impl Post {
    /// Tells the owner. False when it has gone; the event goes with it.
    pub fn send(&self, event: Event) -> bool {
        // A bell that has been rung so often that it takes no more has not been heard yet, and will be.
        self.queue.send(event).is_ok() && matches!(self.bell.write(1), Ok(_) | Err(Errno::EAGAIN))
    }
}

impl Inbox {
    /// An inbox with this socket of CNI calls.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(listener: UnixListener) -> io::Result<(Self, Post)> {
        listener.set_nonblocking(true)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let (sender, queue) = channel();
        let bell = Arc::new(bell);
        let post = Post { queue: sender, bell: Arc::clone(&bell) };
        Ok((Self { queue, bell, listener, post: post.clone() }, post))
    }

    /// Everything that has come, at once where there is something and otherwise when there is, or nothing at that time.
    pub fn wait(&self, until: Instant) -> Vec<Event> {
        let bell = PollFd::new(self.bell.as_fd(), PollFlags::POLLIN);
        let calls = PollFd::new(self.listener.as_fd(), PollFlags::POLLIN);
        // Rounded up: to wake a moment too early would be to wake many times.
        let left = until.saturating_duration_since(Instant::now()).as_nanos().div_ceil(1_000_000);
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // An error is no event; whatever it was, it is waited for again.
        let _ = poll(&mut [bell, calls], left);
        let _ = self.bell.read();
        let mut events: Vec<_> = self.queue.try_iter().collect();
        self.accept(&mut events);
        events
    }

    fn accept(&self, events: &mut Vec<Event>) {
        loop {
            match self.listener.accept() {
                Ok((connection, _)) => events.extend(meet(connection, &self.post)),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return,
                // Out of descriptors: the ones in use have to end first.
                Err(why) => {
                    tracing::warn!(%why, "the CNI socket accepts nobody");
                    thread::sleep(PAUSE);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_posted_is_heard_and_without_anything_the_time_passes() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let (inbox, post) = Inbox::new(listener).unwrap();
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(inbox.wait(soon).is_empty() && Instant::now() >= soon);
        let later = Instant::now() + Duration::from_secs(60);
        assert!(post.send(Event::Changed) && post.send(Event::Stop));
        assert!(matches!(inbox.wait(later)[..], [Event::Changed, Event::Stop]));
        let from_elsewhere = post.clone();
        let sender = thread::spawn(move || from_elsewhere.send(Event::Changed));
        assert!(matches!(inbox.wait(later)[..], [Event::Changed]));
        assert!(sender.join().unwrap());
        drop(inbox);
        assert!(!post.send(Event::Changed));
    }
}
