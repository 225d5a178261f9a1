//! The gRPC server: parses, asks the desk, answers.

use std::net::SocketAddr;
use std::time::Duration;

use portolan_daemon::drain::Drain;
use portolan_wire::engine::proto::engine_server::{Engine, EngineServer};
use portolan_wire::engine::{
    ClusterName, Credentials, MAX_MESSAGE, Malformed, Reason, Rejection, Snapshot, Verdict, proto,
};
use prometheus_client::metrics::counter::Counter as Count;
use prometheus_client::metrics::family::Family;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::desk::Counter;
use super::observe::Observer;

/// How often a silent controller is probed; a connection whose other end is gone does not stay.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long calls in hand may take once the drain has begun.
const FINISH: Duration = Duration::from_secs(2);

/// Snapshots by verdict: `accepted`, or the reason of the rejection.
pub type Verdicts = Family<[(&'static str, String); 1], Count>;

/// The feed before it answers.
#[derive(Debug)]
pub struct Feed {
    listener: TcpListener,
    server: Server,
}

/// What answers the calls.
#[derive(Debug)]
pub struct Calls {
    /// Who judges snapshots.
    pub desk: Counter,
    /// Who knows what became of them.
    pub observer: Observer,
    /// Who counts.
    pub verdicts: Verdicts,
}

impl Feed {
    /// Takes the address and the credentials, so that wrong ones are errors of the start.
    pub async fn bind(listen: SocketAddr, credentials: &Credentials) -> anyhow::Result<Self> {
        use anyhow::Context;
        let server = Server::builder()
            .tls_config(credentials.server())
            .context("the certificate, its key and the client authority do not make a TLS server")?
            .http2_keepalive_interval(Some(KEEP_ALIVE));
        let listener = TcpListener::bind(listen).await.with_context(|| format!("--listen {listen}"))?;
        Ok(Self { listener, server })
    }

    /// Answers until the drain begins.
    pub async fn serve(mut self, calls: Calls, drain: Drain) {
        let engine = EngineServer::new(calls)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        let ended = drain.clone();
        let serving = self
            .server
            .add_service(engine)
            .serve_with_incoming_shutdown(incoming, async move { ended.wait().await });
        let too_late = async {
            drain.wait().await;
            tokio::time::sleep(FINISH).await;
        };
        tokio::select! {
            ended = serving => if let Err(error) = ended {
                tracing::error!("feed ended: {error}");
            },
            () = too_late => {}
        }
    }
}

#[tonic::async_trait]
impl Engine for Calls {
    async fn apply(&self, request: Request<proto::Snapshot>) -> Result<Response<proto::Verdict>, Status> {
        let verdict = match Snapshot::try_from(request.into_inner()) {
            Ok(snapshot) => self.desk.apply(snapshot).await.ok_or_else(ending)?,
            Err(malformed) => refuse(&malformed),
        };
        self.count(&verdict);
        Ok(Response::new(verdict.into()))
    }

    async fn observe(
        &self,
        request: Request<proto::ObserveRequest>,
    ) -> Result<Response<proto::Observation>, Status> {
        let cluster = ClusterName::try_from(request.into_inner());
        let cluster = cluster.map_err(|malformed| Status::invalid_argument(malformed.to_string()))?;
        Ok(Response::new(self.observer.observe(&cluster).into()))
    }
}

impl Calls {
    fn count(&self, verdict: &Verdict) {
        let label = match verdict {
            Verdict::Accepted(_) => "Accepted".to_owned(),
            Verdict::Rejected(rejection) => rejection.reason.to_string(),
        };
        self.verdicts.get_or_create(&[("verdict", label)]).inc();
    }
}

fn refuse(malformed: &Malformed) -> Verdict {
    tracing::warn!("snapshot refused: {malformed}");
    Verdict::Rejected(Rejection { reason: Reason::Invalid, message: malformed.to_string() })
}

fn ending() -> Status {
    Status::unavailable("the engine is about to end")
}
