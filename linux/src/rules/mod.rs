//! Policy rules of ours (`FRA_PROTOCOL` 107): which table a marked packet is looked up in.

mod apply;
mod observe;

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
};

use crate::{Kernel, Plan, Report, Result};

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Packets whose mark has `mark` in the bits of `mask` are looked up in `table`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The family it holds for.
    pub family: Family,
    /// Rules are asked in ascending order; `main` is 32766.
    pub priority: u32,
    /// The bits' value.
    pub mark: u32,
    /// The bits compared.
    pub mask: u32,
    /// The table's number.
    pub table: u32,
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, priority, mark, mask, table } = self;
        write!(f, "{priority}: fwmark {mark:#x}/{mask:#x} lookup {table} ({family:?})")
    }
}

impl Kernel {
    /// Makes the set of our policy rules exactly `desired`. A changed rule is added before the old one
    /// is deleted.
    pub fn converge_rules(&mut self, desired: &BTreeSet<Rule>) -> Result<Report> {
        let observed = self.rules()?;
        // The kernel cannot replace a rule in place: every rule is its own key.
        let plan = Plan::between(desired, &observed, Clone::clone);
        self.apply_rules(&plan)
    }
}
