//! A received datagram, cut into its messages.

use super::ack::{Refusal, refusal};

const HEADER: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;

/// One message.
pub(crate) struct Frame<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// Without the netlink header.
    pub payload: &'a [u8],
}

/// What a message is about.
pub(crate) enum Body {
    /// An object.
    Message,
    /// The answer to one request.
    Acknowledgement(Result<(), Refusal>),
    /// The end of a dump.
    Done(Result<(), Refusal>),
}

impl Frame<'_> {
    pub fn body(&self) -> Body {
        match self.kind {
            NLMSG_ERROR => Body::Acknowledgement(refusal(self.flags, self.payload, true)),
            NLMSG_DONE => Body::Done(refusal(self.flags, self.payload, false)),
            _ => Body::Message,
        }
    }

    /// The dump is inconsistent: something changed while it was taken.
    pub fn is_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }
}

/// The messages of one datagram; ends at the first that is cut off.
pub(crate) struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    pub fn of(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    fn cut(&mut self) -> Option<Frame<'a>> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<2>()?;
        let (flags, rest) = rest.split_first_chunk::<2>()?;
        let (sequence, _) = rest.split_first_chunk::<4>()?;
        let length = u32::from_ne_bytes(*length) as usize;
        let payload = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Frame {
            kind: u16::from_ne_bytes(*kind),
            flags: u16::from_ne_bytes(*flags),
            sequence: u32::from_ne_bytes(*sequence),
            payload,
        })
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        loop {
            let frame = self.cut()?;
            if frame.kind != NLMSG_NOOP {
                return Some(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = (HEADER + payload.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_datagram_is_cut_into_its_messages() {
        let mut datagram = message(20, &[1, 2, 3]);
        datagram.extend(message(NLMSG_NOOP, &[]));
        datagram.extend(message(21, &[4]));
        let kinds: Vec<_> = Frames::of(&datagram).map(|frame| (frame.kind, frame.payload.len())).collect();
        assert_eq!(kinds, [(20, 3), (21, 1)]);
    }

    #[test]
    fn a_message_that_is_cut_off_ends_the_datagram() {
        let datagram = message(20, &[1, 2, 3, 4]);
        assert_eq!(Frames::of(&datagram[..18]).count(), 0);
        assert_eq!(Frames::of(&[0; 16]).count(), 0);
    }
}
