//! Input and output that torpord follows while it goes on: programs, terminals, the pod's command.
//!
//! All of it is counted: nobody sends more than the other side has room for, so that a client that does not read holds up its own
//! program and nothing else. Terminals belong to init; here is only who looks at which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::asks::failed;
use super::events::start_code;
use super::{Running, Shim};
use crate::channel::control::{Answer, Ask, kind, number};
use crate::channel::stream::{Steer, StreamAsk, StreamOpened};
use crate::channel::terminal::{TerminalAsk, TerminalNews, TerminalRefusal, WINDOW};
use crate::channel::{Launch, MAIN, Request, Stream};
use crate::model::Code;

/// The version of the channel's protocol that has all this.
const SINCE: u32 = 2;
/// Bytes that may wait for somebody who follows the pod's command; beyond them it misses some.
const FOLLOWER: usize = 256 * 1024;
/// What a program may say once nobody reads it: all.
const ALL: u64 = u64::MAX / 2;

/// Who streams what: numbers of connections.
#[derive(Default)]
pub(super) struct Streams {
    /// The version that init speaks, once it has said so.
    version: Option<u32>,
    /// What was asked before that.
    waiting: Vec<(u64, Ask)>,
    /// Whose questions init has not answered, and whether output of a terminal is to come.
    asked: BTreeMap<u64, (u64, bool)>,
    /// Terminals that are looked at.
    looked_at: BTreeMap<u64, u64>,
    /// Terminals that nobody looks at any more, of which init is not told yet: see [`Shim::tell_left`].
    left: BTreeSet<u64>,
    /// Who follows the pod's command, and how many bytes each has missed.
    followers: BTreeMap<u64, u64>,
    /// Whose input the pod's command gets.
    feeder: Option<u64>,
    /// What a command that gets input said before anybody followed it.
    early: Option<Early>,
}

/// Output that waits for the first who follows the pod's command.
#[derive(Default)]
struct Early {
    pieces: VecDeque<(Stream, Vec<u8>)>,
    bytes: usize,
    missed: u64,
}

impl Early {
    fn push(&mut self, stream: Stream, data: &[u8]) {
        self.bytes += data.len();
        self.pieces.push_back((stream, data.to_vec()));
        while self.bytes > FOLLOWER
            && let Some((_, oldest)) = self.pieces.pop_front()
        {
            self.bytes -= oldest.len();
            self.missed += oldest.len() as u64;
        }
    }
}

fn output_kind(stream: Stream) -> u8 {
    if stream == Stream::Stdout { kind::STDOUT } else { kind::STDERR }
}

impl Shim {
    /// Init has said which version it speaks.
    pub(super) fn learn_version(&mut self, version: u32) {
        self.streams.version = Some(version);
        for (id, ask) in std::mem::take(&mut self.streams.waiting) {
            self.on_stream_ask(id, ask);
        }
    }

    /// What needs an init that knows of it.
    pub(super) fn on_stream_ask(&mut self, id: u64, ask: Ask) {
        match self.streams.version {
            None => return self.streams.waiting.push((id, ask)),
            Some(version) if version < SINCE => {
                let text = "the pod's init is of an older torpor, which can't do that: stop the pod and start it again";
                return self.answer(id, &failed(Code::Unsupported, text));
            }
            Some(_) => {}
        }
        let number = self.number();
        let request = match ask {
            Ask::Stream(StreamAsk::Exec { exec, timeout_ms }) => {
                let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
                let room = [usize::MAX; 2];
                let running =
                    Running { connection: Some(id), deadline, timed_out: false, room, truncated: false, counted: true };
                self.programs.insert(number, running);
                self.answer(id, &Answer::Opened(StreamOpened::default()));
                self.session.say(&Request::Exec { process: number, exec });
                Request::Credit { process: number, bytes: WINDOW }
            }
            Ask::Stream(StreamAsk::Terminal(open)) => {
                self.streams.asked.insert(number, (id, !open.quiet));
                Request::Terminal(TerminalAsk::Open { ask: number, open, window: WINDOW })
            }
            Ask::Stream(StreamAsk::Main { stdin }) => return self.follow(id, stdin),
            Ask::Terminals => {
                self.streams.asked.insert(number, (id, false));
                Request::Terminal(TerminalAsk::List { ask: number })
            }
            Ask::RemoveTerminal { id: terminal } => {
                self.streams.asked.insert(number, (id, false));
                Request::Terminal(TerminalAsk::Remove { ask: number, id: terminal })
            }
            Ask::Processes => {
                self.streams.asked.insert(number, (id, false));
                Request::Processes { id: number }
            }
            _ => return,
        };
        self.session.say(&request);
    }

    fn follow(&mut self, id: u64, stdin: bool) {
        if !self.launched {
            return self.answer(id, &failed(Code::WrongState, "the pod's command has not begun"));
        }
        if stdin && self.streams.feeder.is_some() {
            return self.answer(id, &failed(Code::InUse, "somebody else's input goes to the pod's command"));
        }
        if stdin {
            self.streams.feeder = Some(id);
        }
        self.streams.followers.insert(id, 0);
        self.answer(id, &Answer::Opened(StreamOpened::default()));
        if let (Some(early), Some(c)) = (self.streams.early.take(), self.connections.get_mut(&id)) {
            if early.missed > 0 {
                c.send(kind::MISSED, &early.missed.to_le_bytes());
            }
            for (stream, data) in early.pieces {
                c.send(output_kind(stream), &data);
            }
        }
    }

    /// The pod's command is about to begin. Whoever gives one its input also wants to see what it said before they came.
    pub(super) fn expect_follower(&mut self, launch: &Launch) {
        self.streams.early = (launch.stdin && launch.tty.is_none()).then(Early::default);
    }

    /// The process that a connection is about.
    pub(super) fn target(&self, id: u64) -> Option<u64> {
        let program = self.programs.iter().find(|(_, p)| p.connection == Some(id)).map(|(n, _)| *n);
        let terminal = || self.streams.looked_at.iter().find(|(_, c)| **c == id).map(|(n, _)| *n);
        program.or_else(terminal).or_else(|| (self.streams.feeder == Some(id)).then_some(MAIN))
    }

    /// The connection that counts what goes to and from a process.
    fn counter(&self, process: u64) -> Option<u64> {
        let program = self.programs.get(&process).filter(|p| p.counted).and_then(|p| p.connection);
        program
            .or_else(|| self.streams.looked_at.get(&process).copied())
            .or_else(|| self.streams.feeder.filter(|_| process == MAIN))
    }

    pub(super) fn on_credit(&mut self, id: u64, payload: &[u8]) {
        let (Some(count), Some(process)) = (number(payload), self.target(id)) else { return };
        if self.programs.contains_key(&process) {
            self.session.say(&Request::Credit { process, bytes: count });
        } else if self.streams.looked_at.contains_key(&process) {
            self.session.say(&Request::Terminal(TerminalAsk::Credit { number: process, upto: count }));
        }
    }

    pub(super) fn steer(&mut self, id: u64, steer: Steer) {
        let Some(process) = self.target(id) else { return };
        self.session.say(&match steer {
            Steer::Signal { signal } => Request::Signal { process, signal },
            Steer::Resize { size } => Request::Terminal(TerminalAsk::Resize { number: process, size }),
            Steer::Forget => Request::Terminal(TerminalAsk::Forget { number: process }),
        });
    }

    /// Tells init which terminals nobody looks at any more, once no question is under way by which somebody begins to look: init
    /// would take the end of the look before for the end of that one.
    fn tell_left(&mut self) {
        if self.streams.asked.values().any(|(_, looks)| *looks) {
            return;
        }
        for number in std::mem::take(&mut self.streams.left) {
            self.session.say(&Request::Terminal(TerminalAsk::Close { number }));
        }
    }

    pub(super) fn on_terminal(&mut self, news: TerminalNews) {
        self.take_terminal_news(news);
        self.tell_left();
    }

    fn take_terminal_news(&mut self, news: TerminalNews) {
        let (ask, answer) = match news {
            TerminalNews::Opened { ask, number, created, size, start, end } => {
                let Some((id, looks)) = self.streams.asked.remove(&ask) else { return };
                if looks {
                    // Whoever looked before has to look anew.
                    let before = self.streams.looked_at.remove(&number);
                    if let Some(c) = before.and_then(|b| self.connections.get_mut(&b)) {
                        c.close();
                    }
                    if !self.connections.contains_key(&id) {
                        self.streams.left.insert(number);
                        return;
                    }
                    self.streams.left.remove(&number);
                    self.streams.looked_at.insert(number, id);
                }
                return self.answer(id, &Answer::Opened(StreamOpened { created, size, start, end }));
            }
            TerminalNews::Refused { ask, why, message } => {
                let code = match why {
                    TerminalRefusal::NotFound => Code::NotFound,
                    TerminalRefusal::Taken => Code::NameTaken,
                    TerminalRefusal::TooMany => Code::Exhausted,
                    TerminalRefusal::Start(why) => start_code(why),
                };
                (ask, failed(code, message.chars().take(500).collect::<String>()))
            }
            TerminalNews::Removed { ask, end } => (ask, end.map_or(Answer::Done, Answer::TerminalEnded)),
            TerminalNews::Listed { ask, terminals } => (ask, Answer::Terminals(terminals)),
            TerminalNews::Ended { number, end } => {
                if let Some(id) = self.streams.looked_at.get(&number).copied() {
                    self.answer(id, &Answer::TerminalEnded(end));
                }
                return;
            }
        };
        self.answer_asked(ask, &answer);
    }

    pub(super) fn answer_asked(&mut self, ask: u64, answer: &Answer) {
        if let Some((id, _)) = self.streams.asked.remove(&ask) {
            self.answer(id, answer);
        }
    }

    pub(super) fn terminal_said(&mut self, process: u64, place: u64, data: &[u8]) {
        if let Some(c) = self.streams.looked_at.get(&process).and_then(|id| self.connections.get_mut(id)) {
            c.send(kind::TERMINAL, &[&place.to_le_bytes(), data].concat());
        }
    }

    pub(super) fn input_taken(&mut self, process: u64, bytes: u64) {
        if let Some(c) = self.counter(process).and_then(|id| self.connections.get_mut(&id)) {
            c.send(kind::CREDIT, &bytes.to_le_bytes());
        }
    }

    /// The pod's command said something: whoever follows it is told, as long as that one reads.
    pub(super) fn main_said(&mut self, stream: Stream, data: &[u8]) {
        if let Some(early) = &mut self.streams.early {
            early.push(stream, data);
        }
        for (id, missed) in &mut self.streams.followers {
            let Some(c) = self.connections.get_mut(id) else { continue };
            if c.backlog() + data.len() > FOLLOWER {
                *missed += data.len() as u64;
                continue;
            }
            if *missed > 0 {
                c.send(kind::MISSED, &std::mem::take(missed).to_le_bytes());
            }
            c.send(output_kind(stream), data);
        }
    }

    pub(super) fn main_ended(&mut self, code: Option<i32>, signal: Option<i32>) {
        self.streams.feeder = None;
        for id in std::mem::take(&mut self.streams.followers).into_keys() {
            self.answer(id, &Answer::Exited { code, signal, timed_out: false, truncated: false });
        }
    }

    /// A connection is gone: what it was about goes on without it.
    pub(super) fn leave_streams(&mut self, id: u64) {
        self.streams.waiting.retain(|(w, _)| *w != id);
        self.streams.followers.remove(&id);
        let closed: Vec<u64> = self.streams.looked_at.iter().filter(|(_, c)| **c == id).map(|(n, _)| *n).collect();
        for number in closed {
            self.streams.looked_at.remove(&number);
            self.streams.left.insert(number);
        }
        self.tell_left();
        if self.streams.feeder == Some(id) {
            self.streams.feeder = None;
            self.session.say(&Request::Stdin { process: MAIN, data: Vec::new() });
        }
        for (process, p) in self.programs.iter_mut().filter(|(_, p)| p.connection == Some(id)) {
            p.connection = None; // the program goes on, as docker's do
            if p.counted {
                self.session.say(&Request::Credit { process: *process, bytes: ALL });
                self.session.say(&Request::Stdin { process: *process, data: Vec::new() });
            }
        }
    }

    /// All that is streamed has ended with the sandbox: whom that is to be told.
    pub(super) fn end_streams(&mut self) -> Vec<u64> {
        let streams = std::mem::take(&mut self.streams);
        let mut ids: Vec<u64> = streams.waiting.into_iter().map(|(id, _)| id).collect();
        ids.extend(streams.asked.into_values().map(|(id, _)| id));
        ids.extend(streams.looked_at.into_values());
        ids.extend(streams.followers.into_keys());
        ids
    }
}
