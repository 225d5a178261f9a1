//! A data centre in network namespaces, with a real Kubernetes in it.
