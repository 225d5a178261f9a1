//! Addresses in ranges: the normal form in which pools, exclusions and prefixes are compared.

mod parse;
mod ranges;

pub use parse::{Invalid, range};
pub(crate) use ranges::after;
pub use ranges::{Range, Ranges};
