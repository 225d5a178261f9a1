//! Names that are safe in a file name, a metric and a log line.

use std::fmt::{self, Display};
use std::str::FromStr;

/// The longest cluster name, as a DNS label.
const LONGEST_CLUSTER: usize = 63;
/// The longest service name: cluster, namespace and Service, each a DNS label at most, with their separators.
const LONGEST_SERVICE: usize = 253;

/// A cluster's name, unique among those that share an engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

/// A virtual service's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

impl ClusterName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ServiceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        checked(text, LONGEST_CLUSTER).map(Self)
    }
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        checked(text, LONGEST_SERVICE).map(Self)
    }
}

impl Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn checked(text: &str, longest: usize) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let outer =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = text.as_bytes();
    if bytes.len() > longest
        || !bytes.iter().copied().all(inner)
        || !outer(bytes.first())
        || !outer(bytes.last())
    {
        return Err(format!(
            "1 to {longest} lower case letters, digits, '-' and '.', beginning and ending with a letter or digit"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_a_directory() {
        for bad in ["", ".", "..", "../etc", "a/b", "-a", "a-", "A", "a b", "a\n", &"a".repeat(64)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ordinary_names_pass() {
        assert_eq!("k8s".parse::<ClusterName>().unwrap().as_str(), "k8s");
        assert_eq!("k8s--default-nginx1".parse::<ServiceName>().unwrap().to_string(), "k8s--default-nginx1");
    }
}
