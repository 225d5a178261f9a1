//! How a lease is changed in the API server: creating is the claim, everything else a compare-and-swap on the version that
//! the change was decided on. The same for agents and controller.

use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use portolan_core::ipam::Change;

use crate::IPLease;

/// What became of a change that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was made.
    Made,
    /// Somebody was faster; what came of it the watch shows.
    TooLate,
}

/// Asks for a change. That somebody was faster is no error.
///
/// # Errors
/// What the API server says. After one the change may still be made, at any later time.
pub async fn ask(api: &Api<IPLease>, change: &Change) -> kube::Result<Outcome> {
    let lease = change.lease();
    let object = IPLease::from(lease);
    let outcome = match change {
        Change::Create(_) => api.create(&PostParams::default(), &object).await.map(|_| Outcome::Made),
        Change::Replace(_) => {
            api.replace(&lease.name, &PostParams::default(), &object).await.map(|_| Outcome::Made)
        }
        Change::Delete(_) => {
            let preconditions = Preconditions {
                uid: Some(lease.version.uid.clone()),
                resource_version: Some(lease.version.resource.clone()),
            };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            api.delete(&lease.name, &params).await.map(|_| Outcome::Made)
        }
    };
    match outcome {
        Err(kube::Error::Api(status))
            if status.is_already_exists() || status.is_conflict() || status.is_not_found() =>
        {
            Ok(Outcome::TooLate)
        }
        other => other,
    }
}
