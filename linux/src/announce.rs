//! Tells the neighbourhood where an address is now: gratuitous ARP (IPv4).

use std::{io, net::Ipv4Addr};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::{Error, Link, Mac, Result};

const ETH_P_ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// A packet socket on one device, for announcing addresses on it.
pub struct Announcer {
    socket: Socket,
    mac: Mac,
    dev: String,
}

impl Announcer {
    /// Opens the device in the calling thread's network namespace. Fails if it has no hardware address.
    pub fn open(link: &Link) -> Result<Self> {
        let what = || format!("open a packet socket on {}", link.name);
        let mac = link.mac.ok_or_else(|| Error::unreadable(what(), "the device has no hardware address"))?;
        let failed = |source: io::Error| Error::system(what(), source);
        // Protocol 0: nothing is received.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).map_err(failed)?;
        socket.bind(&device_address(link.index)).map_err(failed)?;
        Ok(Self { socket, mac, dev: link.name.clone() })
    }

    /// Announces `address` once: a request and a reply, since some routers heed only the one or the
    /// other. Callers repeat it after a moment of their own choosing.
    pub fn announce(&self, address: Ipv4Addr) -> Result<()> {
        for operation in [REQUEST, REPLY] {
            let frame = arp(operation, self.mac, address);
            self.socket
                .send(&frame)
                .map_err(|source| Error::system(format!("announce {address} on {}", self.dev), source))?;
        }
        Ok(())
    }
}

fn arp(operation: u16, mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(mac.0);
    frame.extend(ETH_P_ARP.to_be_bytes());
    frame.extend([0, 1, 8, 0, 6, 4]); // Ethernet, IPv4, their lengths
    frame.extend(operation.to_be_bytes());
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend(BROADCAST);
    frame.extend(address.octets());
    frame
}

#[allow(unsafe_code, reason = "no crate makes a sockaddr_ll safely")]
fn device_address(index: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is what the family AF_PACKET says the storage holds; it is plain integers, is
    // smaller than the storage and no more strictly aligned.
    let address = unsafe { storage.view_as::<nix::libc::sockaddr_ll>() };
    address.sll_family = nix::libc::AF_PACKET as u16;
    address.sll_protocol = ETH_P_ARP.to_be();
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the length is that of the structure written above.
    unsafe { SockAddr::new(storage, size_of::<nix::libc::sockaddr_ll>() as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_says_the_same_address_for_sender_and_target() {
        let frame = arp(REQUEST, Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[28..32], [192, 0, 2, 7]);
        assert_eq!(frame[38..42], [192, 0, 2, 7]);
    }
}
