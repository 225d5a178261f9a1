//! The tasks of a process, by name: all of them run until the drain, and a process in which one of them ended early
//! is better restarted than half alive.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use crate::drain::Drain;

/// The running tasks of a process.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<()>,
    names: BTreeMap<Id, &'static str>,
}

/// How the tasks of a process ended, when not in order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// A task returned or panicked although nobody had asked for the end.
    #[error("task {task} ended early: {how}")]
    Early {
        /// Its name.
        task: &'static str,
        /// "returned", or the panic.
        how: String,
    },
    /// These tasks did not end within the grace period after the drain began; they have been aborted.
    #[error("tasks still running after {grace:?} of drain: {tasks:?}")]
    Late {
        /// The grace period.
        grace: Duration,
        /// Their names.
        tasks: Vec<&'static str>,
    },
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that runs until the drain begins.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.set.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits for the drain, then up to `grace` for every task to end.
    ///
    /// # Errors
    /// When a task ends before the drain begins, or does not end within `grace` afterwards. The other tasks are
    /// aborted in both cases.
    pub async fn run(mut self, drain: &Drain, grace: Duration) -> Result<(), Ended> {
        tokio::select! {
            biased;
            () = drain.wait() => {}
            Some(ended) = self.set.join_next_with_id() => {
                let (task, how) = self.describe(ended);
                // A task may see the drain a moment before this one does.
                if !drain.has_begun() {
                    return Err(Ended::Early { task, how });
                }
            }
        }
        let all_ended = tokio::time::timeout(grace, async {
            while let Some(ended) = self.set.join_next_with_id().await {
                let (task, how) = self.describe(ended);
                tracing::debug!(task, how, "task ended");
            }
        });
        if all_ended.await.is_ok() {
            return Ok(());
        }
        Err(Ended::Late { grace, tasks: self.names.into_values().collect() })
    }

    fn describe(&mut self, ended: Result<(Id, ()), JoinError>) -> (&'static str, String) {
        let (id, how) = match ended {
            Ok((id, ())) => (id, "returned".to_owned()),
            Err(error) => (error.id(), error.to_string()),
        };
        (self.names.remove(&id).unwrap_or("unnamed"), how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::channel;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_process_ends_in_order_when_its_tasks_follow_the_drain() {
        let (trigger, drain) = channel();
        let mut tasks = Tasks::new();
        for name in ["feed", "routes"] {
            let drain = drain.clone();
            tasks.spawn(name, async move { drain.wait().await });
        }
        trigger.begin();
        assert_eq!(tasks.run(&drain, GRACE).await, Ok(()));
    }

    #[tokio::test]
    async fn a_task_that_returns_early_ends_the_process_and_is_named() {
        let (_trigger, drain) = channel();
        let mut tasks = Tasks::new();
        tasks.spawn("watch", async {});
        tasks.spawn("serve", std::future::pending());
        let ended = tasks.run(&drain, GRACE).await;
        assert_eq!(ended, Err(Ended::Early { task: "watch", how: "returned".into() }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_hear_the_drain_is_named_and_aborted() {
        let (trigger, drain) = channel();
        let mut tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        trigger.begin();
        let ended = tasks.run(&drain, GRACE).await;
        assert_eq!(ended, Err(Ended::Late { grace: GRACE, tasks: vec!["deaf"] }));
    }
}
