//! Readiness is a set of guards: whoever has something to do before the process may serve takes a [`Task`], and the
//! process is ready when all of them are done.
//!
//! A task that is dropped without [`Task::done`] stays missing: what failed to start must not look started. Later
//! trouble is a new task, so a process can become unready and say why.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// The names of what is still missing, by order of registration.
type Missing = BTreeMap<u64, String>;

/// The readiness of one process. Clones are the same readiness.
#[derive(Debug, Clone)]
pub struct Ready {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    missing: Missing,
}

/// Something that has to happen before the process is ready.
#[derive(Debug)]
#[must_use = "a task that is dropped without `done` stays missing"]
pub struct Task {
    ready: Ready,
    id: u64,
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

impl Ready {
    /// A readiness that nothing is missing from yet. Register all tasks before the admin server is asked.
    pub fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Registers something that is missing. `name` is what `/readyz` shows until it is done.
    pub fn task(&self, name: impl Into<String>) -> Task {
        let mut id = 0;
        self.state.send_modify(|state| {
            id = state.next;
            state.next += 1;
            state.missing.insert(id, name.into());
        });
        Task { ready: self.clone(), id }
    }

    /// The names of what is missing, oldest first. Empty when the process is ready.
    pub fn missing(&self) -> Vec<String> {
        self.state.borrow().missing.values().cloned().collect()
    }

    /// Whether nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.state.borrow().missing.is_empty()
    }

    /// Returns as soon as nothing is missing.
    pub async fn wait(&self) {
        let mut changes = self.state.subscribe();
        // The sender cannot go away: this very value holds it.
        let _ = changes.wait_for(|state| state.missing.is_empty()).await;
    }
}

impl Task {
    /// It has happened.
    pub fn done(self) {
        let mut name = None;
        self.ready.state.send_modify(|state| name = state.missing.remove(&self.id));
        let left = self.ready.missing();
        tracing::info!(task = name, ?left, "ready");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_task_is_done() {
        let ready = Ready::new();
        let pools = ready.task("pools");
        let nodes = ready.task("nodes");
        assert_eq!(ready.missing(), ["pools", "nodes"]);
        pools.done();
        assert_eq!(ready.missing(), ["nodes"]);
        nodes.done();
        assert!(ready.is_ready());
    }

    #[test]
    fn a_task_that_dies_is_missing_forever() {
        let ready = Ready::new();
        drop(ready.task("feed"));
        assert_eq!(ready.missing(), ["feed"]);
    }

    #[test]
    fn two_tasks_of_one_name_are_two_tasks() {
        let ready = Ready::new();
        let (one, other) = (ready.task("sync"), ready.task("sync"));
        one.done();
        assert!(!ready.is_ready());
        other.done();
        assert!(ready.is_ready());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_task() {
        let ready = Ready::new();
        let task = ready.task("last");
        let waiting = tokio::spawn({
            let ready = ready.clone();
            async move { ready.wait().await }
        });
        task.done();
        waiting.await.unwrap();
    }
}
