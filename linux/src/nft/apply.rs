//! Changes into one transaction.

use std::{collections::BTreeSet, ffi::CStr};

use nftnl::{
    Batch, Chain as NlChain, ChainType, Hook as NlHook, MsgType, Policy, ProtoFamily, Rule as NlRule,
    Table as NlTable,
};

use super::{
    Chain, ChainKind, Change, Contents, Element, Hook, Nft, NftReport, Set, SetKind, Table,
    compile::{Program, name},
    element::{RawElement, encode, normal},
    plan::{self, Steps},
    sys::{ElementsMessage, Layout, SetMessage},
};
use crate::{Error, Result, own};

/// Elements in one message; more do not fit into an attribute of 64 KiB.
const PORTION: usize = 2000;
/// Bytes of elements in one message.
const PORTION_BYTES: usize = 60_000;
const TABLE: &CStr = c"portolan";

impl Nft {
    /// Makes the table as desired, and the elements of every set that `contents` names, in one
    /// transaction. A table that is as it should be is only read. Elements of sets that stay are kept.
    pub fn converge(&mut self, table: &Table, contents: &Contents) -> Result<NftReport> {
        let view = self.view()?;
        let steps = plan::layout(table, view.as_ref())?;
        let mut transaction = Transaction::new();
        let mut report = steps.report();
        transaction.layout(&steps)?;
        let new: BTreeSet<_> = steps.add_sets.iter().map(|(set, _)| &set.name).collect();
        for set in &table.sets {
            let Some(desired) = contents.get(&set.name) else { continue };
            let fresh = new.contains(&set.name);
            let observed = if fresh { BTreeSet::new() } else { normal(set.kind, &self.elements(set)?) };
            let (delete, add) = plan::elements(&normal(set.kind, desired), &observed);
            transaction.elements(set, &delete, &add)?;
            report.elements_deleted += delete.len();
            report.elements_added += add.len();
        }
        if !report.is_quiet() {
            self.commit(transaction)?;
        }
        Ok(report)
    }

    /// Changes elements without reading the table, in one transaction: all or nothing. Adding what is
    /// there already is no error, deleting what is not there is. Sets of networks are changed by
    /// [`Nft::converge`] only, because their ranges are merged.
    pub fn apply_elements(&mut self, changes: &[Change]) -> Result<()> {
        let mut transaction = Transaction::new();
        for Change { set, delete, add } in changes {
            if matches!(set.kind, SetKind::Networks(_)) {
                let reason = "ranges are changed by a whole pass only".to_owned();
                return Err(Error::Unsuitable { what: format!("set {}", set.name), reason });
            }
            transaction.elements(set, delete, add)?;
        }
        if transaction.words.is_empty() { Ok(()) } else { self.commit(transaction) }
    }

    /// Deletes the table with everything in it. Returns whether it existed.
    pub fn remove(&mut self) -> Result<bool> {
        if self.view()?.is_none() {
            return Ok(false);
        }
        let mut transaction = Transaction::new();
        transaction.push("delete table inet portolan".into(), &inet_table(), MsgType::Del);
        self.commit(transaction)?;
        Ok(true)
    }

    /// One datagram; the kernel takes all of it or nothing.
    fn commit(&mut self, transaction: Transaction) -> Result<()> {
        let Transaction { batch, words } = transaction;
        let batch = batch.finalize();
        let pages: Vec<&[u8]> = batch.iter().collect();
        self.connection.send(&pages)?;
        let (answers, refusals) = self.connection.answers_so_far()?;
        if let Some((sequence, refusal)) = refusals.into_iter().next() {
            let numbers = batch.sequence_numbers();
            // Newer kernels acknowledge the messages that begin and end a transaction as well.
            let first = numbers.start + u32::from(numbers.len() > words.len());
            let what = sequence.checked_sub(first).and_then(|position| words.get(position as usize));
            return Err(refusal.about(what.map_or("nftables transaction", String::as_str)));
        }
        if answers == 0 {
            return Err(Error::unreadable("nftables transaction", "the kernel did not answer"));
        }
        Ok(())
    }
}

/// A transaction in the making, and its messages in words.
struct Transaction {
    batch: Batch,
    words: Vec<String>,
}

impl Transaction {
    fn new() -> Self {
        Self { batch: Batch::new(), words: Vec::new() }
    }

    fn push(&mut self, words: String, message: &impl nftnl::NlMsg, kind: MsgType) {
        self.batch.add(message, kind);
        self.words.push(words);
    }

    fn layout(&mut self, steps: &Steps<'_>) -> Result<()> {
        let table = inet_table();
        if steps.create_table {
            self.push("create table inet portolan".into(), &table, MsgType::Add);
        }
        for flushed in &steps.flush_chains {
            let chain = NlChain::new(name(flushed)?, &table);
            self.push(format!("flush chain {flushed}"), &NlRule::new(&chain), MsgType::Del);
        }
        for deleted in &steps.delete_chains {
            let chain = NlChain::new(name(deleted)?, &table);
            self.push(format!("delete chain {deleted}"), &chain, MsgType::Del);
        }
        self.sets(steps)?;
        for chain in &steps.add_chains {
            self.push(format!("create chain {}", chain.name), &base_chain(chain, &table)?, MsgType::Add);
        }
        for (chain, programs) in &steps.fill_chains {
            let nl_chain = NlChain::new(name(&chain.name)?, &table);
            for program in programs {
                let words = format!("add rule to {}: {}", chain.name, program.comment.to_string_lossy());
                self.push(words, &rule(&nl_chain, program)?, MsgType::Add);
            }
        }
        Ok(())
    }

    fn sets(&mut self, steps: &Steps<'_>) -> Result<()> {
        let nothing = Layout::default();
        for deleted in &steps.delete_sets {
            let message = SetMessage { table: TABLE, name: &name(deleted)?, layout: &nothing, id: 0 };
            self.push(format!("delete set {deleted}"), &message, MsgType::Del);
        }
        for (id, (set, layout)) in (1..).zip(&steps.add_sets) {
            let message = SetMessage { table: TABLE, name: &name(&set.name)?, layout, id };
            self.push(format!("create set {}", set.name), &message, MsgType::Add);
        }
        Ok(())
    }

    fn elements(&mut self, set: &Set, delete: &[Element], add: &[Element]) -> Result<()> {
        let nl_name = name(&set.name)?;
        for (kind, verb, elements) in [(MsgType::Del, "delete", delete), (MsgType::Add, "add", add)] {
            let raw = elements.iter().map(|one| encode(set, one)).collect::<Result<Vec<_>>>()?.concat();
            for elements in portions(&raw) {
                let words = format!("{verb} {} elements in {}", elements.len(), set.name);
                self.push(words, &ElementsMessage { table: TABLE, set: &nl_name, elements }, kind);
            }
        }
        Ok(())
    }
}

fn portions(raw: &[RawElement]) -> impl Iterator<Item = &[RawElement]> {
    // Each attribute has a header of four bytes; key and value are nested twice, flags are eight bytes.
    let size = raw.first().map_or(1, |one| 28 + one.key.len() + one.value.as_ref().map_or(0, Vec::len));
    raw.chunks(PORTION.min(PORTION_BYTES / size))
}

fn inet_table() -> NlTable {
    debug_assert_eq!(TABLE.to_bytes(), own::TABLE.as_bytes());
    NlTable::new(TABLE, ProtoFamily::Inet)
}

fn base_chain<'a>(chain: &Chain, table: &'a NlTable) -> Result<NlChain<'a>> {
    let mut made = NlChain::new(name(&chain.name)?, table);
    let hook = match chain.hook {
        Hook::Prerouting => NlHook::PreRouting,
        Hook::Input => NlHook::In,
        Hook::Forward => NlHook::Forward,
        Hook::Output => NlHook::Out,
        Hook::Postrouting => NlHook::PostRouting,
    };
    made.set_hook(hook, chain.priority);
    made.set_type(match chain.kind {
        ChainKind::Filter => ChainType::Filter,
        ChainKind::Nat => ChainType::Nat,
    });
    made.set_policy(Policy::Accept);
    Ok(made)
}

fn rule<'a>(chain: &'a NlChain<'_>, program: &Program) -> Result<NlRule<'a>> {
    let mut made = NlRule::new(chain);
    program.expressions.iter().for_each(|expression| made.add_expr(expression));
    made.set_comment(&program.comment).map_err(|reason| Error::Unsuitable {
        what: format!("comment {:?}", program.comment),
        reason: reason.to_owned(),
    })?;
    Ok(made)
}
