//! The agents that torpor takes the place of, as their clients ask: the requests are those of the clients' own documents, sent by a
//! real curl to the port that stands in them, on a host of the test's own; and the command line of a personal dev pod.
#![allow(clippy::unwrap_used, clippy::print_stderr, dead_code, unreachable_pub, missing_docs, reason = "tests")]

mod agent;
mod agent_crashes;
mod containers;
#[path = "../e2e/daemon.rs"]
mod daemon;
mod dev_stack;
mod devpod;
mod devpod_ssh;
#[path = "../support/host.rs"]
mod host;
mod operations;
#[path = "../support/screen.rs"]
mod screen;
mod spares;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod world;
