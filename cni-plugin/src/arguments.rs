//! `CNI_ARGS`: `KEY=VALUE` pairs between semicolons, from which the pod is known (rule 8).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use portolan_wire::cni::{Failure, Pod};

use crate::call::environment;

/// The keys that this plugin knows.
const KNOWN: [&str; 5] =
    ["IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"];

/// The pod as kubelet's runtimes name it; `None` for callers that are not Kubernetes.
///
/// A pod that is only half named is refused: it would get an address that its namespace was not given. Unknown keys are
/// refused as the reference library refuses them, unless `IgnoreUnknown` says otherwise.
pub fn pod(arguments: &str) -> Result<Option<Pod>, Failure> {
    let mut pairs = vec![];
    for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
        let parts = pair.split_once('=').filter(|(key, _)| !key.is_empty());
        pairs
            .push(parts.ok_or_else(|| environment(format!("CNI_ARGS has {pair:?}, which is no KEY=VALUE")))?);
    }
    let value = |key: &str| {
        let found = pairs.iter().rev().find(|(name, _)| *name == key);
        found.map(|(_, value)| *value).filter(|value| !value.is_empty())
    };
    if !value("IgnoreUnknown").is_some_and(|value| matches!(value, "1" | "true" | "True" | "TRUE")) {
        let unknown: Vec<_> = pairs.iter().map(|(key, _)| *key).filter(|key| !KNOWN.contains(key)).collect();
        if !unknown.is_empty() {
            let message = format!("CNI_ARGS has {} and no IgnoreUnknown=1", unknown.join(", "));
            return Err(environment(message));
        }
    }
    match (value("K8S_POD_NAMESPACE"), value("K8S_POD_NAME")) {
        (None, None) => Ok(None),
        (Some(namespace), Some(name)) => Ok(Some(Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: value("K8S_POD_UID").map(str::to_owned),
        })),
        (namespace, _) => {
            let missing = if namespace.is_none() { "K8S_POD_NAMESPACE" } else { "K8S_POD_NAME" };
            Err(environment(format!("CNI_ARGS names a pod without {missing}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_8_the_pod_is_read_whatever_the_order() {
        let read = pod("K8S_POD_UID=u;IgnoreUnknown=1;X=y;K8S_POD_NAME=erp-0;K8S_POD_NAMESPACE=erp;")
            .unwrap()
            .unwrap();
        assert_eq!(
            (read.namespace.as_str(), read.name.as_str(), read.uid.as_deref()),
            ("erp", "erp-0", Some("u"))
        );
        assert_eq!(pod("").unwrap(), None);
        assert_eq!(pod("K8S_POD_NAMESPACE=;K8S_POD_NAME=").unwrap(), None);
    }

    #[test]
    fn rule_8_unknown_keys_are_ignored_when_ignore_unknown_says_so_and_named_when_not() {
        assert_eq!(pod("IgnoreUnknown=true;IP=10.0.0.7").unwrap(), None);
        for refused in ["IP=10.0.0.7", "IgnoreUnknown=0;IP=10.0.0.7"] {
            let failure = pod(refused).unwrap_err();
            assert!(failure.code == 4 && failure.message.contains("IP"), "{failure}");
        }
    }

    #[test]
    fn rule_8_a_pod_that_is_half_named_gets_no_address_of_somebody_else() {
        for (arguments, word) in [
            ("K8S_POD_NAME=erp-0", "K8S_POD_NAMESPACE"),
            ("K8S_POD_NAMESPACE=erp", "K8S_POD_NAME"),
            ("K8S_POD_NAMESPACE", "KEY=VALUE"),
        ] {
            let failure = pod(arguments).unwrap_err();
            assert!(failure.code == 4 && failure.message.contains(word), "{failure}");
        }
    }
}
