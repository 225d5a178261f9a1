//! What the history and the pods' Events are told of a call: after its answer, and once nobody else waits for one.
//!
//! Who is told has threads of its own, and on a node with few processors waking them first would keep the runtime waiting. Where
//! the agent dies before they were told, its successor tells the history what it finds ([`crate::history::History::settle`]).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::events::{Events, Subject};
use crate::history::History;
use crate::records::Record;

/// Nobody has called for this long: now is the time.
pub const QUIET: Duration = Duration::from_millis(2);
/// After this long they are told, whoever waits.
const LONGEST: Duration = Duration::from_millis(100);

/// One thing to tell.
#[derive(Debug)]
pub enum Word {
    /// These addresses were given.
    Assigned(Record, Timestamp),
    /// These came back, for this reason.
    Released(Record, String, Timestamp),
    /// A pod has these addresses, each from its pool.
    Given(Subject, Vec<(IpAddr, Option<String>)>),
    /// A pod has none.
    Refused(Subject, String),
}

/// What is still to be told, in order, and since when.
#[derive(Debug, Default)]
pub struct Words {
    words: Vec<Word>,
    since: Option<Instant>,
}

impl Words {
    /// To be told.
    pub fn push(&mut self, word: Word) {
        self.words.push(word);
        self.since.get_or_insert_with(Instant::now);
    }

    /// Whether there is anything to tell.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether they have waited long enough.
    pub fn are_due(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= LONGEST)
    }

    /// Tells everything.
    pub fn say(&mut self, history: &History, events: &Events) {
        for word in std::mem::take(self).words {
            match word {
                Word::Assigned(record, at) => history.assigned(&record, "ADD", at),
                Word::Released(record, reason, at) => history.released(&record, &reason, at),
                Word::Given(pod, given) => events.assigned(pod, &given),
                Word::Refused(pod, why) => events.no_address(pod, &why),
            }
        }
    }
}
