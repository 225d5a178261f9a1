//! Workloads that keep their addresses: who an address is kept for, worked out from what a pod says of itself.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::labels::Labels;

/// A kind of workload that can own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `apps/v1` StatefulSet: an address for each ordinal.
    StatefulSet,
    /// `apps/v1` Deployment: a set of addresses.
    Deployment,
    /// `apps/v1` ReplicaSet of no Deployment: a set.
    ReplicaSet,
    /// `apps/v1` DaemonSet: a set.
    DaemonSet,
    /// `batch/v1` Job: a set.
    Job,
    /// `kubevirt.io/v1` VirtualMachine: one address, held by two pods while it migrates.
    VirtualMachine,
    /// A pod of none of these.
    Pod,
}

const KINDS: [(Kind, &str); 7] = [
    (Kind::StatefulSet, "StatefulSet"),
    (Kind::Deployment, "Deployment"),
    (Kind::ReplicaSet, "ReplicaSet"),
    (Kind::DaemonSet, "DaemonSet"),
    (Kind::Job, "Job"),
    (Kind::VirtualMachine, "VirtualMachine"),
    (Kind::Pod, "Pod"),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KINDS.iter().find(|(kind, _)| kind == self).map_or("", |(_, name)| *name))
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        KINDS.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind).ok_or(())
    }
}

/// Who an address is kept for. By name and not by uid: what is made again under its old name within the pool's retention
/// gets its old addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The workload's kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pod, where each of the workload's pods has an address of its own (StatefulSet).
    pub pod: Option<String>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.pod.as_ref().unwrap_or(&self.name);
        write!(f, "{} {}/{name}", self.kind, self.namespace)
    }
}

/// What a pod says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// `metadata.namespace`.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.labels`.
    pub labels: &'a Labels,
    /// Kind and name of the owner reference that is the controller.
    pub controller: Option<(&'a str, &'a str)>,
    /// The addresses that its annotation `pod-ips` lists.
    pub wanted: &'a [IpAddr],
}

/// What addresses a pod needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Any of its pools.
    Any,
    /// The one that is kept for this owner, or a new one that is kept from now on.
    Kept(Owner),
    /// One of these of each family, kept for this owner.
    Fixed(Owner, Vec<IpAddr>),
    /// None can be found.
    Impossible(String),
}

/// KubeVirt's label on the pods of a virtual machine.
const VIRTUAL_MACHINE: &str = "vm.kubevirt.io/name";
/// KubeVirt's kind of what controls those pods.
const VIRTUAL_MACHINE_INSTANCE: &str = "VirtualMachineInstance";
/// The label that a Deployment puts on the pods of each of its ReplicaSets.
const TEMPLATE_HASH: &str = "pod-template-hash";

impl Identity<'_> {
    /// Who this pod's addresses are kept for, where they are kept.
    pub fn owner(&self) -> Owner {
        let (kind, name, pod) = match self.controller {
            Some(("StatefulSet", name)) => (Kind::StatefulSet, name, Some(self.name.to_owned())),
            Some((VIRTUAL_MACHINE_INSTANCE, name)) => {
                let machine = self.labels.get(VIRTUAL_MACHINE).map_or(name, String::as_str);
                (Kind::VirtualMachine, machine, None)
            }
            Some(("ReplicaSet", name)) => match self.deployment_of(name) {
                Some(deployment) => (Kind::Deployment, deployment, None),
                None => (Kind::ReplicaSet, name, None),
            },
            Some(("DaemonSet", name)) => (Kind::DaemonSet, name, None),
            Some(("Job", name)) => (Kind::Job, name, None),
            Some(_) | None => (Kind::Pod, self.name, None),
        };
        Owner { kind, namespace: self.namespace.to_owned(), name: name.to_owned(), pod }
    }

    /// What addresses it needs. `keeps`: whether its pools keep addresses for StatefulSets and virtual machines.
    pub fn need(&self, keeps: bool) -> Need {
        let owner = self.owner();
        match (self.wanted, owner.kind) {
            ([], Kind::StatefulSet | Kind::VirtualMachine) if keeps => Need::Kept(owner),
            ([], _) => Need::Any,
            (wanted, Kind::StatefulSet) => self.of_ordinal(wanted, owner),
            (wanted, _) => Need::Fixed(owner, wanted.to_vec()),
        }
    }

    /// The Nth ordinal gets the Nth address of each family.
    fn of_ordinal(&self, wanted: &[IpAddr], owner: Owner) -> Need {
        let ordinal = self.name.rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
        let ordinal = ordinal.unwrap_or(usize::MAX);
        let of_family = |ipv4: bool| wanted.iter().copied().filter(move |ip| ip.is_ipv4() == ipv4);
        let families: Vec<_> = [true, false].into_iter().filter(|f| of_family(*f).next().is_some()).collect();
        let mine: Vec<_> = families.iter().filter_map(|family| of_family(*family).nth(ordinal)).collect();
        if mine.len() == families.len() {
            return Need::Fixed(owner, mine);
        }
        Need::Impossible(format!(
            "annotation pod-ips of {owner} has no address for this ordinal: list one for each, in order"
        ))
    }

    fn deployment_of<'b>(&self, replica_set: &'b str) -> Option<&'b str> {
        let hash = self.labels.get(TEMPLATE_HASH)?;
        replica_set.strip_suffix(hash.as_str())?.strip_suffix('-')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str, controller: Option<(&str, &str)>, labels: &[(&str, &str)]) -> String {
        let labels: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Identity { namespace: "erp", name, labels: &labels, controller, wanted: &[] }.owner().to_string()
    }

    #[test]
    fn a_pod_is_traced_to_the_workload_that_a_user_knows() {
        assert_eq!(owner("erp-0", Some(("StatefulSet", "erp")), &[]), "StatefulSet erp/erp-0");
        let hash = [("pod-template-hash", "5d9f6c")];
        assert_eq!(owner("web-5d9f6c-x", Some(("ReplicaSet", "web-5d9f6c")), &hash), "Deployment erp/web");
        assert_eq!(owner("web-x", Some(("ReplicaSet", "web")), &[]), "ReplicaSet erp/web");
        let vm = [("vm.kubevirt.io/name", "legacy")];
        let launcher = Some(("VirtualMachineInstance", "legacy"));
        assert_eq!(owner("virt-launcher-legacy-1", launcher, &vm), "VirtualMachine erp/legacy");
        assert_eq!(owner("alone", None, &[]), "Pod erp/alone");
    }

    #[test]
    fn each_ordinal_has_its_place_in_the_list() {
        let wanted = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"].map(|ip| ip.parse().unwrap());
        let labels = Labels::new();
        let ask = |name| {
            let controller = Some(("StatefulSet", "db"));
            Identity { namespace: "erp", name, labels: &labels, controller, wanted: &wanted }.need(true)
        };
        assert!(matches!(ask("db-1"), Need::Fixed(_, ips) if ips == [wanted[1], wanted[3]]));
        assert!(matches!(ask("db-2"), Need::Impossible(_)));
    }
}
