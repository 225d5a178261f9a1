//! Rules into the kernel's register programs. Pure: the same rule always gives the same program, whose
//! hash in the rule's comment tells after a restart whether the rule is still the one we made.
//!
//! Register 1 holds what is looked at; where several things are looked up at once, they are in consecutive words.

use std::{
    ffi::{CStr, CString},
    net::{Ipv4Addr, Ipv6Addr},
};

use nftnl::nftnl_sys::{self as nl, libc};

use super::{Action, Compare, Family, Match, Rule};
use crate::{Error, Result};

/// Longest part of a comment that is kept (bytes); the kernel allows 255, nft shows 128.
const COMMENT: usize = 100;
const REGISTER: u32 = libc::NFT_REG_1 as u32;
const SCRATCH: u32 = libc::NFT_REG_2 as u32;
/// The first word of [`REGISTER`]; the others follow.
const WORDS: u32 = libc::NFT_REG32_00 as u32;
const NO_MARK: [u8; 4] = [0; 4];
const NO_DEVICE: [u8; 4] = [0; 4];
/// `RTN_LOCAL`, a type of addresses.
const LOCAL: u32 = 2;
/// `ct state` bits.
const INVALID: u32 = 1;
const UNTRACKED: u32 = 64;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Expr {
    pub name: &'static CStr,
    pub attributes: Vec<(u32, Attribute)>,
}

/// An instruction's argument.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Attribute {
    Number(u32),
    Bytes(Vec<u8>),
    Name(CString),
}

/// A rule ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub expressions: Vec<Expr>,
    /// The rule's comment and the hash of its expressions.
    pub comment: CString,
}

use Attribute::{Bytes, Name, Number};

/// Compiles one rule; `chain` is for the words of an error.
pub(super) fn compile(chain: &str, rule: &Rule) -> Result<Program> {
    let context = Context { chain, family: rule.family };
    let mut expressions = Vec::new();
    if let Some(family) = rule.family {
        expressions.push(meta(libc::NFT_META_NFPROTO));
        expressions.push(compare(true, vec![nfproto(family)]));
    }
    for condition in &rule.matches {
        context.condition(condition, &mut expressions)?;
    }
    for action in &rule.actions {
        context.action(action, &mut expressions)?;
    }
    let hash = fingerprint(&expressions);
    let why: String = rule.comment.chars().filter(|c| *c != '"' && !c.is_control()).collect();
    let why = why.get(..why.floor_char_boundary(COMMENT)).unwrap_or_default();
    Ok(Program { expressions, comment: name(&format!("{why} [{hash:08x}]"))? })
}

struct Context<'a> {
    chain: &'a str,
    family: Option<Family>,
}

impl Context<'_> {
    fn condition(&self, condition: &Match, out: &mut Vec<Expr>) -> Result<()> {
        match condition {
            Match::CtOriginal => {
                out.push(ct(libc::NFT_CT_DIRECTION));
                out.push(compare(true, vec![0]));
            }
            Match::CtUnknown => {
                out.push(ct(libc::NFT_CT_STATE));
                out.push(bits(INVALID | UNTRACKED, REGISTER));
                out.push(compare(false, NO_MARK.to_vec()));
            }
            Match::SourceIn { set, negate } => {
                out.push(self.address(Side::Source, REGISTER)?);
                out.push(contained(set, *negate, REGISTER)?);
            }
            Match::DestinationIn { set, negate } => {
                out.push(self.address(Side::Destination, REGISTER)?);
                out.push(contained(set, *negate, REGISTER)?);
            }
            Match::SourceInMap(map) => {
                out.push(self.address(Side::Source, REGISTER)?);
                out.push(looked_up(map, SCRATCH)?);
            }
            Match::OutputDevice { name, negate } => {
                out.push(meta(libc::NFT_META_OIFNAME));
                out.push(compare(!negate, self.device(name)?));
            }
            Match::InputDevice { name, negate } => {
                out.push(meta(libc::NFT_META_IIFNAME));
                out.push(compare(!negate, self.device(name)?));
            }
            Match::InputDevices(beginning) => {
                out.push(meta(libc::NFT_META_IIFNAME));
                // Only the beginning is compared: without the zero bytes that follow a whole name.
                self.device(beginning)?;
                out.push(compare(true, beginning.as_bytes().to_vec()));
            }
            Match::ForeignSource => {
                self.needed_family()?;
                out.push(route_back());
                out.push(compare(true, NO_DEVICE.to_vec()));
            }
            Match::Mark { mask, compare: how, value } => {
                out.extend([meta(libc::NFT_META_MARK), bits(*mask, REGISTER)]);
                out.push(compare(*how == Compare::Is, value.to_ne_bytes().to_vec()));
            }
            Match::MarkAndSourceIn { mask, set, negate } => {
                out.extend([meta(libc::NFT_META_MARK), bits(*mask, REGISTER)]);
                out.push(self.address(Side::Source, WORDS + 1)?);
                out.push(contained(set, *negate, REGISTER)?);
            }
            Match::SourceAndDestinationIn(set) => {
                out.push(self.address(Side::Source, REGISTER)?);
                out.push(self.address(Side::Destination, WORDS + self.address_words()?)?);
                out.push(contained(set, false, REGISTER)?);
            }
            Match::ToThisNode => {
                self.needed_family()?;
                out.push(destination_type());
                out.push(compare(true, LOCAL.to_ne_bytes().to_vec()));
            }
        }
        Ok(())
    }

    fn action(&self, action: &Action, out: &mut Vec<Expr>) -> Result<()> {
        match action {
            Action::Counter => out.push(Expr { name: c"counter", attributes: vec![] }),
            Action::SetMarkFromSource(map) => {
                out.push(self.address(Side::Source, REGISTER)?);
                out.push(looked_up(map, REGISTER)?);
                out.push(Expr {
                    name: c"meta",
                    attributes: vec![
                        (nl::NFTNL_EXPR_META_KEY, Number(libc::NFT_META_MARK as u32)),
                        (nl::NFTNL_EXPR_META_SREG, Number(REGISTER)),
                    ],
                });
            }
            Action::SnatFromMark { mask, map } => {
                out.extend([meta(libc::NFT_META_MARK), bits(*mask, REGISTER)]);
                out.push(looked_up(map, REGISTER)?);
                out.push(Expr {
                    name: c"nat",
                    attributes: vec![
                        (nl::NFTNL_EXPR_NAT_TYPE, Number(libc::NFT_NAT_SNAT as u32)),
                        (nl::NFTNL_EXPR_NAT_FAMILY, Number(u32::from(nfproto(self.needed_family()?)))),
                        (nl::NFTNL_EXPR_NAT_REG_ADDR_MIN, Number(REGISTER)),
                    ],
                });
            }
            Action::DnatFromPort(map) => {
                out.extend(protocol_and_port(WORDS));
                out.extend([looked_up(map, REGISTER)?, self.destination_nat()?]);
            }
            Action::DnatFromAddressAndPort(map) => {
                out.push(self.address(Side::Destination, REGISTER)?);
                out.extend(protocol_and_port(WORDS + self.address_words()?));
                out.extend([looked_up(map, REGISTER)?, self.destination_nat()?]);
            }
            Action::Masquerade => out.push(Expr { name: c"masq", attributes: vec![] }),
            Action::Drop => out.push(verdict(libc::NF_DROP)),
            Action::Accept => out.push(verdict(libc::NF_ACCEPT)),
        }
        Ok(())
    }

    fn needed_family(&self) -> Result<Family> {
        self.family.ok_or_else(|| self.unsuitable("a rule that looks at addresses needs a family"))
    }

    /// How many words an address fills.
    fn address_words(&self) -> Result<u32> {
        Ok(match self.needed_family()? {
            Family::V4 => 1,
            Family::V6 => 4,
        })
    }

    /// To the address in [`REGISTER`] and the port in the word after it.
    fn destination_nat(&self) -> Result<Expr> {
        Ok(Expr {
            name: c"nat",
            attributes: vec![
                (nl::NFTNL_EXPR_NAT_TYPE, Number(libc::NFT_NAT_DNAT as u32)),
                (nl::NFTNL_EXPR_NAT_FAMILY, Number(u32::from(nfproto(self.needed_family()?)))),
                (nl::NFTNL_EXPR_NAT_REG_ADDR_MIN, Number(REGISTER)),
                (nl::NFTNL_EXPR_NAT_REG_PROTO_MIN, Number(WORDS + self.address_words()?)),
            ],
        })
    }

    fn address(&self, side: Side, register: u32) -> Result<Expr> {
        let (offset, length) = match (self.needed_family()?, side) {
            (Family::V4, Side::Source) => (12, size_of::<Ipv4Addr>()),
            (Family::V4, Side::Destination) => (16, size_of::<Ipv4Addr>()),
            (Family::V6, Side::Source) => (8, size_of::<Ipv6Addr>()),
            (Family::V6, Side::Destination) => (24, size_of::<Ipv6Addr>()),
        };
        Ok(Expr {
            name: c"payload",
            attributes: vec![
                (nl::NFTNL_EXPR_PAYLOAD_DREG, Number(register)),
                (nl::NFTNL_EXPR_PAYLOAD_BASE, Number(libc::NFT_PAYLOAD_NETWORK_HEADER as u32)),
                (nl::NFTNL_EXPR_PAYLOAD_OFFSET, Number(offset)),
                (nl::NFTNL_EXPR_PAYLOAD_LEN, Number(length as u32)),
            ],
        })
    }

    /// Names are compared with all of their 16 bytes.
    fn device(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = name.as_bytes().to_vec();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ {
            return Err(self.unsuitable(&format!("{name:?} is no device name")));
        }
        bytes.resize(libc::IFNAMSIZ, 0);
        Ok(bytes)
    }

    fn unsuitable(&self, reason: &str) -> Error {
        Error::Unsuitable { what: format!("chain {}", self.chain), reason: reason.to_owned() }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => libc::NFPROTO_IPV4 as u8,
        Family::V6 => libc::NFPROTO_IPV6 as u8,
    }
}

fn meta(key: libc::c_int) -> Expr {
    meta_into(key, REGISTER)
}

fn meta_into(key: libc::c_int, register: u32) -> Expr {
    let attributes =
        vec![(nl::NFTNL_EXPR_META_KEY, Number(key as u32)), (nl::NFTNL_EXPR_META_DREG, Number(register))];
    Expr { name: c"meta", attributes }
}

/// The transport protocol into this word, its destination port into the next.
fn protocol_and_port(word: u32) -> [Expr; 2] {
    const DESTINATION_PORT: (u32, u32) = (2, 2);
    let (offset, length) = DESTINATION_PORT;
    let port = Expr {
        name: c"payload",
        attributes: vec![
            (nl::NFTNL_EXPR_PAYLOAD_DREG, Number(word + 1)),
            (nl::NFTNL_EXPR_PAYLOAD_BASE, Number(libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32)),
            (nl::NFTNL_EXPR_PAYLOAD_OFFSET, Number(offset)),
            (nl::NFTNL_EXPR_PAYLOAD_LEN, Number(length)),
        ],
    };
    [meta_into(libc::NFT_META_L4PROTO, word), port]
}

fn ct(key: libc::c_int) -> Expr {
    let attributes =
        vec![(nl::NFTNL_EXPR_CT_KEY, Number(key as u32)), (nl::NFTNL_EXPR_CT_DREG, Number(REGISTER))];
    Expr { name: c"ct", attributes }
}

fn bits(mask: u32, register: u32) -> Expr {
    Expr {
        name: c"bitwise",
        attributes: vec![
            (nl::NFTNL_EXPR_BITWISE_SREG, Number(register)),
            (nl::NFTNL_EXPR_BITWISE_DREG, Number(register)),
            (nl::NFTNL_EXPR_BITWISE_LEN, Number(size_of::<u32>() as u32)),
            (nl::NFTNL_EXPR_BITWISE_MASK, Bytes(mask.to_ne_bytes().to_vec())),
            (nl::NFTNL_EXPR_BITWISE_XOR, Bytes(NO_MARK.to_vec())),
        ],
    }
}

fn compare(equal: bool, with: Vec<u8>) -> Expr {
    let how = if equal { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ };
    Expr {
        name: c"cmp",
        attributes: vec![
            (nl::NFTNL_EXPR_CMP_SREG, Number(REGISTER)),
            (nl::NFTNL_EXPR_CMP_OP, Number(how as u32)),
            (nl::NFTNL_EXPR_CMP_DATA, Bytes(with)),
        ],
    }
}

fn contained(set: &str, negate: bool, register: u32) -> Result<Expr> {
    let mut attributes =
        vec![(nl::NFTNL_EXPR_LOOKUP_SREG, Number(register)), (nl::NFTNL_EXPR_LOOKUP_SET, Name(name(set)?))];
    if negate {
        attributes.push((nl::NFTNL_EXPR_LOOKUP_FLAGS, Number(libc::NFT_LOOKUP_F_INV as u32)));
    }
    Ok(Expr { name: c"lookup", attributes })
}

fn looked_up(map: &str, into: u32) -> Result<Expr> {
    let mut lookup = contained(map, false, REGISTER)?;
    lookup.attributes.push((nl::NFTNL_EXPR_LOOKUP_DREG, Number(into)));
    Ok(lookup)
}

/// The device that packets to the source address would leave through, if it is the one this packet came
/// through; 0 otherwise.
fn route_back() -> Expr {
    const SOURCE: u32 = 1;
    const SAME_DEVICE: u32 = 8;
    const DEVICE_NUMBER: u32 = 1;
    Expr {
        name: c"fib",
        attributes: vec![
            (nl::NFTNL_EXPR_FIB_DREG, Number(REGISTER)),
            (nl::NFTNL_EXPR_FIB_RESULT, Number(DEVICE_NUMBER)),
            (nl::NFTNL_EXPR_FIB_FLAGS, Number(SOURCE | SAME_DEVICE)),
        ],
    }
}

/// What kind of address the destination is, as routing sees it.
fn destination_type() -> Expr {
    const DESTINATION: u32 = 2;
    const TYPE: u32 = 3;
    Expr {
        name: c"fib",
        attributes: vec![
            (nl::NFTNL_EXPR_FIB_DREG, Number(REGISTER)),
            (nl::NFTNL_EXPR_FIB_RESULT, Number(TYPE)),
            (nl::NFTNL_EXPR_FIB_FLAGS, Number(DESTINATION)),
        ],
    }
}

fn verdict(verdict: libc::c_int) -> Expr {
    Expr {
        name: c"immediate",
        attributes: vec![
            (nl::NFTNL_EXPR_IMM_DREG, Number(libc::NFT_REG_VERDICT as u32)),
            (nl::NFTNL_EXPR_IMM_VERDICT, Number(verdict as u32)),
        ],
    }
}

pub(super) fn name(text: &str) -> Result<CString> {
    let reason = "a name cannot contain a zero byte";
    CString::new(text).map_err(|_| Error::Unsuitable { what: format!("{text:?}"), reason: reason.to_owned() })
}

/// FNV-1a over the program's written form: stable over restarts and builds.
fn fingerprint(expressions: &[Expr]) -> u32 {
    let text = format!("{expressions:?}");
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(family: Option<Family>, matches: Vec<Match>) -> Rule {
        Rule { comment: "a \"reason\"\n".into(), family, matches, actions: vec![Action::Drop] }
    }

    #[test]
    fn the_comment_carries_the_reason_and_a_hash_of_the_program() {
        let one = compile("guard", &rule(None, vec![])).unwrap();
        let other = compile("guard", &rule(None, vec![Match::CtOriginal])).unwrap();
        assert!(one.comment.to_str().unwrap().starts_with("a reason ["));
        assert_ne!(one.comment, other.comment);
        assert_eq!(one, compile("guard", &rule(None, vec![])).unwrap());
    }

    #[test]
    fn a_rule_about_addresses_without_a_family_is_refused() {
        let source = Match::SourceIn { set: "masquerade4".into(), negate: false };
        let refused = compile("snat", &rule(None, vec![source])).unwrap_err();
        assert!(refused.to_string().contains("chain snat"));
    }

    #[test]
    fn a_device_name_that_cannot_exist_is_refused() {
        let device = Match::OutputDevice { name: "sixteen-letters!".into(), negate: false };
        assert!(compile("guard", &rule(None, vec![device])).is_err());
    }
}
