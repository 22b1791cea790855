//! What the sandbox itself says on stderr: kept, bounded, for people.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::open_fifo;

/// Bytes of `console.log` before it becomes `console.log.1`.
const LIMIT: u64 = 128 * 1024;

pub(super) struct Console {
    fifo: OwnedFd,
    path: PathBuf,
    file: File,
    written: u64,
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Console {
    pub(super) fn open(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join("console.log");
        let file = open(&path)?;
        let written = file.metadata()?.len();
        Ok(Console { fifo: open_fifo(dir, "err")?, path, file, written })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }

    /// Takes what is there, as much as the FIFO holds at most.
    pub(super) fn copy(&mut self) {
        let mut bytes = [0_u8; 8192];
        for _ in 0..8 {
            match nix::unistd::read(&self.fifo, &mut bytes) {
                Ok(n) if n > 0 => self.keep(&bytes[..n]),
                _ => return,
            }
        }
    }

    pub(super) fn say(&mut self, text: &str) {
        self.keep(format!("torpor-shim: {text}\n").as_bytes());
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.written >= LIMIT && std::fs::rename(&self.path, self.path.with_extension("log.1")).is_ok() {
            if let Ok(file) = open(&self.path) {
                self.file = file;
            }
            self.written = 0;
        }
        if self.written < 2 * LIMIT && self.file.write_all(bytes).is_ok() {
            self.written += bytes.len() as u64;
        }
    }
}
