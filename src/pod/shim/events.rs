//! What happens: init's word, ends of processes.

use std::time::Instant;

use super::{HOLD, HOLD_UNWATCHED, Shim, sandbox};
use crate::channel::control::{Answer, ExitRecord, kind};
use crate::channel::{Event, MAIN, StartFailure, Stream};
use crate::model::Code;

/// Turns of reading what a sandbox that has ended left in the FIFO; it holds far less.
const LAST_TURNS: u32 = 64;

/// Why a program could not be started, as torpord is told.
pub(super) fn start_code(why: StartFailure) -> Code {
    match why {
        StartFailure::NotFound => Code::CommandNotFound,
        StartFailure::NotExecutable => Code::CommandNotExecutable,
        StartFailure::Refused => Code::InvalidRequest,
    }
}

impl Shim {
    pub(super) fn on_signals(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while let Some((pid, code, signal)) = sandbox::reap() {
            if self.creating.as_ref().is_some_and(|c| c.pid == pid) {
                self.created(code == Some(0));
            } else if self.sandbox.pid() == Some(pid) {
                self.sandbox_ended(Some((code, signal)));
            }
        }
    }

    fn created(&mut self, well: bool) {
        let Some(creating) = self.creating.take() else { return };
        let answer = if well && self.sandbox.learn_pid(&self.arguments.dir) {
            Answer::Done
        } else {
            self.console.copy();
            let (code, why) = if creating.deadline <= Instant::now() {
                (Code::Timeout, "the engine did not come to an end in time")
            } else if well {
                (Code::Runtime, "the engine named no sandbox that lives")
            } else {
                (Code::Runtime, "the engine failed")
            };
            Answer::Failed { code, message: format!("{why}: {}", creating.last_words(&self.arguments.dir)) }
        };
        self.answer(creating.connection, &answer);
    }

    /// The sandbox is gone. All that it still said is in the FIFO: read that first.
    pub(super) fn sandbox_ended(&mut self, status: Option<(Option<i32>, Option<i32>)>) {
        if self.sandbox.pid().is_none() {
            return;
        }
        for _ in 0..LAST_TURNS {
            self.session.allow();
            if !self.read_events() {
                break;
            }
            self.commit();
        }
        self.console.copy();
        let status = status.or_else(|| self.sandbox.exit_status());
        self.sandbox.forget();
        if self.exit.is_none() {
            let signal = status.and_then(|s| s.1).filter(|s| *s != libc::SIGKILL);
            let sandbox_status = status.and_then(|(code, signal)| code.or(signal.map(|s| 128 + s)));
            let at = Some(jiff::Timestamp::now());
            self.end(ExitRecord { signal, at, sandbox_status, ..ExitRecord::unknown() });
        }
        self.hold_until = None;
        self.fail_all("the sandbox has ended");
    }

    fn end(&mut self, exit: ExitRecord) {
        self.log.flush_partial();
        self.log.commit();
        if let Err(e) = sandbox::write_exit(&self.arguments.dir, &exit) {
            self.console.say(&format!("record the exit: {e}"));
        }
        let watched = !self.waiting.end.is_empty();
        for id in std::mem::take(&mut self.waiting.end) {
            self.answer(id, &Answer::Ended(exit.clone()));
        }
        self.exit = Some(exit);
        self.hold_until = Some(Instant::now() + if watched { HOLD } else { HOLD_UNWATCHED });
    }

    fn fail_all(&mut self, why: &str) {
        let failed = Answer::Failed { code: Code::Runtime, message: why.into() };
        let w = &mut self.waiting;
        let mut ids = std::mem::take(&mut w.launch);
        ids.append(&mut w.quiesce);
        ids.extend(w.identify.drain(..));
        ids.extend(w.secrets.drain(..));
        ids.extend(std::mem::take(&mut w.probes).into_values());
        ids.extend(std::mem::take(&mut self.programs).into_values().filter_map(|p| p.connection));
        ids.extend(self.end_streams());
        for id in ids {
            self.answer(id, &failed);
        }
    }

    /// Takes what init has said, as much as one turn allows; whether there was something.
    pub(super) fn read_events(&mut self) -> bool {
        let mut some = false;
        while let Some((sequence, event)) = self.session.next_event() {
            self.on_event(sequence, event);
            some = true;
        }
        some
    }

    fn on_event(&mut self, sequence: u64, event: Event) {
        match event {
            Event::Hello { version, launched, .. } => {
                if launched {
                    self.main_started();
                }
                self.learn_version(version);
            }
            Event::Started { process } if process == MAIN => self.main_started(),
            Event::Started { .. } => {}
            Event::StartFailed { process, why, message } => self.start_failed(process, why, message),
            Event::Output { process: MAIN, stream, data } => {
                self.main_said(stream, &data);
                self.log.write(sequence, stream, &data);
            }
            Event::Output { process, stream, data } => self.program_said(process, stream, &data),
            Event::Exited { process: MAIN, code, signal } => {
                self.main_ended(code, signal);
                if self.exit.is_none() {
                    self.end(ExitRecord { code, signal, at: Some(jiff::Timestamp::now()), ..ExitRecord::default() });
                }
            }
            Event::Exited { process, code, signal } => self.program_ended(process, code, signal),
            Event::Terminal(news) => self.on_terminal(news),
            Event::TerminalOutput { number, place, data } => self.terminal_said(number, place, &data),
            Event::InputTaken { process, bytes } => self.input_taken(process, bytes),
            Event::Processes { id, processes } => self.answer_asked(id, &Answer::Processes(processes)),
            Event::Quiesced => {
                for id in std::mem::take(&mut self.waiting.quiesce) {
                    self.answer(id, &Answer::Done);
                }
            }
            Event::Identified { failed } => {
                let id = self.waiting.identify.pop_front();
                self.answer_done(id, failed);
            }
            Event::SecretsFilled { failed } => {
                let id = self.waiting.secrets.pop_front();
                self.answer_done(id, failed);
            }
            Event::Probed { id, ready } => {
                let answer = if ready {
                    Answer::Done
                } else {
                    Answer::Failed { code: Code::Timeout, message: "it did not answer".into() }
                };
                if let Some(id) = self.waiting.probes.remove(&id) {
                    self.answer(id, &answer);
                }
            }
        }
    }

    fn answer_done(&mut self, id: Option<u64>, failed: Option<String>) {
        let answer = match failed {
            None => Answer::Done,
            Some(message) => Answer::Failed { code: Code::Internal, message: message.chars().take(500).collect() },
        };
        if let Some(id) = id {
            self.answer(id, &answer);
        }
    }

    fn main_started(&mut self) {
        self.launched = true;
        for id in std::mem::take(&mut self.waiting.launch) {
            self.answer(id, &Answer::Done);
        }
    }

    fn start_failed(&mut self, process: u64, why: StartFailure, message: String) {
        let code = start_code(why);
        let ids = if process == MAIN {
            std::mem::take(&mut self.waiting.launch)
        } else {
            self.programs.remove(&process).and_then(|p| p.connection).into_iter().collect()
        };
        for id in ids {
            self.answer(id, &Answer::Failed { code, message: message.clone() });
        }
    }

    fn program_said(&mut self, process: u64, stream: Stream, data: &[u8]) {
        let Some(program) = self.programs.get_mut(&process) else { return };
        let room = &mut program.room[usize::from(stream == Stream::Stderr)];
        let kept = &data[..data.len().min(*room)];
        *room -= kept.len();
        program.truncated |= kept.len() < data.len();
        if let Some(c) = program.connection.and_then(|id| self.connections.get_mut(&id))
            && !kept.is_empty()
        {
            program.truncated |= !c.send(if stream == Stream::Stdout { kind::STDOUT } else { kind::STDERR }, kept);
        }
    }

    pub(super) fn program_ended(&mut self, process: u64, code: Option<i32>, signal: Option<i32>) {
        if let Some(p) = self.programs.remove(&process)
            && let Some(id) = p.connection
        {
            let (timed_out, truncated) = (p.timed_out, p.truncated);
            self.answer(id, &Answer::Exited { code, signal, timed_out, truncated });
        }
    }
}
