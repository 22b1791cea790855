//! What holds of the source and of what it generates, without a host.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod architecture;
mod document;
mod specification;
#[path = "../support/mod.rs"]
mod support;
mod vagrant;
