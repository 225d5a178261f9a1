//! Who may lead: the decision, without the API server and with time as an argument.
//!
//! The renew time written in a Lease is another machine's wall clock and is never compared with ours. What counts is
//! how long *we* have seen the record unchanged, as in client-go.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// The times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How long a record must stay unchanged before others may acquire; whole seconds.
    pub duration: Duration,
    /// How long after its last renewal a leader still leads. Must be less than `duration`.
    pub deadline: Duration,
    /// The pause between two rounds.
    pub retry: Duration,
}

impl Default for Terms {
    /// As kube-controller-manager: 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What to do about the record just read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nobody holds it, or its holder is silent: write ourselves in.
    Acquire,
    /// It is ours: write a new renew time.
    Renew,
    /// It is somebody else's: look again after this pause.
    Wait(Duration),
}

/// One candidate's view of a lease.
#[derive(Debug)]
pub struct Election {
    identity: String,
    terms: Terms,
    seen: Option<Seen>,
}

/// A record, and since when we have seen exactly this one.
#[derive(Debug)]
struct Seen {
    record: LeaseSpec,
    since: Instant,
}

impl Election {
    /// A candidate that has seen nothing yet.
    pub fn new(identity: impl Into<String>, terms: Terms) -> Self {
        Self { identity: identity.into(), terms, seen: None }
    }

    /// The name this candidate writes into the lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The times it keeps.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Whether `record` says that this candidate holds the lease.
    pub fn holds(&self, record: &LeaseSpec) -> bool {
        record.holder_identity.as_ref() == Some(&self.identity)
    }

    /// What to do about `record`, read at `now`.
    pub fn decide(&mut self, record: &LeaseSpec, now: Instant) -> Step {
        if record.holder_identity.as_deref().unwrap_or_default().is_empty() {
            return Step::Acquire;
        }
        if self.holds(record) {
            return Step::Renew;
        }
        let since = match &self.seen {
            Some(seen) if seen.record == *record => seen.since,
            Some(_) | None => {
                self.seen = Some(Seen { record: record.clone(), since: now });
                now
            }
        };
        let left = self.patience(record).saturating_sub(now.saturating_duration_since(since));
        if left.is_zero() { Step::Acquire } else { Step::Wait(left.min(self.terms.retry)) }
    }

    /// The record that makes this candidate the holder after `previous`.
    pub fn acquired(&self, previous: &LeaseSpec, clock: MicroTime) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.terms.duration.as_secs()).ok(),
            lease_transitions: Some(previous.lease_transitions.map_or(0, |n| n.saturating_add(1))),
            acquire_time: Some(clock.clone()),
            renew_time: Some(clock),
            ..previous.clone()
        }
    }

    /// The holder's own word counts, should replicas of two versions disagree about the duration.
    fn patience(&self, record: &LeaseSpec) -> Duration {
        record
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.terms.duration, Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_that_nobody_holds_is_acquired() {
        let mut election = candidate("b");
        assert_eq!(election.decide(&LeaseSpec::default(), Instant::now()), Step::Acquire);
        let released = LeaseSpec { holder_identity: None, ..record("a", 1) };
        assert_eq!(election.decide(&released, Instant::now()), Step::Acquire);
    }

    #[test]
    fn our_own_lease_is_renewed_also_after_a_restart() {
        assert_eq!(candidate("a").decide(&record("a", 1), Instant::now()), Step::Renew);
    }

    #[test]
    fn a_silent_holder_is_replaced_after_its_own_duration_and_not_before() {
        let (mut election, start) = (candidate("b"), Instant::now());
        assert_eq!(election.decide(&record("a", 1), start), Step::Wait(2 * SECOND));
        assert_eq!(election.decide(&record("a", 1), start + 14 * SECOND), Step::Wait(SECOND));
        assert_eq!(election.decide(&record("a", 1), start + 15 * SECOND), Step::Acquire);
    }

    #[test]
    fn every_renewal_starts_the_wait_anew() {
        let (mut election, start) = (candidate("b"), Instant::now());
        for n in 0..20 {
            let now = start + 14 * SECOND * u32::try_from(n).unwrap();
            assert_eq!(election.decide(&record("a", n), now), Step::Wait(2 * SECOND));
        }
    }

    #[test]
    fn a_wall_clock_that_is_years_behind_does_not_cost_the_lease() {
        let (mut election, start) = (candidate("b"), Instant::now());
        let ancient = record("a", -1_000_000_000);
        assert_eq!(election.decide(&ancient, start), Step::Wait(2 * SECOND));
    }

    #[test]
    fn two_candidates_never_lead_at_once_whatever_happens_to_the_leader() {
        // The leader renews every 2 s and dies after `alive` renewals; the other looks every 2 s, with any phase.
        let terms = Terms::default();
        for alive in 0..8 {
            for phase in 0..20 {
                let (mut other, start) = (candidate("b"), Instant::now());
                let last_renewal = start + terms.retry * alive;
                let mut now = start + Duration::from_millis(100 * phase);
                let acquired = loop {
                    let renewals = (now - start).as_secs() / terms.retry.as_secs();
                    let seen = i64::try_from(renewals).unwrap().min(i64::from(alive));
                    match other.decide(&record("a", seen), now) {
                        Step::Acquire => break now,
                        Step::Wait(pause) => now += pause,
                        Step::Renew => panic!("not ours"),
                    }
                };
                assert!(acquired >= last_renewal + terms.duration, "alive {alive}, phase {phase}");
            }
        }
        assert!(terms.deadline < terms.duration);
    }

    #[test]
    fn acquiring_counts_the_transition() {
        let next = candidate("b").acquired(&record("a", 1), clock(2));
        assert_eq!(next.holder_identity.as_deref(), Some("b"));
        assert_eq!(next.lease_transitions, Some(5));
        assert_eq!(next.renew_time, Some(clock(2)));
    }

    fn candidate(identity: &str) -> Election {
        Election::new(identity, Terms::default())
    }

    fn record(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(4),
            renew_time: Some(clock(renewed)),
            ..LeaseSpec::default()
        }
    }

    fn clock(second: i64) -> MicroTime {
        MicroTime(Timestamp::from_second(second).unwrap())
    }
}
