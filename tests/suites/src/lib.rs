//! The scenarios, as steps that the demo shows and the suites assert: the same code, the same cluster.
//!
//! [`Bank`] starts the data centre and installs Portolan the way a user does; [`checks`] looks from outside (the ERP
//! database, the client, the engine's routing table) and says what is expected, what is seen and whether it holds.

mod bank;
pub mod checks;
mod shared;

pub use bank::{Bank, NAMESPACES, PATIENCE, Pod, manifest};
pub use checks::Check;
pub use shared::Shared;
