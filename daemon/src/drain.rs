//! The end of a process is a watch: whoever runs awaits it, finishes what it has in hand, and returns.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Begins the drain. Dropping it begins the drain as well.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Knows whether the drain has begun. Clones see the same drain.
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<bool>);

/// A drain that somebody begins by hand.
pub fn channel() -> (Trigger, Drain) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Drain(receiver))
}

/// A drain that begins with SIGTERM or SIGINT. A second signal ends the process at once with exit code 1: whoever
/// asks twice does not want to wait.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn on_signal() -> io::Result<Drain> {
    let mut signals =
        Signals { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? };
    let (trigger, drain) = channel();
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "draining");
        trigger.begin();
        let name = signals.next().await;
        tracing::warn!(signal = name, "asked twice, ending at once");
        std::process::exit(1);
    });
    Ok(drain)
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

impl Trigger {
    /// Begins the drain.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Whether the drain has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Returns when the drain begins; at once if it has.
    pub async fn wait(&self) {
        // An error means that the trigger is gone, which begins the drain too.
        let _ = self.0.clone().wait_for(|begun| *begun).await;
    }

    /// Runs `work` until it ends or the drain begins, whichever is first. `None` is the drain; `work` is then dropped
    /// at its current await, so it must be safe to stop there.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.wait() => None,
            value = work => Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_sees_the_drain() {
        let (trigger, drain) = channel();
        let clone = drain.clone();
        assert!(!clone.has_begun());
        trigger.begin();
        clone.wait().await;
        drain.wait().await;
        assert!(drain.has_begun());
    }

    #[tokio::test]
    async fn a_lost_trigger_is_a_drain() {
        let (trigger, drain) = channel();
        drop(trigger);
        drain.wait().await;
        assert!(drain.has_begun());
    }

    #[tokio::test]
    async fn work_ends_with_the_drain() {
        let (trigger, drain) = channel();
        assert_eq!(drain.or(async { 7 }).await, Some(7));
        trigger.begin();
        assert_eq!(drain.or(std::future::pending::<()>()).await, None);
    }
}
