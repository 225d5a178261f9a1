//! Packets as the far end sees them.

use std::{collections::BTreeMap, io::Read, net::Ipv4Addr, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};

use super::Space;

const ETH_P_IP: u16 = 0x0800;
/// How long a test waits for a packet that must come before it fails.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Binds as soon as the port is free: a program that another test starts at this moment has a copy of the last socket until
/// it runs.
pub fn bound<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => return bound.expect("a port of this test's own"),
        }
    }
}

/// Records every IPv4 packet that arrives in a namespace, on any device.
pub struct Recorder(Socket);

/// What a packet says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub payload: Vec<u8>,
}

impl Recorder {
    pub fn in_space(space: &Space) -> Self {
        let protocol = Protocol::from(i32::from(ETH_P_IP.to_be()));
        let socket = space.run(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)));
        let socket = socket.expect("a packet socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(socket)
    }

    /// Packets up to and including the first whose payload contains `last`.
    pub fn until(&mut self, last: &[u8]) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            let size = self.0.read(&mut buffer);
            let size = size.unwrap_or_else(|_| panic!("{last:?} never came; before it: {seen:?}"));
            let Some(packet) = parse(&buffer[..size]) else { continue };
            let found = packet.payload.windows(last.len()).any(|window| window == last);
            seen.push(packet);
            if found {
                return seen;
            }
        }
    }
}

fn parse(packet: &[u8]) -> Option<Seen> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
    Some(Seen {
        source: address(12)?,
        destination: address(16)?,
        protocol: *packet.get(9)?,
        payload: packet.get(header..)?.to_vec(),
    })
}

/// How many packets came from each source.
pub fn sources(seen: &[Seen]) -> BTreeMap<Ipv4Addr, usize> {
    let mut sources = BTreeMap::new();
    for packet in seen {
        *sources.entry(packet.source).or_default() += 1;
    }
    sources
}

/// A TCP segment without data, as a raw socket with protocol TCP sends it.
pub fn segment(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(from.1.to_be_bytes());
    bytes.extend(to.1.to_be_bytes());
    bytes.extend(*b"seq.ack.");
    bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let mut pseudo = [from.0.octets(), to.0.octets()].concat();
    pseudo.extend([0, 6, 0, bytes.len() as u8]);
    pseudo.extend(&bytes);
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
    bytes
}
