//! One leader among many replicas, elected on a `coordination.k8s.io/v1` Lease as Kubernetes' own components do.
//!
//! [`election`] decides, with time as an argument; [`Candidate`] asks the API server and does what was decided, each
//! write being a compare-and-swap on the resource version.
//!
//! Guarantees, as long as clocks of two machines run at the same *rate* (they need not show the same time): two
//! candidates never lead at once. A leader that cannot renew says so before anybody else may acquire.

pub mod election;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::drain::Drain;
use crate::flood::Flood;
use election::{Election, Step, Terms};

/// How long, after the drain began, the lease is kept for the tasks that still work under it.
const FINISH: Duration = Duration::from_secs(2);

/// How often the same error is written.
const SAME_ERROR: Duration = Duration::from_secs(60);

/// One replica that wants to lead.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    election: Election,
    leading: watch::Sender<bool>,
}

/// Whether this replica leads. Tasks that work as the leader hold a clone; dropping it says that they have stopped.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<bool>);

/// What one conversation with the API server came to.
enum Round {
    Leading,
    Following(Duration),
}

impl Candidate {
    /// A candidate for the lease `name` in `namespace`. `identity` must be unique among the replicas, such as the
    /// pod's name.
    pub fn new(
        client: Client,
        namespace: &str,
        name: impl Into<String>,
        identity: impl Into<String>,
        terms: Terms,
    ) -> (Self, Leadership) {
        let (leading, receiver) = watch::channel(false);
        let api = Api::namespaced(client, namespace);
        let candidate = Self { api, name: name.into(), election: Election::new(identity, terms), leading };
        (candidate, Leadership(receiver))
    }

    /// Stands for election until the drain begins, then releases the lease, so that the next leader need not wait
    /// for it to run out. The release comes after every [`Leadership`] has been dropped, or after two seconds.
    pub async fn run(mut self, drain: Drain) {
        let mut leads_until = None;
        let mut flood = Flood::new(SAME_ERROR);
        while !drain.has_begun() {
            let pause = self.round_in_time(&mut leads_until, &mut flood).await;
            self.publish(leads_until.is_some());
            if drain.or(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
        self.publish(false);
        if leads_until.is_some() {
            // Closed means that no task holds a leadership any more.
            let _ = timeout(FINISH, self.leading.closed()).await;
            if let Ok(Err(error)) | Err(error) =
                timeout(FINISH, self.release()).await.map_err(|_| "timed out".to_owned())
            {
                tracing::warn!(lease = self.name, "not released: {error}");
            }
        }
    }

    /// One round, never longer than this replica may still believe to lead. Returns the pause until the next.
    async fn round_in_time(&mut self, leads_until: &mut Option<Instant>, flood: &mut Flood) -> Duration {
        let asked = Instant::now();
        let terms = self.election.terms();
        let limit = leads_until.map_or(terms.deadline, |until| until.saturating_duration_since(asked));
        let error = match timeout(limit, self.round(asked)).await {
            Ok(Ok(Round::Leading)) => {
                flood.clear();
                // Counted from the question, not the answer: others may have seen the record that early.
                *leads_until = Some(asked + terms.deadline);
                return terms.retry;
            }
            Ok(Ok(Round::Following(pause))) => {
                flood.clear();
                *leads_until = None;
                return pause;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server did not answer in time".to_owned(),
        };
        if let Some(repeated) = flood.admit(&error, Instant::now().into_std()) {
            tracing::warn!(lease = self.name, repeated, "{error}");
        }
        let left = leads_until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            *leads_until = None;
        }
        left.filter(|left| !left.is_zero()).map_or(terms.retry, |left| left.min(terms.retry))
    }

    async fn round(&mut self, now: Instant) -> Result<Round, Error> {
        let params = PostParams::default();
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let spec = self.election.acquired(&LeaseSpec::default(), wall_clock());
            self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await?;
            return Ok(Round::Leading);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let spec = match self.election.decide(&spec, now.into_std()) {
            Step::Acquire => self.election.acquired(&spec, wall_clock()),
            Step::Renew => LeaseSpec { renew_time: Some(wall_clock()), ..spec },
            Step::Wait(pause) => return Ok(Round::Following(pause)),
        };
        // The resource version travels along: whoever wrote in between wins, and we look again.
        self.api.replace(&self.name, &params, &Lease { spec: Some(spec), ..lease }).await?;
        Ok(Round::Leading)
    }

    async fn release(&self) -> Result<(), String> {
        let lease = self.api.get(&self.name).await.map_err(|error| error.to_string())?;
        let Some(spec) = lease.spec.clone().filter(|spec| self.election.holds(spec)) else { return Ok(()) };
        let spec = LeaseSpec { holder_identity: None, renew_time: Some(wall_clock()), ..spec };
        let released = Lease { spec: Some(spec), ..lease };
        let answer = self.api.replace(&self.name, &PostParams::default(), &released).await;
        answer.map(|_| ()).map_err(|error| error.to_string())
    }

    fn publish(&self, leads: bool) {
        let changed = self.leading.send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
        if changed {
            tracing::info!(lease = self.name, identity = self.election.identity(), leads, "leadership");
        }
    }
}

/// What other people read in the Lease. No decision depends on it.
fn wall_clock() -> MicroTime {
    MicroTime(Timestamp::now())
}

impl Leadership {
    /// Whether this replica leads now.
    pub fn leads(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when this replica leads. Never returns once the candidate is gone.
    pub async fn gained(&mut self) {
        if self.0.wait_for(|leads| *leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when this replica does not lead, or the candidate is gone.
    pub async fn lost(&mut self) {
        let _ = self.0.wait_for(|leads| !*leads).await;
    }

    /// The changes, for those who follow a watch. The last value is false once the candidate is gone in order.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests;
