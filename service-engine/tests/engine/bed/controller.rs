//! A controller: snapshots, and the calls that bring them.

use std::net::SocketAddr;

use portolan_wire::engine::{
    CallError, Client, Credentials, Front, Observation, Protocol, Route, Service, Snapshot, Verdict, Version,
    proto,
};

use super::{Bed, ENGINE, inside};

/// One cluster's controller; it lives on the first node.
pub struct Controller<'a> {
    bed: &'a Bed,
    credentials: Credentials,
    snapshot: Snapshot,
}

impl<'a> Controller<'a> {
    pub fn new(bed: &'a Bed, cluster: &str, credentials: Credentials) -> Self {
        let snapshot = Snapshot {
            cluster: cluster.parse().unwrap(),
            version: Version::taking_over(None),
            routes: vec![],
            services: vec![],
        };
        Self { bed, credentials, snapshot }
    }

    /// The next version of the snapshot has these routes (prefix, next hop).
    pub fn routes(&mut self, routes: &[(&str, &str)]) -> &mut Self {
        let route = |(prefix, via): &(&str, &str)| Route {
            prefix: prefix.parse().unwrap(),
            via: via.parse().unwrap(),
        };
        self.snapshot.routes = routes.iter().map(route).collect();
        self
    }

    /// It has this one service.
    pub fn service(&mut self, front: &str, members: &[&str]) -> &mut Self {
        let address: SocketAddr = front.parse().unwrap();
        self.snapshot.services = vec![Service {
            name: format!("{}--default-nginx1", self.snapshot.cluster).parse().unwrap(),
            front: Front { vip: address.ip(), port: address.port(), protocol: Protocol::Tcp },
            members: members.iter().map(|member| member.parse().unwrap()).collect(),
        }];
        self
    }

    /// It has no service.
    pub fn no_services(&mut self) -> &mut Self {
        self.snapshot.services.clear();
        self
    }

    /// Sends the snapshot as the next version, and insists that it is accepted.
    pub fn push(&mut self) {
        let version = self.snapshot.version;
        assert_eq!(self.apply().unwrap(), Verdict::Accepted(version));
    }

    /// Sends the snapshot as the next version.
    pub fn apply(&mut self) -> Result<Verdict, CallError> {
        let snapshot = self.snapshot.clone();
        self.snapshot.version = self.snapshot.version.next();
        self.call(async |client: Client| client.apply(&snapshot).await)
    }

    /// Sends a message that no snapshot can become.
    pub fn apply_raw(&self, change: impl FnOnce(&mut proto::Snapshot)) -> Verdict {
        let mut message = proto::Snapshot::from(&self.snapshot);
        change(&mut message);
        let tls = self.credentials.client(ENGINE);
        let call = async {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{ENGINE}:7443")).unwrap();
            let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
            let answer = proto::engine_client::EngineClient::new(channel).apply(message).await.unwrap();
            answer.into_inner().try_into().unwrap()
        };
        inside(&self.bed.node_1, || runtime().block_on(call))
    }

    /// Asks the engine.
    pub fn observe(&self) -> Result<Observation, CallError> {
        let cluster = self.snapshot.cluster.clone();
        self.call(async |client: Client| client.observe(&cluster).await)
    }

    /// Whether the engine says that all of the last accepted snapshot works.
    pub fn all_well(&self) -> bool {
        self.observe().is_ok_and(|observation| {
            observation.routes.iter().all(|route| route.problem.is_none())
                && observation.services.iter().all(|service| service.problem.is_none())
        })
    }

    fn call<T: Send>(
        &self,
        call: impl AsyncFnOnce(Client) -> Result<T, CallError> + Send,
    ) -> Result<T, CallError> {
        inside(&self.bed.node_1, || {
            runtime().block_on(async {
                let client = Client::new(&format!("{ENGINE}:7443"), ENGINE, &self.credentials)?;
                call(client).await
            })
        })
    }
}

/// A runtime whose sockets are made in the namespace of the calling thread.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
