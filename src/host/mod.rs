//! Effects: the only code of the daemon that touches the operating system.

pub mod command;
pub mod files;
pub mod logs;
pub mod progress;
pub mod shim;
