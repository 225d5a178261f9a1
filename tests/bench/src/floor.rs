//! The floor: the bare netlink sequence that gives a pod its link, in this one warm process, with nothing remembered,
//! nothing checked and no policy.
//!
//! It is as low as the kernel allows: the pair is made with one end in the pod's namespace already (a move of its own would
//! cost some milliseconds) and with one queue, and each side's address, routes and state go in one system call. The two
//! questions for the devices' numbers are part of it, since no route can be made without them.
#![allow(clippy::wildcard_enum_match_arm, reason = "netlink has many kinds of everything, this reads one")]

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};
use portolan_linux::netns;

/// The node's end. Not a name that the agent takes for one of its own.
const OUTSIDE: &str = "benchfloor";
const INSIDE: &str = "eth0";
const POD: Ipv4Addr = Ipv4Addr::new(10, 251, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const MTU: u32 = 1450;

/// The warm process.
pub struct Floor {
    home: OwnedFd,
    node: Socket,
}

impl Floor {
    /// Works in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { home: netns::own()?, node: open()? })
    }

    /// Makes a pod's link.
    pub fn add(&mut self, pod: &OwnedFd) -> Result<()> {
        execute(&self.node, vec![RouteNetlinkMessage::NewLink(pair(pod))])?;
        setns(pod, CloneFlags::CLONE_NEWNET)?;
        let inside = open();
        setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        let inside = inside?;
        let index = index(&inside, INSIDE)?;
        let addresses = vec![
            RouteNetlinkMessage::NewAddress(address(index)),
            RouteNetlinkMessage::SetLink(up(index)),
            RouteNetlinkMessage::NewRoute(route(index, GATEWAY, 32, None)),
            RouteNetlinkMessage::NewRoute(route(index, Ipv4Addr::UNSPECIFIED, 0, Some(GATEWAY))),
        ];
        execute(&inside, addresses)?;
        let index = self::index(&self.node, OUTSIDE)?;
        let to_pod = RouteNetlinkMessage::NewRoute(route(index, POD, 32, None));
        execute(&self.node, vec![RouteNetlinkMessage::SetLink(up(index)), to_pod]).map(drop)
    }

    /// Takes it away.
    pub fn del(&mut self) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(OUTSIDE.to_owned()));
        execute(&self.node, vec![RouteNetlinkMessage::DelLink(message)]).map(drop)
    }
}

fn open() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends all at once and reads every acknowledgement; the objects that came as answers.
fn execute(socket: &Socket, messages: Vec<RouteNetlinkMessage>) -> Result<Vec<RouteNetlinkMessage>> {
    let mut missing = messages.len();
    let mut bytes = vec![];
    for message in messages {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        if !matches!(message, RouteNetlinkMessage::GetLink(_) | RouteNetlinkMessage::DelLink(_)) {
            header.flags |= NLM_F_CREATE | NLM_F_EXCL;
        }
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(bytes.get_mut(start..).unwrap_or_default());
    }
    socket.send(&bytes, 0)?;
    let mut found = vec![];
    while missing > 0 {
        let mut answer = Vec::with_capacity(1 << 16);
        socket.recv(&mut answer, 0)?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
            let length = message.header.length as usize;
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => bail!("netlink: {error}"),
                NetlinkPayload::Error(_) => missing -= 1,
                NetlinkPayload::InnerMessage(message) => found.push(message),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(found)
}

fn index(socket: &Socket, name: &str) -> Result<u32> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let found = execute(socket, vec![RouteNetlinkMessage::GetLink(question)])?;
    let index = found.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
        _ => None,
    });
    index.with_context(|| format!("no device {name}"))
}

fn pair(pod: &OwnedFd) -> LinkMessage {
    let end = |name: &str| {
        let name = LinkAttribute::IfName(name.to_owned());
        vec![name, LinkAttribute::Mtu(MTU), LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)]
    };
    let mut peer = LinkMessage::default();
    peer.attributes = end(INSIDE);
    peer.attributes.push(LinkAttribute::NetNsFd(pod.as_fd().as_raw_fd()));
    let mut message = LinkMessage::default();
    message.attributes = end(OUTSIDE);
    let data = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), data]));
    message
}

fn address(index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    let ip = IpAddr::from(POD);
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn up(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn route(index: u32, to: Ipv4Addr, length: u8, via: Option<Ipv4Addr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = length;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(index)];
    if length > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(to)));
    }
    message.attributes.extend(via.map(|via| RouteAttribute::Gateway(RouteAddress::Inet(via))));
    message
}
