//! The CNI binary's call to the agent: one request, one response, one connection.
//!
//! Both sides of this conversation come from the same image, but not always at the same moment: during an upgrade
//! an old binary talks to a new agent. [`Request::protocol`] lets the agent refuse what it does not understand with
//! "try again later" instead of guessing.
//!
//! Frame: a big-endian `u32` length, then that many bytes of JSON. The pod's network namespace travels beside the
//! first byte of the request as a file descriptor (`SCM_RIGHTS`), so the agent needs no mount of `/run/netns`.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Where the agent listens, on the node.
pub const SOCKET: &str = "/run/portolan/agent.sock";

/// The version of this conversation. It changes when an old peer would misunderstand a new one.
pub const PROTOCOL: u32 = 2;

/// The largest frame either side accepts, in bytes. A CNI configuration with a previous result is a few kilobytes.
pub const MAX_FRAME: u32 = 1 << 20;

/// What the runtime asks for (CNI specification, section 2, `CNI_COMMAND`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    /// Give the container an interface and an address.
    Add,
    /// Take both back. Never fails for something that is not there.
    Del,
    /// Is everything that ADD made still there?
    Check,
    /// Can an ADD be served now, and do the pods here have their network?
    Status,
    /// Release what this network holds on this node and the runtime does not list.
    Gc,
}

/// What ADD is to make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// An interface with addresses: called as the network's main plugin.
    #[default]
    Interface,
    /// Addresses only: called by another main plugin as its IPAM (CNI specification, section 4).
    Addresses,
}

/// One call of the CNI binary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// The verb.
    pub command: Command,
    /// The configuration's `name`: whose attachments GC may release.
    #[serde(default)]
    pub network: String,
    /// What ADD is to make, and DEL and CHECK find.
    #[serde(default)]
    pub scope: Scope,
    /// `CNI_CONTAINERID`, already checked against the specification's character set; empty for STATUS and GC.
    pub container_id: String,
    /// `CNI_IFNAME`, already checked; empty for STATUS and GC.
    pub interface: String,
    /// The pod as the runtime names it in `CNI_ARGS`; absent for callers that are not Kubernetes.
    pub pod: Option<Pod>,
    /// Addresses that ADD returned, from `prevResult`; only CHECK carries them.
    #[serde(default)]
    pub expected: Vec<IpAddr>,
    /// The pools that the configuration names (`ipam.ippools`), in order: the network's administrator has chosen.
    #[serde(default)]
    pub pools: Vec<String>,
    /// Host ports of the pod (`runtimeConfig.portMappings`); only ADD carries them.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// The attachments that GC keeps; `None` where the runtime lists none, which releases nothing.
    #[serde(default)]
    pub keep: Option<Vec<AttachmentKey>>,
}

impl Request {
    /// A call for this network that names nothing else yet.
    pub fn new(command: Command, network: &str) -> Self {
        Self {
            protocol: PROTOCOL,
            command,
            network: network.to_owned(),
            scope: Scope::default(),
            container_id: String::new(),
            interface: String::new(),
            pod: None,
            expected: vec![],
            pools: vec![],
            ports: vec![],
            keep: None,
        }
    }
}

/// A host port that leads to a port of the pod (CNI conventions, `portMappings`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// The port on the node, 1 to 65535.
    pub host_port: u16,
    /// The port in the pod, 1 to 65535.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: Transport,
    /// The node's address it is open on; absent: all.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What a runtime names an attachment by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
}

/// A pod as `CNI_ARGS` names it (`K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; older runtimes do not send it.
    pub uid: Option<String>,
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// ADD has been done; this is what the result names.
    Added(Attachment),
    /// DEL or CHECK has been done.
    Done,
    /// The verb failed; nothing of it is left behind.
    Failed(Failure),
}

/// What ADD made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The pair; absent where only addresses were asked for.
    pub link: Option<Pair>,
    /// The pod's addresses with the gateway of each, one per family.
    pub addresses: Vec<Address>,
}

/// The pair of interfaces that connects a pod to its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The end that stays on the node.
    pub host_interface: String,
    /// Its MAC address, as text.
    pub host_mac: String,
    /// The MAC address of the pod's end, as text.
    pub container_mac: String,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
}

/// One address of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length: 32 or 128 on an interface of ours; that of the pool's subnet where only addresses were asked for.
    pub prefix_len: u8,
    /// The default gateway of that family; absent where the pool has none.
    pub gateway: Option<IpAddr>,
}

/// Why a verb failed, in the words of the CNI specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct Failure {
    /// A code of the specification (1 to 99), or one of [`code`].
    pub code: u32,
    /// What happened, in one sentence.
    pub message: String,
    /// Which object, which field, what to do about it.
    pub details: String,
}

/// The error codes Portolan answers with. 1 to 99 are the specification's, from 100 on they are ours.
pub mod code {
    /// The configuration asks for a version that is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// An environment variable is missing or bad.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u32 = 5;
    /// Standard input is not JSON.
    pub const DECODING_FAILURE: u32 = 6;
    /// The network configuration has a bad value.
    pub const INVALID_CONFIGURATION: u32 = 7;
    /// Something transient is in the way: try again later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: an ADD cannot be served.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: an ADD cannot be served, and pods that run may have limited connectivity.
    pub const NOT_AVAILABLE_LIMITED: u32 = 51;
    /// No address could be given.
    pub const ADDRESS: u32 = 100;
    /// The pod's network could not be wired.
    pub const WIRING: u32 = 101;
    /// CHECK found something missing.
    pub const CHECK: u32 = 102;
}

impl Failure {
    /// A failure that the runtime should retry.
    pub fn later(message: impl Into<String>, details: impl Into<String>) -> Self {
        Self::new(code::TRY_AGAIN_LATER, message, details)
    }

    /// A failure with a code of [`code`].
    pub fn new(code: u32, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }
}

/// Why bytes are no message, or a message no frame.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is larger than [`MAX_FRAME`].
    #[error("a frame may have at most {MAX_FRAME} bytes")]
    TooLarge,
    /// It is not that message.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The bytes of one frame.
///
/// # Errors
/// When the message does not serialise or is larger than [`MAX_FRAME`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Malformed> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or(Malformed::TooLarge)?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The length of the body that follows these four bytes.
///
/// # Errors
/// When it is larger than [`MAX_FRAME`].
pub fn body_length(prefix: [u8; 4]) -> Result<usize, Malformed> {
    let length = u32::from_be_bytes(prefix);
    if length > MAX_FRAME { Err(Malformed::TooLarge) } else { Ok(length as usize) }
}

/// A message from the body of a frame.
///
/// # Errors
/// When the body is not that message.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Malformed> {
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_frame() {
        let request = Request {
            container_id: "c1".into(),
            interface: "eth0".into(),
            pod: Some(Pod { namespace: "erp".into(), name: "erp-0".into(), uid: None }),
            ..Request::new(Command::Add, "portolan")
        };
        let bytes = encode(&request).unwrap();
        let (prefix, body) = bytes.split_first_chunk().unwrap();
        assert_eq!(body_length(*prefix).unwrap(), body.len());
        assert_eq!(decode::<Request>(body).unwrap(), request);
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_before_anything_is_allocated() {
        assert!(matches!(body_length(u32::MAX.to_be_bytes()), Err(Malformed::TooLarge)));
    }

    #[test]
    fn a_message_that_was_cut_off_is_an_error_and_not_a_message() {
        let bytes = encode(&Response::Done).unwrap();
        assert!(decode::<Response>(&bytes[4..bytes.len() - 1]).is_err());
    }
}
