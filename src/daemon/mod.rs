//! The service: intent before effect, one teardown, recovery, HTTP.

pub mod core;
pub mod db;
pub mod dirs;
pub mod http;
mod journal;
pub mod log;
#[cfg(feature = "otel")]
mod otlp;
pub mod run;
pub mod surfaces;
mod watchdog;
