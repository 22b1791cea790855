//! The SSH server: who is let in, and what runs in the pod for each channel.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use russh::keys::{PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, MethodKind, MethodSet, Pty, Sig};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::backlog::{self, Backlog};
use super::program::{Deed, Program};
use crate::api::client::Client;
use crate::api::terminal::ExecStart;
use crate::cli::up::SHELL;

/// Channels of a connection.
const MOST_CHANNELS: usize = 256;
/// Variables of a channel, and bytes of them.
const MOST_VARIABLES: usize = 128;
const MOST_BYTES: usize = 64 * 1024;
/// Init, which is the program, too, that serves files and reaches ports in a pod.
const INIT: &str = "/.torpor/init";
/// A command line, run as sshd does: at home, by the shell that people get.
const COMMAND: &str = r#"cd 2>/dev/null || cd /; for s in zsh bash; do p=$(command -v $s 2>/dev/null) && export SHELL="$p" && exec "$p" -c "$1"; done; exec sh -c "$1""#;
/// For scp's older protocol, where the pod has no scp.
const SCP: &str = r#"command -v scp >/dev/null 2>&1 || scp() { /.torpor/init scp "$@"; }
"#;

/// The pod that is spoken for.
pub(super) struct Target {
    pub(super) client: Client,
    pub(super) pod: String,
    pub(super) user: Option<String>,
}

/// How the server behaves.
pub(super) fn settings(key: PrivateKey) -> Config {
    Config {
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        // Whoever asks has started this program: there is nobody to be slowed down.
        auth_rejection_time: std::time::Duration::ZERO,
        auth_rejection_time_initial: Some(std::time::Duration::ZERO),
        max_auth_attempts: 100,
        keys: vec![key],
        window_size: backlog::WINDOW,
        inactivity_timeout: None,
        ..Config::default()
    }
}

/// Programs that run.
#[derive(Clone, Default)]
pub(super) struct Programs(Arc<Mutex<JoinSet<()>>>);

impl Programs {
    fn spawn(&self, program: impl Future<Output = ()> + Send + 'static) {
        if let Ok(mut all) = self.0.lock() {
            while all.try_join_next().is_some() {}
            all.spawn(program);
        }
    }

    /// Waits until none does.
    pub(super) async fn ended(self) {
        let all = self.0.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default();
        all.join_all().await;
    }
}

/// An open channel.
struct Open {
    /// Until something runs.
    idle: Option<(ChannelWriteHalf<Msg>, mpsc::UnboundedReceiver<Deed>)>,
    deeds: mpsc::UnboundedSender<Deed>,
    backlog: Arc<Backlog>,
    env: BTreeMap<String, String>,
    tty: bool,
    size: (u16, u16),
}

/// One connection.
pub(super) struct Server {
    target: Arc<Target>,
    keys: Vec<PublicKey>,
    channels: HashMap<ChannelId, Open>,
    programs: Programs,
    said: Arc<Notify>,
}

fn size(cols: u32, rows: u32) -> (u16, u16) {
    let within = |n: u32, or: u16| u16::try_from(n).ok().filter(|n| *n > 0).unwrap_or(or);
    (within(cols, 80), within(rows, 24))
}

impl Server {
    pub(super) fn new(target: Arc<Target>, keys: Vec<PublicKey>) -> (Self, Programs) {
        let programs = Programs::default();
        let server =
            Server { target, keys, channels: HashMap::new(), programs: programs.clone(), said: Arc::default() };
        (server, programs)
    }

    fn knows(&self, key: &PublicKey) -> Auth {
        if self.keys.iter().any(|k| k.key_data() == key.key_data()) { Auth::Accept } else { Auth::reject() }
    }

    /// Takes a channel that is to be opened; none: there are too many.
    fn take(&mut self, channel: Channel<Msg>) -> Option<ChannelId> {
        self.channels.retain(|_, c| !c.deeds.is_closed());
        if self.channels.len() >= MOST_CHANNELS {
            return None;
        }
        // What comes is heard by the handler: nobody reads it from the channel.
        let (_, writer) = channel.split();
        let id = writer.id();
        let (deeds, waiting) = mpsc::unbounded_channel();
        let idle = Some((writer, waiting));
        let open = Open { idle, deeds, backlog: Arc::default(), env: BTreeMap::new(), tty: false, size: (80, 24) };
        self.channels.insert(id, open);
        Some(id)
    }

    fn program(&mut self, channel: ChannelId, command: Vec<String>, own: bool, tty: bool) -> Option<Program> {
        let open = self.channels.get_mut(&channel)?;
        let (writer, deeds) = open.idle.take()?;
        let (cols, rows) = if tty { (Some(open.size.0), Some(open.size.1)) } else { (None, None) };
        let (user, env) = (self.target.user.clone(), std::mem::take(&mut open.env));
        let start = ExecStart { command, env, user, stdin: true, tty, cols, rows, ..ExecStart::default() };
        let (target, backlog, said) = (Arc::clone(&self.target), Arc::clone(&open.backlog), Arc::clone(&self.said));
        Some(Program { target, start, own, channel: writer, deeds, backlog, said })
    }

    /// Runs a command for a channel on which nothing ran yet.
    fn run(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
        command: Vec<String>,
        own: bool,
    ) -> Result<(), russh::Error> {
        let tty = !own && self.channels.get(&channel).is_some_and(|c| c.tty);
        match self.program(channel, command, own, tty) {
            Some(program) => {
                session.channel_success(channel)?;
                self.programs.spawn(program.run());
                Ok(())
            }
            None => session.channel_failure(channel),
        }
    }

    async fn reach(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle, to: Vec<String>) {
        let Some(id) = self.take(channel) else { return reply.reject(ChannelOpenFailure::ResourceShortage).await };
        let command = [INIT.to_owned(), "connect".to_owned()].into_iter().chain(to).collect();
        if let Some(program) = self.program(id, command, true, false) {
            self.programs.spawn(program.reach(reply));
        }
    }
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, _user: &str, key: &PublicKey) -> Result<Auth, Self::Error> {
        Ok(self.knows(key))
    }

    async fn auth_publickey(&mut self, _user: &str, key: &PublicKey) -> Result<Auth, Self::Error> {
        Ok(self.knows(key))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.take(channel) {
            Some(_) => reply.accept().await,
            None => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _from: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.reach(channel, reply, vec![host.to_owned(), port.to_string()]).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.reach(channel, reply, vec![path.to_owned()]).await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(open) = self.channels.get_mut(&channel) else { return session.channel_failure(channel) };
        (open.tty, open.size) = (true, size(cols, rows));
        if !term.is_empty() && !term.contains('\0') {
            open.env.insert("TERM".into(), term.chars().take(256).collect());
        }
        session.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(open) = self.channels.get_mut(&channel) else { return session.channel_failure(channel) };
        let fine = |text: &str| !text.contains('\0');
        let bytes: usize = open.env.iter().map(|(k, v)| k.len() + v.len()).sum();
        let room = open.env.len() < MOST_VARIABLES && bytes + name.len() + value.len() <= MOST_BYTES;
        if !room || name.is_empty() || name.contains('=') || !fine(name) || !fine(value) {
            return session.channel_failure(channel);
        }
        open.env.insert(name.to_owned(), value.to_owned());
        session.channel_success(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        self.run(channel, session, ["sh", "-c", SHELL].map(str::to_owned).into(), false)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Ok(line) = std::str::from_utf8(data) else { return session.channel_failure(channel) };
        let scp = if line.split_whitespace().next() == Some("scp") { SCP } else { "" };
        let line = format!("{scp}{line}");
        self.run(channel, session, ["sh", "-c", COMMAND, "sh", &line].map(str::to_owned).into(), false)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if name != "sftp" {
            return session.channel_failure(channel);
        }
        self.run(channel, session, [INIT, "sftp"].map(str::to_owned).into(), true)
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        cols: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(open) = self.channels.get_mut(&channel) {
            open.size = size(cols, rows);
            let _ = open.deeds.send(Deed::Resize(open.size.0, open.size.1));
        }
        Ok(())
    }

    async fn signal(&mut self, channel: ChannelId, signal: Sig, _session: &mut Session) -> Result<(), Self::Error> {
        let name = match signal {
            Sig::ABRT => "ABRT",
            Sig::ALRM => "ALRM",
            Sig::FPE => "FPE",
            Sig::HUP => "HUP",
            Sig::ILL => "ILL",
            Sig::INT => "INT",
            Sig::KILL => "KILL",
            Sig::PIPE => "PIPE",
            Sig::QUIT => "QUIT",
            Sig::SEGV => "SEGV",
            Sig::TERM => "TERM",
            Sig::USR1 => "USR1",
            // Others are no signals that a program here would expect.
            Sig::Custom(_) => return Ok(()),
        };
        if let Some(open) = self.channels.get(&channel) {
            let _ = open.deeds.send(Deed::Signal(name.into()));
        }
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        let Some(open) = self.channels.get(&channel) else { return Ok(()) };
        if !open.backlog.add(data.len()) {
            // It has not read for a long time; what comes more can't be kept.
            self.channels.remove(&channel);
            return session.close(channel);
        }
        if open.deeds.send(Deed::Input(Bytes::copy_from_slice(data))).is_err() {
            open.backlog.take(data.len()); // it has ended
            return Ok(());
        }
        open.backlog.pace(&self.said).await;
        Ok(())
    }

    fn adjust_window(&mut self, _channel: ChannelId, _current: u32) -> u32 {
        // One that has ended holds nobody up.
        Backlog::window(self.channels.values().filter(|c| !c.deeds.is_closed()).map(|c| &c.backlog))
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(open) = self.channels.get(&channel) {
            let _ = open.deeds.send(Deed::End);
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        Ok(())
    }
}
