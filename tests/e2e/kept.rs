//! Who connects while torpord is away waits for the next one, where a service manager keeps its sockets.
#![allow(unsafe_code, reason = "descriptors come by a socket, and are handed over between fork and exec")]

use std::fs::File;
use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as Name, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use torpor::api::types::{CreatePod, PortPair, PortSpec};

use crate::daemon::{self, Daemon, Options, counter, get};
use crate::listen::free;

/// As much of systemd as it takes: it keeps the descriptors that it is sent, and hands them to the next torpord.
#[derive(Default)]
struct Manager {
    /// How it is called: what `NOTIFY_SOCKET` says.
    name: String,
    kept: Mutex<Vec<(String, OwnedFd)>>,
    told: Condvar,
    /// What torpord.socket would have made.
    api: Mutex<Option<UnixListener>>,
}

impl Manager {
    fn new(socket: UnixDatagram, name: String) -> Arc<Self> {
        let manager = Arc::new(Manager { name, ..Manager::default() });
        let hears = Arc::clone(&manager);
        std::thread::spawn(move || {
            loop {
                hears.hear(&socket);
            }
        });
        manager
    }

    /// Takes one word.
    fn hear(&self, socket: &UnixDatagram) {
        let (mut bytes, mut space) = ([0; 4096], nix::cmsg_space!([RawFd; 8]));
        let mut into = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
        let raw = got.cmsgs().unwrap().flat_map(|c| match c {
            ControlMessageOwned::ScmRights(all) => all,
            _ => Vec::new(),
        });
        // SAFETY: the kernel has just made them for this process.
        let sent: Vec<OwnedFd> = raw.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
        let size = got.bytes;
        let text = String::from_utf8(bytes[..size].to_vec()).unwrap();
        let said = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map(str::to_owned);
        let name = said("FDNAME=").unwrap_or_else(|| "stored".into());
        let mut kept = self.kept.lock().unwrap();
        if said("FDSTOREREMOVE=").is_some() {
            kept.retain(|(n, _)| *n != name);
        }
        assert_eq!(sent.len(), usize::from(said("FDSTORE=").is_some()), "{text}");
        kept.extend(sent.into_iter().map(|fd| (name.clone(), fd)));
        self.told.notify_all();
    }

    /// Puts one in as if it had been kept; at that place.
    fn plant(&self, at: usize, name: &str, fd: impl Into<OwnedFd>) {
        let mut kept = self.kept.lock().unwrap();
        let at = at.min(kept.len());
        kept.insert(at, (name.to_owned(), fd.into()));
    }

    /// Waits until it keeps just that.
    fn keeps(&self, names: &[String]) {
        let mut wanted = names.to_vec();
        wanted.sort();
        let (mut kept, end) = (self.kept.lock().unwrap(), Instant::now() + Duration::from_secs(20));
        loop {
            let mut now: Vec<String> = kept.iter().map(|(name, _)| name.clone()).collect();
            now.sort();
            if now == wanted {
                return;
            }
            assert!(Instant::now() < end, "kept: {now:?}, wanted: {wanted:?}");
            kept = self.told.wait_timeout(kept, Duration::from_secs(1)).unwrap().0;
        }
    }

    /// A torpord with what is kept, and with the API's socket at `api`. That one comes last: by its name it has to be found.
    fn torpord(&self, api: &Path) -> Command {
        let mut listener = self.api.lock().unwrap();
        let listener = listener.get_or_insert_with(|| UnixListener::bind(api).unwrap());
        let kept = self.kept.lock().unwrap();
        let mut names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        names.push("torpord.socket");
        let raw: Vec<RawFd> = kept.iter().map(|(_, fd)| fd.as_raw_fd()).chain([listener.as_raw_fd()]).collect();
        let mut command = Command::new("sh");
        command
            .args(["-c", "export LISTEN_PID=$$; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_torpord")])
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env("NOTIFY_SOCKET", &self.name);
        let hand_over = move || {
            // Out of the way of each other first.
            let aside = raw.iter().copied().zip(200..).map(|(from, to)| (from, to, libc::O_CLOEXEC));
            let given = (200..).zip(3..).take(raw.len()).map(|(from, to)| (from, to, 0));
            for (from, to, flags) in aside.chain(given) {
                // SAFETY: a plain system call; the numbers are nobody's in this process, which becomes another program.
                if unsafe { libc::dup3(from, to, flags) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: it does system calls and nothing else.
        unsafe { command.pre_exec(hand_over) };
        command
    }

    fn daemon(self: &Arc<Self>, config: String) -> Daemon {
        let by = Arc::clone(self);
        Daemon::with(Options { config, by: Some(Box::new(move |api| by.torpord(api))), ..Options::default() })
    }
}

fn listener(at: &str) -> String {
    format!("[[listen]]\naddress = '{at}'\n")
}

/// A request that is on its way.
fn ask(port: u16, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\n\r\n").as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// As [`ask`], of nobody: it is neither refused nor ended.
fn wait(port: u16, path: &str) -> TcpStream {
    let mut stream = ask(port, path);
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Head and body of its answer.
fn answer(mut stream: TcpStream) -> (String, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    (head.to_owned(), body.to_owned())
}

fn refuses(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_while_torpord_is_away_is_answered_by_the_next() {
    if !daemon::ready() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = Manager::new(UnixDatagram::bind(&path).unwrap(), path.display().to_string());
    let api = free();
    let mut d = manager.daemon(listener(&format!("127.0.0.1:{api}")));
    d.import("test").await;
    let datagrams = PortPair { pod: 80, host: None, protocol: Some("udp".into()), address: None };
    let ports = vec![PortSpec::Pod(80), PortSpec::Full(datagrams)];
    let web = d.client.create_pod(&CreatePod { ports, ..counter("web") }).await.unwrap();
    let (tcp, udp) = (web.ports[0].host, web.ports[1].host);
    let asleep = d.counter("asleep").await.ports[0].host;
    d.sleep("asleep").await;
    let name = |kind: &str, port: u16| format!("{kind}-0.0.0.0_{port}");
    let pods = [name("tcp", tcp), name("udp", udp), name("tcp", asleep)];
    let with = |listener: String| [&pods[..], &[listener]].concat();
    manager.keeps(&with(format!("listen-127.0.0.1_{api}")));

    let mut count = 0;
    for away in [Daemon::kill, Daemon::terminate] {
        count += 1;
        assert_eq!(get(tcp, "/"), count.to_string());
        away(&mut d);
        let (to_api, to_web, mut to_sleeper) = (wait(api, "/health"), wait(tcp, "/"), wait(asleep, "/"));
        let by_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        by_udp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        by_udp.send_to(b"word", (Ipv4Addr::LOCALHOST, udp)).unwrap();
        d.launch();
        count += 1;
        assert!(answer(to_api).0.contains(" 200 "), "{}", d.log());
        assert_eq!(answer(to_web).1, count.to_string(), "{}", d.log());
        // As whoever comes while it sleeps.
        assert_eq!(to_sleeper.read(&mut [0]).unwrap_or(0), 0);
        let mut bytes = [0; 100];
        let size = by_udp.recv(&mut bytes).unwrap();
        assert!(bytes[..size].ends_with(b" word"), "{}", d.log());
        manager.keeps(&with(format!("listen-127.0.0.1_{api}")));
    }

    // What is not configured any more is not served, and is in nobody's way: not in that of the same port at all addresses.
    let second = free();
    for (at, waits) in [(format!("127.0.0.1:{second}"), api), (format!("0.0.0.0:{second}"), second)] {
        d.configure(&listener(&at));
        d.kill();
        let mut late = wait(waits, "/health");
        d.launch();
        assert_eq!(late.read(&mut [0]).unwrap_or(0), 0);
        assert!(refuses(api));
        assert!(answer(ask(second, "/health")).0.contains(" 200 "), "{}", d.log());
        manager.keeps(&with(format!("listen-{}", at.replace(':', "_"))));
    }

    // A forward that is taken away and a pod that is removed let their ports go, to anybody.
    d.client.remove_port("web", udp, "udp").await.unwrap();
    d.client.remove("asleep", true).await.unwrap();
    manager.keeps(&[name("tcp", tcp), format!("listen-0.0.0.0_{second}")]);
    assert!(refuses(asleep));
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, asleep)).unwrap();
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, udp)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_its_name_says_is_never_served() {
    if !daemon::ready() {
        return;
    }
    let name = format!("torpor-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&Name::from_abstract_name(&name).unwrap()).unwrap();
    let manager = Manager::new(socket, format!("@{name}"));
    let api = free();
    let mut d = manager.daemon(listener(&format!("127.0.0.1:{api}")));
    d.import("test").await;
    let tcp = d.counter("web").await.ports[0].host;
    let right = [format!("listen-127.0.0.1_{api}"), format!("tcp-0.0.0.0_{tcp}")];
    manager.keeps(&right);
    d.kill();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let strange = || stranger.try_clone().unwrap();
    // Before the right ones and after them.
    for (at, name) in right.iter().enumerate() {
        manager.plant(at, name, strange());
        manager.plant(9, name, File::open("/dev/null").unwrap());
    }
    manager.plant(0, "stranger", strange());
    manager.plant(9, "udp-127.0.0.1_1", strange());
    manager.plant(9, "torpord.socket", strange());
    // One of a forward that is gone, as a torpord leaves it that is killed before it can say so.
    let gone = TcpListener::bind("0.0.0.0:0").unwrap();
    let left = gone.local_addr().unwrap().port();
    manager.plant(3, &format!("tcp-0.0.0.0_{left}"), gone);
    let (to_api, to_web, mut to_left) = (wait(api, "/health"), wait(tcp, "/"), wait(left, "/"));
    d.launch();
    assert!(answer(to_api).0.contains(" 200 "), "{}", d.log());
    assert_eq!(answer(to_web).1, "1", "{}", d.log());
    assert_eq!(to_left.read(&mut [0]).unwrap_or(0), 0);
    manager.keeps(&right);
    assert!(refuses(left));
    // Whoever comes to the stranger comes to him alone.
    let at: SocketAddr = stranger.local_addr().unwrap();
    for _ in 0..20 {
        let client = TcpStream::connect(at).unwrap();
        assert_eq!(stranger.accept().unwrap().1, client.local_addr().unwrap());
    }
    // What was given again is the right one.
    d.kill();
    let (to_api, to_web) = (wait(api, "/health"), wait(tcp, "/"));
    d.launch();
    assert!(answer(to_api).0.contains(" 200 ") && answer(to_web).1 == "2", "{}", d.log());
    manager.keeps(&right);
}
