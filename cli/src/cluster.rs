//! The way to the cluster: the API server by the kubeconfig, each node's agent by a port-forward.
//!
//! Agents listen on their node's loopback only. A port-forward to the agent's pod ends in the pod's network namespace,
//! which is the node's, so it reaches them with the rights of whoever calls and no other door.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use portolan_wire::inspect::{PORT, Refused};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Access;

/// The label of the agents' pods.
const AGENTS: &str = "app.kubernetes.io/name=portolan,app.kubernetes.io/component=agent";
/// So many nodes are asked at once.
const AT_ONCE: usize = 64;
/// The largest answer of a node, in bytes.
const LARGEST: usize = 64 << 20;

/// A cluster and its agents.
pub struct Cluster {
    /// The API server.
    pub client: Client,
    namespace: String,
    patience: Duration,
    /// The agent's pod on each node; none where it does not run.
    agents: BTreeMap<String, Option<String>>,
}

/// What the nodes answered.
#[derive(Debug)]
pub struct Answers<T> {
    /// By node.
    pub answers: BTreeMap<String, T>,
    /// The nodes that did not answer.
    pub silent: Vec<Silent>,
}

/// A node that did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Silent {
    /// The node.
    pub node: String,
    /// Why.
    pub why: String,
}

impl Cluster {
    /// Finds the API server and the agents.
    ///
    /// # Errors
    /// When there is no kubeconfig, or the API server does not answer.
    pub async fn connect(access: &Access) -> Result<Self> {
        let config = config(access).await.context("no way to the API server")?;
        let client = Client::try_from(config)?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &access.agents);
        let pods = pods.list(&ListParams::default().labels(AGENTS)).await;
        let pods =
            pods.with_context(|| format!("the agents in namespace {} cannot be listed", access.agents))?;
        Ok(Self {
            client,
            namespace: access.agents.clone(),
            patience: Duration::from_secs(access.node_timeout),
            agents: agents(&pods.items),
        })
    }

    /// The nodes that have an agent, running or not.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }

    /// Asks one node's agent.
    ///
    /// # Errors
    /// When it does not run, does not answer in time, or refuses; the error says which.
    pub async fn ask<T: DeserializeOwned>(&self, node: &str, path: &str) -> Result<T> {
        let Some(agent) = self.agents.get(node) else {
            bail!("no agent is on it: does the DaemonSet portolan-agent select this node?")
        };
        let Some(agent) = agent else { bail!("its agent does not run") };
        let answer = tokio::time::timeout(self.patience, self.fetch(agent, path)).await;
        let body = answer.with_context(|| format!("no answer within {} s", self.patience.as_secs()))??;
        serde_json::from_slice(&body).context("its agent's answer is not understood: another version?")
    }

    /// Asks the agents of all these nodes, so many at once, and waits for the last.
    pub async fn ask_all<T: DeserializeOwned>(
        &self,
        nodes: impl IntoIterator<Item = &str>,
        path: &str,
    ) -> Answers<T> {
        let one = async |node: &str| (node.to_owned(), self.ask::<T>(node, path).await);
        let nodes: Vec<_> = nodes.into_iter().collect();
        let outcomes: Vec<_> = stream::iter(nodes).map(one).buffer_unordered(AT_ONCE).collect().await;
        let mut all = Answers { answers: BTreeMap::new(), silent: vec![] };
        for (node, outcome) in outcomes {
            match outcome {
                Ok(answer) => drop(all.answers.insert(node, answer)),
                Err(why) => all.silent.push(Silent { node, why: format!("{why:#}") }),
            }
        }
        all.silent.sort_by(|one, other| one.node.cmp(&other.node));
        all
    }

    async fn fetch(&self, agent: &str, path: &str) -> Result<Vec<u8>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut forward = pods.portforward(agent, &[PORT]).await.context("port-forward to its agent")?;
        let stream = forward.take_stream(PORT).context("port-forward gave no stream")?;
        let refused = forward.take_error(PORT);
        let outcome = get(stream, path).await;
        // What the kubelet says of the port explains more than a connection that was closed.
        let said = match (&outcome, refused) {
            (Err(_), Some(refused)) => refused.await,
            (Ok(_) | Err(_), _) => None,
        };
        forward.abort();
        match said {
            Some(said) => bail!("port-forward to its agent: {}", said.trim()),
            None => outcome,
        }
    }
}

async fn config(access: &Access) -> Result<Config> {
    let kubeconfig = match (&access.kubeconfig, &access.context) {
        (Some(file), _) => Kubeconfig::read_from(file)?,
        (None, Some(_)) => Kubeconfig::read()?,
        (None, None) => return Ok(Config::infer().await?),
    };
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    Ok(Config::from_custom_kubeconfig(kubeconfig, &options).await?)
}

/// One GET over a stream that is used for nothing else.
async fn get<S>(stream: S, path: &str) -> Result<Vec<u8>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", "agent").body(Body::empty())?;
    let answer = sender.send_request(request).await.context("its agent hung up")?;
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), LARGEST).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!("its agent's answer broke off: {error}"))?.to_bytes();
    if status.is_success() {
        return Ok(body.to_vec());
    }
    match serde_json::from_slice::<Refused>(&body) {
        Ok(refused) => bail!("{}", refused.error),
        Err(_) => bail!("its agent answers {path} with {status}: another version?"),
    }
}

/// One agent for each node: of two, while one replaces the other, the one that runs and is not ending.
fn agents(pods: &[Pod]) -> BTreeMap<String, Option<String>> {
    let mut agents = BTreeMap::new();
    for pod in pods {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let runs = phase == Some("Running") && pod.metadata.deletion_timestamp.is_none();
        let agent: &mut Option<String> = agents.entry(node).or_default();
        if runs {
            *agent = Some(pod.name_any());
        }
    }
    agents
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn of_two_agents_of_a_node_the_one_that_runs_is_asked() {
        let pod = |name: &str, node: &str, phase: &str, ending: Value| -> Pod {
            from_value(json!({
                "metadata": { "name": name, "deletionTimestamp": ending },
                "spec": { "nodeName": node, "containers": [] }, "status": { "phase": phase },
            }))
            .unwrap()
        };
        let pods = [
            pod("old", "node-1", "Running", json!("2026-11-20T10:00:00Z")),
            pod("new", "node-1", "Running", Value::Null),
            pod("stuck", "node-2", "Pending", Value::Null),
        ];
        let expected = [("node-1".to_owned(), Some("new".to_owned())), ("node-2".to_owned(), None)]
            .into_iter()
            .collect();
        assert_eq!(agents(&pods), expected);
    }

    async fn served(answer: &'static str) -> Result<Vec<u8>> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = theirs.read(&mut request).await;
            let _ = theirs.write_all(answer.as_bytes()).await;
        });
        get(ours, "/v1/node").await
    }

    #[tokio::test]
    async fn an_answer_is_its_body_and_a_refusal_its_sentence() {
        let good = served("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(good.unwrap(), b"{}");
        let refused =
            served("HTTP/1.1 404 Not Found\r\ncontent-length: 19\r\n\r\n{\"error\":\"no pod\"} ").await;
        assert_eq!(refused.unwrap_err().to_string(), "no pod");
        let old = served("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        assert!(old.unwrap_err().to_string().contains("another version?"));
        let cut = served("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{").await;
        assert!(cut.unwrap_err().to_string().contains("broke off"));
    }
}
