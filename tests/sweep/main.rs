//! Crash sweep: torpord dies after every effect of a request, and again after every effect of its recovery, on a host in
//! memory. Always: fully there or fully gone, and the same request succeeds the second time.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "../support/fake/mod.rs"]
mod fake;

mod check;
mod host_down;
mod scenarios;
mod spares;
#[path = "../support/mod.rs"]
mod support;
mod tokens;
mod trial;
mod volumes;
mod world;
