//! Which addresses a pod gets: its pools, its need, core's decision; and the same in words for who asks why.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use portolan_core::ipam::choose::choose;
use portolan_core::ipam::decide::{Chosen, Decision, ahead, decide};
use portolan_core::ipam::{Millis, Need};
use portolan_core::numbers::{GATEWAY_V4, GATEWAY_V6};
use portolan_wire::cni::{Failure, Request, Scope, code};
use portolan_wire::inspect::{self, Candidate, Explanation, Verdict};

use crate::node::Owner;
use crate::records::Given;
use crate::world::{PodFacts, World, asker};

/// Kubelet asks for a pod's addresses within this time, or the pod is stuck before that.
const STUCK: Duration = Duration::from_secs(60);

/// What an ADD waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitsFor {
    /// In words.
    pub what: String,
    /// When it will be there, where that is known.
    pub until: Option<Millis>,
}

impl From<String> for WaitsFor {
    fn from(what: String) -> Self {
        Self { what, until: None }
    }
}

/// Pools and need of a pod.
struct Wish {
    pools: Vec<String>,
    need: Need,
}

impl Owner {
    /// The addresses for a call, or what it waits for. What has to be asked of the API server first is on its way then.
    pub(crate) fn addresses_for(
        &mut self,
        world: &World,
        request: &Request,
    ) -> Result<Result<Vec<Given>, WaitsFor>, Failure> {
        let wish = match self.wish(world, request)? {
            Ok(wish) => wish,
            Err(waits_for) => return Ok(Err(waits_for)),
        };
        let now = Instant::now();
        match &wish.need {
            Need::Kept(owner) | Need::Fixed(owner, _) => self.leases.expect(owner, now),
            Need::Any | Need::Impossible(_) => {}
        }
        let (labels, _) = world.node(&self.node);
        let vain = self.leases.vain();
        let known = self.leases.known(&labels, &vain, now);
        let decision = decide(&wish.pools, &wish.need, known);
        match &decision {
            Decision::Take(_) => self.leases.is_served(&name(request)),
            Decision::Wait { .. } | Decision::Refuse(_) => {
                self.leases.lacks(name(request), &wish.pools, now);
            }
        }
        match decision {
            Decision::Take(chosen) => {
                Ok(Ok(chosen.into_iter().map(|one| given(world, request.scope, one)).collect()))
            }
            Decision::Wait { reason, changes, until } => {
                self.leases.send(changes, now);
                Ok(Err(WaitsFor { what: reason, until }))
            }
            Decision::Refuse(refusal) => {
                Err(Failure::new(code::ADDRESS, "no address to give", refusal.to_string()))
            }
        }
    }

    /// Claims what will soon be needed: blocks for the pods that are bound to this node and have not been asked for yet, and of
    /// pools that are in use here and run low.
    pub(crate) fn claim_ahead(&mut self, world: &World) {
        let now = Instant::now();
        let awaited = self.awaited(world, now);
        let in_use = self.pools_in_use().into_iter().map(|pool| (pool, 0));
        let needed: BTreeMap<String, usize> = in_use.chain(awaited.clone()).collect();
        self.leases.awaits(awaited);
        let (labels, vain) = (world.node(&self.node).0, self.leases.vain());
        let known = self.leases.known(&labels, &vain, now);
        let pools = needed.iter().filter_map(|(pool, pods)| Some((world.pools.get(pool)?, *pods)));
        let claims: Vec<_> =
            pools.flat_map(|(pool, pods)| ahead(pool, world.nodes.len(), pods as u128, known)).collect();
        self.leases.send(claims, now);
    }

    /// How many pods will ask each pool first, of those that were bound to this node a moment ago and have no address yet. One
    /// that is stuck before that, for want of a volume maybe, keeps no address from others for long.
    fn awaited(&mut self, world: &World, now: Instant) -> BTreeMap<String, usize> {
        let starting: BTreeMap<_, _> = world.pods.iter().filter(|(_, pod)| pod.starts).collect();
        let have: BTreeSet<(&str, &str)> =
            self.records.iter().map(|record| (record.namespace.as_str(), record.pod.as_str())).collect();
        let has = |(namespace, name): &(String, String)| have.contains(&(namespace.as_str(), name.as_str()));
        self.bound.retain(|pod, _| starting.contains_key(pod) && !has(pod));
        let mut awaited = BTreeMap::new();
        for (pod, facts) in starting.into_iter().filter(|(pod, _)| !has(pod)) {
            let since = *self.bound.entry(pod.clone()).or_insert(now);
            if now.duration_since(since) >= STUCK {
                continue;
            }
            let first = world.namespaces.get(&pod.0).and_then(|namespace| {
                let pools = choose(asker(&pod.0, facts, namespace, &[]), &world.pools).ok()?;
                pools.into_iter().find(|pool| world.pools.get(pool).is_some_and(|pool| pool.enabled))
            });
            if let Some(pool) = first {
                *awaited.entry(pool).or_default() += 1;
            }
        }
        awaited
    }

    /// Whether one of these pools could give a pod on this node an address; where none is named, the node's own pod CIDR or
    /// any pool.
    pub(crate) fn has_addresses(&self, world: &World, pools: &[String]) -> bool {
        let gives = |pools: &[String]| !matches!(self.would(world, pools, &Need::Any), Decision::Refuse(_));
        match pools {
            [] => gives(&[]) || world.pools.keys().any(|pool| gives(std::slice::from_ref(pool))),
            named => gives(named),
        }
    }

    fn wish(&self, world: &World, request: &Request) -> Result<Result<Wish, WaitsFor>, Failure> {
        // Who calls without a pod is no tenant, but root on this node.
        let Some(pod) = &request.pod else {
            return Ok(Ok(Wish { pools: request.pools.clone(), need: Need::Any }));
        };
        let Some((facts, namespace)) = world.pod(&pod.namespace, &pod.name, pod.uid.as_deref()) else {
            return Ok(Err(format!("pod {}/{} to show up in the watch", pod.namespace, pod.name).into()));
        };
        let asker = asker(&pod.namespace, facts, namespace, &request.pools);
        let pools = choose(asker, &world.pools).map_err(|refusal| {
            Failure::new(code::ADDRESS, "no pool to take an address from", refusal.to_string())
        })?;
        // What is kept and what is wanted is for the cluster's own network; a secondary one names its pools.
        let need = if request.pools.is_empty() {
            need(world, facts, &pod.namespace, &pod.name, &pools)
        } else {
            Need::Any
        };
        Ok(Ok(Wish { pools, need }))
    }

    /// Where a pod's addresses are from, or why it has none.
    pub(crate) fn explain(&self, namespace: &str, name: &str) -> Result<Explanation, String> {
        let world = self.world.clone().ok_or("the API server has not been reached yet")?;
        let (facts, of_namespace) = world
            .pod(namespace, name, None)
            .ok_or_else(|| format!("no pod {namespace}/{name} is bound to node {}", self.node))?;
        let held = self.records.iter().filter(|one| one.namespace == namespace && one.pod == name);
        let addresses: Vec<_> = held
            .flat_map(|record| &record.addresses)
            .map(|given| inspect::Given { address: given.address, pool: given.pool.clone() })
            .collect();
        let mut explanation = Explanation {
            node: self.node.clone(),
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            addresses,
            waits_for: self.waits_for(namespace, name),
            ..Explanation::default()
        };
        let pools = match choose(asker(namespace, facts, of_namespace, &[]), &world.pools) {
            Ok(pools) => pools,
            Err(refusal) => {
                explanation.refusal = Some(refusal.to_string());
                return Ok(explanation);
            }
        };
        explanation.chosen_by =
            match (facts.pools.is_empty(), of_namespace.pools.is_empty(), pools.is_empty()) {
                (false, ..) => "annotation of the Pod",
                (true, false, _) => "annotation of the Namespace",
                (true, true, false) => "namespaceSelector of the pools",
                (true, true, true) => "no pool is given to the namespace: the node's own pod CIDR",
            }
            .to_owned();
        let need = need(&world, facts, namespace, name, &pools);
        if explanation.addresses.is_empty()
            && let Decision::Refuse(refusal) = self.would(&world, &pools, &need)
        {
            explanation.refusal = Some(refusal.to_string());
        }
        let singly: Vec<Vec<String>> = match pools.as_slice() {
            [] => vec![vec![]],
            pools => pools.iter().map(|pool| vec![pool.clone()]).collect(),
        };
        explanation.candidates = singly.iter().map(|pool| self.candidate(&world, pool, &need)).collect();
        Ok(explanation)
    }

    fn would(&self, world: &World, pools: &[String], need: &Need) -> Decision {
        let (labels, vain) = (world.node(&self.node).0, self.leases.vain());
        decide(pools, need, self.leases.known(&labels, &vain, Instant::now()))
    }

    fn candidate(&self, world: &World, pool: &[String], need: &Need) -> Candidate {
        let (verdict, why) = match self.would(world, pool, need) {
            Decision::Take(chosen) => {
                let addresses: Vec<_> = chosen.iter().map(|one| one.address.to_string()).collect();
                (Verdict::Gives, format!("would give {}", addresses.join(" and ")))
            }
            Decision::Wait { reason, .. } => (Verdict::GivesLater, format!("would wait for {reason}")),
            Decision::Refuse(refusal) => {
                let whys: Vec<_> = refusal.0.iter().map(|one| one.why.to_string()).collect();
                (Verdict::PassedOver, whys.join("; "))
            }
        };
        Candidate { pool: pool.first().cloned(), verdict, why }
    }
}

/// Who asks, also when its runtime comes back with another sandbox.
fn name(request: &Request) -> String {
    match &request.pod {
        Some(pod) => format!("{}/{} {}", pod.namespace, pod.name, request.interface),
        None => format!("{} {}", request.container_id, request.interface),
    }
}

/// What addresses a pod needs of these pools.
fn need(world: &World, facts: &PodFacts, namespace: &str, name: &str, pools: &[String]) -> Need {
    let keeps = pools.iter().filter_map(|pool| world.pools.get(pool)).any(|pool| pool.keeps);
    facts.need(namespace, name, keeps)
}

/// An address as it stands in the record and in the answer: a pod on a link of ours is alone with its gateway; who asks for
/// addresses only learns the subnet that the pool is part of.
fn given(world: &World, scope: Scope, chosen: Chosen) -> Given {
    let Chosen { address, pool } = chosen;
    let alone = if address.is_ipv4() { 32 } else { 128 };
    let (prefix_len, gateway) = match scope {
        Scope::Interface if address.is_ipv4() => (alone, Some(GATEWAY_V4.into())),
        Scope::Interface => (alone, Some(GATEWAY_V6.into())),
        Scope::Addresses => {
            let subnet = pool.as_ref().and_then(|pool| world.pools.get(pool)?.subnet);
            let subnet = subnet.filter(|(gateway, _)| gateway.is_ipv4() == address.is_ipv4());
            subnet.map_or((alone, None), |(gateway, length)| (length, Some(gateway)))
        }
    };
    Given { address, pool, prefix_len, gateway }
}
