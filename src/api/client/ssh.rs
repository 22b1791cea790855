//! A torpord on another host, reached as somebody who may log in there: `ssh` runs `torpor dial-stdio` on it, which passes bytes on
//! to torpord's socket. Nothing listens for it, and who may do it is sshd's to say.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

/// What `torpor dial-stdio` says once it is connected. What comes before it is said by the login.
pub const GREETING: &str = "torpor dial-stdio 1";
/// Bytes of a login's words.
const WORDS: usize = 64 << 10;
/// Bytes of ssh's own that are told if it fails.
const TOLD: u64 = 4096;

/// Where to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// Another socket there than the usual one.
    socket: Option<String>,
}

impl Login {
    /// Reads `[USER@]HOST[:PORT][/PATH]`, what follows `ssh://`. Nothing of it may be taken for an option, or mean anything to a
    /// shell. None: it is not good.
    pub(super) fn of(rest: &str) -> Option<Self> {
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(a, p)| (a, Some(format!("/{p}"))));
        let path = path.filter(|p| p != "/");
        let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(u, p)| (Some(u), p));
        let (host, port) = match place.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']')?;
                (host, rest.strip_prefix(':').map(str::parse).transpose().ok()?)
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port.parse().ok()?)),
                None => (place, None),
            },
        };
        let plain = |s: &str, also: &str| {
            !s.is_empty() && !s.starts_with('-') && s.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
        };
        let good = plain(host, "._-:") && user.is_none_or(|u| plain(u, "._-")) && port != Some(0);
        let good = good && path.as_deref().is_none_or(|p| plain(p, "._-/"));
        good.then(|| Login { user: user.map(str::to_owned), host: host.to_owned(), port, socket: path })
    }

    fn command(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-T", "-o", "ServerAliveInterval=30"]);
        if let Some(port) = self.port {
            ssh.args(["-p", &port.to_string()]);
        }
        if let Some(user) = &self.user {
            ssh.args(["-l", user]);
        }
        ssh.args(["--", &self.host, "torpor"]);
        if let Some(socket) = &self.socket {
            ssh.args(["--host", &format!("unix://{socket}")]);
        }
        ssh.arg("dial-stdio");
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        ssh
    }

    /// Logs in and waits until torpord is reached.
    pub(super) async fn connect(&self) -> io::Result<Tunnel> {
        let told = |e: io::Error| io::Error::new(e.kind(), format!("run ssh: {e}"));
        let mut child = self.command().spawn().map_err(told)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(mut stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("ssh has no pipes"));
        };
        if greeted(&mut stdout).await? {
            tokio::spawn(drain(stderr));
            return Ok(Tunnel { _child: child, stdin: Some(stdin), stdout });
        }
        drop(stdin);
        let said = first_words(stderr).await;
        let status = child.wait().await?;
        let said = said.trim();
        Err(io::Error::new(io::ErrorKind::NotConnected, format!("ssh ended with {status}: {said}")))
    }
}

impl std::fmt::Display for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or_default())
    }
}

/// Whether the greeting came, and nothing of what comes after it was read.
async fn greeted(from: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
    let mut line = Vec::new();
    for _ in 0..WORDS {
        let mut byte = [0];
        if from.read(&mut byte).await? == 0 {
            return Ok(false);
        }
        if byte[0] == b'\n' {
            if line.trim_ascii() == GREETING.as_bytes() {
                return Ok(true);
            }
            line.clear();
        } else {
            line.push(byte[0]);
        }
    }
    Ok(false)
}

async fn first_words(stderr: ChildStderr) -> String {
    let mut text = Vec::new();
    let _ = stderr.take(TOLD).read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Who does not read what ssh says lets it wait.
async fn drain(mut stderr: ChildStderr) {
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
}

/// Bytes to torpord and back. Dropped, ssh is ended.
pub(super) struct Tunnel {
    _child: Child,
    /// None: closed, which the other side sees.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, to)
    }
}

impl Tunnel {
    fn with<T>(&mut self, work: impl FnOnce(Pin<&mut ChildStdin>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut self.stdin {
            Some(stdin) => work(Pin::new(stdin)),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stdin| stdin.poll_write(cx, bytes))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stdin.is_none() { Poll::Ready(Ok(())) } else { self.with(|stdin| stdin.poll_flush(cx)) }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stdin.is_none() {
            return Poll::Ready(Ok(()));
        }
        let done = self.with(|stdin| stdin.poll_shutdown(cx));
        if done.is_ready() {
            self.stdin = None;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_read_and_none_is_an_option_or_a_command() {
        for text in ["h", "ann@h.example:22", "[::1]:2222", "ann@[fe80::1]", "h/run/x.sock", "vm-1"] {
            assert_eq!(Login::of(text).unwrap().to_string(), format!("ssh://{text}"));
        }
        assert_eq!(Login::of("h/").unwrap().to_string(), "ssh://h");
        for bad in [
            "",
            "@h",
            "-oProxyCommand=x",
            "-l@h",
            "a:b@h",
            "h:0",
            "h:x",
            "h;x",
            "h/$(x)",
            "h/a b",
            "[::1",
            "a@b@c;",
            "h:",
            "ä",
        ] {
            assert_eq!(Login::of(bad), None, "{bad}");
        }
        let command = format!("{:?}", Login::of("ann@h:22/run/x").unwrap().command().as_std());
        assert!(command.contains(r#""-p" "22" "-l" "ann" "--" "h" "torpor" "--host" "unix:///run/x" "dial-stdio""#));
    }

    #[tokio::test]
    async fn the_greeting_is_found_behind_what_a_login_says_and_nothing_more_is_read() {
        let text = format!("Welcome!\r\nYou have mail.\n{GREETING}\nHTTP");
        let mut from = text.as_bytes();
        assert!(greeted(&mut from).await.unwrap());
        assert_eq!(from, b"HTTP");
        assert!(!greeted(&mut &b"no such thing"[..]).await.unwrap());
        assert!(!greeted(&mut tokio::io::repeat(b'x')).await.unwrap());
    }
}
