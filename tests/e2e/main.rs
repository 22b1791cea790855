//! End to end: a real torpord, real runsc, real namespaces, a real object store.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub, missing_docs, reason = "tests")]

#[path = "../archives/mod.rs"]
mod archives;
mod badinput;
mod capacity;
mod cli;
mod commands;
mod completion;
mod concurrency;
mod cut;
#[allow(dead_code, reason = "shared with other test binaries")]
mod daemon;
#[path = "../support/dice.rs"]
mod dice;
mod disk;
mod endpoints;
mod events;
#[path = "../support/exposition.rs"]
mod exposition;
mod files;
mod habits;
mod health;
mod idempotency;
mod isolation;
mod kept;
mod life;
mod limits;
mod listen;
mod lock;
mod logs;
mod metrics;
mod once;
mod operate;
mod pause;
mod policies;
mod ports;
mod recovery;
#[path = "../support/s3.rs"]
mod s3;
mod schemathesis;
#[path = "../support/screen.rs"]
mod screen;
mod secrets;
mod sleep;
mod starting;
mod stats;
#[path = "../support/mod.rs"]
mod support;
mod target;
mod terminals;
mod tls;
mod tty;
mod update;
mod volumes;
