//! The engine's binary in a small data centre of network namespaces. Needs root; fails without it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should say where"
)]

mod bed;
mod feed;
mod routes;
mod services;
