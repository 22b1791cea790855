//! The contract of the REST API: its types, its errors, and the client of it.

pub mod client;
pub mod problem;
pub mod types;
