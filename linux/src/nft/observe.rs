//! The table as the kernel has it, read from dumps without libnftnl.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Element, Nft, Set, element, element::RawElement};
use crate::{
    Error, Result,
    netlink::{Attributes, Connection, FAMILY_HEADER, Frame, NLM_F_DUMP, NLM_F_REQUEST, netfilter_message},
    own,
};

const INET: u8 = 1;
const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_SET: u16 = SUBSYSTEM | 10;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
const INTERVAL_END: u32 = 1;

/// The table in the kernel.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Not 0: a human put it to sleep.
    pub flags: u32,
    pub chains: BTreeMap<String, ChainView>,
    pub sets: BTreeMap<String, SetView>,
}

/// A chain in the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ChainView {
    /// Hook number and priority, of a base chain.
    pub hook: Option<(u32, i32)>,
    pub kind: Vec<u8>,
    pub policy: Option<u32>,
    /// The rules' user data, in order.
    pub rules: Vec<Vec<u8>>,
}

/// A set in the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SetView {
    pub flags: u32,
    pub key_type: u32,
    pub key_len: u32,
    pub value: Option<(u32, u32)>,
}

impl Nft {
    /// The table's chains, rules and sets; `None` if there is no such table.
    pub(super) fn view(&mut self) -> Result<Option<View>> {
        let mut view = View::default();
        let mut exists = false;
        self.dump("list tables", GET_TABLE, &[], |at| {
            if at.text(1) == own::TABLE {
                exists = true;
                view.flags = at.number(2).unwrap_or(0);
            }
        })?;
        if !exists {
            return Ok(None);
        }
        view.chains = self.chains()?;
        view.sets = self.sets()?;
        Ok(Some(view))
    }

    fn chains(&mut self) -> Result<BTreeMap<String, ChainView>> {
        let mut chains = BTreeMap::<String, ChainView>::new();
        self.dump("list chains", GET_CHAIN, &[], |at| {
            if at.text(1) == own::TABLE {
                let hook = at.nested(4);
                let hook = hook.number(1).zip(hook.number(2).map(u32::cast_signed));
                let kind = at.text(7).into_bytes();
                chains.insert(at.text(3), ChainView { hook, kind, policy: at.number(5), rules: vec![] });
            }
        })?;
        self.dump("list rules", GET_RULE, &[(1, own::TABLE)], |at| {
            if at.text(1) == own::TABLE {
                chains.entry(at.text(2)).or_default().rules.push(at.bytes(7).to_vec());
            }
        })?;
        Ok(chains)
    }

    fn sets(&mut self) -> Result<BTreeMap<String, SetView>> {
        let mut sets = BTreeMap::new();
        self.dump("list sets", GET_SET, &[(1, own::TABLE)], |at| {
            if at.text(1) == own::TABLE {
                let number = |key| at.number(key).unwrap_or(0);
                let value = at.number(6).zip(at.number(7));
                let view = SetView { flags: number(3), key_type: number(4), key_len: number(5), value };
                sets.insert(at.text(2), view);
            }
        })?;
        Ok(sets)
    }

    /// The elements of a set or map that exists.
    pub fn elements(&mut self, set: &Set) -> Result<BTreeSet<Element>> {
        let what = format!("list the elements of {}", set.name);
        let filter = [(1, own::TABLE), (2, set.name.as_str())];
        let raw = self.connection.repeat(&what, |connection| {
            let Some(messages) = objects(connection, &what, GET_ELEMENTS, &filter)? else { return Ok(None) };
            let raw: Vec<_> =
                messages.iter().flat_map(|message| raw_elements(&Attributes::of(message))).collect();
            // A hash table that grows while it is dumped gives some elements twice and others not at all,
            // and the kernel does not call such a dump interrupted.
            let once: HashSet<_> = raw.iter().map(|one| (&one.key, one.ends_range)).collect();
            let whole = once.len() == raw.len();
            Ok(whole.then_some(raw))
        })?;
        Ok(element::decode(set.kind, raw))
    }

    /// Calls `each` for every object of a whole dump; it is read in full before the first call.
    fn dump(
        &mut self,
        what: &str,
        kind: u16,
        filter: &[(u16, &str)],
        mut each: impl FnMut(&Attributes<'_>),
    ) -> Result<()> {
        let found = self.connection.repeat(what, |connection| objects(connection, what, kind, filter))?;
        found.iter().for_each(|object| each(&Attributes::of(object)));
        Ok(())
    }
}

/// One try of a dump; `None` if it was interrupted.
fn objects(
    connection: &mut Connection,
    what: &str,
    kind: u16,
    filter: &[(u16, &str)],
) -> Result<Option<Vec<Vec<u8>>>> {
    let request = question(connection, kind, filter);
    let mut objects = Vec::new();
    let whole = connection.collect(what, &request, |frame: &Frame<'_>| {
        let body = frame.payload.get(FAMILY_HEADER..);
        let body = body.ok_or_else(|| Error::unreadable(what, "an object without a header"))?;
        objects.push(body.to_vec());
        Ok(())
    })?;
    Ok(whole.then_some(objects))
}

fn raw_elements(message: &Attributes<'_>) -> Vec<RawElement> {
    let one = |(_, entry): (u16, &[u8])| {
        let entry = Attributes::of(entry);
        let value = entry.nested(2).bytes(1);
        Some(RawElement {
            key: Some(entry.nested(1).bytes(1).to_vec()).filter(|key| !key.is_empty())?,
            value: Some(value.to_vec()).filter(|value| !value.is_empty()),
            ends_range: entry.number(3).is_some_and(|flags| flags & INTERVAL_END != 0),
        })
    };
    message.nested(3).iter().filter_map(one).collect()
}

fn question(connection: &mut Connection, kind: u16, filter: &[(u16, &str)]) -> Vec<u8> {
    let attributes: Vec<_> =
        filter.iter().map(|(key, text)| (*key, [text.as_bytes(), &[0]].concat())).collect();
    netfilter_message(kind, NLM_F_REQUEST | NLM_F_DUMP, connection.next_sequence(), INET, &attributes)
}
