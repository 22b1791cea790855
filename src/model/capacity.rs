//! Room on a host: what there is, and what a refusal tells of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a host may run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ware {
    /// Memory.
    Memory,
    /// Disk, for pods' writable layers.
    Disk,
}

impl fmt::Display for Ware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ware::Memory => "memory",
            Ware::Disk => "disk",
        })
    }
}

/// The sums behind a refusal, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shortage {
    /// Of what there is not enough.
    pub ware: Ware,
    /// What was asked for.
    pub asked: u64,
    /// What pods with a sandbox have been promised already.
    pub promised: u64,
    /// What the host has.
    pub capacity: u64,
    /// What of that is kept for the host.
    pub head_room: u64,
    /// How many times the rest may be promised.
    pub ratio: f64,
    /// What may be promised in all: the rest times the ratio.
    pub limit: u64,
}
