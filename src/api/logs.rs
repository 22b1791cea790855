//! A pod's output as server-sent events, read.

use serde::Deserialize;

use super::types::LogLine;

/// What a reader of server-sent events is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// A line, and the id with which a reader goes on after it.
    Line {
        /// The id.
        id: String,
        /// The line.
        line: LogLine,
    },
    /// Lines that are not kept any more were missed; how many, if that is known.
    Gap {
        /// The id.
        id: String,
        /// Lines.
        missed: Option<u64>,
    },
    /// The pod's command has ended, and all was told.
    End,
}

#[derive(Deserialize)]
struct Missed {
    missed: Option<u64>,
}

/// Puts events together, line by line.
#[derive(Debug, Default)]
pub(crate) struct LogReader {
    id: String,
    kind: String,
    data: Vec<u8>,
}

impl LogReader {
    /// Takes a line of the answer; the event that ends with it. Comments, and what is not known, are passed over.
    pub(crate) fn line(&mut self, line: &[u8]) -> Option<serde_json::Result<LogEvent>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(id) = line.strip_prefix(b"id: ") {
            self.id = text(id);
        } else if let Some(kind) = line.strip_prefix(b"event: ") {
            self.kind = text(kind);
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            self.data = data.to_vec();
        } else if line.is_empty() && !self.data.is_empty() {
            let (id, data) = (self.id.clone(), std::mem::take(&mut self.data));
            return match std::mem::take(&mut self.kind).as_str() {
                "" => Some(serde_json::from_slice(&data).map(|line| LogEvent::Line { id, line })),
                "gap" => Some(serde_json::from_slice(&data).map(|m: Missed| LogEvent::Gap { id, missed: m.missed })),
                "end" => Some(Ok(LogEvent::End)),
                _ => None,
            };
        }
        None
    }
}
