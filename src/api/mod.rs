//! The contract of the REST API: its types, its errors, and the client of it.

pub use crate::model::base64;

pub mod client;
pub mod doctor;
pub mod files;
pub mod health;
pub mod logs;
pub mod problem;
pub mod socket;
pub mod terminal;
pub mod types;
