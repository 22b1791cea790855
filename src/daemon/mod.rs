//! The service: intent before effect, one teardown, recovery, HTTP.

pub mod db;
pub mod dirs;
