//! The admin server of a process: plain HTTP for the kubelet, the operator and Prometheus.
//!
//! `/healthz`: 200 while the process runs at all. `/readyz`: 200 when nothing is missing, otherwise 503 with one name
//! per line. `/metrics`: the registry as OpenMetrics text. A process may add pages of its own ([`Admin::page`]).

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::drain::Drain;
use crate::ready::Ready;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";

/// What stands behind the `?` of a request, decoded.
pub type Parameters = BTreeMap<String, String>;

/// The answer of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub json: String,
}

/// A bound admin server that does not answer yet.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    pages: Router<Shared>,
}

#[derive(Clone)]
struct Shared {
    ready: Ready,
    drain: Drain,
    registry: Arc<Registry>,
}

impl Admin {
    /// Takes the address, so that a wrong one is an error of the start and not of a task.
    ///
    /// # Errors
    /// When the address cannot be bound; the message names it.
    pub async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("admin server on {listen}: {error}")))?;
        Ok(Self { listener, pages: Router::new() })
    }

    /// The same server with one more page, which answers GET with JSON. `path` is absolute and no other page's.
    #[must_use]
    pub fn page<F, A>(self, path: &str, answer: F) -> Self
    where
        F: Fn(Parameters) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Reply> + Send,
    {
        let handler = async move |Query(parameters): Query<Parameters>| {
            let reply = answer(parameters).await;
            let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [(CONTENT_TYPE, JSON)], reply.json)
        };
        Self { pages: self.pages.route(path, get(handler)), ..self }
    }

    /// Where it listens; of use when port 0 was asked for.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the drain begins. While it lasts the process is not ready, whatever `ready` says.
    pub async fn serve(self, ready: Ready, registry: Registry, drain: Drain) {
        let shared = Shared { ready, drain: drain.clone(), registry: Arc::new(registry) };
        let router = self
            .pages
            .route("/healthz", get("ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(shared);
        // Connections in hand are not waited for: nobody may delay the end of a process by holding one open.
        if let Some(Err(error)) = drain.or(async { axum::serve(self.listener, router).await }).await {
            tracing::error!(%error, "admin server ended");
        }
    }
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    if shared.drain.has_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
    }
    let missing = shared.ready.missing();
    if missing.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shared.registry) {
        Ok(()) => (StatusCode::OK, [(CONTENT_TYPE, OPENMETRICS)], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], format!("{error}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::drain::{Trigger, channel};

    #[tokio::test]
    async fn readyz_names_what_is_missing_and_then_says_ok() {
        let ready = Ready::new();
        let task = ready.task("pools listed");
        let (address, _trigger) = start(ready, Registry::default()).await;
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("pools listed"), "{answer}");
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        task.done();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text() {
        let mut registry = Registry::with_prefix("portolan");
        let counter: Counter = Counter::default();
        registry.register("passes", "Passes made", counter.clone());
        counter.inc();
        let (address, _trigger) = start(Ready::new(), registry).await;
        let answer = fetch(address, "/metrics").await;
        assert!(answer.contains("portolan_passes_total 1"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_page_of_a_process_gets_the_parameters_decoded() {
        let (_trigger, drain) = channel();
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = admin.local_addr().unwrap();
        let admin = admin.page("/v1/history", async |parameters: Parameters| Reply {
            status: 404,
            json: format!("{parameters:?}"),
        });
        tokio::spawn(admin.serve(Ready::new(), Registry::default(), drain));
        let answer = fetch(address, "/v1/history?address=fd00%3A%3A1&at=now").await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("application/json"), "{answer}");
        assert!(answer.ends_with(r#"{"address": "fd00::1", "at": "now"}"#), "{answer}");
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_an_error_that_names_it() {
        let first = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let taken = first.local_addr().unwrap();
        let error = Admin::bind(taken).await.unwrap_err();
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }

    async fn start(ready: Ready, registry: Registry) -> (SocketAddr, Trigger) {
        let (trigger, drain) = channel();
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = admin.local_addr().unwrap();
        tokio::spawn(admin.serve(ready, registry, drain));
        (address, trigger)
    }

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}
