//! What torpord and a program that copies files in a pod say to each other, on that program's input and output.

use serde::{Deserialize, Serialize};

use crate::model::Code;

/// Where init is in a pod: it is the program, too, that copies files and asks by HTTP.
pub const PROGRAM: &str = "/.torpor/init";
/// A frame that says only that somebody is still there.
pub const NOTHING: u32 = u32::MAX;
/// Bytes of an archive that are on their way at once. A shim holds twice as much before it stops listening to the pod.
pub const WINDOW: u64 = 512 * 1024;
/// Bytes that it says of a failure at most.
pub const LONGEST_TROUBLE: usize = 16 * 1024;

/// Why it failed: its last words, on its standard error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trouble {
    /// Which kind of failure.
    pub code: Code,
    /// In words.
    pub message: String,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
}
