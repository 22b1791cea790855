//! Decisions: pure functions from what is known to what should be done. Nothing here touches the operating system.

pub mod admission;
pub mod bundle;
pub mod capacity;
pub mod events;
pub mod firewall;
pub mod flows;
pub mod kept;
pub mod limits;
pub mod manifest;
pub mod network;
pub mod pack;
pub mod runs;
