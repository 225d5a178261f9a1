//! The pure difference between what should be and what is, and the report of bringing it about.
//!
//! Desired and observed are parsed into one normal form first, so that equality means equality in the
//! kernel. Two values with the same key (a route's table and prefix, a neighbour's device and address)
//! are one object with another content: it is replaced in place where the kernel can, so that there is
//! no moment without it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};

use crate::Error;

/// What has to happen to one kind of object, in sorted order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<T> {
    /// How many objects are as they should be.
    pub unchanged: usize,
    /// Objects that exist with another content, as they should become.
    pub replace: Vec<T>,
    /// Objects that do not exist.
    pub add: Vec<T>,
    /// Objects of ours that should not exist.
    pub delete: Vec<T>,
}

impl<T: Ord + Clone> Plan<T> {
    /// Compares by value; `key` says what makes two values the same object.
    pub fn between<K: Ord>(desired: &BTreeSet<T>, observed: &BTreeSet<T>, key: impl Fn(&T) -> K) -> Self {
        let mut stale: BTreeMap<K, Vec<&T>> = BTreeMap::new();
        for one in observed.difference(desired) {
            stale.entry(key(one)).or_default().push(one);
        }
        let (mut replace, mut add) = (Vec::new(), Vec::new());
        for one in desired.difference(observed) {
            // Only one object can be replaced by one; further ones under the same key are deleted.
            let found = stale.get_mut(&key(one)).and_then(Vec::pop);
            if found.is_some() { replace.push(one.clone()) } else { add.push(one.clone()) }
        }
        let delete = stale.into_values().flatten().cloned().collect();
        Self { unchanged: desired.intersection(observed).count(), replace, add, delete }
    }

    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.replace.is_empty() && self.add.is_empty() && self.delete.is_empty()
    }
}

/// One step that failed; the others were tried nevertheless.
#[derive(Debug)]
pub struct StepError {
    /// What should have been done, e.g. `add route 10.1.0.0/24 dev eth1`.
    pub step: String,
    /// Why it could not.
    pub error: Error,
}

/// What one pass of observe, plan and apply did.
#[derive(Debug, Default)]
pub struct Report {
    /// Objects that were as they should be.
    pub unchanged: usize,
    /// Objects created.
    pub added: usize,
    /// Objects whose content was changed in place.
    pub replaced: usize,
    /// Objects removed.
    pub deleted: usize,
    /// Steps that failed, in the order in which they were tried.
    pub errors: Vec<StepError>,
}

impl Report {
    /// The pass changed nothing and met no error: the kernel is as desired.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.added + self.replaced + self.deleted == 0 && self.errors.is_empty()
    }

    /// Adds another report's counts and errors to this one.
    pub fn absorb(&mut self, other: Self) {
        self.unchanged += other.unchanged;
        self.added += other.added;
        self.replaced += other.replaced;
        self.deleted += other.deleted;
        self.errors.extend(other.errors);
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unchanged, added, replaced, deleted, errors } = self;
        write!(f, "{added} added, {replaced} replaced, {deleted} deleted, {unchanged} unchanged")?;
        if !errors.is_empty() {
            write!(f, ", {} failed", errors.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(desired: &[(u8, u8)], observed: &[(u8, u8)]) -> Plan<(u8, u8)> {
        let set = |of: &[(u8, u8)]| of.iter().copied().collect::<BTreeSet<_>>();
        Plan::between(&set(desired), &set(observed), |one| one.0)
    }

    #[test]
    fn equal_sets_need_nothing() {
        let same = plan(&[(1, 1), (2, 2)], &[(2, 2), (1, 1)]);
        assert!(same.is_empty());
        assert_eq!(same.unchanged, 2);
    }

    #[test]
    fn another_content_under_the_same_key_is_a_replacement() {
        let plan = plan(&[(1, 1)], &[(1, 2)]);
        assert_eq!(plan.replace, [(1, 1)]);
        assert!(plan.add.is_empty() && plan.delete.is_empty());
    }

    #[test]
    fn what_is_left_over_under_a_replaced_key_is_deleted() {
        let plan = plan(&[(1, 1), (3, 3)], &[(1, 2), (1, 4), (2, 2)]);
        assert_eq!(plan.replace, [(1, 1)]);
        assert_eq!(plan.add, [(3, 3)]);
        assert_eq!(plan.delete, [(1, 2), (2, 2)]);
    }
}
