//! `cp`: with docker's rules of what becomes of a name.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::output::Failure;
use crate::api::client::{Client, ClientError};
use crate::api::files::FileStat;
use crate::tree::{self, Links, Owner, Place, Put, Reader, Top};

/// Symbolic links that are followed one after the other.
const MOST_LINKS: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Cp {
    /// Keep owners; otherwise files belong to root in the pod, and here to the caller
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link named as the source leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// POD:PATH, a path of this host, or - for a tar archive on standard input
    source: String,
    /// POD:PATH, a path of this host, or - for a tar archive on standard output
    target: String,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Pod(String, String),
    Here(String),
    Stdio,
}

fn own(text: impl Into<String>) -> Failure {
    Failure::Own(text.into())
}

fn end(text: &str) -> End {
    match text.split_once(':') {
        _ if text == "-" => End::Stdio,
        // As docker: what begins so is a path of this host, whatever is in it.
        Some((pod, path)) if !text.starts_with(['/', '.']) && !pod.is_empty() => {
            End::Pod(pod.into(), if path.starts_with('/') { path.into() } else { format!("/{path}") })
        }
        _ => End::Here(text.into()),
    }
}

/// Whether a path stands for what is in a directory.
fn contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// The last part of a path; none: it has no name.
fn name(path: &str) -> Option<&str> {
    let whole = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    Some(whole.rsplit('/').next().unwrap_or_default()).filter(|n| !matches!(*n, "" | "." | ".."))
}

/// The directory in which a path is.
fn parent(path: &str) -> &str {
    let whole = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    match whole.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((dir, _)) => dir,
        None => ".",
    }
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Directory,
    File,
}

/// Where an archive is put, and what its first part is called there; none: all of it is put in there as it is.
type Where = (String, Option<String>);

/// docker's rules.
fn decide(source: &str, directory: bool, target: &str, there: There) -> Result<Where, Failure> {
    let called = |of: &str| name(of).map(str::to_owned).ok_or_else(|| own(format!("{of}: it has no name")));
    match there {
        There::Directory if directory && (contents(source) || name(source).is_none()) => Ok((target.to_owned(), None)),
        There::Directory => Ok((target.to_owned(), Some(called(source)?))),
        There::File if directory => Err(own(format!("{target} is a file, {source} is a directory"))),
        There::File if target.ends_with('/') => Err(own(format!("{target} is no directory"))),
        There::Nothing if !directory && target.ends_with('/') => Err(own(format!("{target}: no such directory"))),
        There::File | There::Nothing => Ok((parent(target).to_owned(), Some(called(target)?))),
    }
}

/// `torpor cp`.
pub(super) async fn cp(client: &Client, args: &Cp) -> Result<u8, Failure> {
    match (end(&args.source), end(&args.target)) {
        (End::Stdio, End::Pod(pod, path)) => {
            client.put_files(&pod, &path, chunks(std::io::stdin())).await?;
        }
        (End::Here(source), End::Pod(pod, path)) => to_pod(client, args, &source, &pod, &path).await?,
        (End::Pod(pod, path), End::Stdio) => {
            let path = followed(client, args, &pod, &path).await?.0;
            let mut archive = std::pin::pin!(client.get_files(&pod, &path).await?);
            while let Some(bytes) = archive.next().await {
                std::io::stdout().write_all(&bytes?).map_err(|e| own(format!("standard output: {e}")))?;
            }
            std::io::stdout().flush()?;
        }
        (End::Pod(pod, path), End::Here(target)) => from_pod(client, args, &pod, &path, &target).await?,
        (End::Pod(..), End::Pod(..)) => {
            return Err(own("copying from pod to pod is not supported: copy to - and from -"));
        }
        _ => return Err(own("one of the two must be in a pod: POD:PATH")),
    }
    Ok(0)
}

/// What is there; none: nothing.
async fn look(client: &Client, pod: &str, path: &str) -> Result<Option<FileStat>, Failure> {
    match client.stat_file(pod, path).await {
        Ok(stat) => Ok(Some(stat)),
        Err(e @ ClientError::Refused(_)) if e.code() == Some("not_found") => {
            client.inspect(pod).await?; // it is the pod that is not there, perhaps
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// The source in a pod, a link followed if that was asked for.
async fn followed(client: &Client, args: &Cp, pod: &str, path: &str) -> Result<(String, FileStat), Failure> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let stat = client.stat_file(pod, &path).await?;
        match &stat.target {
            Some(to) if args.follow_link && to.starts_with('/') => path.clone_from(to),
            Some(to) if args.follow_link => path = format!("{}/{to}", parent(&path)),
            _ => return Ok((path, stat)),
        }
    }
    Err(own(format!("{path}: too many symbolic links")))
}

async fn to_pod(client: &Client, args: &Cp, source: &str, pod: &str, path: &str) -> Result<(), Failure> {
    let follow = args.follow_link || source.ends_with('/') || contents(source);
    let stat = tree::stat(Path::new(source), follow).map_err(|e| own(e.report()))?;
    let directory = stat.kind == "directory";
    let there = match look(client, pod, path).await? {
        None => There::Nothing,
        Some(s) if s.kind == "directory" => There::Directory,
        Some(s) if s.kind == "symlink" => match look(client, pod, &format!("{path}/.")).await {
            Ok(Some(_)) => There::Directory,
            _ => There::File,
        },
        Some(_) => There::File,
    };
    let (dir, called) = decide(source, directory, path, there)?;
    let owner = if args.archive { Owner::Kept } else { Owner::Root };
    let (sender, receiver) = mpsc::channel(4);
    let from = PathBuf::from(source);
    let packing = tokio::task::spawn_blocking(move || {
        let out = std::io::BufWriter::with_capacity(64 * 1024, Sender(sender.clone()));
        let packed = tree::pack(&from, called.as_deref().unwrap_or(".").as_bytes(), owner, follow, out);
        if let Err(e) = &packed {
            // The archive must not seem to be whole.
            let _ = sender.blocking_send(Err(std::io::Error::other(e.report())));
        }
        packed
    });
    let sent = client.put_files(pod, &dir, received(receiver)).await;
    let packed = packing.await.map_err(|e| own(e.to_string()))?;
    match (sent, packed) {
        (Err(e @ ClientError::Refused(_)), _) => Err(e.into()),
        (_, Err(e)) => Err(own(e.report())),
        (sent, Ok(())) => Ok(sent?),
    }
}

async fn from_pod(client: &Client, args: &Cp, pod: &str, path: &str, target: &str) -> Result<(), Failure> {
    let (path, stat) = followed(client, args, pod, path).await?;
    let directory = stat.kind == "directory";
    let there = match std::fs::metadata(target) {
        Ok(m) if m.is_dir() => There::Directory,
        Ok(_) => There::File,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => There::Nothing,
        Err(e) => return Err(own(format!("{target}: {e}"))),
    };
    let (dir, called) = decide(&path, directory, target, there)?;
    // What the archive calls it; all that it has must be that or in it.
    let top = match (called, contents(&path).then_some(()).or(name(&path).is_none().then_some(()))) {
        (None, _) => Top::Kept,
        (Some(to), Some(())) => Top::Below(to.into_bytes()),
        (Some(to), None) => Top::Called { is: name(&path).unwrap_or_default().into(), to: to.into_bytes() },
    };
    if let (Top::Below(to), There::Nothing) = (&top, there) {
        std::fs::create_dir(Path::new(&dir).join(String::from_utf8_lossy(to).as_ref()))
            .map_err(|e| own(format!("{target}: {e}")))?;
    }
    let put = Put { links: Links::Refused, owners: args.archive };
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
    let placing = tokio::task::spawn_blocking(move || {
        let mut archive = Reader::new(Receiver { from: receiver, left: Bytes::new() }).with(top);
        Place::open(Path::new(&dir), put)?.fill(&mut archive)?;
        archive.drain()
    });
    let mut archive = std::pin::pin!(client.get_files(pod, &path).await?);
    let mut broken = None;
    while let Some(bytes) = archive.next().await {
        let bytes = bytes.map_err(|e| broken.insert(e).to_string());
        if sender.send(bytes.map_err(std::io::Error::other)).await.is_err() {
            break; // it could not be put there: the task says why
        }
    }
    drop(sender);
    let placed = placing.await.map_err(|e| own(e.to_string()))?;
    match broken {
        Some(e) => Err(e.into()),
        None => placed.map_err(|e| own(e.report())),
    }
}

/// A reader as a stream.
fn chunks(mut from: impl Read + Send + 'static) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Sync {
    let (sender, receiver) = mpsc::channel(4);
    // A thread that nobody waits for: it may read from a terminal.
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let piece = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(Bytes::copy_from_slice(&buffer[..n])),
                Err(e) => Err(e),
            };
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    received(receiver)
}

fn received(from: mpsc::Receiver<std::io::Result<Bytes>>) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Sync {
    futures::stream::unfold(from, |mut from| async move { from.recv().await.map(|piece| (piece, from)) })
}

/// The writing end of a stream.
struct Sender(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A stream as a reader.
struct Receiver {
    from: mpsc::Receiver<std::io::Result<Bytes>>,
    left: Bytes,
}

impl Read for Receiver {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.left.is_empty() {
            match self.from.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.left = piece?,
            }
        }
        let most = into.len().min(self.left.len());
        into[..most].copy_from_slice(&self.left.split_to(most));
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_as_docker_writes_them() {
        let pod = |p: &str, path: &str| End::Pod(p.into(), path.into());
        for (text, wanted) in [
            ("web:/etc", pod("web", "/etc")),
            ("web:etc", pod("web", "/etc")),
            ("web:", pod("web", "/")),
            ("/a:b", End::Here("/a:b".into())),
            ("./a:b", End::Here("./a:b".into())),
            (":b", End::Here(":b".into())),
            ("file", End::Here("file".into())),
            ("-", End::Stdio),
        ] {
            assert_eq!(end(text), wanted, "{text}");
        }
    }

    #[test]
    fn names_as_docker_gives_them() {
        use There::{Directory, File, Nothing};
        let at = |source: &str, directory, target: &str, there| decide(source, directory, target, there).ok();
        let to = |dir: &str, name: Option<&str>| Some((dir.to_owned(), name.map(str::to_owned)));
        assert_eq!(at("/x/f", false, "/d", Directory), to("/d", Some("f")));
        assert_eq!(at("/x/f", false, "/d/g", Nothing), to("/d", Some("g")));
        assert_eq!(at("/x/f", false, "/d/g", File), to("/d", Some("g")));
        assert_eq!(at("f", false, "g", Nothing), to(".", Some("g")));
        assert_eq!(at("/x/f", false, "/d/", Nothing), None);
        assert_eq!(at("/x/f", false, "/d/g/", File), None);
        assert_eq!(at("/x/t", true, "/d", Directory), to("/d", Some("t")));
        assert_eq!(at("/x/t/", true, "/d", Directory), to("/d", Some("t")));
        assert_eq!(at("/x/t/.", true, "/d", Directory), to("/d", None));
        assert_eq!(at(".", true, "/d", Directory), to("/d", None));
        assert_eq!(at("/", true, "/d", Directory), to("/d", None));
        assert_eq!(at("/x/t", true, "/d/new", Nothing), to("/d", Some("new")));
        assert_eq!(at("/x/t/.", true, "/d/new/", Nothing), to("/d", Some("new")));
        assert_eq!(at("/x/t", true, "/d/g", File), None);
        assert_eq!(at("/x/f", false, "/g", Nothing), to("/", Some("g")));
    }
}
