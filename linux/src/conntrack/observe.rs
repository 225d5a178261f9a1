//! Connections out of a dump.

use std::net::{IpAddr, SocketAddr};

use super::{Conntrack, Entry, Flow, ID, NESTED, ORIGINAL, SUBSYSTEM, ZONE};
use crate::{
    Error, Result,
    netlink::{Attributes, FAMILY_HEADER, Frame, NLM_F_DUMP, NLM_F_REQUEST, netfilter_message},
};

const GET: u16 = SUBSYSTEM | 1;
/// In a tuple.
const ADDRESSES: u16 = 1;
const TRANSPORT: u16 = 2;

impl Conntrack {
    /// Every connection of a protocol that has ports, of both families.
    pub(super) fn entries(&mut self) -> Result<Vec<Entry>> {
        const WHAT: &str = "list connections";
        const ALL_FAMILIES: u8 = 0;
        self.connection.repeat(WHAT, |connection| {
            let sequence = connection.next_sequence();
            let question = netfilter_message(GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, ALL_FAMILIES, &[]);
            let mut entries = Vec::new();
            let whole = connection.collect(WHAT, &question, |frame: &Frame<'_>| {
                let (header, body) = frame
                    .payload
                    .split_first_chunk::<FAMILY_HEADER>()
                    .ok_or_else(|| Error::unreadable(WHAT, "a connection without a header"))?;
                entries.extend(entry(header[0], &Attributes::of(body)));
                Ok(())
            })?;
            Ok(whole.then_some(entries))
        })
    }
}

/// Nothing for a protocol without ports.
fn entry(family: u8, connection: &Attributes<'_>) -> Option<Entry> {
    let tuple = connection.nested(ORIGINAL);
    let (addresses, transport) = (tuple.nested(ADDRESSES), tuple.nested(TRANSPORT));
    let protocol = *transport.bytes(1).first()?;
    let flow = Flow {
        protocol,
        source: SocketAddr::new(address(&addresses, 1, 3)?, port(&transport, 2)?),
        destination: SocketAddr::new(address(&addresses, 2, 4)?, port(&transport, 3)?),
    };
    let zone = connection.bytes(ZONE);
    let mut name =
        vec![(ORIGINAL | NESTED, connection.bytes(ORIGINAL).to_vec()), (ID, connection.bytes(ID).to_vec())];
    if !zone.is_empty() {
        name.push((ZONE, zone.to_vec()));
    }
    Some(Entry { flow, family, name })
}

fn address(addresses: &Attributes<'_>, v4: u16, v6: u16) -> Option<IpAddr> {
    let four = || <[u8; 4]>::try_from(addresses.bytes(v4)).ok().map(IpAddr::from);
    four().or_else(|| <[u8; 16]>::try_from(addresses.bytes(v6)).ok().map(IpAddr::from))
}

fn port(transport: &Attributes<'_>, key: u16) -> Option<u16> {
    transport.bytes(key).try_into().ok().map(u16::from_be_bytes)
}
