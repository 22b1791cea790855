//! A directory of this host as a tar in a file, and back: what a snapshot keeps of a pod's volume.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Layers;
use super::job::{Job, Worker, write_failed};
use crate::host::{archive, files, unpack};
use crate::model::{Attempt, Code, Error, Result};

impl Layers {
    /// Packs what lies in a directory into a new file of `most` bytes. Dropped, it ends soon and leaves half a file.
    ///
    /// # Errors
    /// It can't be read, changes meanwhile, or holds what no tar can: a device, a name that begins with `.wh.`. Sockets are
    /// left out.
    pub async fn pack_tree(&self, dir: &Path, to: &Path, most: u64) -> Result<()> {
        let (most, dir, to) = (most.min(self.limits.layer_bytes), dir.to_owned(), to.to_owned());
        Job::run(move |job| {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to);
            let file = file.attempt(Code::Internal, || format!("make {}", to.display()))?;
            archive::pack_directory(&dir, file, most, &|| job.go_on())
        })
        .await
    }

    /// Unpacks such a file into an empty directory, in a process that is shut into it, and syncs it to the disk.
    ///
    /// # Errors
    /// [`Code::BadArchive`], [`Code::TooLarge`], [`Code::Exhausted`]: what the directory holds then is to be removed.
    pub async fn unpack_tree(&self, tar: &Path, into: &Path) -> Result<()> {
        let (this, tar, into) = (self.clone(), tar.to_owned(), into.to_owned());
        Job::run(move |job| {
            let what = || format!("read {}", tar.display());
            let mut file = File::open(&tar).attempt(Code::Internal, what)?;
            let limits =
                unpack::Limits { bytes: this.limits.layer_bytes, inodes: this.limits.layer_inodes, must_end: true };
            files::hear_old_failures(&into);
            let mut worker = Worker::start(&this.worker, &into, &limits, job)?;
            let mut bytes = vec![0_u8; 256 * 1024];
            let mut early = false;
            while !early {
                job.go_on()?;
                match file.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(n) => early = !worker.give(&bytes[..n]),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).attempt(Code::Internal, what),
                }
            }
            worker.finish(&into, job)?;
            if early {
                return Err(Error::internal("the process that unpacks did not read all"));
            }
            let dir = File::open(&into).attempt(Code::Internal, || format!("open {}", into.display()))?;
            rustix::fs::syncfs(&dir).map_err(|e| write_failed(e.into(), "sync what was unpacked"))
        })
        .await
    }
}
