//! The owner of what is accepted: judges snapshots one by one, keeps them, publishes them.
//!
//! Guarantees: nothing is published or reported as accepted before it is on disk.

use std::sync::Arc;

use portolan_daemon::drain::Drain;
use portolan_wire::engine::{Reason, Rejection, Snapshot, Verdict};
use tokio::sync::{mpsc, oneshot, watch};

use crate::state::store::Store;
use crate::state::{Accepted, Judgement};

/// Snapshots that wait to be judged; a controller that sends more than it gets answers for has to wait.
const WAITING: usize = 16;

/// Judges snapshots.
#[derive(Debug)]
pub struct Desk {
    store: Store,
    accepted: watch::Sender<Arc<Accepted>>,
    requests: mpsc::Receiver<Request>,
}

/// Brings snapshots to the desk.
#[derive(Debug, Clone)]
pub struct Counter {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    snapshot: Snapshot,
    answer: oneshot::Sender<Verdict>,
}

impl Desk {
    /// A desk that begins with what was `accepted` before, and the watch that shows what it accepts.
    pub fn new(store: Store, accepted: Accepted) -> (Self, Counter, watch::Receiver<Arc<Accepted>>) {
        let (sender, requests) = mpsc::channel(WAITING);
        let (accepted, receiver) = watch::channel(Arc::new(accepted));
        (Self { store, accepted, requests }, Counter { requests: sender }, receiver)
    }

    /// Judges until the drain begins.
    pub async fn run(mut self, drain: Drain) {
        while let Some(Some(Request { snapshot, answer })) = drain.or(self.requests.recv()).await {
            // Whoever asked may be gone; what was decided holds anyway.
            let _ = answer.send(self.judge(snapshot).await);
        }
    }

    async fn judge(&self, snapshot: Snapshot) -> Verdict {
        let (cluster, version) = (snapshot.cluster.clone(), snapshot.version);
        match self.accept(snapshot).await {
            Ok(()) => Verdict::Accepted(version),
            Err(rejection) => {
                tracing::warn!(%cluster, %version, "snapshot rejected: {rejection}");
                Verdict::Rejected(rejection)
            }
        }
    }

    async fn accept(&self, snapshot: Snapshot) -> Result<(), Rejection> {
        let accepted = self.accepted.borrow().clone();
        if accepted.judge(&snapshot)? == Judgement::Same {
            return Ok(());
        }
        self.keep(snapshot.clone()).await?;
        let Snapshot { cluster, version, routes, services } = &snapshot;
        let (routes, services) = (routes.len(), services.len());
        tracing::info!(%cluster, %version, routes, services, "snapshot accepted");
        self.accepted.send_replace(Arc::new(accepted.with(snapshot)));
        Ok(())
    }

    async fn keep(&self, snapshot: Snapshot) -> Result<(), Rejection> {
        let unavailable = |message| Rejection { reason: Reason::Unavailable, message };
        let store = self.store.clone();
        let saved = tokio::task::spawn_blocking(move || store.save(&snapshot)).await;
        saved.map_err(|error| unavailable(error.to_string()))?.map_err(|error| unavailable(error.to_string()))
    }
}

impl Counter {
    /// Has a snapshot judged. `None`: the engine is about to end.
    pub async fn apply(&self, snapshot: Snapshot) -> Option<Verdict> {
        let (answer, verdict) = oneshot::channel();
        self.requests.send(Request { snapshot, answer }).await.ok()?;
        verdict.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use portolan_daemon::drain::channel;

    use super::*;
    use crate::state::tests::snapshot;

    #[tokio::test]
    async fn an_accepted_snapshot_is_on_disk_and_published_and_a_rejected_one_is_neither() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().to_owned()).unwrap();
        let (desk, counter, accepted) = Desk::new(store.clone(), Accepted::default());
        let (_trigger, drain) = channel();
        tokio::spawn(desk.run(drain));

        let first = snapshot("a", (1, 1), &["10.10.0.0/16"], &[]);
        assert_eq!(counter.apply(first.clone()).await, Some(Verdict::Accepted(first.version)));
        let conflicting = snapshot("b", (1, 1), &["10.10.1.0/24"], &[]);
        assert!(matches!(counter.apply(conflicting).await, Some(Verdict::Rejected(_))));

        let expected = Accepted::default().with(first);
        assert_eq!(**accepted.borrow(), expected);
        assert_eq!(store.load().unwrap(), expected);
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_not_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("gone")).unwrap();
        std::fs::remove_dir(directory.path().join("gone")).unwrap();
        let (desk, counter, accepted) = Desk::new(store, Accepted::default());
        let (_trigger, drain) = channel();
        tokio::spawn(desk.run(drain));
        let verdict = counter.apply(snapshot("a", (1, 1), &[], &[])).await;
        let Some(Verdict::Rejected(rejection)) = verdict else { panic!("{verdict:?}") };
        assert_eq!(rejection.reason, Reason::Unavailable);
        assert_eq!(**accepted.borrow(), Accepted::default());
    }
}
