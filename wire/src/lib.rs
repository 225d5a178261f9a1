//! What Portolan's processes say to each other, and nothing else: messages, their framing and their typed errors.
//!
//! * [`cni`]: the CNI binary to the agent on the same node, over a unix socket.
//! * `inspect` (feature `inspect`): what the agent tells who asks about its node, JSON over HTTP.
//! * `engine` (feature `engine`): the controller to the service engines, gRPC over mutual TLS.
//!
//! Guarantees: whatever arrives is parsed at this border; nothing here panics on any input.

#![cfg_attr(not(any(test, feature = "std")), no_std)]

extern crate alloc;

pub mod cni;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "inspect")]
pub mod inspect;
