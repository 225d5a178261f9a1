//! Portolan's Kubernetes kinds, and their conversion into core types.
