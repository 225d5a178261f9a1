//! Netfilter's messages, which netlink-packet-route does not know: attributes behind a header of their own, with numbers in
//! network order.

use std::iter;

/// `struct nfgenmsg`: family, version, resource.
pub(crate) const FAMILY_HEADER: usize = 4;

/// A whole message: netlink's header, netfilter's, attributes. The kind contains the subsystem.
pub(crate) fn netfilter_message(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    attributes: &[(u16, Vec<u8>)],
) -> Vec<u8> {
    const HEADERS: usize = 16 + FAMILY_HEADER;
    let mut body = Vec::new();
    for (key, value) in attributes {
        body.extend((4 + value.len() as u16).to_ne_bytes());
        body.extend(key.to_ne_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut bytes = ((HEADERS + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(body);
    bytes
}

/// The attributes of one object; what is missing reads as empty.
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub fn of(object: &'a [u8]) -> Self {
        Self(object)
    }

    /// Number and value of each, up to the first that is cut off. The two highest bits of the number are
    /// flags.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let length = usize::from(u16::from_ne_bytes(*length));
            let kind = u16::from_ne_bytes(*after.first_chunk::<2>()?) & 0x3fff;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            Some((kind, value))
        })
    }

    pub fn bytes(&self, key: u16) -> &'a [u8] {
        self.iter().find(|(kind, _)| *kind == key).map_or(&[], |(_, value)| value)
    }

    pub fn nested(&self, key: u16) -> Self {
        Self(self.bytes(key))
    }

    #[cfg(feature = "nft")]
    pub fn number(&self, key: u16) -> Option<u32> {
        self.bytes(key).first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    #[cfg(feature = "nft")]
    pub fn text(&self, key: u16) -> String {
        let bytes = self.bytes(key);
        String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
    }
}
