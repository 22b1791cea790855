//! What strangers bring: snapshots in the store, names and paths in requests, bytes on the API's socket. torpord refuses each
//! with a stable code within its bounds, and lives.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub, dead_code, missing_docs, reason = "tests")]

mod api;
mod canary;
#[path = "../e2e/daemon.rs"]
mod daemon;
mod forge;
mod lists;
mod manifests;
mod packs;
mod requests;
#[path = "../support/mod.rs"]
mod support;
mod volumes;
