//! ADD, DEL and CHECK, as the node's owner does them.
//!
//! ADD: the same container and interface again? the same answer. Else: pools, address, record, mark, link. The record is
//! written before the kernel is touched and taken back last, so whatever dies in between, no address is given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use portolan_core::ipam::allocate::{Decision, Knowledge, allocate};
use portolan_core::ipam::choose::choose;
use portolan_core::mark::Mark;
use portolan_core::rank;
use portolan_wire::cni::{Address, Attachment, Failure, Pair, Pod, Request, Response, Scope, code};

use crate::kernel::{GATEWAY, host_mac};
use crate::node::Owner;
use crate::records::{Given, Record};
use crate::world::{World, asker};

/// Done, or what it waits for.
type Attempt<T> = Result<T, String>;

impl Owner {
    /// Gives a container its interface and address, or says what that waits for.
    pub(crate) fn add(
        &mut self,
        request: &Request,
        netns: Option<&OwnedFd>,
    ) -> Result<Attempt<Response>, Failure> {
        let netns = netns.ok_or_else(|| {
            Failure::new(
                code::INVALID_ENVIRONMENT,
                "ADD came without a network namespace",
                "is CNI_NETNS set?",
            )
        })?;
        let key = (request.container_id.clone(), request.interface.clone());
        if let Some(record) = self.records.get(&key).filter(|record| record.container_mac.is_some()) {
            return Ok(Ok(Response::Added(attachment(record))));
        }
        let Some(world) = self.world.clone() else { return Ok(Err("the API server".to_owned())) };
        let Some(mtu) = self.mtu else { return Ok(Err("the node's own network".to_owned())) };
        let (address, pool) = match self.address_for(&world, request.pod.as_ref())? {
            Ok(given) => given,
            Err(waits_for) => return Ok(Err(waits_for)),
        };
        let (namespace, pod) = request.pod.clone().map(|pod| (pod.namespace, pod.name)).unwrap_or_default();
        let record = Record {
            host_interface: host_interface(&key.0, &key.1),
            container_id: key.0,
            interface: key.1,
            namespace,
            pod,
            uid: request.pod.as_ref().and_then(|pod| pod.uid.clone()),
            network: request.network.clone(),
            scope: request.scope,
            addresses: vec![Given { address, pool, prefix_len: 32, gateway: Some(GATEWAY) }],
            ports: request.ports.clone(),
            container_mac: None,
            mtu,
        };
        self.wire(&world, record, netns).map(|record| Ok(Response::Added(attachment(&record))))
    }

    /// Takes them back. What is not there is taken back already.
    pub(crate) fn del(&mut self, request: &Request) -> Result<(), Failure> {
        let key = (request.container_id.clone(), request.interface.clone());
        let Some(record) = self.records.get(&key).cloned() else { return Ok(()) };
        let marks = self.forget(&record);
        self.hands.remove_pod(&record, &marks).map_err(|error| wiring(&record, &error))?;
        self.records.remove(&key).map_err(|error| unwritten(&record, &error))?;
        tracing::info!(addresses = %ips(&record), namespace = record.namespace, pod = record.pod, "released");
        Ok(())
    }

    /// Is everything that ADD made still there?
    pub(crate) fn check(&mut self, request: &Request, netns: Option<&OwnedFd>) -> Result<(), Failure> {
        let key = (request.container_id.clone(), request.interface.clone());
        let missing =
            |what: String| Failure::new(code::CHECK, what, "delete the pod; its controller makes another");
        let record = self.records.get(&key).cloned();
        let record = record.ok_or_else(|| missing("this container has no address here".to_owned()))?;
        if let Some(other) = request.expected.iter().find(|expected| !record.ips().any(|ip| ip == **expected))
        {
            return Err(missing(format!("prevResult has {other}, the container has {}", ips(&record))));
        }
        let netns = netns.ok_or_else(|| missing("CHECK came without a network namespace".to_owned()))?;
        let marks = self.marks(&record);
        let found =
            self.hands.check_pod(&record, netns.as_fd(), &marks).map_err(|error| wiring(&record, &error))?;
        if found.is_empty() { Ok(()) } else { Err(missing(found.join("; "))) }
    }

    /// An address and its pool, or what it waits for.
    fn address_for(
        &mut self,
        world: &World,
        pod: Option<&Pod>,
    ) -> Result<Attempt<(IpAddr, Option<String>)>, Failure> {
        let candidates = match pod {
            None => vec![],
            Some(pod) => {
                let Some((facts, namespace)) = world.pod(&pod.namespace, &pod.name, pod.uid.as_deref())
                else {
                    return Ok(Err(format!("pod {}/{} to show up in the watch", pod.namespace, pod.name)));
                };
                choose(asker(&pod.namespace, facts, namespace), &world.pools).map_err(|refusal| {
                    Failure::new(code::ADDRESS, "no pool to take an address from", refusal.to_string())
                })?
            }
        };
        let held: BTreeSet<_> = self.records.iter().flat_map(Record::ips).collect();
        let (node_labels, node_cidrs) = world.node(&self.node);
        let (leases, untouchable) = (self.leases.known(world), self.leases.untouchable());
        let known = Knowledge {
            node: &self.node,
            node_labels: &node_labels,
            node_cidrs: &node_cidrs,
            pools: &world.pools,
            leases: &leases,
            untouchable: &untouchable,
            held: &held,
        };
        match allocate(&candidates, known) {
            Decision::Take { address, pool } => Ok(Ok((address, pool))),
            Decision::Claim(lease) => {
                let name = lease.name.clone();
                self.leases.claim(lease);
                Ok(Err(format!("lease {name}")))
            }
            // What is under way may still help; else this is the answer.
            Decision::Refuse(_) if !untouchable.is_empty() => Ok(Err("a lease that is under way".to_owned())),
            Decision::Refuse(refusal) => {
                Err(Failure::new(code::ADDRESS, "no address to give", refusal.to_string()))
            }
        }
    }

    fn wire(&mut self, world: &World, mut record: Record, netns: &OwnedFd) -> Result<Record, Failure> {
        let marks =
            self.marks_for(world, &record).map_err(|why| Failure::later("egress cannot be decided", why))?;
        self.records.put(record.clone()).map_err(|error| unwritten(&record, &error))?;
        match self.hands.add_pod(&record, netns.as_fd(), &marks) {
            Ok(wired) => {
                record.container_mac = Some(wired.container_mac.to_string());
                self.records.put(record.clone()).map_err(|error| unwritten(&record, &error))?;
                tracing::info!(
                    addresses = %ips(&record), namespace = record.namespace, pod = record.pod,
                    container = record.container_id, ?marks, "assigned"
                );
                Ok(record)
            }
            Err(error) => {
                self.forget(&record);
                self.records.remove(&record.key()).map_err(|error| unwritten(&record, &error))?;
                Err(wiring(&record, &error))
            }
        }
    }

    /// The marks of a pod that is about to start, known before its first packet.
    fn marks_for(&mut self, world: &World, record: &Record) -> Result<BTreeMap<IpAddr, Mark>, String> {
        let Some(egress) = world.egress(&record.namespace, &record.pod) else { return Ok(BTreeMap::new()) };
        self.selected.extend(record.ips().map(|ip| (ip, egress.name.clone())));
        self.duty = self.decide(world)?;
        Ok(self.marks(record))
    }

    fn marks(&self, record: &Record) -> BTreeMap<IpAddr, Mark> {
        record.ips().filter_map(|ip| Some((ip, *self.duty.marks.get(&ip)?))).collect()
    }

    /// The marks of a pod that ends; they are decided no more.
    fn forget(&mut self, record: &Record) -> BTreeMap<IpAddr, Mark> {
        let marks = self.marks(record);
        for ip in record.ips() {
            self.selected.remove(&ip);
            self.duty.marks.remove(&ip);
        }
        marks
    }
}

/// The name of the node's end: a function of container and interface, so that every run finds it again. 44 bits: two of a
/// node's few hundred pods meet once in some hundred million nodes, and then the kernel refuses the second.
fn host_interface(container: &str, interface: &str) -> String {
    format!("ptl{:011x}", rank::weight(container, interface) >> 20)
}

fn attachment(record: &Record) -> Attachment {
    let link = Pair {
        host_interface: record.host_interface.clone(),
        host_mac: host_mac(),
        container_mac: record.container_mac.clone().unwrap_or_default(),
        mtu: record.mtu,
    };
    let address = |given: &Given| Address {
        address: given.address,
        prefix_len: given.prefix_len,
        gateway: given.gateway,
    };
    let link = (record.scope == Scope::Interface).then_some(link);
    Attachment { link, addresses: record.addresses.iter().map(address).collect() }
}

/// The addresses of a record, in a sentence.
fn ips(record: &Record) -> String {
    record.ips().map(|ip| ip.to_string()).collect::<Vec<_>>().join(", ")
}

fn wiring(record: &Record, error: &anyhow::Error) -> Failure {
    let details = format!("{} on {}: {error:#}", ips(record), record.host_interface);
    Failure::new(code::WIRING, "the pod's network cannot be changed", details)
}

fn unwritten(record: &Record, error: &std::io::Error) -> Failure {
    let details = format!("{}: {error}; is /run/portolan full or read-only?", ips(record));
    Failure::new(code::IO_FAILURE, "the record of an address cannot be written", details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_end_has_a_name_that_the_kernel_takes_and_that_is_found_again() {
        let name = host_interface("4f3c2b1a", "eth0");
        assert_eq!(name.len(), 14);
        assert_eq!(name, host_interface("4f3c2b1a", "eth0"));
        assert_ne!(name, host_interface("4f3c2b1a", "eth1"));
    }
}
