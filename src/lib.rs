//! torpor: gVisor sandboxes that sleep in object storage and wake in milliseconds.
//!
//! The rooms and the arrows between them (a test holds them):
//!
//! ```text
//! model <- plan <- host <- daemon        model <- api <- cli        api <- daemon
//! channel (framing between shim and init) depends on model only; pod = init and shim
//! ```
//!
//! - [`model`]: the words. Pure, depends on nothing.
//! - `plan`: decisions. Pure functions from model values to what should be done.
//! - `host`: effects. The only code of the daemon that touches the operating system.
//! - `daemon`: the service: intent before effect, one teardown, recovery, HTTP.
//! - `api`: the contract of the REST API and its client.
//! - `cli`: the command line, a client of that API only.
//! - `tree`: files and directories as tar archives, in and out, for init and the command line.
//! - [`channel`]: the framed protocol with init; `pod`: what runs in and beside a pod.

#[cfg(feature = "client")]
pub mod api;
pub mod channel;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod host;
pub mod model;
#[cfg(feature = "daemon")]
pub mod plan;
#[cfg(feature = "pod")]
pub mod pod;
#[cfg(any(feature = "pod", feature = "cli"))]
pub mod tree;
