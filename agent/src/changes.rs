//! Carries changes of leases to the API server: the only writes of the agent on the way of a pod, none of them per pod while
//! the node's leases have room.
//!
//! Owns nothing; the node's owner decides, this task carries the request and says that it was answered. What came of it the
//! watch shows: a change that came too late is no error, somebody else's is there then. A request whose answer was lost may
//! arrive at any later time; each names the version it was decided on, so it then changes nothing that has changed since.

use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use kube::{Api, Client};
use portolan_core::ipam::Change;
use portolan_crds::IPLease;
use portolan_crds::change::{Outcome, ask};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::inbox::Post;
use crate::node::Event;

/// What became of a change.
#[derive(Debug)]
pub struct Answer {
    /// The lease.
    pub lease: String,
    /// Answered; or why not.
    pub outcome: Result<Outcome, String>,
}

const PATIENCE: Duration = Duration::from_secs(5);
/// Changes under way at once; each is of another lease.
const AT_ONCE: usize = 8;

/// Carries changes for ever.
pub async fn carry(client: Client, changes: UnboundedReceiver<Change>, owner: Post) {
    let api: Api<IPLease> = Api::all(client);
    let changes =
        futures::stream::unfold(changes, async |mut changes| Some((changes.recv().await?, changes)));
    let (api, owner) = (&api, &owner);
    let each = async |change: Change| {
        let outcome = match tokio::time::timeout(PATIENCE, ask(api, &change)).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => Err(format!("{change}: {error}")),
            Err(_) => Err(format!("{change}: no answer within {} s", PATIENCE.as_secs())),
        };
        let lease = change.lease().name.clone();
        // The owner is gone only when the agent ends.
        owner.send(Event::Answer(Answer { lease, outcome }));
    };
    changes.for_each_concurrent(AT_ONCE, each).await;
}
