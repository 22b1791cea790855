//! scp's older protocol, for pods that have no scp: `scp -t` takes files and directories, `scp -f` gives them.
//!
//! Nowhere written down but in scp's sources: lines `Cmode size name`, `Dmode 0 name`, `E`, `Tmtime 0 atime 0`, each answered by a
//! byte, 0 for good or 1 and a line of what is wrong; after a file's bytes each side sends such a byte.

use std::ffi::OsStr;
use std::fs::{File, FileTimes};
use std::io::{BufRead, Error, Read, Result, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Bytes of a line: a name is no longer.
const LINE: u64 = 8192;
/// Directories in directories.
const DEPTH: usize = 256;

#[derive(Default)]
struct Options {
    take: bool,
    give: bool,
    recursive: bool,
    keep: bool,
    into_directory: bool,
}

struct Scp<I, O> {
    options: Options,
    input: I,
    output: O,
    failed: bool,
}

fn wrong(text: impl Into<String>) -> Error {
    Error::other(text.into())
}

/// Does what scp's arguments say; its exit code.
pub(super) fn run(arguments: &[&str], input: impl BufRead, output: impl Write) -> i32 {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    let mut paths = Vec::new();
    while let Some(argument) = rest.next() {
        match argument.strip_prefix('-').filter(|flags| paths.is_empty() && !flags.is_empty()) {
            Some("-") => {
                paths.extend(rest.by_ref().copied());
            }
            Some(flags) => flags.chars().for_each(|flag| match flag {
                't' => options.take = true,
                'f' => options.give = true,
                'r' => options.recursive = true,
                'p' => options.keep = true,
                'd' => options.into_directory = true,
                _ => {}
            }),
            None => paths.push(*argument),
        }
    }
    let mut scp = Scp { options, input, output, failed: false };
    let done = match (scp.options.take, scp.options.give, &paths[..]) {
        (true, false, [target]) => scp.take_all(Path::new(target)),
        (false, true, [_, ..]) => scp.give_all(&paths),
        _ => Err(wrong("only -t and -f are known here")),
    };
    match done {
        Ok(()) => i32::from(scp.failed),
        Err(e) => {
            let _ = scp.complain(&e.to_string());
            1
        }
    }
}

impl<I: BufRead, O: Write> Scp<I, O> {
    fn good(&mut self) -> Result<()> {
        self.output.write_all(&[0])?;
        self.output.flush()
    }

    fn complain(&mut self, text: &str) -> Result<()> {
        self.failed = true;
        self.output.write_all(format!("\x01scp: {}\n", text.replace('\n', " ")).as_bytes())?;
        self.output.flush()
    }

    /// A line without its end; none: there are no more.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut self.input).take(LINE).read_until(b'\n', &mut line)?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(wrong("a line without an end")),
        }
    }

    /// Waits for the other side's word.
    fn answered(&mut self) -> Result<bool> {
        let mut word = [0];
        self.input.read_exact(&mut word)?;
        match word[0] {
            0 => Ok(true),
            kind => {
                self.failed = true;
                let text = self.line()?.unwrap_or_default();
                if kind == 1 { Ok(false) } else { Err(wrong(String::from_utf8_lossy(&text))) }
            }
        }
    }

    fn take_all(&mut self, target: &Path) -> Result<()> {
        if self.options.into_directory && !target.is_dir() {
            return Err(wrong(format!("{}: no directory", target.display())));
        }
        self.good()?;
        self.take(target, 0)
    }

    fn take(&mut self, target: &Path, depth: usize) -> Result<()> {
        let mut times = None;
        while let Some(line) = self.line()? {
            match line.split_first() {
                Some((b'T', rest)) => {
                    times = Some(parse_times(rest)?);
                    self.good()?;
                }
                Some((b'C', rest)) => {
                    let (mode, size, name) = parse(rest)?;
                    self.take_file(&place(target, name), mode, size, times.take())?;
                }
                Some((b'D', rest)) => {
                    let (mode, _, name) = parse(rest)?;
                    if !self.options.recursive || depth == DEPTH {
                        return Err(wrong("no directory was asked for"));
                    }
                    self.take_directory(&place(target, name), mode, times.take(), depth)?;
                }
                Some((b'E', [])) if depth > 0 => return self.good(),
                Some((1, _)) => self.failed = true,
                _ => return Err(wrong("the other side says what is not understood")),
            }
        }
        if depth == 0 { Ok(()) } else { Err(wrong("it broke off in a directory")) }
    }

    fn take_file(&mut self, path: &Path, mode: u32, size: u64, times: Option<FileTimes>) -> Result<()> {
        let opened = File::options().write(true).create(true).truncate(true).mode(mode).open(path);
        let mut file = match opened {
            Ok(file) => file,
            Err(e) => return self.complain(&format!("{}: {e}", path.display())),
        };
        self.good()?;
        let mut bytes = (&mut self.input).take(size);
        let mut trouble = std::io::copy(&mut bytes, &mut file).err();
        if trouble.is_some() {
            std::io::copy(&mut bytes, &mut std::io::sink())?;
        }
        if bytes.limit() > 0 {
            return Err(wrong(format!("{}: it broke off", path.display())));
        }
        if self.options.keep && trouble.is_none() {
            trouble = file.set_permissions(PermissionsExt::from_mode(mode)).err();
        }
        if let (Some(times), None) = (times, &trouble) {
            trouble = file.set_times(times).err();
        }
        self.answered()?;
        match trouble {
            None => self.good(),
            Some(e) => self.complain(&format!("{}: {e}", path.display())),
        }
    }

    fn take_directory(&mut self, path: &Path, mode: u32, times: Option<FileTimes>, depth: usize) -> Result<()> {
        if !path.is_dir() {
            // Whatever it is to be in the end, files are put into it first.
            std::fs::DirBuilder::new().mode(mode | 0o700).create(path)?;
        }
        self.good()?;
        self.take(path, depth + 1)?;
        if self.options.keep {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
        }
        match times {
            Some(times) => File::open(path)?.set_times(times),
            None => Ok(()),
        }
    }

    fn give_all(&mut self, paths: &[&str]) -> Result<()> {
        self.answered()?;
        for path in paths {
            self.give(Path::new(path), 0)?;
        }
        Ok(())
    }

    fn give(&mut self, path: &Path, depth: usize) -> Result<()> {
        let meta = match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() || (meta.is_dir() && self.options.recursive && depth < DEPTH) => meta,
            Ok(_) => return self.complain(&format!("{}: no file", path.display())),
            Err(e) => return self.complain(&format!("{}: {e}", path.display())),
        };
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let name = path.file_name().or(whole.file_name()).unwrap_or(OsStr::new("."));
        if name.as_bytes().contains(&b'\n') {
            return self.complain(&format!("{}: a name with a line's end", path.display()));
        }
        if self.options.keep {
            self.output.write_all(format!("T{} 0 {} 0\n", meta.mtime(), meta.atime()).as_bytes())?;
            self.output.flush()?;
            if !self.answered()? {
                return Ok(());
            }
        }
        let (kind, size) = if meta.is_dir() { ('D', 0) } else { ('C', meta.len()) };
        let head = |size: u64| format!("{kind}{:04o} {size} ", meta.mode() & 0o7777);
        if meta.is_dir() {
            let entries = match std::fs::read_dir(path) {
                Ok(entries) => entries,
                Err(e) => return self.complain(&format!("{}: {e}", path.display())),
            };
            self.say(&[head(0).as_bytes(), name.as_bytes(), b"\n"].concat())?;
            if !self.answered()? {
                return Ok(());
            }
            for entry in entries {
                self.give(&entry?.path(), depth + 1)?;
            }
            self.say(b"E\n")?;
            return self.answered().map(drop);
        }
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) => return self.complain(&format!("{}: {e}", path.display())),
        };
        self.say(&[head(size).as_bytes(), name.as_bytes(), b"\n"].concat())?;
        if !self.answered()? {
            return Ok(());
        }
        let mut bytes = file.take(size);
        let trouble = std::io::copy(&mut bytes, &mut self.output).err();
        // As many as were said, whatever became of the file.
        std::io::copy(&mut std::io::repeat(0).take(bytes.limit()), &mut self.output)?;
        match (trouble, bytes.limit()) {
            (None, 0) => self.good()?,
            (Some(e), _) => self.complain(&format!("{}: {e}", path.display()))?,
            (None, _) => self.complain(&format!("{}: it became shorter", path.display()))?,
        }
        self.answered().map(drop)
    }

    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes)?;
        self.output.flush()
    }
}

/// Where something of that name goes.
fn place(target: &Path, name: &OsStr) -> PathBuf {
    if target.is_dir() { target.join(name) } else { target.to_owned() }
}

fn number<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// `mode size name`.
fn parse(rest: &[u8]) -> Result<(u32, u64, &OsStr)> {
    let mut words = rest.splitn(3, |b| *b == b' ');
    let mode = words.next().and_then(|w| u32::from_str_radix(std::str::from_utf8(w).ok()?, 8).ok());
    let (size, name) = (words.next().and_then(number), words.next());
    match (mode, size, name) {
        (Some(mode), Some(size), Some(name)) if !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') => {
            Ok((mode & 0o7777, size, OsStr::from_bytes(name)))
        }
        _ => Err(wrong("what is to come is not said well")),
    }
}

/// `mtime 0 atime 0`.
fn parse_times(rest: &[u8]) -> Result<FileTimes> {
    let words: Option<Vec<u32>> = rest.split(|b| *b == b' ').map(number).collect();
    let at = |seconds: u32| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
    match words.as_deref() {
        Some([modified, _, accessed, _]) => {
            Ok(FileTimes::new().set_modified(at(*modified)).set_accessed(at(*accessed)))
        }
        _ => Err(wrong("times are not said well")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(arguments: &[&str], input: &[u8]) -> (i32, Vec<u8>) {
        let mut said = Vec::new();
        let code = run(arguments, input, &mut said);
        (code, said)
    }

    #[test]
    fn what_is_given_can_be_taken() {
        let tmp = tempfile::tempdir().unwrap();
        let (from, to) = (tmp.path().join("from"), tmp.path().join("to"));
        std::fs::create_dir_all(from.join("sub")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("sub/a b"), "hello").unwrap();
        std::fs::set_permissions(from.join("sub/a b"), PermissionsExt::from_mode(0o640)).unwrap();
        let (code, said) = run_with(&["-r", "-p", "-f", "--", from.to_str().unwrap()], &[0; 64]);
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&said));
        let (code, answers) = run_with(&["-rpt", to.to_str().unwrap()], &said);
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&answers));
        let copy = to.join("from/sub/a b");
        assert_eq!(std::fs::read(&copy).unwrap(), b"hello");
        let (a, b) = (std::fs::metadata(from.join("sub/a b")).unwrap(), std::fs::metadata(&copy).unwrap());
        assert_eq!((a.mode(), a.mtime()), (b.mode(), b.mtime()));
        assert!(answers.iter().all(|b| *b == 0));
    }

    #[test]
    fn no_name_leads_out_and_rubbish_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("d");
        std::fs::create_dir(&dir).unwrap();
        let target = dir.to_str().unwrap();
        for bad in [
            "C0644 1 ../x\na\0",
            "C0644 1 a/b\na\0",
            "C0644 1 ..\na\0",
            "D0755 0 x\n",
            "hello\n",
            "C0644 9 a\nxx",
            "E\n",
        ] {
            let (code, said) = run_with(&["-t", target], bad.as_bytes());
            assert!(code == 1 && said.contains(&1), "{bad:?}");
        }
        assert!(!tmp.path().join("x").exists());
        assert_eq!(run_with(&["-t"], b"").0, 1);
        assert_eq!(run_with(&["-f", "/nonexistent"], &[0]).0, 1);
        assert_eq!(run_with(&["-d", "-t", "/nonexistent"], &[]).0, 1);
    }
}
