//! One client's connection: find a member that answers, then carry bytes both ways until both sides have ended.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::counted::Counted;
use super::service::{Open, Taken, Virtual};

/// How long one member may take to answer.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a client waits for some member at most.
const DIAL: Duration = Duration::from_secs(15);
/// A peer that lost its power is noticed after 60 + 4 * 15 s of silence.
const IDLE: Duration = Duration::from_secs(60);
const PROBE: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// Serves one client. When no member answers, the client sees a reset, as from a port that nobody listens on; so it
/// does when the service is removed.
/// `open` is held until the client has been told.
pub async fn serve(client: TcpStream, open: &Open) {
    let service = &*open.service;
    let found = tokio::select! {
        found = dial(service) => found,
        () = service.removed() => None,
    };
    match found {
        Some((taken, member)) => relay(client, member, &taken, service).await,
        None => {
            service.refused.fetch_add(1, Relaxed);
            reset(&client);
        }
    }
}

/// Carries bytes until both sides have ended. A side that says "no more" leaves the other direction open; an error of
/// either ends both.
async fn relay(client: TcpStream, member: TcpStream, taken: &Taken, service: &Virtual) {
    let mut client = Counted::new(client, |bytes| {
        taken.member.received.fetch_add(bytes, Relaxed);
    });
    let mut member = Counted::new(member, |bytes| {
        taken.member.sent.fetch_add(bytes, Relaxed);
    });
    tokio::select! {
        ended = copy_bidirectional(&mut client, &mut member) => if let Err(error) = ended {
            tracing::trace!(front = %service.front, member = %taken.member.address, "ended: {error}");
        },
        () = service.removed() => {
            reset(client.stream());
            reset(member.stream());
        }
    }
}

/// Tries the members, fewest connections first, each once.
async fn dial(service: &Virtual) -> Option<(Taken, TcpStream)> {
    let deadline = Instant::now() + DIAL;
    let mut tried: Vec<SocketAddr> = Vec::new();
    while let Some(taken) = service.take(&tried) {
        let address = taken.member.address;
        let left = deadline.saturating_duration_since(Instant::now()).min(CONNECT);
        if left.is_zero() {
            return None;
        }
        match connect(address, left).await {
            Ok(stream) => {
                taken.member.connections.fetch_add(1, Relaxed);
                return Some((taken, stream));
            }
            Err(error) => {
                taken.member.failures.fetch_add(1, Relaxed);
                tracing::debug!(front = %service.front, member = %address, "not connected: {error}");
                tried.push(address);
            }
        }
    }
    None
}

/// Connects with the address that the host's routes choose: the engine's own, which pods can answer.
async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    timeout(limit, TcpStream::connect(address)).await?
}

/// When it is dropped, a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    // Should it fail, the peer sees an orderly end.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// No waiting for more bytes to send, and notice of a peer that is gone.
pub fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(IDLE).with_interval(PROBE).with_retries(PROBES);
    // Both only improve a connection that works without them.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}
