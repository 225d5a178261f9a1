//! Claims leases and gives them back: the only writes of the agent to the API server, none of them per pod.
//!
//! Owns nothing; the node's owner decides, this task carries the request and brings the answer. Creating the object is
//! the claim. A create that timed out may have succeeded: "exists already" is then followed by a look at whose it is. A lease
//! is marked as released before it is deleted: a deletion whose answer was lost can arrive at any later time, also after a
//! restart of the agent, and must not take away what is in use by then.

use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::Result;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use portolan_core::ipam::Lease;
use portolan_crds::{IPLease, IPLeaseSpec};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::node::Event;

/// What the owner wants.
#[derive(Debug, Clone)]
pub enum Wish {
    /// This lease, for this node.
    Claim(Lease),
    /// To give this lease back.
    GiveBack(Lease),
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// The lease is this node's.
    Won(Lease),
    /// Another node was first.
    Lost(Lease),
    /// The lease is this node's no more.
    GivenBack(Lease),
    /// The API server did not answer, or refused.
    Failed(Wish, String),
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Carries wishes out, one after the other, for ever.
pub async fn carry(client: Client, mut wishes: UnboundedReceiver<Wish>, owner: Sender<Event>) {
    let api: Api<IPLease> = Api::all(client);
    while let Some(wish) = wishes.recv().await {
        let attempt = tokio::time::timeout(PATIENCE, grant(&api, &wish)).await;
        let outcome = match attempt {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Failed(wish, format!("{error:#}")),
            Err(_) => Outcome::Failed(wish, format!("no answer within {} s", PATIENCE.as_secs())),
        };
        if owner.send(Event::Claim(outcome)).is_err() {
            return;
        }
    }
}

async fn grant(api: &Api<IPLease>, wish: &Wish) -> Result<Outcome> {
    match wish {
        Wish::Claim(lease) => {
            let spec = IPLeaseSpec {
                pool: lease.pool.clone(),
                block: lease.block.to_string(),
                node: lease.node.clone(),
                released: false,
            };
            match api.create(&PostParams::default(), &IPLease::new(&lease.name, spec)).await {
                Ok(_) => Ok(Outcome::Won(lease.clone())),
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    let holder = api.get_opt(&lease.name).await?;
                    let mine =
                        holder.is_some_and(|found| found.spec.node == lease.node && !found.spec.released);
                    Ok(if mine { Outcome::Won(lease.clone()) } else { Outcome::Lost(lease.clone()) })
                }
                Err(error) => Err(error.into()),
            }
        }
        Wish::GiveBack(lease) => {
            // Only the very object that is ours: after a claim by somebody else the name is theirs.
            if let Some(found) = api.get_opt(&lease.name).await?.filter(|found| found.spec.node == lease.node)
            {
                let uid = found.uid();
                if !found.spec.released {
                    let released = json!({ "metadata": { "uid": uid }, "spec": { "released": true } });
                    api.patch(&lease.name, &PatchParams::default(), &Patch::Merge(released)).await?;
                }
                // From here on no agent of this node uses the lease, however late the deletion arrives.
                let preconditions = Preconditions { uid, ..Preconditions::default() };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                api.delete(&lease.name, &params).await?;
            }
            Ok(Outcome::GivenBack(lease.clone()))
        }
    }
}
