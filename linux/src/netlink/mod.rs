//! One synchronous netlink socket: several requests in one `sendmsg`, every acknowledgement read.
//!
//! The kernel works on a request within the sender's system call, so when `send` returns, the answers
//! lie in the receive buffer; no event loop can make this quicker (docs/decisions/0002). The socket
//! belongs to the network namespace of the thread that opened it, wherever it is used afterwards.

mod ack;
mod attributes;
mod frames;

use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, recv, sendmsg, setsockopt, sockopt},
        time::TimeVal,
    },
};

use ack::Refusal;
pub(crate) use attributes::{Attributes, FAMILY_HEADER, netfilter_message};
pub(crate) use frames::Frame;
use frames::{Body, Frames};

use crate::{Error, Result};

pub(crate) const NLM_F_REQUEST: u16 = 0x01;
pub(crate) const NLM_F_ACK: u16 = 0x04;
const NLM_F_ECHO: u16 = 0x08;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

/// Requests in one `sendmsg`. Each acknowledgement occupies about 1 KiB of the receive buffer.
const BATCH: usize = 256;
/// The buffers we ask for (bytes); forced, since the system's limit is about 200 KiB.
const BUFFER: usize = 8 << 20;
/// The kernel builds answers of up to 32 KiB, or larger ones for a single large message.
const RECEIVE: usize = 256 << 10;
/// Acknowledgements, and one object.
const BRIEF: usize = 16 << 10;
/// An interrupted dump is repeated this often before we wait for the next pass.
const DUMP_TRIES: u32 = 16;

/// One request and its words for the report.
pub(crate) struct Request {
    pub what: String,
    /// Beside REQUEST and ACK.
    pub flags: u16,
    pub message: RouteNetlinkMessage,
}

/// A socket of one netlink protocol, used by one owner at a time.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl Connection {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: isize) -> Result<Self> {
        Self::with_room(protocol, RECEIVE)
    }

    /// The same for a few short answers: a large buffer takes longer to clear than they take to come.
    pub fn brief(protocol: isize) -> Result<Self> {
        Self::with_room(protocol, BRIEF)
    }

    fn with_room(protocol: isize, room: usize) -> Result<Self> {
        let io = |source| Error::system("open a netlink socket", source);
        let mut socket = Socket::new(protocol).map_err(io)?;
        socket.bind_auto().map_err(io)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(io)?;
        socket.set_cap_ack(true).map_err(io)?;
        socket.set_ext_ack(true).map_err(io)?;
        if protocol == netlink_sys::protocols::NETLINK_ROUTE {
            // Dumps are then filtered in the kernel (our routes only, not a full BGP table).
            socket.set_netlink_get_strict_chk(true).map_err(io)?;
        }
        let sys = |errno: Errno| Error::system("set the buffers of a netlink socket", errno);
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).map_err(sys)?;
        setsockopt(&socket, sockopt::SndBufForce, &BUFFER).map_err(sys)?;
        // Answers come within the request's own system call; this ends a wait that could never end.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(10, 0)).map_err(sys)?;
        Ok(Self { socket, sequence: 0, received: vec![0; room] })
    }

    /// Hears from now on what the kernel tells everyone in this multicast group.
    pub fn subscribe(&mut self, group: u32) -> Result<()> {
        let io = |source| Error::system(format!("join netlink group {group}"), source);
        self.socket.add_membership(group).map_err(io)
    }

    /// Whether one of the messages that have arrived is wanted; waits for none.
    pub fn heard(&mut self, wanted: impl Fn(&Frame<'_>) -> bool) -> Result<bool> {
        Ok(self.receive(MsgFlags::MSG_DONTWAIT)?.any(|frame| wanted(&frame)))
    }

    /// Sends all requests and reads all acknowledgements. Every request is tried, whatever becomes of
    /// those before it. The answers are in the order of the requests.
    pub fn batch(&mut self, requests: &[Request]) -> Result<Vec<Result<()>>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        for part in requests.chunks(BATCH) {
            self.batch_part(part, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    /// One request, whose refusal is the error.
    pub fn execute(&mut self, request: Request) -> Result<()> {
        self.batch(&[request])?.pop().unwrap_or(Ok(()))
    }

    fn batch_part(&mut self, part: &[Request], outcomes: &mut Vec<Result<()>>) -> Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in part {
            self.append(&mut bytes, request.flags | NLM_F_ACK, request.message.clone());
        }
        self.send(&[&bytes])?;
        let mut answers: Vec<Option<Result<()>>> = part.iter().map(|_| None).collect();
        let mut missing = part.len();
        while missing > 0 {
            for frame in self.receive(MsgFlags::empty())? {
                let Body::Acknowledgement(answer) = frame.body() else { continue };
                let position = frame.sequence.wrapping_sub(first) as usize;
                let (Some(slot), Some(request)) = (answers.get_mut(position), part.get(position)) else {
                    continue;
                };
                missing -= usize::from(slot.is_none());
                *slot = Some(answer.map_err(|refusal| refusal.about(&request.what)));
            }
        }
        outcomes.extend(answers.into_iter().flatten());
        Ok(())
    }

    /// A question with one or no answer; `Ok(None)` where the kernel knows no such object.
    pub fn ask(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<Option<RouteNetlinkMessage>> {
        match self.exchange(what, NLM_F_ACK, message)? {
            Ok(found) => Ok(found),
            Err(refusal) if matches!(refusal.errno, Errno::ENODEV | Errno::ENOENT) => Ok(None),
            Err(refusal) => Err(refusal.about(what)),
        }
    }

    /// One request, whose refusal is the error, and what came of it. Of a new link, kernels before 6.2 do not tell.
    pub fn create(&mut self, request: Request) -> Result<Option<RouteNetlinkMessage>> {
        let Request { what, flags, message } = request;
        self.exchange(&what, flags | NLM_F_ACK | NLM_F_ECHO, message)?.map_err(|refusal| refusal.about(&what))
    }

    /// One request, until it is acknowledged or refused, and the object that came with that.
    fn exchange(
        &mut self,
        what: &str,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<std::result::Result<Option<RouteNetlinkMessage>, Refusal>> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, flags, message);
        self.send(&[&bytes])?;
        let mut found = None;
        loop {
            let sequence = self.sequence;
            for frame in self.receive(MsgFlags::empty())?.filter(|frame| frame.sequence == sequence) {
                match frame.body() {
                    Body::Message => found = Some(route_message(what, &frame)?),
                    Body::Done(_) => {}
                    Body::Acknowledgement(answer) => return Ok(answer.map(|()| found)),
                }
            }
        }
    }

    /// All objects of one kind. A dump that was interrupted by changes is repeated, not believed.
    pub fn dump(&mut self, what: &str, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        let found = self.repeat(what, |this| {
            let mut bytes = Vec::new();
            this.append(&mut bytes, NLM_F_DUMP, message.clone());
            let mut found = Vec::new();
            let whole = this.collect(what, &bytes, |frame| {
                // One foreign object of a kind the library cannot read must not hide all others.
                match route_message(what, frame) {
                    Ok(message) => found.push(message),
                    Err(error) => tracing::warn!(%error, "an object was left out of a dump"),
                }
                Ok(())
            })?;
            Ok(whole.then_some(found))
        });
        match found {
            // A kernel without IPv6 has no objects of it.
            Err(error) if matches!(error.errno(), Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// Repeats `once` until it yields a whole dump.
    pub fn repeat<T>(
        &mut self,
        what: &str,
        mut once: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        for _ in 0..DUMP_TRIES {
            if let Some(whole) = once(self)? {
                return Ok(whole);
            }
        }
        Err(Error::Interrupted { what: what.to_owned(), tries: DUMP_TRIES })
    }

    /// Sends one dump request (already serialized with the next sequence number) and hands over every
    /// frame of the answer. `Ok(false)` means that the dump was interrupted.
    pub fn collect(
        &mut self,
        what: &str,
        request: &[u8],
        mut each: impl FnMut(&Frame<'_>) -> Result<()>,
    ) -> Result<bool> {
        self.send(&[request])?;
        let sequence = self.sequence;
        let mut whole = true;
        loop {
            for frame in self.receive(MsgFlags::empty())?.filter(|frame| frame.sequence == sequence) {
                whole &= !frame.is_interrupted();
                match frame.body() {
                    Body::Message => each(&frame)?,
                    Body::Acknowledgement(Err(refusal)) | Body::Done(Err(refusal)) => {
                        return Err(refusal.about(what));
                    }
                    Body::Acknowledgement(Ok(())) | Body::Done(Ok(())) => return Ok(whole),
                }
            }
        }
    }

    /// The next sequence number.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// One datagram out of several pieces, in one system call.
    pub fn send(&mut self, pieces: &[&[u8]]) -> Result<()> {
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let size = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if size > BUFFER / 2 {
            let sys = |errno: Errno| Error::system("enlarge a netlink send buffer", errno);
            setsockopt(&self.socket, sockopt::SndBufForce, &(size * 2)).map_err(sys)?;
        }
        let sent = sendmsg::<()>(self.socket.as_raw_fd(), &slices, &[], MsgFlags::empty(), None);
        sent.map(drop).map_err(|errno| Error::system(format!("send {size} bytes by netlink"), errno))
    }

    /// Acknowledgements that have arrived already, without waiting for more: how many, and the refusals
    /// among them with their sequence numbers.
    pub fn answers_so_far(&mut self) -> Result<(usize, Vec<(u32, Refusal)>)> {
        let (mut answers, mut refusals) = (0, Vec::new());
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(frames) => {
                    for frame in frames {
                        let Body::Acknowledgement(answer) = frame.body() else { continue };
                        answers += 1;
                        refusals.extend(answer.err().map(|refusal| (frame.sequence, refusal)));
                    }
                }
                Err(error) if error.errno() == Some(Errno::EAGAIN) => return Ok((answers, refusals)),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self, flags: MsgFlags) -> Result<Frames<'_>> {
        let fd = self.socket.as_raw_fd();
        let size = loop {
            match recv(fd, &mut self.received, flags | MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        let size = size.map_err(|errno| Error::system("receive by netlink", errno))?;
        let bytes = self
            .received
            .get(..size)
            .ok_or_else(|| Error::unreadable("receive by netlink", format!("{size} bytes in one answer")))?;
        Ok(Frames::of(bytes))
    }

    fn append(&mut self, bytes: &mut Vec<u8>, flags: u16, message: RouteNetlinkMessage) {
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.next_sequence();
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        // Each message begins on a multiple of four bytes.
        bytes.resize((start + message.buffer_len()).next_multiple_of(4), 0);
        if let Some(room) = bytes.get_mut(start..) {
            message.serialize(room);
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn route_message(what: &str, frame: &Frame<'_>) -> Result<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = frame.kind;
    RouteNetlinkMessage::deserialize(&header, frame.payload).map_err(|error| Error::unreadable(what, error))
}
