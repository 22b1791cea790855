//! A real torpord of a test's own, and what it is asked. Dropped, it takes everything with it and proves it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use torpor::api::client::{Client, ClientError};
use torpor::api::types::{CreatePod, ExecPod, ExecResult, Pod, PortPair, PortSpec, ReadySpec, Size, StopPod, WakePod};

use crate::support;

#[derive(Default)]
pub struct Options {
    pub store: Option<String>,
    pub runsc: Option<PathBuf>,
    pub config: String,
    pub env: Vec<(String, String)>,
    /// Host ports given out when none is asked for; none: some that no other test has.
    pub ports: Option<String>,
    /// A disk of its own for the state directory, of so many bytes.
    pub disk: Option<u64>,
    /// How torpord is started, if not just so.
    pub by: Option<By>,
}

/// A command that starts torpord, whose API's socket is to be there; its arguments follow.
pub type By = Box<dyn Fn(&Path) -> Command + Send + Sync>;

pub struct Daemon {
    child: Option<Child>,
    pub dir: PathBuf,
    pub socket: PathBuf,
    pub client: Client,
    args: Vec<String>,
    by: Option<By>,
    /// Its environment, from the next launch on.
    pub env: Vec<(String, String)>,
    pub tag: String,
}

fn random() -> u32 {
    let mut raw = [0; 4];
    getrandom::fill(&mut raw).unwrap();
    u32::from_le_bytes(raw)
}

/// Where torpor-shim and torpor-init are, as scripts/build puts them.
pub fn libexec() -> PathBuf {
    std::env::var_os("TORPOR_LIBEXEC").map_or_else(
        || Path::new(env!("CARGO_BIN_EXE_torpord")).ancestors().nth(2).unwrap().join("dist/bin"),
        PathBuf::from,
    )
}

/// Whether tests with real sandboxes can run here.
pub fn ready() -> bool {
    support::root() && support::runsc().is_some() && support::has("libexec", libexec().join("torpor-init").is_file())
}

/// A small root file system with busybox and the counter, made once.
pub fn image() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Named by the server's source: another one is another image.
    let source = include_bytes!("../support/counter.rs");
    let sum = source.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let tar = dir.join(format!("test-image-{sum:x}.tar"));
    if tar.exists() {
        return tar;
    }
    let work = tempfile::tempdir_in(dir).unwrap();
    let root = work.path().join("root");
    for d in ["bin", "etc", "tmp", "www", "home/ann"] {
        std::fs::create_dir_all(root.join(d)).unwrap();
    }
    let counter = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/counter.rs");
    let built = Command::new("rustc")
        .args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-o"])
        .arg(root.join("bin/counter"))
        .arg(counter)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|a| *a != "busybox") {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nann:x:1000:\nstaff:x:50:ann\n").unwrap();
    std::fs::write(root.join("www/index.html"), "hello\n").unwrap();
    let made = work.path().join("image.tar");
    assert!(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&made).arg(".").status().unwrap().success());
    std::fs::rename(made, &tar).unwrap();
    tar
}

impl Daemon {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let n = random();
        let dir = PathBuf::from(format!("/var/tmp/torpor-test-{n:08x}"));
        std::fs::create_dir(&dir).unwrap();
        if let Some(bytes) = options.disk {
            let state = dir.join("state");
            std::fs::create_dir(&state).unwrap();
            let size = format!("size={bytes},mode=700");
            let none = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("tmpfs"), &state, Some("tmpfs"), none, Some(size.as_str())).unwrap();
        }
        let socket = dir.join("api.sock");
        let runsc = options.runsc.or_else(support::runsc).unwrap();
        let config = dir.join("torpor.toml");
        let first = 22_000 + (n % 700) * 10;
        let mut args = vec![
            "--config".into(),
            config.display().to_string(),
            "--state-dir".into(),
            dir.join("state").display().to_string(),
            "--socket".into(),
            socket.display().to_string(),
            "--pod-cidr".into(),
            format!("10.{}.{}.0/22", 64 + (n >> 8) % 64, (n >> 16) % 64 * 4),
            "--port-range".into(),
            options.ports.unwrap_or_else(|| format!("{first}-{}", first + 400)),
            "--runsc".into(),
            runsc.display().to_string(),
        ];
        if let Some(store) = options.store {
            args.extend(["--store".into(), store]);
        }
        let client = Client::new(&socket.display().to_string()).unwrap();
        let (by, env) = (options.by, options.env);
        let mut daemon = Daemon { child: None, dir, socket, client, args, by, env, tag: String::new() };
        daemon.configure(&options.config);
        daemon.launch();
        daemon.tag = std::fs::read_to_string(daemon.dir.join("state/instance")).unwrap().trim().to_owned();
        daemon
    }

    /// Sets its configuration, from the next launch on.
    pub fn configure(&self, config: &str) {
        let text = format!("resolvers = ['192.0.2.53']\n{config}");
        std::fs::write(self.dir.join("torpor.toml"), text).unwrap();
    }

    /// Starts the process and waits until it answers; tells how long that took.
    pub fn launch(&mut self) -> Duration {
        let begun = Instant::now();
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let plain = || Command::new(env!("CARGO_BIN_EXE_torpord"));
        let child = self
            .by
            .as_ref()
            .map_or_else(plain, |by| by(&self.socket))
            .args(&self.args)
            .env("TORPOR_LIBEXEC", libexec())
            .env("TORPOR_LOG", "info")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let end = begun + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() || !self.answers() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "torpord does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        begun.elapsed()
    }

    /// The process.
    #[allow(dead_code, reason = "only the torture asks")]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn answers(&self) -> bool {
        let Ok(mut s) = std::os::unix::net::UnixStream::connect(&self.socket) else { return false };
        let mut text = String::new();
        s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        s.write_all(b"GET /health HTTP/1.0\r\n\r\n").is_ok()
            && s.read_to_string(&mut text).is_ok()
            && text.contains(" 200 ")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn end(&mut self, signal: nix::sys::signal::Signal) {
        if let Some(mut child) = self.child.take() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            nix::sys::signal::kill(pid, signal).unwrap();
            child.wait().unwrap();
        }
    }

    pub fn kill(&mut self) {
        self.end(nix::sys::signal::Signal::SIGKILL);
    }

    pub fn terminate(&mut self) {
        self.end(nix::sys::signal::Signal::SIGTERM);
    }

    pub async fn import(&self, name: &str) {
        let bytes = std::fs::read(image()).unwrap();
        let stream = futures::stream::iter([Ok(bytes::Bytes::from(bytes))]);
        self.client.import(name, None, stream, &mut |_| ()).await.unwrap();
    }

    /// A pod that counts, reached by its forward.
    pub async fn counter(&self, name: &str) -> Pod {
        self.client.create_pod(&counter(name)).await.unwrap()
    }

    pub async fn exec(&self, pod: &str, script: &str) -> ExecResult {
        let exec = ExecPod { command: vec!["sh".into(), "-c".into(), script.into()], ..ExecPod::default() };
        self.client.exec(pod, &exec).await.unwrap_or_else(|e| panic!("exec {script:?}: {e}\n{}", self.log()))
    }

    pub async fn stop(&self, pod: &str) -> Pod {
        self.client.stop(pod, &StopPod { grace_seconds: Some(5), signal: None }).await.unwrap()
    }

    pub async fn sleep(&self, pod: &str) -> Pod {
        self.client.sleep(pod, &mut |_| ()).await.unwrap_or_else(|e| panic!("sleep: {e}\n{}", self.log()))
    }

    pub async fn wake(&self, pod: &str) -> Pod {
        let how = WakePod::default();
        self.client.wake(pod, &how, &mut |_| ()).await.unwrap_or_else(|e| panic!("wake: {e}\n{}", self.log()))
    }
}

pub fn counter(name: &str) -> CreatePod {
    CreatePod {
        name: Some(name.into()),
        image: "test".into(),
        command: vec!["counter".into(), "80".into()],
        ports: vec![PortSpec::Full(PortPair { pod: 80, host: None, protocol: None, address: None })],
        memory: Some(Size::Text("256m".into())),
        ready: Some(ReadySpec { tcp: Some(80), ..ReadySpec::default() }),
        start: true,
        ..CreatePod::default()
    }
}

pub fn script(name: &str, script: &str) -> CreatePod {
    CreatePod {
        name: Some(name.into()),
        image: "test".into(),
        command: vec!["sh".into(), "-c".into(), script.into()],
        memory: Some(Size::Text("256m".into())),
        start: true,
        ..CreatePod::default()
    }
}

/// `GET path` on 127.0.0.1, tried until it is answered.
pub fn get(port: u16, path: &str) -> String {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match try_get((Ipv4Addr::LOCALHOST, port).into(), path) {
            Some(body) => return body,
            None => assert!(Instant::now() < end, "port {port} does not answer"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn try_get(to: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    // In one piece: a server that answers after the first would reset what comes later.
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

pub fn code(e: &ClientError) -> &str {
    e.code().unwrap_or("no code")
}

/// What an instance left when it was ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Rest {
    /// Whether all pods could be removed.
    pub removed: Result<(), String>,
    /// What bears its tag on the host.
    pub left: Vec<String>,
    /// Pods' directories in the state directory.
    pub kept: usize,
    /// torpord's log.
    pub log: String,
}

impl Daemon {
    /// Removes its pods, ends it and removes its directory; tells what was left. Once: later there is nothing to end.
    pub fn end_all(&mut self) -> Rest {
        if self.child.is_none() {
            self.launch();
        }
        let client = self.client.clone();
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for pod in client.pods().await.map_err(|e| e.to_string())? {
                    client.remove(&pod.id, true).await.map_err(|e| e.to_string())?;
                }
                Ok::<_, String>(())
            })
        })
        .join()
        .unwrap();
        self.terminate();
        let mut left = support::traces(&self.tag);
        let processes = Command::new("pgrep").args(["-fa", &format!("/run/torpor/{}/", self.tag)]).output().unwrap();
        left.extend(String::from_utf8_lossy(&processes.stdout).lines().map(str::to_owned));
        let kept = std::fs::read_dir(self.dir.join("state/pods")).map_or(0, Iterator::count);
        let rest = Rest { removed, left, kept, log: self.log() };
        // Its own disk, if it had one.
        let _ = nix::mount::umount2(&self.dir.join("state"), nix::mount::MntFlags::MNT_DETACH);
        std::fs::remove_dir_all(&self.dir).unwrap();
        rest
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.dir.exists() {
            return;
        }
        let Rest { removed, left, kept, log } = self.end_all();
        if std::thread::panicking() {
            eprintln!("--- torpord's log\n{log}\n--- left behind: {left:#?}");
        } else {
            assert_eq!(removed, Ok(()), "{log}");
            assert_eq!((left, kept), (Vec::<String>::new(), 0), "left behind; torpord's log:\n{log}");
        }
    }
}
