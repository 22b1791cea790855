//! torpor's parsers of foreign bytes, taken in as sources: so they are reached where they are private, and only what they
//! need is built. Each function takes any bytes and must come back, whatever they are.
#![allow(dead_code, unused_imports, unsafe_code, missing_docs)]

#[path = "../../src/api"]
pub mod api {
    pub mod health;
    pub mod problem;
    pub mod terminal;
    pub mod types;
}
#[path = "../../src/channel/mod.rs"]
pub mod channel;
/// What has modules of its own is found below its name only from an inline module.
#[path = "../../src"]
mod top {
    pub mod config;
}
pub use top::config;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/plan/mod.rs"]
pub mod plan;

#[path = "../../src/host"]
pub mod host {
    pub mod archive;
    pub mod files;
    pub mod unpack;

    pub mod layers {
        pub const MAX_LAYERS: usize = 80;
    }
}

#[path = "../../src/tree/mod.rs"]
pub mod tree;

mod targets;

pub use targets::*;
