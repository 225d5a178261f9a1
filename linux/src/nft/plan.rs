//! The difference between the table that should be and the one that is. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
};

use nftnl::nftnl_sys::{NFTNL_UDATA_RULE_COMMENT, libc};

use super::{
    Chain, ChainKind, Element, Family, Hook, Set, SetKind, Table,
    compile::{Program, compile},
    observe::{ChainView, SetView, View},
    sys::Layout,
};
use crate::Result;

/// nft's numbers of its types, and how many bits of a pair's type number each part has.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_MARK: u32 = 19;
const TYPE_BITS: u32 = 6;
/// `NFT_SET_CONCAT` of the kernel's header, which the libc crate lacks.
const CONCATENATION: u32 = 0x80;

/// What one pass did to the table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct NftReport {
    /// The table did not exist, or slept.
    pub table_created: bool,
    /// Chains made, or whose rules were not as we made them.
    pub chains_replaced: Vec<String>,
    /// Chains and sets that should not exist.
    pub deleted: Vec<String>,
    /// Sets and maps made, or made anew because they were of another kind.
    pub sets_created: Vec<String>,
    /// Elements added, all sets together.
    pub elements_added: usize,
    /// Elements deleted, all sets together.
    pub elements_deleted: usize,
}

impl NftReport {
    /// The pass changed nothing.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        *self == Self::default()
    }
}

impl Display for NftReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.table_created {
            write!(f, "table created, ")?;
        }
        for (what, names) in
            [("chains", &self.chains_replaced), ("sets", &self.sets_created), ("deleted", &self.deleted)]
        {
            if !names.is_empty() {
                write!(f, "{what}: {}, ", names.join(" "))?;
            }
        }
        write!(f, "elements: {} added, {} deleted", self.elements_added, self.elements_deleted)
    }
}

/// One transaction's worth of changes to the table's layout, in the order in which they are made.
#[derive(Debug, Default)]
pub(super) struct Steps<'a> {
    pub create_table: bool,
    pub flush_chains: Vec<String>,
    pub delete_chains: Vec<String>,
    pub delete_sets: Vec<String>,
    pub add_sets: Vec<(&'a Set, Layout)>,
    pub add_chains: Vec<&'a Chain>,
    pub fill_chains: Vec<(&'a Chain, Vec<Program>)>,
}

impl Steps<'_> {
    pub fn report(&self) -> NftReport {
        let renewed = self.fill_chains.iter().map(|(chain, _)| chain.name.clone());
        let kept: BTreeSet<_> = self.add_chains.iter().map(|chain| &chain.name).collect();
        let sets: Vec<_> = self.add_sets.iter().map(|(set, _)| set.name.clone()).collect();
        let gone_chains = self.delete_chains.iter().filter(|name| !kept.contains(name));
        let gone_sets = self.delete_sets.iter().filter(|name| !sets.contains(name));
        NftReport {
            table_created: self.create_table,
            chains_replaced: renewed.collect(),
            deleted: gone_chains.chain(gone_sets).cloned().collect(),
            sets_created: sets,
            ..NftReport::default()
        }
    }
}

/// Compares the layout. A chain keeps its counters as long as its rules are the ones we made.
pub(super) fn layout<'a>(desired: &'a Table, observed: Option<&View>) -> Result<Steps<'a>> {
    let nothing = View::default();
    let view = observed.unwrap_or(&nothing);
    let mut steps = Steps { create_table: observed.is_none() || view.flags != 0, ..Steps::default() };
    sets(desired, view, &mut steps);
    // A set can go only when no rule names it any more, and a rule may name any set.
    let all = !steps.delete_sets.is_empty();
    chains(desired, view, all, &mut steps)?;
    Ok(steps)
}

fn sets<'a>(desired: &'a Table, view: &View, steps: &mut Steps<'a>) {
    let mut left: BTreeMap<_, _> = view.sets.iter().collect();
    for set in &desired.sets {
        let layout = kernel_layout(set.kind);
        let found = left.remove(&set.name);
        if found.is_some_and(|found| *found == seen(&layout)) {
            continue;
        }
        steps.delete_sets.extend(found.map(|_| set.name.clone()));
        steps.add_sets.push((set, layout));
    }
    // Sets without a name belong to a rule that a human added, and go with it.
    let named = left.into_iter().filter(|(_, found)| found.flags & libc::NFT_SET_ANONYMOUS as u32 == 0);
    steps.delete_sets.extend(named.map(|(name, _)| name.clone()));
}

fn chains<'a>(desired: &'a Table, view: &View, all: bool, steps: &mut Steps<'a>) -> Result<()> {
    let mut left: BTreeMap<_, _> = view.chains.iter().collect();
    for chain in &desired.chains {
        let programs =
            chain.rules.iter().map(|rule| compile(&chain.name, rule)).collect::<Result<Vec<_>>>()?;
        let found = left.remove(&chain.name);
        let same_place = found.is_some_and(|found| is_at(chain, found));
        let same_rules = found.is_some_and(|found| {
            found.rules.iter().eq(programs.iter().map(userdata).collect::<Vec<_>>().iter())
        });
        if same_place && same_rules && !all {
            continue;
        }
        if found.is_some() {
            steps.flush_chains.push(chain.name.clone());
        }
        if !same_place {
            steps.delete_chains.extend(found.map(|_| chain.name.clone()));
            steps.add_chains.push(chain);
        }
        steps.fill_chains.push((chain, programs));
    }
    steps.flush_chains.extend(left.keys().map(ToString::to_string));
    steps.delete_chains.extend(left.keys().map(ToString::to_string));
    Ok(())
}

fn is_at(chain: &Chain, found: &ChainView) -> bool {
    let kind: &[u8] = match chain.kind {
        ChainKind::Filter => b"filter",
        ChainKind::Nat => b"nat",
    };
    found.hook == Some((hook_number(chain.hook), chain.priority))
        && found.kind == kind
        && found.policy == Some(libc::NF_ACCEPT as u32)
}

fn hook_number(hook: Hook) -> u32 {
    let number = match hook {
        Hook::Prerouting => libc::NF_INET_PRE_ROUTING,
        Hook::Input => libc::NF_INET_LOCAL_IN,
        Hook::Forward => libc::NF_INET_FORWARD,
        Hook::Output => libc::NF_INET_LOCAL_OUT,
        Hook::Postrouting => libc::NF_INET_POST_ROUTING,
    };
    number as u32
}

/// A rule's user data as nft writes it: type, length, the terminated comment.
fn userdata(program: &Program) -> Vec<u8> {
    let comment = program.comment.as_bytes_with_nul();
    let mut data = vec![NFTNL_UDATA_RULE_COMMENT as u8, comment.len() as u8];
    data.extend(comment);
    data
}

fn seen(layout: &Layout) -> SetView {
    let Layout { flags, key_type, key_len, value, .. } = layout;
    SetView { flags: *flags, key_type: *key_type, key_len: *key_len, value: *value }
}

fn address_type(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (TYPE_IPV4, 4),
        Family::V6 => (TYPE_IPV6, 16),
    }
}

fn kernel_layout(kind: SetKind) -> Layout {
    const MARK: (u32, u32) = (TYPE_MARK, 4);
    const PROTOCOL: (u32, u32) = (TYPE_PROTOCOL, 1);
    const PORT: (u32, u32) = (TYPE_PORT, 2);
    let map = libc::NFT_SET_MAP as u32;
    let (flags, key, value, parts) = match kind {
        SetKind::Networks(family) => (libc::NFT_SET_INTERVAL as u32, address_type(family), None, vec![]),
        SetKind::Addresses(family) => (0, address_type(family), None, vec![]),
        SetKind::MarkedAddresses(family) => {
            let (pair, parts) = concatenation(&[MARK, address_type(family)]);
            (CONCATENATION, pair, None, parts)
        }
        SetKind::AddressPairs(family) => {
            let (pair, parts) = concatenation(&[address_type(family), address_type(family)]);
            (CONCATENATION, pair, None, parts)
        }
        SetKind::PortToEndpoint(family) => {
            let (key, parts) = concatenation(&[PROTOCOL, PORT]);
            let (value, _) = concatenation(&[address_type(family), PORT]);
            (map | CONCATENATION, key, Some(value), parts)
        }
        SetKind::AddressPortToEndpoint(family) => {
            let (key, parts) = concatenation(&[address_type(family), PROTOCOL, PORT]);
            let (value, _) = concatenation(&[address_type(family), PORT]);
            (map | CONCATENATION, key, Some(value), parts)
        }
        SetKind::AddressToMark(family) => (map, address_type(family), Some(MARK), vec![]),
        SetKind::MarkToAddress(family) => (map, MARK, Some(address_type(family)), vec![]),
    };
    let userdata = byte_orders(kind);
    Layout { flags, key_type: key.0, key_len: key.1, value, parts, userdata }
}

/// Type and length of several parts one after the other, each of which fills whole words, and the length of each.
fn concatenation(parts: &[(u32, u32)]) -> ((u32, u32), Vec<u8>) {
    const WORD: u32 = 4;
    let whole = parts.iter().fold((0, 0), |(kind, length), (part, bytes)| {
        (kind << TYPE_BITS | part, length + bytes.next_multiple_of(WORD))
    });
    (whole, parts.iter().map(|(_, bytes)| *bytes as u8).collect())
}

/// Marks are numbers of this machine, addresses are in network order; without this note nft prints
/// marks the wrong way round.
fn byte_orders(kind: SetKind) -> Vec<u8> {
    const KEY: u8 = 0;
    const VALUE: u8 = 1;
    const HOST: u32 = 1;
    const NETWORK: u32 = 2;
    let (key, value) = match kind {
        SetKind::Networks(_) | SetKind::Addresses(_) => (NETWORK, None),
        SetKind::MarkedAddresses(_)
        | SetKind::AddressPairs(_)
        | SetKind::PortToEndpoint(_)
        | SetKind::AddressPortToEndpoint(_) => return vec![],
        SetKind::AddressToMark(_) => (NETWORK, Some(HOST)),
        SetKind::MarkToAddress(_) => (HOST, Some(NETWORK)),
    };
    let mut data = [[KEY, 4].as_slice(), &key.to_ne_bytes()].concat();
    if let Some(value) = value {
        data.extend([VALUE, 4]);
        data.extend(value.to_ne_bytes());
    }
    data
}

/// Elements to delete and to add, both in the normal form.
pub(super) fn elements(
    desired: &BTreeSet<Element>,
    observed: &BTreeSet<Element>,
) -> (Vec<Element>, Vec<Element>) {
    (observed.difference(desired).copied().collect(), desired.difference(observed).copied().collect())
}
