//! ADD, DEL, CHECK, STATUS and GC, as the node's owner does them.
//!
//! ADD: the same container and interface again, and all of it is there? the same answer. Else: addresses, record, mark, link. The record is written
//! before the kernel is touched and taken back last, so whatever dies in between, no address is given twice. An ADD that an
//! earlier run of the agent did not end is taken back before it is begun anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use jiff::Timestamp;
use portolan_core::ipam::duties::is_routed;
use portolan_core::mark::Mark;
use portolan_core::{ports, rank};
use portolan_wire::cni::{Address, Attachment, Failure, Pair, Request, Response, Scope, code};

use crate::addresses::WaitsFor;
use crate::kernel::{container_mac, host_mac};
use crate::metrics::Because;
use crate::node::Owner;
use crate::records::{Given, Key, Record, host_port};
use crate::words::Word;
use crate::world::World;

/// Done, or what it waits for.
type Attempt<T> = Result<T, WaitsFor>;

impl Owner {
    /// Gives a container its interface and addresses, or says what that waits for.
    pub(crate) fn add(
        &mut self,
        request: &Request,
        netns: Option<&OwnedFd>,
    ) -> Result<Attempt<Response>, Failure> {
        let netns = match (request.scope, netns) {
            (Scope::Interface, None) => {
                let details = "is CNI_NETNS set?";
                let message = "ADD came without a network namespace";
                return Err(Failure::new(code::INVALID_ENVIRONMENT, message, details));
            }
            (_, netns) => netns,
        };
        match self.records.get(&key(request)).cloned() {
            Some(record) if self.is_there(&record, netns)? => {
                return Ok(Ok(Response::Added(attachment(&record))));
            }
            Some(half) => self.release(&half, "ADD begun anew")?,
            None => {}
        }
        let Some(world) = self.world.clone() else { return Ok(Err("the API server".to_owned().into())) };
        let Some(mtu) = self.mtu else { return Ok(Err("the node's own network".to_owned().into())) };
        self.refuse_taken_ports(request)?;
        let addresses = match self.addresses_for(&world, request)? {
            Ok(addresses) => addresses,
            Err(waits_for) => return Ok(Err(waits_for)),
        };
        let (container_id, interface) = key(request);
        let pod = request.pod.clone();
        let record = Record {
            host_interface: match request.scope {
                Scope::Interface => host_interface(&container_id, &interface),
                Scope::Addresses => String::new(),
            },
            container_id,
            interface,
            namespace: pod.as_ref().map(|pod| pod.namespace.clone()).unwrap_or_default(),
            pod: pod.as_ref().map(|pod| pod.name.clone()).unwrap_or_default(),
            uid: pod.and_then(|pod| pod.uid),
            network: request.network.clone(),
            scope: request.scope,
            addresses,
            ports: request.ports.clone(),
            mtu,
            complete: false,
        };
        self.attach(&world, record, netns).map(|record| Ok(Response::Added(attachment(&record))))
    }

    /// Takes them back. What is not there is taken back already.
    pub(crate) fn del(&mut self, request: &Request) -> Result<(), Failure> {
        match self.records.get(&key(request)).cloned() {
            Some(record) => self.release(&record, "DEL"),
            None => Ok(()),
        }
    }

    /// Is everything that ADD made still there?
    pub(crate) fn check(&mut self, request: &Request, netns: Option<&OwnedFd>) -> Result<(), Failure> {
        let missing =
            |what: String| Failure::new(code::CHECK, what, "delete the pod; its controller makes another");
        let record = self.records.get(&key(request)).cloned();
        let record = record.ok_or_else(|| missing("this container has no address here".to_owned()))?;
        if let Some(other) = request.expected.iter().find(|expected| !record.ips().any(|ip| ip == **expected))
        {
            return Err(missing(format!("prevResult has {other}, the container has {}", ips(&record))));
        }
        if record.scope == Scope::Addresses {
            return Ok(());
        }
        let netns = netns.ok_or_else(|| missing("CHECK came without a network namespace".to_owned()))?;
        let found = self.missing(&record, netns)?;
        if found.is_empty() { Ok(()) } else { Err(missing(found.join("; "))) }
    }

    /// Whether an earlier ADD came to its end, and what it made is still in this namespace.
    fn is_there(&mut self, record: &Record, netns: Option<&OwnedFd>) -> Result<bool, Failure> {
        match netns.filter(|_| record.scope == Scope::Interface) {
            Some(netns) if record.complete => Ok(self.missing(record, netns)?.is_empty()),
            _ => Ok(record.complete),
        }
    }

    /// What ADD made for this record and is not in the kernel, in words.
    fn missing(&mut self, record: &Record, netns: &OwnedFd) -> Result<Vec<String>, Failure> {
        let (marks, routed) = (self.marks(record), self.routed(record));
        let found = self.hands.check_pod(record, netns.as_fd(), &marks, &record.openings(), routed);
        found.map_err(|error| wiring(record, &error))
    }

    /// Can an ADD of this network be served now, and do the pods here have their network?
    pub(crate) fn status(&self, request: &Request) -> Result<(), Failure> {
        let Some(world) = &self.world else {
            let details = "pods that run keep their network; see the agent's log";
            return Err(Failure::new(
                code::NOT_AVAILABLE,
                "the API server has not been reached yet",
                details,
            ));
        };
        if let Some(trouble) = &self.impaired {
            let message = "this node's network is not as it should be, and is being repaired";
            return Err(Failure::new(code::NOT_AVAILABLE_LIMITED, message, trouble));
        }
        if !self.has_addresses(world, &request.pools) {
            let message = match request.pools.as_slice() {
                [] => "no pool that this node can use has an address left".to_owned(),
                named => format!("pools {} have no address left that this node can use", named.join(", ")),
            };
            let details = "add a range to an IPPool: kubectl get ippools shows what is free";
            return Err(Failure::new(code::NOT_AVAILABLE, message, details));
        }
        Ok(())
    }

    /// Releases what this network holds here and the runtime does not list. Each link goes before its addresses, so that even
    /// a pod that was left out by mistake loses its network and never shares its address. Without a list nothing is released.
    pub(crate) fn collect(&mut self, request: &Request) -> Result<(), Failure> {
        let Some(keep) = &request.keep else { return Ok(()) };
        let keep: BTreeSet<Key> =
            keep.iter().map(|one| (one.container_id.clone(), one.interface.clone())).collect();
        let of_network = self.records.iter().filter(|record| record.network == request.network);
        let stale: Vec<_> = of_network.filter(|record| !keep.contains(&record.key())).cloned().collect();
        let failures: Vec<_> = stale.iter().filter_map(|record| self.reclaim(record, "GC").err()).collect();
        let [first, ..] = failures.as_slice() else { return Ok(()) };
        let all: Vec<_> = failures.iter().map(Failure::to_string).collect();
        let message = format!("{} of {} attachments could not be released", failures.len(), stale.len());
        Err(Failure::new(first.code, message, all.join("; ")))
    }

    /// Takes back what no DEL came for.
    pub(crate) fn reclaim(&mut self, record: &Record, reason: &str) -> Result<(), Failure> {
        self.release(record, reason)?;
        let count = u64::try_from(record.addresses.len()).unwrap_or(u64::MAX);
        self.metrics.reclaimed.get_or_create(&Because { reason: reason.to_owned() }).inc_by(count);
        Ok(())
    }

    fn release(&mut self, record: &Record, reason: &str) -> Result<(), Failure> {
        let marks = self.forget(record);
        let removed = self.hands.remove_pod(record, &marks, &record.openings());
        removed.map_err(|error| wiring(record, &error))?;
        self.records.remove(&record.key()).map_err(|error| unwritten(record, &error))?;
        record.ips().for_each(|ip| self.leases.give_back(ip));
        self.words.push(Word::Released(record.clone(), reason.to_owned(), Timestamp::now()));
        Ok(())
    }

    fn refuse_taken_ports(&self, request: &Request) -> Result<(), Failure> {
        let taken: Vec<_> = self.records.iter().flat_map(|record| &record.ports).map(host_port).collect();
        let wanted: Vec<_> = request.ports.iter().map(host_port).collect();
        ports::conflict(&taken, &wanted).map_or(Ok(()), |conflict| {
            let details = "delete one of the two pods, or give it another hostPort";
            Err(Failure::new(code::INVALID_CONFIGURATION, conflict.to_string(), details))
        })
    }

    fn attach(&mut self, world: &World, record: Record, netns: Option<&OwnedFd>) -> Result<Record, Failure> {
        let marks =
            self.marks_for(world, &record).map_err(|why| Failure::later("egress cannot be decided", why))?;
        if let Some(held) = record.ips().find(|ip| self.leases.book().is_held(*ip)) {
            return Err(Failure::later(format!("{held} is held"), "the runtime will come back"));
        }
        self.records.begin(record.clone()).map_err(|error| unwritten(&record, &error))?;
        record.ips().for_each(|ip| {
            self.leases.take(ip);
        });
        self.words.push(Word::Assigned(record.clone(), Timestamp::now()));
        let wired = match netns.filter(|_| record.scope == Scope::Interface) {
            Some(netns) => {
                let routed = self.routed(&record);
                let wired = self.hands.add_pod(&record, netns.as_fd(), &marks, &record.openings(), routed);
                wired.map_err(|error| wiring(&record, &error))
            }
            None => Ok(()),
        };
        let complete = |()| self.records.complete(&record.key()).map_err(|error| unwritten(&record, &error));
        if let Err(failure) = wired.and_then(complete) {
            // Where this fails too, the record stays, and with it the address, until DEL or the next pass.
            if let Err(more) = self.release(&record, "ADD failed") {
                tracing::warn!(%more, "what a failed ADD left behind stays for now");
            }
            return Err(failure);
        }
        Ok(record)
    }

    /// Whether the node routes the pod's addresses to it: not those that another node has while a virtual machine migrates.
    pub(crate) fn routed(&self, record: &Record) -> bool {
        let lease = |given: &Given| {
            let world = self.world.as_ref()?;
            world.leases.single(given.pool.as_ref()?, given.address)
        };
        record.addresses.iter().filter_map(lease).all(|lease| is_routed(lease, &self.node))
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

fn key(request: &Request) -> Key {
    (request.container_id.clone(), request.interface.clone())
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
        container_mac: container_mac(record),
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
