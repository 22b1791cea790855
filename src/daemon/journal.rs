//! What is logged, for systemd's journal, with its fields apart: `journalctl -u torpord TORPOR_POD=...`.
//!
//! The format is systemd's native journal protocol: one datagram an entry, in it `NAME=value` lines, and values with a line feed as
//! name, length (8 bytes, little-endian) and bytes. The message has the fields, too, so that it reads as on standard error.

use std::fmt::Write;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Bytes of one value: an entry with some of them fits into a datagram of the kernel's.
const LONGEST: usize = 16 << 10;
/// Characters of a field's name, as the journal takes them.
const LONGEST_NAME: usize = 64;

/// Sends entries to the journal.
pub(super) struct Journal {
    socket: UnixDatagram,
    to: PathBuf,
}

impl Journal {
    /// The journal, if standard error is led to it: systemd says which file that is (`JOURNAL_STREAM`, systemd.exec(5)).
    pub(super) fn of_environment() -> Option<Self> {
        let said = std::env::var("JOURNAL_STREAM").ok()?;
        let own = std::fs::metadata("/proc/self/fd/2").ok()?;
        (said == format!("{}:{}", own.dev(), own.ino())).then(|| Self::at(Path::new(SOCKET)).ok())?
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.send_to(&[], path)?; // an empty datagram is no entry; it tells whether the journal is there
        Ok(Journal { socket, to: path.to_owned() })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let about = event.metadata();
        let priority = match *about.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        let mut entry = Vec::with_capacity(512);
        put(&mut entry, "MESSAGE", &fields.message());
        put(&mut entry, "PRIORITY", priority);
        put(&mut entry, "SYSLOG_IDENTIFIER", "torpord");
        put(&mut entry, "TORPOR_TARGET", about.target());
        if let (Some(file), Some(line)) = (about.file(), about.line()) {
            put(&mut entry, "CODE_FILE", file);
            put(&mut entry, "CODE_LINE", &line.to_string());
        }
        for (name, value) in &fields.others {
            put(&mut entry, &format!("TORPOR_{}", upper(name)), value);
        }
        if self.socket.send_to(&entry, &self.to).is_err() {
            // It is started anew, perhaps: what is said on standard error is kept for it.
            #[expect(clippy::print_stderr, reason = "that is where the log goes then")]
            {
                eprintln!("{}", fields.message());
            }
        }
    }
}

#[derive(Default)]
struct Fields {
    text: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn message(&self) -> String {
        let mut all = self.text.clone();
        for (name, value) in &self.others {
            let _ = write!(all, "{}{name}={value}", if all.is_empty() { "" } else { " " });
        }
        all
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.text),
            name => self.others.push((name, value.to_owned())),
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// A name as the journal has them.
fn upper(name: &str) -> String {
    let most = LONGEST_NAME - "TORPOR_".len();
    name.chars().take(most).map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let mut end = value.len().min(LONGEST);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = &value.as_bytes()[..end];
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn entries_have_their_fields_apart_and_in_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let journal = UnixDatagram::bind(dir.path().join("socket")).unwrap();
        let mut buffer = vec![0; 1 << 20];
        let layer = Journal::at(&dir.path().join("socket")).unwrap();
        assert_eq!(journal.recv(&mut buffer).unwrap(), 0);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(pod = %"web", count = 3, error = "two\nlines", "it failed");
            let long = "\u{e9}".repeat(LONGEST);
            tracing::info!(long, "{}", "\nTORPOR_POD=forged");
        });
        let n = journal.recv(&mut buffer).unwrap();
        let entry = String::from_utf8_lossy(&buffer[..n]).into_owned();
        for line in
            ["PRIORITY=4\n", "SYSLOG_IDENTIFIER=torpord\n", "TORPOR_POD=web\n", "TORPOR_COUNT=3\n", "CODE_LINE="]
        {
            assert!(entry.contains(line), "{line} is not in {entry}");
        }
        let message = "it failed pod=web count=3 error=two\nlines";
        let framed =
            [b"MESSAGE\n".as_slice(), &(message.len() as u64).to_le_bytes(), message.as_bytes(), b"\n"].concat();
        assert!(buffer[..n].starts_with(&framed), "{entry}");
        let framed = [b"TORPOR_ERROR\n".as_slice(), &9_u64.to_le_bytes(), b"two\nlines\n"].concat();
        assert!(buffer[..n].windows(framed.len()).any(|w| w == framed), "{entry}");
        // What is said can't be taken for a field, and nothing is too long for a datagram.
        let n = journal.recv(&mut buffer).unwrap();
        assert!(buffer[..n].starts_with(b"MESSAGE\n") && n < 3 * LONGEST, "{n}");
    }

    #[test]
    fn names_are_what_the_journal_takes() {
        assert_eq!(upper("sandbox.pid"), "SANDBOX_PID");
        assert_eq!(upper(&"x".repeat(200)).len() + "TORPOR_".len(), LONGEST_NAME);
        assert!(Journal::at(Path::new("/nosuch/socket")).is_err());
    }
}
