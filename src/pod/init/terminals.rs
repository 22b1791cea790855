//! What init does about terminals.

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{AccessFlags, Pid, access};

use super::program::Spawn;
use super::terminal::{self, Terminal};
use super::{Init, now_ms, processes};
use crate::channel::Event;
use crate::channel::terminal::{
    MOST_TERMINALS, NewTerminal, OpenTerminal, TerminalAsk, TerminalInfo, TerminalNews, TerminalRefusal, WindowSize,
};

/// From the hang-up of a terminal that is removed to the kill.
const HANG_UP_MS: i64 = 2000;

type Refusal = (TerminalRefusal, String);

impl Init {
    pub(super) fn on_terminal(&mut self, ask: TerminalAsk) {
        match ask {
            TerminalAsk::Open { ask, open, window } => match self.open_terminal(open, window) {
                Ok((number, created, start)) => {
                    let (size, end) = self.terminal(number).map(|t| (t.size, t.place())).unwrap_or_default();
                    self.say(TerminalNews::Opened { ask, number, created, size, start, end });
                    self.pump(number);
                }
                Err((why, message)) => self.say(TerminalNews::Refused { ask, why, message }),
            },
            TerminalAsk::Close { number } => {
                if let Some(t) = self.terminal(number) {
                    t.look_away();
                }
            }
            TerminalAsk::Credit { number, upto } => {
                if let Some(t) = self.terminal(number) {
                    t.allow(upto, now_ms());
                }
                self.pump(number);
            }
            TerminalAsk::Resize { number, size } => self.resize(number, size),
            TerminalAsk::Forget { number } => {
                if let Some(t) = self.terminal(number).filter(|t| t.end.is_some()) {
                    t.removed = true;
                }
            }
            TerminalAsk::Remove { ask, id } => self.remove_terminal(ask, &id),
            TerminalAsk::List { ask } => {
                let shown = |(_, p): (&u64, &super::Program)| {
                    p.terminal.as_ref().filter(|t| !t.removed).map(|t| t.info(p.pid.as_raw()))
                };
                let terminals: Vec<TerminalInfo> = self.programs.iter().filter_map(shown).collect();
                self.say(TerminalNews::Listed { ask, terminals });
            }
        }
    }

    fn say(&mut self, news: TerminalNews) {
        self.outbox.say(&Event::Terminal(news));
    }

    fn terminal(&mut self, number: u64) -> Option<&mut Terminal> {
        self.programs.get_mut(&number)?.terminal.as_mut()
    }

    fn find(&self, id: &str) -> Option<u64> {
        let is_it = |t: &Terminal| t.id == id && !t.removed;
        self.programs.iter().find(|(_, p)| p.terminal.as_ref().is_some_and(is_it)).map(|(n, _)| *n)
    }

    fn open_terminal(&mut self, open: OpenTerminal, window: u64) -> Result<(u64, bool, u64), Refusal> {
        let id = &open.id;
        let (number, created) = match (self.find(id), open.create) {
            (Some(_), _) if open.only_new => {
                return Err((TerminalRefusal::Taken, format!("there is a terminal {id} already")));
            }
            (Some(number), _) => (number, false),
            (None, Some(new)) => (self.make_terminal(id, &new)?, true),
            (None, None) => return Err((TerminalRefusal::NotFound, format!("there is no terminal {id}"))),
        };
        if let (false, Some(size)) = (created, open.size) {
            self.resize(number, size);
        }
        let start = match self.terminal(number) {
            Some(t) if !open.quiet => t.look(open.from, window),
            _ => 0,
        };
        Ok((number, created, start))
    }

    fn make_terminal(&mut self, id: &str, new: &NewTerminal) -> Result<u64, Refusal> {
        let terminals = || self.programs.iter().filter_map(|(n, p)| Some((*n, p.terminal.as_ref()?)));
        if terminals().count() >= MOST_TERMINALS {
            // The oldest whose end nobody asked for.
            let Some(oldest) = terminals().find(|(_, t)| t.end.is_some()).map(|(n, _)| n) else {
                return Err((TerminalRefusal::TooMany, format!("the pod has {MOST_TERMINALS} terminals")));
            };
            self.programs.remove(&oldest);
        }
        let (env, dir, user) = self.surroundings(&new.exec);
        let command = if new.exec.command.is_empty() { vec![self.shell(&user)] } else { new.exec.command.clone() };
        let size = new.size.unwrap_or_default();
        let spawn =
            Spawn { command: &command, env: &env, working_dir: &dir, user: &user, stdin: false, tty: Some(size) };
        let started = self.starter.start(&spawn).map_err(|(why, m)| (TerminalRefusal::Start(why), m));
        let mut program = started?;
        if let Some(t) = &mut program.terminal {
            id.clone_into(&mut t.id);
            t.deadline = new.timeout_ms.map(|ms| now_ms().saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)));
        }
        self.next_terminal += 2;
        self.programs.insert(self.next_terminal, program);
        self.starter.prepare();
        Ok(self.next_terminal)
    }

    /// The user's shell, or a usual one.
    fn shell(&mut self, user: &str) -> String {
        let own = self.starter.shell_of(user).filter(|s| !s.ends_with("/nologin") && !s.ends_with("/false"));
        let runs = |s: &String| access(s.as_str(), AccessFlags::X_OK).is_ok();
        own.into_iter().chain(["/bin/bash".to_owned()]).find(runs).unwrap_or_else(|| "/bin/sh".into())
    }

    fn resize(&mut self, number: u64, size: WindowSize) {
        let Some(p) = self.programs.get_mut(&number) else { return };
        if let (Some(t), Some(master)) = (&mut p.terminal, &p.stdout)
            && terminal::resize(std::os::fd::AsFd::as_fd(master), size).is_ok()
        {
            t.size = size;
            // gVisor does not tell what runs on it. To whom it is the same size as before it means: draw anew.
            for group in processes::groups_of(p.pid) {
                let _ = killpg(Pid::from_raw(group), Signal::SIGWINCH);
            }
        }
    }

    fn remove_terminal(&mut self, ask: u64, id: &str) {
        let found = self.find(id).and_then(|n| self.programs.get_mut(&n));
        let Some(p) = found else {
            let message = format!("there is no terminal {id}");
            return self.say(TerminalNews::Refused { ask, why: TerminalRefusal::NotFound, message });
        };
        let mut end = None;
        if let Some(t) = &mut p.terminal {
            end = t.end;
            t.removed = true;
            t.deadline = Some(now_ms() + HANG_UP_MS);
        }
        if end.is_none() && p.ended.is_none() {
            // As when a line is cut: a shell tells its jobs and ends. A stopped one has to go on for that.
            for signal in [Signal::SIGHUP, Signal::SIGCONT] {
                let _ = killpg(p.pid, signal);
            }
        }
        self.say(TerminalNews::Removed { ask, end });
    }

    /// Sends what there is to send of a terminal.
    pub(super) fn pump(&mut self, number: u64) {
        if self.quiesced || self.quiesce_asked {
            return;
        }
        let Some(t) = self.programs.get_mut(&number).and_then(|p| p.terminal.as_mut()) else { return };
        while let Some((place, data)) = t.next_piece() {
            self.outbox.say(&Event::TerminalOutput { number, place, data });
        }
        if let Some(end) = t.end_to_tell() {
            self.outbox.say(&Event::Terminal(TerminalNews::Ended { number, end }));
        }
    }

    /// Says of all of them what could not be said in a quiet time.
    pub(super) fn pump_all(&mut self) {
        let numbers: Vec<u64> = self.programs.keys().copied().collect();
        for number in numbers {
            self.tell_taken(number);
            self.pump(number);
        }
    }

    /// Goes on without those who don't read, and ends what has run for too long.
    pub(super) fn on_timers(&mut self) {
        let now = now_ms();
        for p in self.programs.values_mut() {
            if let Some(t) = &mut p.terminal
                && t.on_timer(now)
                && p.ended.is_none()
            {
                let _ = kill(p.pid, Signal::SIGKILL);
            }
        }
    }

    /// A new conversation: nobody looks yet, and whoever counted what programs said is gone.
    pub(super) fn forget_readers(&mut self) {
        for p in self.programs.values_mut() {
            p.credit = None;
            p.take_taken();
            if let Some(t) = &mut p.terminal {
                t.look_away();
            }
        }
    }
}
