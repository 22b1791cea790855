//! Effects: the only code of the daemon that touches the operating system.

pub mod archive;
pub mod backup;
pub mod cache;
pub mod capabilities;
pub mod cgroup;
pub mod command;
pub mod engine;
pub mod files;
pub mod kept;
pub mod layers;
pub mod listeners;
pub mod logs;
pub mod memory;
pub mod network;
pub mod notify;
pub mod ports;
pub mod process;
pub mod progress;
pub mod rootfs;
pub mod runtime;
pub mod secrets;
pub mod shim;
pub mod store;
pub mod trees;
pub mod unpack;
pub mod volumes;
