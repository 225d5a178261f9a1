//! The controllers' side of the engine: snapshots come in, verdicts and observations go out.
//!
//! [`desk`] owns what is accepted and is the only one that changes it; [`server`] speaks gRPC; [`observe`] puts
//! together what the others report.

pub mod desk;
pub mod observe;
pub mod server;
