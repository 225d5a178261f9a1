//! Candidates against an API server of one object, over real HTTP.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::drain::{Trigger, channel};

const TERMS: Terms = Terms {
    duration: Duration::from_secs(1),
    deadline: Duration::from_millis(600),
    retry: Duration::from_millis(50),
};

#[tokio::test]
async fn one_leads_and_the_other_follows_when_it_drains() {
    let server = Server::start().await;
    let (first_trigger, first_run, mut first) = server.stand("a");
    first.gained().await;
    let (_second_trigger, _, mut second) = server.stand("b");
    assert!(!second.leads());
    drop(first);
    first_trigger.begin();
    first_run.await.unwrap();
    // Released, so that nobody had to wait for the lease to run out.
    second.gained().await;
    assert_eq!(server.spec()["holderIdentity"], "b");
    assert_eq!(server.spec()["leaseTransitions"], 1);
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_leading_before_the_lease_runs_out() {
    let server = Server::start().await;
    let (_trigger, _, mut leadership) = server.stand("a");
    leadership.gained().await;
    let broken = Instant::now();
    server.break_down();
    leadership.lost().await;
    assert!(broken.elapsed() < TERMS.duration, "{:?}", broken.elapsed());
}

#[tokio::test]
async fn a_leader_whose_lease_was_taken_stops_leading() {
    let server = Server::start().await;
    let (_trigger, _, mut leadership) = server.stand("a");
    leadership.gained().await;
    server.edit(|lease| lease["spec"]["holderIdentity"] = json!("b"));
    leadership.lost().await;
}

#[tokio::test]
async fn the_lease_is_kept_while_somebody_still_works_under_it() {
    let server = Server::start().await;
    let (trigger, run, mut leadership) = server.stand("a");
    leadership.gained().await;
    trigger.begin();
    leadership.lost().await;
    assert_eq!(server.spec()["holderIdentity"], "a");
    drop(leadership);
    run.await.unwrap();
    assert_eq!(server.spec()["holderIdentity"], Value::Null);
}

/// The one object, its resource version, and whether the server answers at all.
#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<(Option<Value>, u64, bool)>>,
    address: String,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { address, ..Self::default() };
        let leases = "/apis/coordination.k8s.io/v1/namespaces/test/leases";
        let router = Router::new()
            .route(leases, axum::routing::post(write))
            .route(&format!("{leases}/leader"), get(read).put(write))
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn stand(&self, identity: &str) -> (Trigger, tokio::task::JoinHandle<()>, Leadership) {
        let client = Client::try_from(kube::Config::new(self.address.parse().unwrap())).unwrap();
        let (candidate, leadership) = Candidate::new(client, "test", "leader", identity, TERMS);
        let (trigger, drain) = channel();
        (trigger, tokio::spawn(candidate.run(drain)), leadership)
    }

    fn spec(&self) -> Value {
        self.state.lock().unwrap().0.as_ref().unwrap()["spec"].clone()
    }

    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        let version = state.1;
        let lease = state.0.as_mut().unwrap();
        change(lease);
        lease["metadata"]["resourceVersion"] = json!(version.to_string());
    }

    fn break_down(&self) {
        self.state.lock().unwrap().2 = true;
    }
}

async fn read(State(server): State<Server>) -> (StatusCode, String) {
    let state = server.state.lock().unwrap();
    match &*state {
        (_, _, true) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        (Some(lease), ..) => (StatusCode::OK, lease.to_string()),
        (None, ..) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {},
                "reason": "NotFound", "message": "no lease", "code": 404});
            (StatusCode::NOT_FOUND, status.to_string())
        }
    }
}

async fn write(State(server): State<Server>, body: String) -> (StatusCode, String) {
    let mut lease: Value = serde_json::from_str(&body).unwrap();
    let mut state = server.state.lock().unwrap();
    if state.2 {
        return (StatusCode::INTERNAL_SERVER_ERROR, String::new());
    }
    let known =
        state.0.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone()).unwrap_or_default();
    if lease["metadata"]["resourceVersion"] != known {
        return (StatusCode::CONFLICT, String::new());
    }
    state.1 += 1;
    lease["metadata"]["resourceVersion"] = json!(state.1.to_string());
    state.0 = Some(lease.clone());
    (StatusCode::OK, lease.to_string())
}
