//! The suites that run in the data centre of the bed.
