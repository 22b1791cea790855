//! Standard input and output as one stream.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use tokio::sync::oneshot;

/// The stream, and what tells that all that was written to it is out. Threads copy, which nobody waits for: a read from standard input
/// can't be broken off.
pub(super) fn stream() -> std::io::Result<(tokio::net::UnixStream, oneshot::Receiver<()>)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let ours = tokio::net::UnixStream::from_std(ours)?;
    let mut input = theirs.try_clone()?;
    std::thread::spawn(move || {
        let _ = copy(&mut std::io::stdin().lock(), &mut input);
        let _ = input.shutdown(Shutdown::Write);
    });
    let (out, flushed) = oneshot::channel();
    let mut output = theirs;
    std::thread::spawn(move || {
        let _ = copy(&mut output, &mut std::io::stdout().lock());
        // Whoever read it has gone, perhaps: then nothing more need come.
        let _ = output.shutdown(Shutdown::Both);
        let _ = out.send(());
    });
    Ok((ours, flushed))
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(&buffer[..n])?;
        to.flush()?;
    }
}
