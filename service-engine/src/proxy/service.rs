//! One virtual service while it lives: its name, its members now, and what it has carried.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use portolan_core::balancing::least_connections;
use portolan_wire::engine::{Front, Service, ServiceName};
use tokio::sync::watch;

/// A virtual service.
#[derive(Debug)]
pub struct Virtual {
    /// Where it listens.
    pub front: Front,
    current: watch::Sender<Arc<Current>>,
    removed: watch::Sender<bool>,
    turn: AtomicUsize,
    open: watch::Sender<u64>,
    /// Client connections since it listens.
    pub connections: AtomicU64,
    /// Client connections that no member took.
    pub refused: AtomicU64,
}

/// What of a virtual service changes without touching its listener.
#[derive(Debug)]
pub struct Current {
    /// Its name.
    pub name: ServiceName,
    /// Its ready pods.
    pub members: Vec<Arc<Member>>,
}

/// A pod behind a virtual service.
#[derive(Debug)]
pub struct Member {
    /// Its address and port.
    pub address: SocketAddr,
    /// Connections to it that are open now or being opened.
    pub open: AtomicU64,
    /// Connections to it since it is a member.
    pub connections: AtomicU64,
    /// Connections to it that did not come about.
    pub failures: AtomicU64,
    /// Bytes that clients sent to it.
    pub received: AtomicU64,
    /// Bytes that it sent to clients.
    pub sent: AtomicU64,
}

/// Counts one client connection for as long as it is held.
#[derive(Debug)]
pub struct Open {
    /// The service it is counted for.
    pub service: Arc<Virtual>,
}

/// Counts one connection to a member for as long as it is held.
#[derive(Debug)]
pub struct Taken {
    /// The member.
    pub member: Arc<Member>,
}

impl Virtual {
    /// A service that has carried nothing yet.
    pub fn new(service: &Service) -> Self {
        let members = service.members.iter().map(|address| Arc::new(Member::new(*address))).collect();
        Self {
            front: service.front,
            current: watch::Sender::new(Arc::new(Current { name: service.name.clone(), members })),
            removed: watch::Sender::new(false),
            turn: AtomicUsize::new(0),
            open: watch::Sender::new(0),
            connections: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes over name and members. Members that stay keep their counts, so that the balance is kept too.
    pub fn update(&self, service: &Service) {
        let before = self.current();
        let unchanged = before.name == service.name
            && before.members.iter().map(|member| member.address).eq(service.members.iter().copied());
        if unchanged {
            return;
        }
        let member = |address: &SocketAddr| {
            let kept = before.members.iter().find(|member| member.address == *address);
            kept.cloned().unwrap_or_else(|| Arc::new(Member::new(*address)))
        };
        let members: Vec<Arc<Member>> = service.members.iter().map(member).collect();
        tracing::info!(service = %service.name, front = %self.front, members = members.len(), "members changed");
        self.current.send_replace(Arc::new(Current { name: service.name.clone(), members }));
    }

    /// The service is no more: its connections are to end.
    pub fn remove(&self) {
        self.removed.send_replace(true);
    }

    /// Returns when the service is no more.
    pub async fn removed(&self) {
        // The sender cannot go away: it is part of this value.
        let _ = self.removed.subscribe().wait_for(|removed| *removed).await;
    }

    /// Name and members now.
    pub fn current(&self) -> Arc<Current> {
        self.current.borrow().clone()
    }

    /// Client connections open now.
    pub fn open(&self) -> u64 {
        *self.open.borrow()
    }

    /// Returns when no client connection is open.
    pub async fn idle(&self) {
        // The sender cannot go away: it is part of this value.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// The next member to try for one client, of those not yet `tried`. It counts as open from now on.
    pub fn take(&self, tried: &[SocketAddr]) -> Option<Taken> {
        let current = self.current();
        let untried: Vec<&Arc<Member>> =
            current.members.iter().filter(|member| !tried.contains(&member.address)).collect();
        let load = |member: &&Arc<Member>| usize::try_from(member.open.load(Relaxed)).unwrap_or(usize::MAX);
        let loads: Vec<usize> = untried.iter().map(load).collect();
        let chosen = least_connections(&loads, self.turn.fetch_add(1, Relaxed))?;
        let member = Arc::clone(untried.get(chosen)?);
        member.open.fetch_add(1, Relaxed);
        Some(Taken { member })
    }
}

impl Member {
    fn new(address: SocketAddr) -> Self {
        let zero = || AtomicU64::new(0);
        Self { address, open: zero(), connections: zero(), failures: zero(), received: zero(), sent: zero() }
    }
}

impl Open {
    /// One more client.
    pub fn new(service: Arc<Virtual>) -> Self {
        service.connections.fetch_add(1, Relaxed);
        service.open.send_modify(|open| *open += 1);
        Self { service }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.service.open.send_modify(|open| *open -= 1);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.member.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use portolan_wire::engine::Protocol;

    use super::*;

    #[test]
    fn connections_go_where_the_fewest_are() {
        let service = Virtual::new(&service(&["10.0.0.1:80", "10.0.0.2:80"]));
        let held: Vec<Taken> = (0..4).filter_map(|_| service.take(&[])).collect();
        let open = |service: &Virtual| {
            service.current().members.iter().map(|member| member.open.load(Relaxed)).collect::<Vec<_>>()
        };
        assert_eq!(open(&service), [2, 2]);
        drop(held);
        assert_eq!(open(&service), [0, 0]);
    }

    #[test]
    fn a_member_that_stays_keeps_its_counts_and_one_that_left_is_not_taken() {
        let subject = Virtual::new(&service(&["10.0.0.1:80", "10.0.0.2:80"]));
        let first = subject.take(&["10.0.0.2:80".parse().unwrap()]).unwrap();
        subject.update(&service(&["10.0.0.1:80", "10.0.0.3:80"]));
        assert_eq!(subject.current().members[0].open.load(Relaxed), 1);
        let next: Vec<SocketAddr> = (0..1).filter_map(|_| Some(subject.take(&[])?.member.address)).collect();
        assert_eq!(next, ["10.0.0.3:80".parse().unwrap()]);
        drop(first);
    }

    #[test]
    fn a_member_that_was_tried_is_not_tried_again() {
        let service = Virtual::new(&service(&["10.0.0.1:80", "10.0.0.2:80"]));
        let first = service.take(&[]).unwrap().member.address;
        let second = service.take(&[first]).unwrap().member.address;
        assert_ne!(first, second);
        assert!(service.take(&[first, second]).is_none());
    }

    #[test]
    fn a_service_without_members_takes_nobody() {
        assert!(Virtual::new(&service(&[])).take(&[]).is_none());
    }

    fn service(members: &[&str]) -> Service {
        Service {
            name: "k8s--default-nginx1".parse().unwrap(),
            front: Front { vip: "172.16.251.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp },
            members: members.iter().map(|member| member.parse().unwrap()).collect(),
        }
    }
}
