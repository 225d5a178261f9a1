//! Who holds which address on this node: one small file per attachment, on tmpfs.
//!
//! A record is written before the kernel is touched and removed after the kernel has let go, so at every moment an
//! address that a pod may be using has a record. Sandboxes do not survive a reboot and neither does tmpfs: nothing stale
//! comes back, and no fsync is paid. Each record carries container id and interface, so that the DEL of an old sandbox
//! never frees an address that a new one has (rule 17).
//!
//! | the agent dies | what is left | who repairs it |
//! | --- | --- | --- |
//! | before the rename | a temporary file | [`Records::open`] removes it; the address was never given |
//! | after the rename, before the link | a record without a link | the reclaim pass releases it |
//! | after the link | a record with its link | the runtime repeats ADD and gets the same answer, or DELs |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use portolan_core::ports::{HostPort, Mapping, Opening, Protocol, openings};
use portolan_wire::cni::{PortMapping, Scope, Transport};
use serde::{Deserialize, Serialize};

/// The key of an attachment: what the runtime names it by.
pub type Key = (String, String);

/// One attachment of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `metadata.namespace`; empty for a caller that is not Kubernetes.
    pub namespace: String,
    /// `metadata.name`.
    pub pod: String,
    /// `metadata.uid`, where the runtime named it.
    pub uid: Option<String>,
    /// The network's name: whose GC may release it.
    pub network: String,
    /// What ADD made: an interface, or addresses alone.
    pub scope: Scope,
    /// The addresses, at most one of each family.
    pub addresses: Vec<Given>,
    /// Host ports that lead to it.
    pub ports: Vec<PortMapping>,
    /// The node's end of the pair; empty where only addresses were asked for.
    pub host_interface: String,
    /// The MAC address of the pod's end, once there is one.
    pub container_mac: Option<String>,
    /// MTU of the pair, in bytes.
    pub mtu: u32,
}

/// An address that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The address.
    pub address: IpAddr,
    /// The pool it is from; absent for the node's own pod CIDR.
    pub pool: Option<String>,
    /// Its prefix length in the answer: 32 or 128 on an interface of ours.
    pub prefix_len: u8,
    /// Its gateway in the answer.
    pub gateway: Option<IpAddr>,
}

impl Record {
    /// Its addresses, without where they are from.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|given| given.address)
    }

    /// Its host ports, as core sees them.
    pub fn mappings(&self) -> Vec<Mapping> {
        self.ports.iter().map(mapping).collect()
    }

    /// What is open on the node for it.
    pub fn openings(&self) -> BTreeSet<Opening> {
        openings(&self.mappings(), &self.ips().collect::<Vec<_>>())
    }

    /// Whether ADD has come to its end.
    pub fn is_complete(&self) -> bool {
        self.scope == Scope::Addresses || self.container_mac.is_some()
    }

    /// What the runtime names it by.
    pub fn key(&self) -> Key {
        (self.container_id.clone(), self.interface.clone())
    }
}

/// A host port of the runtime's, as core sees it.
fn mapping(port: &PortMapping) -> Mapping {
    Mapping { host: host_port(port), pod_port: port.container_port }
}

/// The node's side of it.
pub fn host_port(port: &PortMapping) -> HostPort {
    let protocol = match port.protocol {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
        Transport::Sctp => Protocol::Sctp,
    };
    HostPort { address: port.host_ip, protocol, port: port.host_port }
}

/// All records of this node, in memory and on tmpfs.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    held: BTreeMap<Key, Record>,
}

impl Records {
    /// Reads what an earlier run left.
    ///
    /// # Errors
    /// When the directory cannot be read. A file that is no record is an error too: to forget an address that a pod
    /// holds would be worse than not to start.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut held = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(&path)?;
                continue;
            }
            let record: Record = serde_json::from_slice(&fs::read(&path)?).map_err(|why| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
            })?;
            held.insert(record.key(), record);
        }
        Ok(Self { folder, held })
    }

    /// Every record.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.held.values()
    }

    /// The record of one attachment.
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.held.get(key)
    }

    /// Writes a record, or replaces it.
    ///
    /// # Errors
    /// When it cannot be written; the record then does not exist.
    pub fn put(&mut self, record: Record) -> io::Result<()> {
        let place = self.place(&record.key());
        let beside = place.with_extension("new");
        fs::write(&beside, serde_json::to_vec(&record)?)?;
        fs::rename(&beside, &place)?;
        self.held.insert(record.key(), record);
        Ok(())
    }

    /// Removes a record. One that is not there is removed already.
    ///
    /// # Errors
    /// When the file cannot be removed; the record then still exists.
    pub fn remove(&mut self, key: &Key) -> io::Result<()> {
        match fs::remove_file(self.place(key)) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            Ok(()) | Err(_) => {}
        }
        self.held.remove(key);
        Ok(())
    }

    /// Container ids and interface names have no '/', the border has seen to it; '@' keeps the two apart.
    fn place(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}@{}.json", key.0, key.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(container: &str) -> Record {
        Record {
            container_id: container.into(),
            interface: "eth0".into(),
            namespace: "erp".into(),
            pod: "erp-0".into(),
            uid: None,
            network: "portolan".into(),
            scope: Scope::Interface,
            addresses: vec![],
            ports: vec![],
            host_interface: "ptl1".into(),
            container_mac: None,
            mtu: 1450,
        }
    }

    #[test]
    fn records_survive_the_agent_and_a_write_that_was_cut_off_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = Records::open(folder.path().into()).unwrap();
        records.put(record("a")).unwrap();
        records.put(record("b.c")).unwrap();
        records.remove(&record("a").key()).unwrap();
        records.remove(&record("a").key()).unwrap();
        fs::write(folder.path().join("half.new"), "{").unwrap();
        let again = Records::open(folder.path().into()).unwrap();
        assert_eq!(again.iter().collect::<Vec<_>>(), [&record("b.c")]);
        assert!(!folder.path().join("half.new").exists());
    }

    #[test]
    fn a_record_that_cannot_be_read_is_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("c@eth0.json"), "{").unwrap();
        assert!(Records::open(folder.path().into()).unwrap_err().to_string().contains("c@eth0.json"));
    }
}
