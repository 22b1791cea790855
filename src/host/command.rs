//! The one runner of other programs: an argument vector, a clean environment, a deadline, bounded output.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use crate::host::network::netns;
use crate::model::{Code, Error, Result};

/// Bytes of each output stream that are kept.
const OUTPUT_LIMIT: u64 = 4 << 20;

/// A program to run.
#[derive(Debug, Clone)]
pub struct EngineCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments. Never a secret: other users of the host can read them.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// It is killed after that.
    pub timeout: Duration,
    /// Where it logs, if it does: quoted when it fails.
    pub log: Option<PathBuf>,
    /// The network namespace in which it runs; `None`: this one.
    pub netns: Option<PathBuf>,
}

impl EngineCommand {
    /// A program with its arguments, half a minute and an empty environment but for PATH.
    pub fn new<A: Into<OsString>>(program: impl Into<PathBuf>, args: impl IntoIterator<Item = A>) -> Self {
        EngineCommand {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: vec![("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())],
            timeout: Duration::from_secs(30),
            log: None,
            netns: None,
        }
    }

    /// The program's file, looked up in PATH. With a bare name the standard library would make a copy of this whole process
    /// to run it; with a path it need not.
    fn file(&self) -> PathBuf {
        let path = self.env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value);
        let bare = self.program.components().count() == 1;
        let found = path.split(':').map(|dir| Path::new(dir).join(&self.program)).find(|file| bare && file.is_file());
        found.unwrap_or_else(|| self.program.clone())
    }

    fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What a program that succeeded said.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Its standard output, as far as it was kept.
    pub stdout: Vec<u8>,
    /// Its standard error, as far as it was kept.
    pub stderr: Vec<u8>,
}

/// Foreign text made fit for one line of a message.
pub fn quote(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let tail: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(4).collect();
    let joined = tail.into_iter().rev().collect::<Vec<_>>().join("; ");
    let clean: String = joined.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let skip = clean.chars().count().saturating_sub(most);
    clean.chars().skip(skip).collect()
}

/// Runs it to its end. Cancelled, it is killed.
///
/// # Errors
/// [`Code::Timeout`] after its time; [`Code::Runtime`] when it can't be run or does not exit with 0, with what it said.
pub async fn run(command: &EngineCommand, stdin: &[u8]) -> Result<Output> {
    run_with(command, stdin, true).await
}

/// As [`run`], for a program that must not be killed half-way: cancelled, it goes on by itself.
///
/// # Errors
/// As [`run`].
pub async fn run_to_the_end(command: &EngineCommand) -> Result<Output> {
    run_with(command, &[], false).await
}

/// How long a program takes to end once it is done with what it may not be killed at.
const LAST_STEPS: Duration = Duration::from_secs(1);

/// As [`run_to_the_end`], for a program that may not be killed at every moment. Each time its time is over `hold` says whether it
/// may be, by something that keeps it so and is dropped when the program is gone. `give_up`: it may be killed now.
///
/// # Errors
/// As [`run`].
pub async fn run_until_held<H>(
    command: &EngineCommand,
    hold: impl Fn() -> Option<H>,
    give_up: &CancellationToken,
) -> Result<Output> {
    let mut program = Program::start(command, false, false).await?;
    loop {
        let held = tokio::select! {
            status = program.child.wait() => return program.ended(status),
            () = give_up.cancelled() => None,
            () = tokio::time::sleep(command.timeout) => match hold() {
                Some(held) => {
                    // It can't begin any more; or it is done, and about to end.
                    tokio::select! {
                        biased;
                        status = program.child.wait() => return program.ended(status),
                        () = give_up.cancelled() => {}
                        () = tokio::time::sleep(LAST_STEPS) => {}
                    }
                    Some(held)
                }
                None => continue,
            },
        };
        let e = program.kill();
        let status = program.child.wait().await;
        drop(held);
        if status.as_ref().is_ok_and(|s| s.code().is_some()) {
            return program.ended(status); // by itself, a moment before
        }
        return Err(e);
    }
}

async fn run_with(command: &EngineCommand, stdin: &[u8], kill_on_drop: bool) -> Result<Output> {
    Program::start(command, !stdin.is_empty(), kill_on_drop).await?.feed(stdin).await
}

/// A program that was started ahead and waits for its input, for one that takes long to start and does nothing before.
///
/// Dropped, it is killed. Its input ends with this process, however that ends.
pub struct Ahead(Program);

impl Ahead {
    /// Starts it.
    ///
    /// # Errors
    /// [`Code::Runtime`] when it can't be run.
    pub async fn start(command: &EngineCommand) -> Result<Self> {
        Ok(Ahead(Program::start(command, true, true).await?))
    }

    /// Whether it still waits, in the very namespace that its command names by now.
    pub fn waits(&mut self) -> bool {
        let Program { command, child, namespace, .. } = &mut self.0;
        let named = command.netns.as_ref().map(std::fs::metadata).transpose();
        matches!(child.try_wait(), Ok(None)) && named.is_ok_and(|n| n.as_ref().map(identity) == *namespace)
    }

    /// As [`run`] from here on: its time begins now. Fails as well if it has been killed meanwhile.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn feed(mut self, stdin: &[u8]) -> Result<Output> {
        self.0.begun = Instant::now();
        self.0.feed(stdin).await
    }

    /// Ends it: nothing is left of it then.
    pub async fn end(mut self) {
        let _ = self.0.child.kill().await;
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.0.child.id()
    }
}

/// A program that runs.
struct Program {
    command: EngineCommand,
    child: Child,
    out: File,
    err: File,
    begun: Instant,
    namespace: Option<(u64, u64)>,
}

/// What tells a namespace from all others while somebody is in it.
fn identity(namespace: &Metadata) -> (u64, u64) {
    (namespace.dev(), namespace.ino())
}

impl Program {
    async fn start(command: &EngineCommand, input: bool, kill_on_drop: bool) -> Result<Self> {
        let begun = Instant::now();
        let cannot = |e| cannot_run(command, e);
        // Files in memory, not pipes: a sandbox inherits them, and a pipe would not end before the sandbox does.
        let (out, err) = (memory_file().map_err(cannot)?, memory_file().map_err(cannot)?);
        let mut prepared = tokio::process::Command::new(command.file());
        prepared
            .args(&command.args)
            .env_clear()
            .envs(command.env.iter().map(|(k, v)| (k, v)))
            .current_dir("/")
            .stdin(if input { Stdio::piped() } else { Stdio::null() })
            .stdout(out.try_clone().map_err(cannot)?)
            .stderr(err.try_clone().map_err(cannot)?)
            .kill_on_drop(kill_on_drop)
            .process_group(0);
        let inside = command.netns.as_ref().map(File::open).transpose().map_err(cannot)?;
        let namespace = inside.as_ref().map(File::metadata).transpose().map_err(cannot)?.as_ref().map(identity);
        let spawned = match inside {
            None => prepared.spawn(),
            // `nsenter` would be one more program to start, and a hook between fork and exec a copy of this process's page tables.
            Some(inside) => netns::inside(inside, move || prepared.spawn()).await,
        };
        Ok(Program { command: command.clone(), child: spawned.map_err(cannot)?, out, err, begun, namespace })
    }

    async fn feed(mut self, stdin: &[u8]) -> Result<Output> {
        let input = self.child.stdin.take();
        let feed = async {
            if let Some(mut input) = input {
                // A program that does not read all of it says so by its exit status.
                let _ = input.write_all(stdin).await;
            }
        };
        let work = async { tokio::join!(feed, self.child.wait()).1 };
        match tokio::time::timeout(self.command.timeout, work).await {
            Ok(status) => self.ended(status),
            Err(_) => Err(self.kill()),
        }
    }

    fn kill(&mut self) -> Error {
        let _ = self.child.start_kill();
        let (name, seconds) = (self.command.name(), self.begun.elapsed().as_secs());
        Error::new(Code::Timeout, format!("{name} did not end in {seconds} s and was killed"))
    }

    fn ended(self, status: std::io::Result<ExitStatus>) -> Result<Output> {
        let Program { command, out, err, begun, .. } = self;
        let cannot = |e| cannot_run(&command, e);
        let status = status.map_err(cannot)?;
        let (stdout, stderr) = (kept(out).map_err(cannot)?, kept(err).map_err(cannot)?);
        if status.success() {
            return Ok(Output { stdout, stderr });
        }
        let log = command.log.as_ref().and_then(|p| std::fs::read(p).ok()).unwrap_or_default();
        let said = if stderr.is_empty() { quote(&log, 800) } else { quote(&stderr, 800) };
        let (name, ms) = (command.name(), begun.elapsed().as_millis());
        Err(Error::new(Code::Runtime, format!("{name} failed ({status}, {ms} ms): {said}")))
    }
}

fn cannot_run(command: &EngineCommand, e: std::io::Error) -> Error {
    let error = Error::new(Code::Runtime, format!("run {}", command.program.display())).because(e);
    error.hint("`torpor doctor` tells which programs are missing")
}

fn memory_file() -> std::io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("torpor-output", rustix::fs::MemfdFlags::CLOEXEC)?))
}

fn kept(mut file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(OUTPUT_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_input_and_failures() {
        let mut cat = EngineCommand::new("/bin/cat", ["-"]);
        assert_eq!(run(&cat, b"hello").await.unwrap().stdout, b"hello");
        cat.args = vec!["/nonexistent/file".into()];
        let e = run(&cat, b"").await.unwrap_err();
        assert!(e.report().contains("/nonexistent/file") && e.code() == Code::Runtime, "{}", e.report());
        cat.program = "cat".into();
        cat.args = vec!["/dev/null".into()];
        assert!(cat.file().is_absolute() && run(&cat, b"").await.unwrap().stdout.is_empty());
        assert!(run(&EngineCommand::new("nonexistent-program", [""; 0]), b"").await.is_err());
        let e = run(&EngineCommand::new("/nonexistent/program", [""; 0]), b"").await.unwrap_err();
        assert!(e.hint_text().is_some());
    }

    #[tokio::test]
    async fn what_hangs_is_killed_and_what_it_left_running_does_not_delay() {
        let mut hang = EngineCommand::new("/bin/sleep", ["100"]);
        hang.timeout = Duration::from_millis(50);
        assert_eq!(run(&hang, b"").await.unwrap_err().code(), Code::Timeout);
        let begun = Instant::now();
        run(&EngineCommand::new("/bin/sh", ["-c", "sleep 3 & echo x"]), b"").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn foreign_text_is_one_clean_line() {
        assert_eq!(quote(b"a\n\x1b[31mb\n\n", 100), "a;  [31mb");
        assert_eq!(quote("xü".as_bytes(), 1), "ü");
    }
}
