//! The controller's side of the call.

use std::time::Duration;

use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::{ClusterName, Credentials, MAX_MESSAGE, Malformed, Observation, Snapshot, Verdict, proto};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a call may take: the engine writes one file and renames it.
const CALL: Duration = Duration::from_secs(10);
/// How often a silent connection is probed, so that an engine that lost its power is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// One engine, as a controller calls it. Connects with the first call and again after every loss.
#[derive(Debug, Clone)]
pub struct Client {
    inner: proto::engine_client::EngineClient<Channel>,
}

/// A call that came to no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The engine's address is not one.
    #[error("{address:?} is not the address of an engine (host:port): {source}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it, or with the credentials.
        source: tonic::transport::Error,
    },
    /// The engine was not reached, or refused the certificate, or failed.
    #[error("the engine did not answer: {}", describe(.0))]
    Status(#[source] Box<Status>),
    /// It answered something else.
    #[error("the engine's answer is not understood: {0}")]
    Malformed(#[from] Malformed),
}

impl Client {
    /// A client of the engine at `address` (`host:port`), whose certificate must be valid for `server_name` (a DNS
    /// name or an address). Does not connect yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address or the credentials are not what they should be.
    pub fn new(address: &str, server_name: &str, credentials: &Credentials) -> Result<Self, CallError> {
        let failed = |source| CallError::Address { address: address.to_owned(), source };
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .map_err(failed)?
            .tls_config(credentials.client(server_name))
            .map_err(failed)?
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let inner = proto::engine_client::EngineClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Self { inner })
    }

    /// Sends a snapshot. That it is rejected is an answer, not an error.
    ///
    /// # Errors
    /// When there is no answer within 10 s, or one that is not understood.
    pub async fn apply(&self, snapshot: &Snapshot) -> Result<Verdict, CallError> {
        let answer = self.inner.clone().apply(proto::Snapshot::from(snapshot)).await.map_err(Box::new);
        Ok(answer.map_err(CallError::Status)?.into_inner().try_into()?)
    }

    /// Asks what was accepted last from `cluster` and how much of it works.
    ///
    /// # Errors
    /// As [`Client::apply`].
    pub async fn observe(&self, cluster: &ClusterName) -> Result<Observation, CallError> {
        let answer = self.inner.clone().observe(proto::ObserveRequest::from(cluster)).await.map_err(Box::new);
        Ok(answer.map_err(CallError::Status)?.into_inner().try_into()?)
    }
}

/// A status says "transport error"; what happened is in its sources.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}
