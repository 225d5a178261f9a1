//! How long to wait after a failure: exponential, bounded, jittered.
//!
//! [`Backoff::next`] is pure; [`random`] is the one place where randomness comes from.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The bounds of the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait after the first failure.
    pub first: Duration,
    /// The longest wait after any failure.
    pub most: Duration,
}

impl Default for Backoff {
    /// From half a second up to half a minute.
    fn default() -> Self {
        Self { first: Duration::from_millis(500), most: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait after the `attempt`-th failure in a row (the first is 1; 0 does not wait). It lies between half the
    /// exponential value and all of it, where `random` says: 0 is the half, `u64::MAX` all.
    pub fn next(&self, attempt: u32, random: u64) -> Duration {
        if attempt == 0 {
            return Duration::ZERO;
        }
        let doubled = 2u32.checked_pow(attempt - 1).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(doubled).min(self.most);
        // 16 bits of randomness are plenty to keep a hundred nodes apart, and exact in integer arithmetic.
        let share = u32::try_from(random >> 48).unwrap_or(0);
        let half = whole / 2;
        half + half.saturating_mul(share) / 0xffff
    }
}

/// A random number, from the seed that the standard library gives its hash maps. Not for secrets.
pub fn random() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

    #[test]
    fn each_wait_doubles_until_the_bound() {
        let waits: Vec<u64> = (0..9).map(|n| BACKOFF.next(n, u64::MAX).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn jitter_never_leaves_the_upper_half() {
        for attempt in 1..100 {
            for random in [0, 1 << 50, 1 << 63, u64::MAX] {
                let whole = BACKOFF.next(attempt, u64::MAX);
                let wait = BACKOFF.next(attempt, random);
                assert!(wait >= whole / 2 && wait <= whole, "{attempt} {random}: {wait:?} of {whole:?}");
            }
        }
    }

    #[test]
    fn a_failure_count_beyond_any_reason_still_waits_the_longest() {
        assert_eq!(BACKOFF.next(u32::MAX, u64::MAX), BACKOFF.most);
    }

    #[test]
    fn two_random_numbers_differ() {
        assert_ne!(random(), random());
    }
}
