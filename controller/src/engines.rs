//! The engines' feed: one task per ServiceEngine, so that one that does not answer keeps nobody waiting.
//!
//! A task reads what the engine has accepted last, goes on above that, sends the whole state at every change, and looks
//! again every few seconds. The engine keeps what it has while the controller is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use portolan_core::balancing::VirtualService;
use portolan_crds::condition::{self, Statement};
use portolan_crds::{NAMESPACE, ServiceEngine, ServiceEngineSpec, ServiceEngineStatus};
use portolan_wire::engine::{
    self, ClusterName, Credentials, Front, Protocol, Service, ServiceName, Snapshot, Verdict, Version,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::facts::Facts;
use crate::feed::Feed;
use crate::status;

/// An engine is looked at this often.
const LOOK: Duration = Duration::from_secs(5);
/// An engine that does not answer within this time is unreachable.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tasks of all engines. Dropping it ends them.
pub struct Engines {
    client: Client,
    cluster: ClusterName,
    publish: watch::Sender<Arc<Feed>>,
    running: BTreeMap<String, (ServiceEngineSpec, JoinHandle<()>)>,
}

impl Engines {
    /// None yet.
    pub fn new(client: Client, cluster: ClusterName) -> Self {
        let (publish, _) = watch::channel(Arc::default());
        Self { client, cluster, publish, running: BTreeMap::new() }
    }

    /// Publishes the feed, and has a task for each engine there is.
    pub fn follow(&mut self, facts: &Facts, feed: &Feed) {
        self.publish.send_if_modified(|before| {
            let changed = **before != *feed;
            if changed {
                *before = Arc::new(feed.clone());
            }
            changed
        });
        let wanted: BTreeMap<_, _> =
            facts.engines.iter().map(|one| (one.name_any(), one.spec.clone())).collect();
        self.running.retain(|name, (spec, task)| {
            let keep = wanted.get(name) == Some(spec) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for (name, spec) in wanted {
            if !self.running.contains_key(&name) {
                let engine = Engine {
                    client: self.client.clone(),
                    cluster: self.cluster.clone(),
                    name: name.clone(),
                    spec: spec.clone(),
                };
                let task = tokio::spawn(engine.run(self.publish.subscribe()));
                self.running.insert(name, (spec, task));
            }
        }
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.running.values().for_each(|(_, task)| task.abort());
    }
}

struct Engine {
    client: Client,
    cluster: ClusterName,
    name: String,
    spec: ServiceEngineSpec,
}

/// What an engine has been brought to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Outcome {
    acknowledged: Option<i64>,
    routes: Option<i64>,
    services: Option<i64>,
    reason: &'static str,
    message: String,
}

impl Engine {
    async fn run(self, mut feeds: watch::Receiver<Arc<Feed>>) {
        let mut sent: Option<(Version, Arc<Feed>)> = None;
        loop {
            let feed = feeds.borrow_and_update().clone();
            let pushed = tokio::time::timeout(PATIENCE, self.push(&feed, &mut sent)).await;
            let outcome = match pushed {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => unreachable_because(&self.spec.address, &format!("{error:#}")),
                Err(_) => unreachable_because(&self.spec.address, "no answer"),
            };
            if let Err(error) = self.say(&outcome).await {
                tracing::warn!(engine = self.name, error = %format!("{error:#}"), "its status is not written");
            }
            tokio::select! {
                changed = feeds.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Brings the engine to the feed. An engine that has accepted it already is only looked at.
    async fn push(&self, feed: &Arc<Feed>, sent: &mut Option<(Version, Arc<Feed>)>) -> Result<Outcome> {
        let client = self.connect().await?;
        let accepted = client.observe(&self.cluster).await?.accepted;
        let version = match sent {
            Some((version, before)) if accepted == Some(*version) && before == feed => *version,
            Some((version, _)) if accepted <= Some(*version) => version.next(),
            Some(_) | None => Version::taking_over(accepted),
        };
        let snapshot = snapshot(&self.cluster, version, feed, self.spec.vip_pool.as_deref())?;
        let (routes, services) = (count(snapshot.routes.len()), count(snapshot.services.len()));
        if accepted != Some(version)
            && let Verdict::Rejected(rejection) = client.apply(&snapshot).await?
        {
            return Ok(Outcome { reason: "Rejected", message: rejection.message, ..Outcome::default() });
        }
        *sent = Some((version, feed.clone()));
        let acknowledged = i64::try_from(version.generation).ok();
        let message = "has accepted the latest state".to_owned();
        Ok(Outcome { acknowledged, routes, services, reason: "Accepted", message })
    }

    async fn connect(&self) -> Result<engine::Client> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), NAMESPACE);
        let name = &self.spec.tls_secret;
        let secret = secrets.get_opt(name).await?;
        let secret = secret.with_context(|| {
            format!("Secret {NAMESPACE}/{name}, which spec.tlsSecret names, does not exist")
        })?;
        let data = secret.data.unwrap_or_default();
        let part = |key: &str| match data.get(key) {
            Some(value) => Ok(value.0.clone()),
            None => bail!("Secret {NAMESPACE}/{name} has no {key}"),
        };
        let credentials = Credentials::new(part("tls.crt")?, part("tls.key")?, part("ca.crt")?)?;
        let host = self.spec.address.rsplit_once(':').map_or(self.spec.address.as_str(), |(host, _)| host);
        let server = self.spec.server_name.as_deref().unwrap_or(host);
        Ok(engine::Client::new(&self.spec.address, server, &credentials)?)
    }

    async fn say(&self, outcome: &Outcome) -> Result<()> {
        let api = Api::<ServiceEngine>::all(self.client.clone());
        let Some(object) = api.get_opt(&self.name).await? else { return Ok(()) };
        let before = object.status.clone().unwrap_or_default();
        let Outcome { acknowledged, routes, services, reason, message } = outcome.clone();
        let holds = reason == "Accepted";
        let mut after = if holds {
            ServiceEngineStatus { acknowledged, routes, services, conditions: before.conditions.clone() }
        } else {
            before.clone()
        };
        let statement = Statement { kind: "Ready", holds, reason, message };
        condition::set(&mut after.conditions, object.metadata.generation, &status::now(), statement);
        status::write(&api, &object, &before, &after).await
    }
}

fn unreachable_because(address: &str, why: &str) -> Outcome {
    let message =
        format!("{address}: {why}; is portolan-engine running there, and does spec.tlsSecret fit it?");
    Outcome { reason: "Unreachable", message, ..Outcome::default() }
}

/// The state of one engine. Without a pool it gets routes only.
fn snapshot(cluster: &ClusterName, version: Version, feed: &Feed, pool: Option<&str>) -> Result<Snapshot> {
    let addresses = pool.and_then(|pool| feed.pools.get(pool));
    let served = feed.services.iter().filter(|one| addresses.is_some_and(|pool| pool.contains(one.vip)));
    Ok(Snapshot {
        cluster: cluster.clone(),
        version,
        routes: feed.routes.clone(),
        services: served.map(service).collect::<Result<_>>()?,
    })
}

fn service(from: &VirtualService) -> Result<Service> {
    let name: ServiceName =
        from.name.parse().map_err(|why| anyhow::anyhow!("virtual service {}: {why}", from.name))?;
    let front = Front { vip: from.vip, port: from.port, protocol: Protocol::Tcp };
    let members = from.members.iter().map(|member| (member.address, member.port).into()).collect();
    Ok(Service { name, front, members })
}

fn count(number: usize) -> Option<i64> {
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_core::balancing::{ServicePort, virtual_services};

    #[test]
    fn an_engine_serves_the_addresses_of_its_own_pool_and_routes_everything() {
        let ports = [ServicePort { name: String::new(), port: 80 }];
        let usable = |net: &str| [net.parse::<ipnet::IpNet>().unwrap()].into_iter().collect();
        let feed = Feed {
            routes: vec![engine::Route {
                prefix: "10.20.1.0/28".parse().unwrap(),
                via: "172.16.11.11".parse().unwrap(),
            }],
            services: virtual_services(
                "k8s",
                "default",
                "nginx1",
                "172.16.251.1".parse().unwrap(),
                &ports,
                &[],
            ),
            pools: [
                ("vips".to_owned(), usable("172.16.251.0/24")),
                ("other".to_owned(), usable("10.0.0.0/24")),
            ]
            .into(),
        };
        let cluster: ClusterName = "k8s".parse().unwrap();
        let made = |pool| {
            let made = snapshot(&cluster, Version::taking_over(None), &feed, pool).unwrap();
            (made.routes.len(), made.services.len())
        };
        assert_eq!(made(Some("vips")), (1, 1));
        assert_eq!(made(Some("other")), (1, 0));
        assert_eq!(made(None), (1, 0));
    }
}
