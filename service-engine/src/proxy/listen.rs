//! Listening sockets of virtual services.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_wire::engine::Front;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::service::{Open, Virtual};
use super::{Alive, connection};

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// The pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens the socket of a front. The address need not be on an interface yet, nor stay there (`IP_FREEBIND`).
pub fn open(front: Front) -> io::Result<TcpListener> {
    let address = SocketAddr::new(front.vip, front.port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // After a restart, connections of the last run may still be winding down.
    socket.set_reuse_address(true)?;
    match front.vip.is_ipv4() {
        true => socket.set_freebind_v4(true)?,
        false => socket.set_freebind_v6(true)?,
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until it is aborted. Every connection is a task of its own, which is not.
pub async fn accept(listener: TcpListener, service: Arc<Virtual>, alive: Alive) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (open, held) = (Open::new(service.clone()), alive.subscribe());
                tokio::spawn(async move {
                    connection::serve(client, &open).await;
                    drop((open, held));
                });
            }
            Err(error) => {
                tracing::debug!(front = %service.front, "accept: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
