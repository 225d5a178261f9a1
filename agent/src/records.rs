//! Who holds which address on this node: one small file per attachment, on tmpfs.
//!
//! A record is written before the kernel is touched and removed after the kernel has let go, so at every moment an
//! address that a pod may be using has a record. Sandboxes do not survive a reboot and neither does tmpfs: nothing stale
//! comes back, and no fsync is paid. Each record carries container id and interface, so that the DEL of an old sandbox
//! never frees an address that a new one has (rule 17).
//!
//! | the agent dies | what is left | who repairs it |
//! | --- | --- | --- |
//! | while it writes the record | a part of a `.half` | [`Records::open`] removes it; the address was never given |
//! | before the link | a `.half` without a link | the reclaim pass releases it |
//! | before the end of ADD | a `.half` with its link | the runtime repeats ADD, which takes it back first, or DELs |
//! | after that | a `.json` with its link | the runtime repeats ADD and gets the same answer, or DELs |

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
    /// MTU of the pair, in bytes.
    pub mtu: u32,
    /// Whether ADD has come to its end: the name of the file says so.
    #[serde(skip)]
    pub complete: bool,
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

/// The ends of the names of files: of an ADD that is under way, and of one that has come to its end.
const HALF: &str = "half";
const WHOLE: &str = "json";

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
    /// When the directory cannot be read. A finished file that is no record is an error too: to forget an address that a pod
    /// holds would be worse than not to start.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut held = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let complete = path.extension().is_none_or(|extension| extension != HALF);
            let record = match serde_json::from_slice::<Record>(&fs::read(&path)?) {
                Ok(record) => Record { complete, ..record },
                Err(_) if !complete => {
                    fs::remove_file(&path)?;
                    continue;
                }
                Err(why) => {
                    let why = format!("{}: {why}", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
            };
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

    /// Writes a record of what is about to be made.
    ///
    /// # Errors
    /// When it cannot be written; the record then does not exist.
    pub fn begin(&mut self, record: Record) -> io::Result<()> {
        let key = record.key();
        if let Err(why) = fs::write(self.place(&key, HALF), serde_json::to_vec(&record)?) {
            // What is left of it is no record either way.
            let _ = fs::remove_file(self.place(&key, HALF));
            return Err(why);
        }
        self.held.insert(key, Record { complete: false, ..record });
        Ok(())
    }

    /// What was begun is there.
    ///
    /// # Errors
    /// When the file cannot be renamed; ADD then has not come to its end.
    pub fn complete(&mut self, key: &Key) -> io::Result<()> {
        fs::rename(self.place(key, HALF), self.place(key, WHOLE))?;
        if let Some(record) = self.held.get_mut(key) {
            record.complete = true;
        }
        Ok(())
    }

    /// Removes a record. One that is not there is removed already.
    ///
    /// # Errors
    /// When the file cannot be removed; the record then still exists.
    pub fn remove(&mut self, key: &Key) -> io::Result<()> {
        let Some(record) = self.held.get(key) else { return Ok(()) };
        match fs::remove_file(self.place(key, if record.complete { WHOLE } else { HALF })) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            Ok(()) | Err(_) => {}
        }
        self.held.remove(key);
        Ok(())
    }

    /// Container ids and interface names have no '/', the border has seen to it; '@' keeps the two apart.
    fn place(&self, key: &Key, extension: &str) -> PathBuf {
        self.folder.join(format!("{}@{}.{extension}", key.0, key.1))
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
            mtu: 1450,
            complete: false,
        }
    }

    #[test]
    fn records_survive_the_agent_and_a_write_that_was_cut_off_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = Records::open(folder.path().into()).unwrap();
        for name in ["a", "b.c", "d", "e"] {
            records.begin(record(name)).unwrap();
        }
        records.complete(&record("b.c").key()).unwrap();
        records.complete(&record("e").key()).unwrap();
        for name in ["a", "a", "e"] {
            records.remove(&record(name).key()).unwrap();
        }
        fs::write(folder.path().join("f@eth0.half"), "{").unwrap();
        let again = Records::open(folder.path().into()).unwrap();
        let whole = Record { complete: true, ..record("b.c") };
        assert_eq!(again.iter().collect::<Vec<_>>(), [&whole, &record("d")]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("c@eth0.json"), "{").unwrap();
        assert!(Records::open(folder.path().into()).unwrap_err().to_string().contains("c@eth0.json"));
    }
}
