//! Removes a pod's link.
//!
//! The kernel keeps whoever deletes a device waiting until nobody can be looking at it any more, for 15 to 20 ms in which
//! the device is gone for everyone already: from both namespaces, with its addresses and routes, its name free. So a thread
//! of its own does the waiting, and we go on with the news that the device is gone.

use std::{
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    thread::{self, JoinHandle},
};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::refuse_foreign_name;
use crate::{
    Error, Kernel, Link, Result,
    links::delete,
    netlink::{Connection, Frame, Request},
    netns,
};

/// News about devices.
const RTNLGRP_LINK: u32 = 1;
const RTM_DELLINK: u16 = 17;

impl Kernel {
    /// Removes a pod's link by the name of the node's end. Returns whether it existed.
    pub fn unwire_pod(&mut self, host_name: &str) -> Result<bool> {
        refuse_foreign_name(host_name)?;
        let Some(found) = self.link(host_name)? else { return Ok(false) };
        if found.kind.as_deref() != Some("veth") {
            let reason = "it is no veth".to_owned();
            return Err(Error::NotOurs { name: host_name.to_owned(), reason });
        }
        match self.delete_pair(&found) {
            // It went with its namespace, between question and deletion.
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn delete_pair(&mut self, found: &Link) -> Result<()> {
        let open = || Ok((Connection::open(NETLINK_ROUTE)?, Connection::open(NETLINK_ROUTE)?));
        let (mut news, hands) = netns::visit(self.netns.as_fd(), open)??;
        news.subscribe(RTNLGRP_LINK)?;
        let deletion = Deletion::begin(hands, delete(found))?;
        while let First::News = first(news.as_fd(), deletion.ended.as_fd())? {
            // News that is lost is no reason to fail: then the deletion's own end is waited for.
            if news.heard(|frame| is_deletion(frame, found.index)).unwrap_or_default() {
                return Ok(());
            }
        }
        deletion.outcome()
    }
}

/// A deletion under way.
struct Deletion {
    worker: JoinHandle<Result<()>>,
    /// Readable once the worker has ended.
    ended: UnixStream,
}

impl Deletion {
    fn begin(mut hands: Connection, request: Request) -> Result<Self> {
        let (ended, end) =
            UnixStream::pair().map_err(|source| Error::system("make a socket pair", source))?;
        let work = move || {
            let _end = end;
            hands.execute(request)
        };
        let worker = thread::Builder::new().name("unwire".into()).spawn(work);
        let worker = worker.map_err(|source| Error::system("start a thread", source))?;
        Ok(Self { worker, ended })
    }

    fn outcome(self) -> Result<()> {
        let panicked = || Error::system("a thread that deletes a device panicked", Errno::ECANCELED);
        self.worker.join().unwrap_or_else(|_| Err(panicked()))
    }
}

/// What came first.
enum First {
    News,
    End,
}

/// Waits for either; where both are there, the news.
fn first(news: BorrowedFd<'_>, end: BorrowedFd<'_>) -> Result<First> {
    let mut either = [PollFd::new(news, PollFlags::POLLIN), PollFd::new(end, PollFlags::POLLIN)];
    loop {
        match poll(&mut either, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::system("wait for a device to go", errno)),
            Ok(_) => break,
        }
    }
    let [news, _] = either;
    Ok(if news.any() == Some(true) { First::News } else { First::End })
}

/// The message begins with family and type (4 bytes) and the device's number.
fn is_deletion(frame: &Frame<'_>, index: u32) -> bool {
    frame.kind == RTM_DELLINK && frame.payload.get(4..8) == Some(index.to_ne_bytes().as_slice())
}
