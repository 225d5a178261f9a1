//! From entries to holdings: who held what from when to when. Pure.
//!
//! The order of entries is that of their numbers. Times are what the node's clock said; where it went back, a time came
//! twice, and a holding across that moment covers both.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use portolan_wire::inspect::{ClockStep, HistoryAnswer, Holding};

use super::entry::{Entry, Verb};
use super::segments::Read;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Who held this address: at a time, or ever.
    Address {
        /// The address.
        address: IpAddr,
        /// The time.
        at: Option<Timestamp>,
    },
    /// Which addresses pods of this name held.
    Pod {
        /// The namespace.
        namespace: String,
        /// The name.
        pod: String,
    },
}

impl Wanted {
    /// Whether an entry can be part of the answer.
    pub(super) fn concerns(&self, entry: &Entry) -> bool {
        match self {
            Self::Address { address, .. } => entry.address == *address,
            Self::Pod { namespace, pod } => entry.namespace == *namespace && entry.pod == *pod,
        }
    }

    fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Address { at, .. } => *at,
            Self::Pod { .. } => None,
        }
    }
}

/// A holding with its place in the order of entries.
struct Placed {
    holding: Holding,
    first: u64,
    last: u64,
}

/// The answer, but for the node's name.
pub(super) fn answer(read: &Read, wanted: &Wanted) -> HistoryAnswer {
    let mut placed = holdings(&read.entries);
    let at = wanted.at();
    if let Some(at) = at {
        placed.retain(|one| covers(one, at, &read.steps));
    }
    let concerns = |(number, step): &&(u64, ClockStep)| match at {
        Some(at) => step.to <= at && at <= step.from,
        None => placed.iter().any(|one| one.first < *number && *number <= one.last),
    };
    HistoryAnswer {
        node: String::new(),
        reaches_back_to: read.oldest,
        clock_went_back: read.steps.iter().filter(concerns).map(|(_, step)| *step).collect(),
        lost: read.lost,
        unreadable: read.unreadable,
        holdings: placed.into_iter().map(|one| one.holding).collect(),
    }
}

fn holdings(entries: &[Entry]) -> Vec<Placed> {
    let mut all: Vec<Placed> = Vec::new();
    // Where the holding of each address is that has not ended.
    let mut open: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for entry in entries {
        let before = open.get(&entry.address).and_then(|index| all.get_mut(*index));
        let same = before.as_ref().is_some_and(|one| one.holding.container == entry.container);
        match (entry.verb, before) {
            (Verb::Assigned, Some(_)) if same => {}
            (Verb::Assigned, before) => {
                if let Some(unfinished) = before {
                    end(unfinished, entry, "its release was not recorded");
                }
                open.insert(entry.address, all.len());
                all.push(placed(entry, Some(entry.time)));
            }
            (Verb::Released, Some(held)) if same => {
                end(held, entry, &entry.reason);
                open.remove(&entry.address);
            }
            (Verb::Released, _) => {
                let mut unbegun = Placed { first: 0, ..placed(entry, None) };
                end(&mut unbegun, entry, &entry.reason);
                all.push(unbegun);
            }
        }
    }
    all
}

fn placed(entry: &Entry, from: Option<Timestamp>) -> Placed {
    let holding = Holding {
        address: entry.address,
        pool: entry.pool.clone(),
        namespace: entry.namespace.clone(),
        pod: entry.pod.clone(),
        uid: entry.uid.clone(),
        container: entry.container.clone(),
        node: entry.node.clone(),
        from,
        until: None,
        ended_by: None,
    };
    Placed { holding, first: entry.number, last: u64::MAX }
}

fn end(one: &mut Placed, entry: &Entry, why: &str) {
    one.last = entry.number;
    one.holding.until = Some(entry.time);
    one.holding.ended_by = Some(why.to_owned());
}

/// Whether the clock said `at` while this was held. Between two steps of the clock time only goes forward, so a holding is
/// as many spans as there are steps inside it, and one more.
fn covers(one: &Placed, at: Timestamp, steps: &[(u64, ClockStep)]) -> bool {
    let inside = steps.iter().filter(|(number, _)| one.first < *number && *number <= one.last);
    let mut from = one.holding.from.unwrap_or(Timestamp::MIN);
    for (_, step) in inside {
        if from <= at && at <= step.from {
            return true;
        }
        from = step.to;
    }
    from <= at && one.holding.until.is_none_or(|until| at < until)
}
