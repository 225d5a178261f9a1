//! The one loop of all reconcilers.
//!
//! A pass is made at the start, when somebody wakes the loop, when the last pass asked for another, after a failure
//! (with backoff) and at the latest after the resync interval. It knows why it was woken and publishes what it did
//! last. An error is a status and a line in the log (guarded against floods), never the end of the loop.
//!
//! Guarantees: passes never overlap; a wake-up during a pass causes another pass; the drain lets the pass in hand
//! finish.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff::{self, Backoff};
use crate::drain::Drain;
use crate::flood::Flood;

/// How often the same error of one loop is written.
const SAME_ERROR: Duration = Duration::from_secs(300);

/// Why a pass is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The loop starts.
    Start,
    /// Somebody called [`Wake::up`].
    Change,
    /// The last pass asked for it, with [`Next::After`].
    Asked,
    /// The last pass failed.
    Retry,
    /// Nothing happened for the resync interval.
    Resync,
}

/// When a pass that succeeded wants the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When something changes, or the resync interval is over.
    Change,
    /// After this time at the latest.
    After(Duration),
}

/// What a loop did last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Last {
    /// How many passes have ended since the start.
    pub passes: u64,
    /// Why the last one was made; `None` before the first has ended.
    pub cause: Option<Cause>,
    /// Why it failed; `None` when it succeeded.
    pub error: Option<String>,
    /// How many have failed in a row.
    pub failures: u32,
    /// How long it took.
    pub took: Duration,
}

/// Wakes a loop. Clones wake the same loop; wake-ups before the loop gets to them are one wake-up.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<watch::Sender<()>>);

impl Wake {
    /// A wake-up call for one loop.
    pub fn new() -> Self {
        Self::default()
    }

    /// Something changed.
    pub fn up(&self) {
        self.0.send_replace(());
    }

    /// Wakes the loop whenever `source` changes, until its sender is gone.
    pub fn follow<T: Send + Sync + 'static>(&self, mut source: watch::Receiver<T>) {
        let wake = self.clone();
        tokio::spawn(async move {
            while source.changed().await.is_ok() {
                wake.up();
            }
        });
    }
}

/// A reconcile loop before it runs.
#[derive(Debug)]
pub struct Loop {
    name: &'static str,
    resync: Duration,
    backoff: Backoff,
    wake: Wake,
    last: watch::Sender<Last>,
}

impl Loop {
    /// A loop that makes a pass when `wake` says so and every `resync`. `name` stands in its log lines.
    pub fn new(name: &'static str, resync: Duration, wake: Wake) -> Self {
        Self { name, resync, backoff: Backoff::default(), wake, last: watch::Sender::default() }
    }

    /// The same loop with other waits after failures.
    #[must_use]
    pub fn with_backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// What it did last, as it does it.
    pub fn last(&self) -> watch::Receiver<Last> {
        self.last.subscribe()
    }

    /// Makes passes until the drain begins. `pass` owns what it keeps between passes (`async move`); it is dropped
    /// with the loop.
    pub async fn run<P, E>(self, drain: Drain, mut pass: P)
    where
        P: AsyncFnMut(Cause) -> Result<Next, E>,
        E: Display,
    {
        let mut flood = Flood::new(SAME_ERROR);
        let mut changes = self.wake.0.subscribe();
        let mut cause = Cause::Start;
        while !drain.has_begun() {
            // Whatever changed until here is seen by this pass.
            changes.mark_unchanged();
            let started = Instant::now();
            // `{:#}` lets anyhow print the whole chain and changes nothing for other errors.
            let outcome = pass(cause).await.map_err(|error| format!("{error:#}"));
            let failures = self.publish(cause, started.elapsed(), outcome.as_ref().err());
            self.write(&mut flood, cause, outcome.as_ref().err());
            let Some(next) = drain.or(self.wait(&mut changes, &outcome, failures)).await else { return };
            cause = next;
        }
    }

    /// Waits for the next reason to make a pass.
    async fn wait(
        &self,
        changes: &mut watch::Receiver<()>,
        outcome: &Result<Next, String>,
        failures: u32,
    ) -> Cause {
        let (pause, then) = match outcome {
            Ok(Next::Change) => (self.resync, Cause::Resync),
            Ok(Next::After(asked)) if *asked < self.resync => (*asked, Cause::Asked),
            Ok(Next::After(_)) => (self.resync, Cause::Resync),
            Err(_) => (self.backoff.next(failures, backoff::random()), Cause::Retry),
        };
        tokio::select! {
            // The sender cannot go away: this loop holds one.
            _ = changes.changed() => Cause::Change,
            () = tokio::time::sleep(pause) => then,
        }
    }

    fn publish(&self, cause: Cause, took: Duration, error: Option<&String>) -> u32 {
        let mut failures = 0;
        self.last.send_modify(|last| {
            failures = if error.is_some() { last.failures.saturating_add(1) } else { 0 };
            *last =
                Last { passes: last.passes + 1, cause: Some(cause), error: error.cloned(), failures, took };
        });
        failures
    }

    fn write(&self, flood: &mut Flood, cause: Cause, error: Option<&String>) {
        let reconciler = self.name;
        match error {
            Some(error) => {
                if let Some(repeated) = flood.admit(error, Instant::now().into_std()) {
                    tracing::warn!(reconciler, ?cause, repeated, "{error}");
                }
            }
            None if flood.clear() => tracing::info!(reconciler, ?cause, "succeeds again"),
            None => tracing::trace!(reconciler, ?cause, "pass made"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::channel;
    use tokio::sync::mpsc;

    const RESYNC: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_loop_starts_resyncs_and_hears_a_change() {
        let (_trigger, drain) = channel();
        let wake = Wake::new();
        let (seen, mut causes) = mpsc::channel(10);
        tokio::spawn(Loop::new("test", RESYNC, wake.clone()).run(drain, async move |cause| {
            let _ = seen.send(cause).await;
            Ok::<_, String>(Next::Change)
        }));
        assert_eq!(causes.recv().await, Some(Cause::Start));
        let before = Instant::now();
        assert_eq!(causes.recv().await, Some(Cause::Resync));
        assert!(before.elapsed() >= RESYNC);
        wake.up();
        wake.up();
        assert_eq!(causes.recv().await, Some(Cause::Change));
        assert_eq!(causes.recv().await, Some(Cause::Resync));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_gets_the_retry_it_asks_for() {
        let (_trigger, drain) = channel();
        let (seen, mut causes) = mpsc::channel(10);
        tokio::spawn(Loop::new("test", RESYNC, Wake::new()).run(drain, async move |cause| {
            let _ = seen.send((cause, Instant::now())).await;
            Ok::<_, String>(Next::After(Duration::from_secs(3)))
        }));
        let (_, first) = causes.recv().await.unwrap();
        let (cause, second) = causes.recv().await.unwrap();
        assert_eq!((cause, (second - first).as_secs()), (Cause::Asked, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_a_status_and_the_next_success_clears_it() {
        let (_trigger, drain) = channel();
        let subject = Loop::new("test", RESYNC, Wake::new());
        let mut last = subject.last();
        // A pass may keep state between passes and borrow it across an await.
        let mut passes = 0;
        tokio::spawn(subject.run(drain, async move |_| {
            passes += 1;
            tokio::task::yield_now().await;
            if passes < 3 { Err(format!("pass {passes} failed")) } else { Ok(Next::Change) }
        }));
        let failed = last.wait_for(|last| last.passes == 2).await.unwrap().clone();
        assert_eq!((failed.error.as_deref(), failed.failures), (Some("pass 2 failed"), 2));
        let well = last.wait_for(|last| last.passes == 3).await.unwrap().clone();
        assert_eq!((well.error, well.failures, well.cause), (None, 0, Some(Cause::Retry)));
    }

    #[tokio::test]
    async fn a_change_of_a_followed_watch_wakes_the_loop() {
        let (_trigger, drain) = channel();
        let wake = Wake::new();
        let (source, receiver) = watch::channel(0);
        wake.follow(receiver);
        let subject = Loop::new("test", RESYNC, wake);
        let mut last = subject.last();
        tokio::spawn(subject.run(drain, async |_| Ok::<_, String>(Next::Change)));
        last.wait_for(|last| last.passes == 1).await.unwrap();
        source.send_replace(1);
        let woken = last.wait_for(|last| last.passes == 2).await.unwrap();
        assert_eq!(woken.cause, Some(Cause::Change));
    }

    #[tokio::test]
    async fn the_drain_ends_the_loop_between_passes() {
        let (trigger, drain) = channel();
        let subject = Loop::new("test", RESYNC, Wake::new());
        let mut last = subject.last();
        let running = tokio::spawn(subject.run(drain, async |_| Ok::<_, String>(Next::Change)));
        last.wait_for(|last| last.passes == 1).await.unwrap();
        trigger.begin();
        running.await.unwrap();
    }
}
