//! The two agents that torpor takes the place of, as their clients ask: the requests are those of the clients' own documents,
//! sent by a real curl to the port that stands in them, on a host of the test's own.
#![allow(clippy::unwrap_used, clippy::print_stderr, dead_code, unreachable_pub, missing_docs, reason = "tests")]

mod agent;
mod agent_crashes;
mod containers;
#[path = "../e2e/daemon.rs"]
mod daemon;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/mod.rs"]
mod support;
mod world;
