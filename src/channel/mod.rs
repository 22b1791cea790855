//! The channel: the framed protocol with init, on the two FIFOs that are its stdin and stdout.
//!
//! A frame is a header of 24 bytes and a body, all numbers little-endian:
//!
//! ```text
//! 0  magic    u32  0x31435054 ("TPC1")
//! 4  kind     u8   what it is
//! 5  flags    u8   1: more fragments of this message follow
//! 6  reserved u16  0
//! 8  sequence u64  number of a frame that is kept until it is acknowledged; 0: not kept
//! 16 length   u32  bytes of the body
//! 20 check    u32  FNV-1a of the 20 bytes before
//! ```
//!
//! - To init, a frame is at most [`ATOMIC`] bytes, so that the kernel writes it whole or not at all: a shim that is killed
//!   never leaves half of one behind. Longer messages go in fragments.
//! - From init, frames are at most [`MAX_BODY`] long. A new shim may begin to read in the middle of one that its
//!   predecessor had half read: it looks for the next good header, and believes nothing before init's `Hello`.
//! - Every shim begins with [`Request::Hello`]; init forgets what was half said, answers `Hello`, and sends again what was not
//!   acknowledged. The same happens after a restore, on new FIFOs.
//! - Numbered frames are handed over once and in order: the reader drops those it has had.
//! - Bodies are JSON, except output and input, which are raw behind a small prefix.
//!
//! Before a checkpoint [`Request::Quiesce`] makes both directions idle; init then writes nothing until `Resume` or `Hello`.

mod codec;
pub mod control;
pub mod files;
mod message;
pub mod record;
pub mod scrollback;
pub mod secrets;
pub mod stream;
pub mod terminal;

pub use codec::{ATOMIC, Decoder, Frame, MAX_BODY, encode, encode_fragments};
pub use message::{Event, Exec, Identity, Launch, MAIN, Probe, Request, StartFailure, Stream, VERSION};

#[cfg(test)]
mod tests;
