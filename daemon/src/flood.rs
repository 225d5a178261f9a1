//! A guard against a log that says the same thing all night.
//!
//! The first occurrence of a message is written, then one line every so often with the number of repetitions; another
//! message is written at once. Pure: time is an argument.

use std::time::{Duration, Instant};

/// Remembers the last message and when it was written.
#[derive(Debug)]
pub struct Flood {
    every: Duration,
    last: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    message: String,
    written: Instant,
    held_back: u64,
}

impl Flood {
    /// A guard that lets the same message through once per `every`.
    pub fn new(every: Duration) -> Self {
        Self { every, last: None }
    }

    /// Whether `message` is to be written now: `Some(n)` if so, where `n` counts the repetitions held back since it
    /// was last written.
    pub fn admit(&mut self, message: &str, now: Instant) -> Option<u64> {
        match &mut self.last {
            Some(seen) if seen.message == message => {
                if now.saturating_duration_since(seen.written) < self.every {
                    seen.held_back += 1;
                    return None;
                }
                seen.written = now;
                Some(std::mem::take(&mut seen.held_back))
            }
            Some(_) | None => {
                self.last = Some(Seen { message: message.to_owned(), written: now, held_back: 0 });
                Some(0)
            }
        }
    }

    /// Forgets the last message: the trouble is over, the next one is news. True when there had been one.
    pub fn clear(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_same_error_is_written_once_and_then_every_five_minutes_with_a_count() {
        let start = Instant::now();
        let mut flood = Flood::new(5 * MINUTE);
        assert_eq!(flood.admit("no route to host", start), Some(0));
        assert_eq!(flood.admit("no route to host", start + MINUTE), None);
        assert_eq!(flood.admit("no route to host", start + 4 * MINUTE), None);
        assert_eq!(flood.admit("no route to host", start + 5 * MINUTE), Some(2));
        assert_eq!(flood.admit("no route to host", start + 6 * MINUTE), None);
    }

    #[test]
    fn another_error_is_written_at_once() {
        let now = Instant::now();
        let mut flood = Flood::new(MINUTE);
        flood.admit("timed out", now);
        assert_eq!(flood.admit("refused", now), Some(0));
    }

    #[test]
    fn an_error_that_comes_back_after_success_is_news() {
        let now = Instant::now();
        let mut flood = Flood::new(MINUTE);
        flood.admit("timed out", now);
        assert!(flood.clear());
        assert_eq!(flood.admit("timed out", now), Some(0));
    }
}
