//! Questions about this node and their answers: what the admin server says under `/v1/`.
//!
//! Two sources. The node's owner has the state: a question travels to it as an [`Ask`] in its one channel of events and is
//! answered between two others, from memory and a few kernel dumps. The record answers from its files and disturbs nobody.
//! The pages are on the node's loopback, so they can be read by whoever is on the node, or may port-forward to the agent.

use std::fmt::Display;
use std::time::Duration;

use jiff::Timestamp;
use portolan_daemon::admin::{Admin, Parameters, Reply};
use portolan_wire::inspect::{EXPLAIN, Explanation, HISTORY, NODE, NodeState, Refused};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::history::{Reader, Wanted};

/// The owner has this long. Its own slowest event is a pass over a kernel with thousands of objects.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question to the node's owner.
#[derive(Debug)]
pub enum Ask {
    /// What it believes, and what its kernel has.
    Node(oneshot::Sender<NodeState>),
    /// Where a pod's addresses are from, or why it has none. The error is a sentence.
    Explain {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
        /// The answer.
        reply: oneshot::Sender<Result<Explanation, String>>,
    },
}

/// Adds the pages to the admin server. `owner` takes a question and says whether it will be answered.
pub fn pages<O>(admin: Admin, owner: O, history: Reader) -> Admin
where
    O: Fn(Ask) -> bool + Clone + Send + Sync + 'static,
{
    let explainer = owner.clone();
    admin
        .page(NODE, move |_| node(owner.clone()))
        .page(EXPLAIN, move |asked| explain(explainer.clone(), asked))
        .page(HISTORY, move |asked| remembered(history.clone(), asked))
}

async fn node<O: Fn(Ask) -> bool + Send>(owner: O) -> Reply {
    reply(answer(owner, Ask::Node).await)
}

async fn explain<O: Fn(Ask) -> bool + Send>(owner: O, asked: Parameters) -> Reply {
    let (namespace, pod) = match pod(&asked) {
        Ok(pod) => pod,
        Err(why) => return reply::<Explanation>(Err(why)),
    };
    let outcome = answer(owner, |reply| Ask::Explain { namespace, pod, reply }).await;
    reply(outcome.and_then(|explained| explained.map_err(|error| (404, error))))
}

async fn remembered(history: Reader, asked: Parameters) -> Reply {
    let wanted = match wanted(&asked) {
        Ok(wanted) => wanted,
        Err(why) => return reply::<()>(Err(why)),
    };
    reply(history.query(wanted).await.map_err(|error| (500, format!("the history: {error}"))))
}

/// An HTTP status and a sentence.
type Refusal = (u16, String);

async fn answer<T>(
    owner: impl Fn(Ask) -> bool,
    ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Result<T, Refusal> {
    let (told, heard) = oneshot::channel();
    let stopping = || (503, "the agent is stopping; its successor will answer".to_owned());
    if !owner(ask(told)) {
        return Err(stopping());
    }
    match tokio::time::timeout(PATIENCE, heard).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(stopping()),
        Err(_) => Err((503, format!("the agent is busy: no answer within {} s", PATIENCE.as_secs()))),
    }
}

fn reply<T: Serialize>(outcome: Result<T, Refusal>) -> Reply {
    let (status, json) = match outcome {
        Ok(answer) => (200, serde_json::to_string(&answer)),
        Err((status, error)) => (status, serde_json::to_string(&Refused { error })),
    };
    let unwritten =
        |error: serde_json::Error| Reply { status: 500, json: format!("{{\"error\":\"{error}\"}}") };
    json.map_or_else(unwritten, |json| Reply { status, json })
}

fn wanted(asked: &Parameters) -> Result<Wanted, Refusal> {
    let Some(address) = asked.get("address") else {
        return pod(asked).map(|(namespace, pod)| Wanted::Pod { namespace, pod });
    };
    let at = asked.get("at").map(|at| parse::<Timestamp>("at", at, "2026-11-20T10:00Z")).transpose()?;
    Ok(Wanted::Address { address: parse("address", address, "10.10.1.5")?, at })
}

fn pod(asked: &Parameters) -> Result<(String, String), Refusal> {
    let asked = asked.get("pod").map(String::as_str).unwrap_or_default();
    let parts = asked.split_once('/').filter(|(namespace, pod)| !namespace.is_empty() && !pod.is_empty());
    let (namespace, pod) = parts.ok_or_else(|| (400, format!("pod is {asked:?}: write NAMESPACE/NAME")))?;
    Ok((namespace.to_owned(), pod.to_owned()))
}

fn parse<T: std::str::FromStr<Err: Display>>(name: &str, text: &str, example: &str) -> Result<T, Refusal> {
    text.parse()
        .map_err(|error| (400, format!("{name} is {text:?} ({error}): write, for instance, {example}")))
}

#[cfg(test)]
mod tests;
