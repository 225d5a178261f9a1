//! Acknowledgements in words: the error number, and the kernel's own explanation where it gives one.

use netlink_packet_core::NlasIterator;
use nix::errno::Errno;

use crate::Error;

const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const CODE: usize = 4;
const HEADER: usize = 16;

/// Why the kernel refused a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub errno: Errno,
    /// The kernel's sentence, from the extended acknowledgement.
    pub words: Option<String>,
}

impl Refusal {
    pub fn about(self, what: &str) -> Error {
        let reason = self.words.unwrap_or_else(|| self.errno.desc().to_owned());
        Error::Refused { what: what.to_owned(), errno: self.errno, reason }
    }
}

/// Reads the payload of an acknowledgement (`with_request`) or of the end of a dump.
pub(super) fn refusal(flags: u16, payload: &[u8], with_request: bool) -> Result<(), Refusal> {
    let code = payload.first_chunk::<CODE>().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        return Ok(());
    }
    let words = (flags & NLM_F_ACK_TLVS != 0).then(|| explanation(flags, payload, with_request)).flatten();
    Err(Refusal { errno: Errno::from_raw(code.wrapping_neg()), words })
}

fn explanation(flags: u16, payload: &[u8], with_request: bool) -> Option<String> {
    let start = if !with_request {
        CODE
    } else if flags & NLM_F_CAPPED != 0 {
        CODE + HEADER
    } else {
        // The whole refused request comes before the explanation.
        let length = payload.get(CODE..)?.first_chunk::<4>()?;
        CODE + (u32::from_ne_bytes(*length) as usize).next_multiple_of(4)
    };
    NlasIterator::new(payload.get(start..)?)
        .flatten()
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value()).trim_end_matches(['\0', '.', '\n']).to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_code_is_success() {
        assert_eq!(refusal(0, &[0; 20], true), Ok(()));
        assert_eq!(refusal(0, &[], false), Ok(()));
    }

    #[test]
    fn the_kernels_words_are_kept() {
        let mut payload = (-22_i32).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        payload.extend([10, 0, 1, 0]);
        payload.extend(b"too.\0\0\0\0");
        let refused = refusal(NLM_F_CAPPED | NLM_F_ACK_TLVS, &payload, true).unwrap_err();
        assert_eq!(refused, Refusal { errno: Errno::EINVAL, words: Some("too".into()) });
    }

    #[test]
    fn without_words_the_meaning_of_the_number_is_given() {
        let refused = refusal(0, &(-17_i32).to_ne_bytes(), true).unwrap_err();
        assert!(refused.about("add route").to_string().contains("File exists"));
    }
}
