//! When which address is announced: at once, twice more soon after (a broadcast can be lost), then every minute (a
//! neighbour may have learnt something else). Pure: time is an argument, the next wake-up an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// The pauses after the first announcements.
const SOON: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// The pause after the later ones.
const REFRESH: Duration = Duration::from_secs(60);

/// The announcements to come.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    addresses: BTreeMap<Ipv4Addr, Turn>,
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    made: usize,
    next: Instant,
}

impl Schedule {
    /// The addresses to announce now, of those that are `present`. Those that are `fresh` begin anew; those that are
    /// not present any more are forgotten.
    pub fn due(
        &mut self,
        present: &BTreeSet<Ipv4Addr>,
        fresh: &BTreeSet<Ipv4Addr>,
        now: Instant,
    ) -> Vec<Ipv4Addr> {
        self.addresses.retain(|address, _| present.contains(address) && !fresh.contains(address));
        for address in present {
            self.addresses.entry(*address).or_insert(Turn { made: 0, next: now });
        }
        let mut due = Vec::new();
        for (address, turn) in self.addresses.iter_mut().filter(|(_, turn)| turn.next <= now) {
            turn.next = now + SOON.get(turn.made).copied().unwrap_or(REFRESH);
            turn.made = turn.made.saturating_add(1);
            due.push(*address);
        }
        due
    }

    /// When the next announcement is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.addresses.values().map(|turn| turn.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_announced_at_once_then_soon_then_every_minute() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let present = BTreeSet::from([vip(1)]);
        let (mut now, mut times) = (start, Vec::new());
        for _ in 0..5 {
            assert_eq!(schedule.due(&present, &BTreeSet::new(), now), [vip(1)]);
            times.push((now - start).as_secs());
            now = schedule.next_deadline().unwrap();
        }
        assert_eq!(times, [0, 1, 3, 63, 123]);
    }

    #[test]
    fn a_pass_in_between_announces_nothing() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let present = BTreeSet::from([vip(1)]);
        schedule.due(&present, &BTreeSet::new(), start);
        assert!(schedule.due(&present, &BTreeSet::new(), start + Duration::from_millis(999)).is_empty());
    }

    #[test]
    fn an_address_that_had_been_deleted_is_announced_anew_and_one_that_is_gone_no_more() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let both = BTreeSet::from([vip(1), vip(2)]);
        schedule.due(&both, &BTreeSet::new(), start);
        let repaired = BTreeSet::from([vip(1)]);
        assert_eq!(schedule.due(&both, &repaired, start), [vip(1)]);
        schedule.due(&BTreeSet::new(), &BTreeSet::new(), start);
        assert_eq!(schedule.next_deadline(), None);
    }

    fn vip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 16, 251, last)
    }
}
