//! Portolan's Kubernetes kinds (`portolan.dev/v1alpha1`), one file each, with the conversion into core types.
//!
//! Owns: the schema that users see, and the only place where what they wrote becomes a type that cannot be wrong.
//! Guarantees: a conversion either gives a core type or a typed error that names the object, the field, the value and
//! the remedy. `crds/yaml` is generated from here (`cargo run -p portolan-crds --bin generate-crds`) and checked in.
//!
//! Field names follow Antrea's (`IPPool`, `ExternalIPPool`, `Egress`), so that a manifest written for Antrea works when
//! only its `apiVersion` is changed.

pub mod change;
pub mod condition;
mod convert;
mod egress;
mod external_ip_pool;
mod ip_lease;
mod ip_pool;
pub mod node;
mod selector;
mod service_engine;

pub use convert::{Invalid, ranges};
pub use egress::{AppliedTo, Egress, EgressSpec, EgressStatus, OnUnavailable};
pub use external_ip_pool::{ExternalIPPool, ExternalIPPoolSpec, ExternalIPPoolStatus};
pub use ip_lease::{IPLease, IPLeaseSpec, LeaseOwner};
pub use ip_pool::{IPPool, IPPoolSpec, IPPoolStatus, IPRange, Outbound, PoolUsage, SubnetInfo, Usage};
pub use selector::selector;
pub use service_engine::{ServiceEngine, ServiceEngineSpec, ServiceEngineStatus};

/// The namespace that Portolan's own pods, leases and secrets live in.
pub const NAMESPACE: &str = "portolan-system";

/// Annotations that users have in their manifests today, and the same under our own name. The first that is present
/// counts.
pub mod annotation {
    /// On a Namespace or a Pod: the pools to take addresses from, in order, separated by commas.
    pub const POOLS: [&str; 2] = ["portolan.dev/ippools", "ipam.antrea.io/ippools"];
    /// On a Pod or its template: the addresses it may have, separated by commas. The Nth ordinal of a StatefulSet gets the
    /// Nth of each family.
    pub const ADDRESSES: [&str; 2] = ["portolan.dev/pod-ips", "ipam.antrea.io/pod-ips"];
    /// On a Service of type LoadBalancer: the pool its virtual address comes from.
    pub const EXTERNAL_POOL: [&str; 2] =
        ["portolan.dev/external-ip-pool", "service.antrea.io/external-ip-pool"];

    /// The value of the first of these annotations that is present.
    pub fn first<'a>(
        annotations: Option<&'a std::collections::BTreeMap<String, String>>,
        keys: &[&str],
    ) -> Option<&'a str> {
        let annotations = annotations?;
        keys.iter().find_map(|key| annotations.get(*key)).map(String::as_str)
    }

    /// A comma-separated list, trimmed, without empty entries.
    pub fn list(value: &str) -> Vec<String> {
        value.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
    }
}
