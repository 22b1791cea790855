//! The REST API on a Unix socket, and on other listeners for those who have a token. Routes are one line each; what they do is
//! the core's.

mod answer;
mod auth;
mod connections;
mod cors;
mod cut;
mod document;
mod events;
mod exec_socket;
mod failures;
mod files;
mod idempotency;
mod list;
mod listen;
mod logs;
mod metrics;
mod operate;
mod pods;
mod ports;
mod routes;
mod scopes;
mod serve;
mod socket;
mod stats;
mod store;
mod stream;
mod surface;
mod system;
mod terminal;
mod tls;
mod tokens;
mod traces;
mod update;
mod volumes;
mod web_socket;

pub use listen::Listener;
pub use routes::{document, router};
pub use serve::serve;
pub use socket::listen;
