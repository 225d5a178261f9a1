//! Which pools a pod may take its address from, and in which order.
//!
//! A network's own list beats the Pod's, that beats its Namespace's, and that the pools whose selector matches the
//! Namespace. Whoever writes Pods or networks in a namespace is not the one who says which pools the namespace may use:
//! their lists can choose among the pools that the namespace was given, and no others.

use std::collections::{BTreeMap, BTreeSet};

use super::Pool;
use crate::labels::Labels;

/// What is known of the pod.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The namespace's name.
    pub namespace: &'a str,
    /// The namespace's labels.
    pub namespace_labels: &'a Labels,
    /// The pools that the namespace's annotation lists.
    pub namespace_pools: &'a [String],
    /// The pools that the pod's annotation lists.
    pub pod_pools: &'a [String],
    /// The pools that the network's configuration lists.
    pub network_pools: &'a [String],
}

/// Why no pool can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A listed pool does not exist.
    #[error("IPPool {pool:?}, which {by} lists, does not exist: create it or correct the annotation")]
    Unknown {
        /// The pool.
        pool: String,
        /// Whose annotation.
        by: &'static str,
    },
    /// A pod asks for a pool its namespace was not given.
    #[error(
        "IPPool {pool:?} was not given to namespace {namespace:?}: an administrator can list it in the Namespace's \
         annotation portolan.dev/ippools or match the namespace with the pool's namespaceSelector"
    )]
    NotGiven {
        /// The pool.
        pool: String,
        /// The pod's namespace.
        namespace: String,
    },
}

/// The pools, in order. None of them: the pod gets an address of its node's own pod CIDR.
///
/// # Errors
/// When a list names a pool that does not exist or that the namespace was not given.
pub fn choose(asker: Asker<'_>, pools: &BTreeMap<String, Pool>) -> Result<Vec<String>, Refusal> {
    let matching = || {
        let matches =
            |pool: &&Pool| pool.namespaces.as_ref().is_some_and(|s| s.matches(asker.namespace_labels));
        pools.values().filter(matches)
    };
    let network = (asker.network_pools, "the network's configuration");
    let lists = [network, (asker.pod_pools, "the Pod"), (asker.namespace_pools, "the Namespace")];
    for (list, by) in lists {
        if let Some(pool) = list.iter().find(|pool| !pools.contains_key(*pool)) {
            return Err(Refusal::Unknown { pool: pool.clone(), by });
        }
    }
    let asked = [asker.network_pools, asker.pod_pools].into_iter().find(|list| !list.is_empty());
    let Some(asked) = asked else {
        let default = matching().filter(|pool| !pool.on_request).map(|pool| pool.name.clone());
        let listed = asker.namespace_pools;
        return Ok(if listed.is_empty() { default.collect() } else { listed.to_vec() });
    };
    let matching = matching().map(|pool| pool.name.clone());
    let given: BTreeSet<String> = asker.namespace_pools.iter().cloned().chain(matching).collect();
    match asked.iter().find(|pool| !given.contains(*pool)) {
        Some(pool) => Err(Refusal::NotGiven { pool: pool.clone(), namespace: asker.namespace.to_owned() }),
        None => Ok(asked.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::lease::tests::pool;
    use crate::labels::Selector;

    fn ask(namespace_pools: &[&str], pod_pools: &[&str]) -> Result<Vec<String>, Refusal> {
        let labels: Labels = [("tier".to_owned(), "erp".to_owned())].into();
        let mut pools: BTreeMap<_, _> = ["erp", "crm", "spare"]
            .iter()
            .map(|name| ((*name).to_owned(), pool(name, &["10.0.0.0/24"], 16)))
            .collect();
        let selector = Selector { match_labels: labels.clone(), ..Selector::default() };
        pools.get_mut("erp").unwrap().namespaces = Some(selector.clone());
        let kept_apart =
            Pool { namespaces: Some(selector), on_request: true, ..pool("backup", &["10.1.0.0/24"], 16) };
        pools.insert("backup".into(), kept_apart);
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (namespace_pools, pod_pools) = (own(namespace_pools), own(pod_pools));
        let asker = Asker {
            namespace: "erp",
            namespace_labels: &labels,
            namespace_pools: &namespace_pools,
            pod_pools: &pod_pools,
            network_pools: &[],
        };
        choose(asker, &pools)
    }

    #[test]
    fn a_pool_on_request_is_got_by_naming_it_and_not_otherwise() {
        assert_eq!(ask(&[], &[]).unwrap(), ["erp"]);
        assert_eq!(ask(&[], &["backup"]).unwrap(), ["backup"]);
    }

    #[test]
    fn a_pods_list_beats_its_namespaces_list_and_that_beats_the_selector() {
        assert_eq!(ask(&[], &[]).unwrap(), ["erp"]);
        assert_eq!(ask(&["spare", "crm"], &[]).unwrap(), ["spare", "crm"]);
        assert_eq!(ask(&["spare", "crm"], &["crm"]).unwrap(), ["crm"]);
    }

    #[test]
    fn a_tenant_cannot_take_a_pool_that_its_namespace_was_not_given() {
        assert_eq!(
            ask(&[], &["crm"]).unwrap_err(),
            Refusal::NotGiven { pool: "crm".into(), namespace: "erp".into() }
        );
        assert_eq!(ask(&["crm"], &["erp"]).unwrap(), ["erp"]);
    }

    #[test]
    fn a_pool_that_does_not_exist_is_named() {
        let error = ask(&["no-such"], &[]).unwrap_err().to_string();
        assert!(error.contains("no-such") && error.contains("Namespace"), "{error}");
    }
}
