//! The border: messages into types that cannot be wrong, and back.
//!
//! Every error names the field by its path, the value as it came, and what would be right.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use super::{
    ClusterName, Front, Observation, Protocol, Reason, Rejection, Route, RouteState, Service, ServiceState,
    Snapshot, Verdict, Version, proto,
};

/// A message with a field that cannot be what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} is not right: {remedy}")]
pub struct Malformed {
    /// The path of the field, such as `routes[3].prefix`.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What it must be.
    pub remedy: String,
}

fn malformed(field: impl Into<String>, value: impl ToString, remedy: impl Into<String>) -> Malformed {
    Malformed { field: field.into(), value: value.to_string(), remedy: remedy.into() }
}

fn text<T: FromStr<Err = String>>(field: impl Into<String>, value: &str) -> Result<T, Malformed> {
    value.parse().map_err(|remedy: String| malformed(field, value, remedy))
}

impl TryFrom<proto::Snapshot> for Snapshot {
    type Error = Malformed;

    fn try_from(message: proto::Snapshot) -> Result<Self, Malformed> {
        let version = message.version.map(Version::try_from).transpose()?;
        let snapshot = Self {
            cluster: text("cluster", &message.cluster)?,
            version: version.ok_or_else(|| malformed("version", "", "it must be there"))?,
            routes: each("routes", &message.routes, route)?,
            services: each("services", &message.services, service)?,
        };
        distinct("routes", "prefix", snapshot.routes.iter().map(|route| route.prefix))?;
        distinct(
            "services",
            "vip, port and protocol",
            snapshot.services.iter().map(|service| service.front),
        )?;
        Ok(snapshot)
    }
}

impl TryFrom<proto::Version> for Version {
    type Error = Malformed;

    fn try_from(proto::Version { epoch, generation }: proto::Version) -> Result<Self, Malformed> {
        let version = Self { epoch, generation };
        if epoch == 0 || generation == 0 {
            return Err(malformed("version", version, "epoch and generation count from 1"));
        }
        Ok(version)
    }
}

impl TryFrom<proto::Verdict> for Verdict {
    type Error = Malformed;

    fn try_from(message: proto::Verdict) -> Result<Self, Malformed> {
        match message.outcome {
            Some(proto::verdict::Outcome::Accepted(version)) => Ok(Self::Accepted(version.try_into()?)),
            Some(proto::verdict::Outcome::Rejected(rejection)) => {
                let reason = reason(rejection.reason)?;
                Ok(Self::Rejected(Rejection { reason, message: rejection.message }))
            }
            None => Err(malformed("outcome", "", "it must be there")),
        }
    }
}

impl TryFrom<proto::Observation> for Observation {
    type Error = Malformed;

    fn try_from(message: proto::Observation) -> Result<Self, Malformed> {
        Ok(Self {
            engine: message.engine,
            accepted: message.accepted.map(Version::try_from).transpose()?,
            routes: each("routes", &message.routes, route_state)?,
            services: each("services", &message.services, service_state)?,
        })
    }
}

fn each<M, T>(
    field: &str,
    messages: &[M],
    one: impl Fn(&str, &M) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    messages.iter().enumerate().map(|(n, message)| one(&format!("{field}[{n}]"), message)).collect()
}

fn route(at: &str, message: &proto::Route) -> Result<Route, Malformed> {
    let wrong = |remedy: &str| malformed(format!("{at}.prefix"), &message.prefix, remedy);
    let prefix: IpNet =
        message.prefix.parse().map_err(|_| wrong("a prefix in CIDR notation, such as 10.10.1.0/24"))?;
    if prefix != prefix.trunc() {
        return Err(wrong(&format!("host bits must be zero: {}", prefix.trunc())));
    }
    if prefix.prefix_len() == 0 {
        return Err(wrong("everything cannot go to one node"));
    }
    if !is_somebody(prefix.network()) {
        return Err(wrong("addresses that a pod can have"));
    }
    let via = host(format!("{at}.via"), &message.via)?;
    if via.is_ipv4() != prefix.addr().is_ipv4() {
        return Err(malformed(format!("{at}.via"), via, format!("of the same family as {prefix}")));
    }
    Ok(Route { prefix, via })
}

fn service(at: &str, message: &proto::Service) -> Result<Service, Malformed> {
    let front = front(at, &message.vip, message.port, message.protocol)?;
    let members = each(&format!("{at}.members"), &message.members, member)?;
    // A set brings them into order; the same pod twice is one pod.
    let members = members.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    Ok(Service { name: text(format!("{at}.name"), &message.name)?, front, members })
}

fn front(at: &str, vip: &str, number: u32, protocol: i32) -> Result<Front, Malformed> {
    let protocol = match proto::Protocol::try_from(protocol) {
        Ok(proto::Protocol::Tcp) => Protocol::Tcp,
        Ok(proto::Protocol::Udp) => Protocol::Udp,
        Ok(proto::Protocol::Unspecified) | Err(_) => {
            return Err(malformed(format!("{at}.protocol"), protocol, "TCP (1) or UDP (2)"));
        }
    };
    let vip = host(format!("{at}.vip"), vip)?;
    Ok(Front { vip, port: port(format!("{at}.port"), number)?, protocol })
}

fn member(at: &str, message: &proto::Member) -> Result<SocketAddr, Malformed> {
    let address = host(format!("{at}.address"), &message.address)?;
    Ok(SocketAddr::new(address, port(format!("{at}.port"), message.port)?))
}

fn host(field: String, value: &str) -> Result<IpAddr, Malformed> {
    let address: IpAddr =
        value.parse().map_err(|_| malformed(field.clone(), value, "an address, such as 10.10.1.7"))?;
    if is_somebody(address) { Ok(address) } else { Err(malformed(field, value, "an address of one host")) }
}

/// Whether packets for this address can go to somebody else.
fn is_somebody(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(broadcast || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn port(field: String, value: u32) -> Result<u16, Malformed> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(malformed(field, value, "1 to 65535")),
    }
}

fn distinct<K: Ord + std::fmt::Display>(
    field: &str,
    what: &str,
    keys: impl Iterator<Item = K>,
) -> Result<(), Malformed> {
    let mut seen = BTreeSet::new();
    for (n, key) in keys.enumerate() {
        if seen.contains(&key) {
            return Err(malformed(format!("{field}[{n}]"), key, format!("each {what} once")));
        }
        seen.insert(key);
    }
    Ok(())
}

fn reason(number: i32) -> Result<Reason, Malformed> {
    match proto::Reason::try_from(number) {
        Ok(proto::Reason::Invalid) => Ok(Reason::Invalid),
        Ok(proto::Reason::Unsupported) => Ok(Reason::Unsupported),
        Ok(proto::Reason::Stale) => Ok(Reason::Stale),
        Ok(proto::Reason::Conflict) => Ok(Reason::Conflict),
        Ok(proto::Reason::Unavailable) => Ok(Reason::Unavailable),
        Ok(proto::Reason::Unspecified) | Err(_) => {
            Err(malformed("rejected.reason", number, "a known reason"))
        }
    }
}

fn route_state(at: &str, message: &proto::RouteState) -> Result<RouteState, Malformed> {
    let inner =
        message.route.as_ref().ok_or_else(|| malformed(format!("{at}.route"), "", "it must be there"))?;
    Ok(RouteState { route: route(&format!("{at}.route"), inner)?, problem: some(&message.problem) })
}

fn service_state(at: &str, message: &proto::ServiceState) -> Result<ServiceState, Malformed> {
    Ok(ServiceState {
        name: text(format!("{at}.name"), &message.name)?,
        front: front(at, &message.vip, message.port, message.protocol)?,
        problem: some(&message.problem),
        connections: message.connections,
    })
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl From<&Snapshot> for proto::Snapshot {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            cluster: snapshot.cluster.to_string(),
            version: Some(snapshot.version.into()),
            routes: snapshot.routes.iter().map(proto::Route::from).collect(),
            services: snapshot.services.iter().map(proto::Service::from).collect(),
        }
    }
}

impl From<Version> for proto::Version {
    fn from(Version { epoch, generation }: Version) -> Self {
        Self { epoch, generation }
    }
}

impl From<&Route> for proto::Route {
    fn from(Route { prefix, via }: &Route) -> Self {
        Self { prefix: prefix.to_string(), via: via.to_string() }
    }
}

impl From<&Service> for proto::Service {
    fn from(Service { name, front, members }: &Service) -> Self {
        let member = |member: &SocketAddr| proto::Member {
            address: member.ip().to_string(),
            port: member.port().into(),
        };
        Self {
            name: name.to_string(),
            vip: front.vip.to_string(),
            port: front.port.into(),
            protocol: proto::Protocol::from(front.protocol).into(),
            members: members.iter().map(member).collect(),
        }
    }
}

impl From<Protocol> for proto::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl From<Verdict> for proto::Verdict {
    fn from(verdict: Verdict) -> Self {
        let outcome = match verdict {
            Verdict::Accepted(version) => proto::verdict::Outcome::Accepted(version.into()),
            Verdict::Rejected(Rejection { reason, message }) => {
                let reason = proto::Reason::from(reason).into();
                proto::verdict::Outcome::Rejected(proto::Rejection { reason, message })
            }
        };
        Self { outcome: Some(outcome) }
    }
}

impl From<Reason> for proto::Reason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Invalid => Self::Invalid,
            Reason::Unsupported => Self::Unsupported,
            Reason::Stale => Self::Stale,
            Reason::Conflict => Self::Conflict,
            Reason::Unavailable => Self::Unavailable,
        }
    }
}

impl From<Observation> for proto::Observation {
    fn from(observation: Observation) -> Self {
        let route = |RouteState { route, problem }: RouteState| proto::RouteState {
            route: Some((&route).into()),
            problem: problem.unwrap_or_default(),
        };
        let service =
            |ServiceState { name, front, problem, connections }: ServiceState| proto::ServiceState {
                name: name.to_string(),
                vip: front.vip.to_string(),
                port: front.port.into(),
                protocol: proto::Protocol::from(front.protocol).into(),
                problem: problem.unwrap_or_default(),
                connections,
            };
        Self {
            engine: observation.engine,
            accepted: observation.accepted.map(proto::Version::from),
            routes: observation.routes.into_iter().map(route).collect(),
            services: observation.services.into_iter().map(service).collect(),
        }
    }
}

impl From<&ClusterName> for proto::ObserveRequest {
    fn from(cluster: &ClusterName) -> Self {
        Self { cluster: cluster.to_string() }
    }
}

impl TryFrom<proto::ObserveRequest> for ClusterName {
    type Error = Malformed;

    fn try_from(message: proto::ObserveRequest) -> Result<Self, Malformed> {
        text("cluster", &message.cluster)
    }
}
