//! What torpord asks.

use std::time::{Duration, Instant};

use super::creating::{Creating, Plan};
use super::{HOLD, Running, Shim, sandbox};
use crate::channel::control::{self, Answer, Ask, KEPT_OUTPUT, MAX_ASK, ShimStatus, kind};
use crate::channel::secrets::SecretFiles;
use crate::channel::{MAIN, Request};
use crate::model::Code;

/// Bytes of input in one message to init.
const INPUT: usize = 64 * 1024;

pub(super) fn failed(code: Code, message: impl Into<String>) -> Answer {
    Answer::Failed { code, message: message.into() }
}

impl Shim {
    pub(super) fn serve(&mut self, id: u64) {
        let Some(c) = self.connections.get_mut(&id) else { return };
        for (kind, payload) in c.read() {
            self.on_message(id, kind, &payload);
        }
    }

    fn on_message(&mut self, id: u64, kind: u8, payload: &[u8]) {
        match kind {
            kind::STDIN => {
                let Some(process) = self.target(id) else { return }; // it ended before it took all of it
                for data in payload.chunks(INPUT) {
                    self.session.say(&Request::Stdin { process, data: data.to_vec() });
                }
            }
            kind::STDIN_END => {
                if let Some(process) = self.target(id) {
                    self.session.say(&Request::Stdin { process, data: Vec::new() });
                }
            }
            kind::SECRETS if payload.len() > MAX_ASK => {
                self.answer(id, &failed(Code::TooLarge, "the secrets are too long together"));
            }
            kind::SECRETS => match SecretFiles::parse(payload) {
                Some(files) if self.reaches_init(id) => {
                    self.waiting.secrets.push_back(id);
                    self.session.say(&Request::Secrets(files));
                }
                Some(_) => {}
                None => self.answer(id, &failed(Code::InvalidRequest, "not understood: secrets")),
            },
            kind::CREDIT => self.on_credit(id, payload),
            kind::JSON if payload.len() > MAX_ASK => {
                self.answer(id, &failed(Code::TooLarge, "command, environment and files are too long together"));
            }
            kind::JSON => match serde_json::from_slice(payload) {
                Ok(ask) => self.on_ask(id, ask),
                Err(e) => self.answer(id, &failed(Code::InvalidRequest, format!("not understood: {e}"))),
            },
            _ => {}
        }
    }

    /// Whether init can be asked; if not, that is answered.
    fn reaches_init(&mut self, id: u64) -> bool {
        let why = match (&self.exit, self.sandbox.pid()) {
            (Some(_), _) => "the pod's command has ended",
            (None, None) => "there is no sandbox",
            (None, Some(_)) => {
                self.session.begin();
                return true;
            }
        };
        self.answer(id, &failed(Code::WrongState, why));
        false
    }

    fn on_ask(&mut self, id: u64, ask: Ask) {
        let needs_sandbox = !matches!(ask, Ask::Status | Ask::Create { .. } | Ask::Wait | Ask::Shutdown | Ask::End);
        if needs_sandbox && !self.reaches_init(id) {
            return;
        }
        match ask {
            Ask::Status => {
                let status = ShimStatus {
                    shim_pid: std::process::id(),
                    sandbox_pid: self.sandbox.pid().and_then(|p| u32::try_from(p).ok()),
                    init_ready: self.session.is_open(),
                    launched: self.launched,
                    exit: self.exit.clone(),
                };
                self.answer(id, &Answer::Status(status));
            }
            Ask::Create { program, args, env, timeout_ms, log } => {
                let timeout = Duration::from_millis(timeout_ms);
                self.create(id, Plan { program: &program, args: &args, env: &env, timeout, log });
            }
            Ask::Launch(_) if self.launched => self.answer(id, &Answer::Done),
            Ask::Launch(launch) => {
                self.waiting.launch.push(id);
                self.expect_follower(&launch);
                self.session.say(&Request::Launch(launch));
            }
            Ask::Exec { exec, timeout_ms, whole } => {
                let process = self.number();
                let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
                let (connection, room) = (Some(id), [if whole { usize::MAX } else { KEPT_OUTPUT }; 2]);
                let running =
                    Running { connection, deadline, timed_out: false, room, truncated: false, counted: false };
                self.programs.insert(process, running);
                self.session.say(&Request::Exec { process, exec });
            }
            Ask::Signal { signal } => {
                self.session.say(&Request::Signal { process: MAIN, signal });
                self.answer(id, &Answer::Done);
            }
            Ask::Probe { probe, timeout_ms } => {
                let number = self.number();
                self.waiting.probes.insert(number, id);
                self.session.say(&Request::Probe { id: number, probe, timeout_ms });
            }
            Ask::Quiesce => {
                self.waiting.quiesce.push(id);
                self.session.quiesce();
            }
            Ask::Resume => {
                self.session.resume();
                self.answer(id, &Answer::Done);
            }
            Ask::Identify(identity) => {
                self.waiting.identify.push_back(id);
                self.session.say(&Request::Identity(identity));
            }
            Ask::Wait => match self.exit.clone() {
                Some(exit) => {
                    if self.hold_until.is_some() {
                        self.hold_until = Some(Instant::now() + HOLD);
                    }
                    self.answer(id, &Answer::Ended(exit));
                }
                None => self.waiting.end.push(id),
            },
            Ask::Stream(_) | Ask::Terminals | Ask::RemoveTerminal { .. } | Ask::Processes => {
                self.on_stream_ask(id, ask);
            }
            Ask::Steer(steer) => self.steer(id, steer),
            Ask::Shutdown => self.shut_down(id),
            Ask::End => {
                self.ending.push(id);
                self.kill_all();
            }
        }
    }

    /// Numbers of programs and questions: odd, and no other shim's, since they begin at a random one.
    pub(super) fn number(&mut self) -> u64 {
        self.next_number = self.next_number.wrapping_add(2);
        self.next_number
    }

    fn create(&mut self, id: u64, plan: Plan<'_>) {
        let program = plan.program.display().to_string();
        if self.creating.is_some() || self.sandbox.pid().is_some() || self.exit.is_some() {
            return self.answer(id, &failed(Code::WrongState, "there is, or was, a sandbox already"));
        }
        match Creating::start(&self.arguments.dir, id, plan) {
            Ok(creating) => self.creating = Some(creating),
            Err(e) => self.answer(id, &failed(Code::Runtime, format!("run {program}: {e}"))),
        }
    }

    /// Kills the sandbox, by its pidfd, and all that the engine has left below us: nothing here is known by a pid that may
    /// be another's by now.
    fn kill_all(&mut self) -> bool {
        if let Some(creating) = self.creating.as_mut() {
            creating.kill();
        }
        self.sandbox.kill();
        sandbox::kill_children()
    }

    pub(super) fn end_if_nothing_lives(&mut self) {
        if self.ending.is_empty() {
            return;
        }
        let children = self.kill_all(); // what was killed may have left something to us
        if children || self.creating.is_some() || (self.sandbox.pid().is_some() && !self.sandbox.is_gone()) {
            return;
        }
        for id in std::mem::take(&mut self.ending) {
            self.shut_down(id);
        }
    }

    fn shut_down(&mut self, id: u64) {
        if self.creating.is_some() || (self.sandbox.pid().is_some() && !self.sandbox.is_gone()) {
            return self.answer(id, &failed(Code::WrongState, "the sandbox still lives"));
        }
        self.sandbox_ended(None);
        self.log.flush_partial();
        self.commit();
        // Gone before it is said to be.
        let _ = std::fs::remove_file(self.arguments.dir.join("shim.sock"));
        self.answer(id, &Answer::Done);
        self.done = true;
    }
}

// The client counts on it: what is asked fits a message.
const _: () = assert!(MAX_ASK < control::MAX_MESSAGE);
