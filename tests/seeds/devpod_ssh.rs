//! A dev pod by ssh, scp and sftp: the real programs, with a key of the caller's own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use crate::daemon::try_get;
use crate::devpod::{Desk, UID};
use crate::support::fed;

const SETTINGS: &str = "[up]\nmemory = '512m'\nssh = true\n";

impl Desk {
    /// One of OpenSSH's programs, as the caller's configuration has the pod.
    fn ssh(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.command(program);
        // They look for the home directory in /etc/passwd, not in HOME.
        command.arg("-F").arg(self.path("home/.ssh/config")).arg("-i").arg(self.path("home/.ssh/id_ed25519"));
        command.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]).args(args);
        command
    }

    fn runs(&self, program: &str, args: &[&str]) -> Output {
        self.ssh(program, args).output().unwrap()
    }

    fn says(&self, script: &str) -> String {
        let o = self.runs("ssh", &["devpod", script]);
        assert!(o.status.success(), "{script}: {o:?}\n{}", self.daemon.log());
        String::from_utf8_lossy(&o.stdout).into_owned()
    }

    fn key(&self, name: &str) {
        let path = self.path("home/.ssh").join(name);
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
        assert!(made.unwrap().success());
    }

    async fn with_ssh() -> Option<Self> {
        let there = Command::new("ssh").arg("-V").output().is_ok();
        if !crate::support::has("ssh", there) {
            return None;
        }
        let desk = Desk::new(SETTINGS).await?;
        std::fs::create_dir(desk.path("home/.ssh")).unwrap();
        desk.key("id_ed25519");
        desk.good(&["up", "-d"]);
        Some(desk)
    }
}

fn bytes(n: u32) -> Vec<u8> {
    (0..n).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_and_shells_by_ssh() {
    let Some(desk) = Desk::with_ssh().await else { return };
    // Exit codes, both outputs, who it runs as and where; a known host from the first time on.
    let o = desk.runs("ssh", &["devpod", "echo out; echo err >&2; exit 7"]);
    assert_eq!((o.status.code(), &o.stdout[..], &o.stderr[..]), (Some(7), &b"out\n"[..], &b"err\n"[..]), "{o:?}");
    assert_eq!(desk.says("id -u; pwd; echo $SHELL"), format!("{UID}\n/home/ann_\n/bin/zsh\n"));
    assert_eq!(desk.runs("ssh", &["devpod", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(desk.runs("ssh", &["devpod", "nosuch-program"]).status.code(), Some(127));
    let o = desk.runs("ssh", &["-o", "SetEnv=GREETING=hello", "devpod", "echo $GREETING"]);
    assert_eq!(String::from_utf8_lossy(&o.stdout), "hello\n");
    // Any bytes, any amount, both ways at once; and to one that reads none of it, or late.
    for size in [1 << 20, 40_000_000] {
        let sent = bytes(size);
        let (code, out, err) = fed(&mut desk.ssh("ssh", &["devpod", "cat; exit 3"]), &sent);
        assert!(code == Some(3) && out == sent, "{code:?} {} of {size}: {err}", out.len());
    }
    let (code, out, err) = fed(&mut desk.ssh("ssh", &["devpod", "sleep 2; wc -c"]), &bytes(20_000_000));
    assert!(code == Some(0) && out == b"20000000\n", "{code:?} {out:?} {err}");
    assert_eq!(fed(&mut desk.ssh("ssh", &["devpod", "exit 4"]), &bytes(5_000_000)).0, Some(4));
    // A shell on a terminal.
    let (config, key) = (desk.path("home/.ssh/config"), desk.path("home/.ssh/id_ed25519"));
    let line = ["ssh", "-F", config.to_str().unwrap(), "-i", key.to_str().unwrap(), "devpod"];
    let mut s = desk.screen(&line);
    s.shows("this is zsh");
    s.shows("$ ");
    s.type_in("stty size; pwd; echo $TERM-$((1+1))\r");
    let seen = s.shows("xterm-2");
    assert!(seen.contains("30 90") && seen.contains("/work"), "{seen}");
    crate::screen::resize(&s.master, 100, 40);
    s.type_in("while [ \"$(stty size)\" != '40 100' ]; do sleep 0.1; done; echo b-$((1+1))\r");
    s.shows("b-2");
    s.type_in("exit 42\r");
    assert_eq!(s.ends(), 42);
    // Who hangs up leaves nothing behind.
    let mut s = desk.screen(&line);
    s.shows("$ ");
    s.type_in("~.");
    s.ends();
    let end = Instant::now() + Duration::from_secs(10);
    while !desk.daemon.client.terminals("devpod").await.unwrap().iter().all(|t| t.exit_code.is_some()) {
        assert!(Instant::now() < end, "a terminal is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Another key lets nobody in, nor does one of which only the public half lies there.
    desk.key("other");
    std::fs::rename(desk.path("home/.ssh/other"), desk.path("other/key")).unwrap();
    let mut stranger = desk.command("ssh");
    stranger.arg("-F").arg(&config).arg("-i").arg(desk.path("other/key"));
    let o = stranger.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "devpod", "true"]).output().unwrap();
    assert_eq!(o.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&o.stderr).contains("Permission denied (publickey)"), "{o:?}");
    // A file that is named counts, alone.
    let named = desk.path("home/.ssh/other.pub").display().to_string();
    let text = desk.good(&["ssh-config", "--as", "root-pod", "--user", "root", "--authorized-keys", &named]);
    std::fs::write(desk.path("named"), text).unwrap();
    let as_root = |key: &str| {
        let mut ssh = desk.command("ssh");
        ssh.arg("-F").arg(desk.path("named")).arg("-i").arg(desk.path(key));
        ssh.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "root-pod", "id -u"]).output().unwrap()
    };
    let o = as_root("other/key");
    assert_eq!(String::from_utf8_lossy(&o.stdout), "0\n", "{o:?}");
    assert_eq!(as_root("home/.ssh/id_ed25519").status.code(), Some(255));
    std::fs::set_permissions(&named, PermissionsExt::from_mode(0o666)).unwrap();
    assert!(String::from_utf8_lossy(&as_root("other/key").stderr).contains("others than you can change it"));
    // A pod that sleeps is woken; one that is made anew is no stranger.
    desk.daemon.sleep("devpod").await;
    assert_eq!(desk.says("echo awake"), "awake\n");
    desk.good(&["down"]);
    assert!(!desk.runs("ssh", &["devpod", "true"]).status.success());
    desk.good(&["up", "-d"]);
    assert_eq!(desk.says("echo anew"), "anew\n");
    // Told twice, ssh is told once.
    desk.good(&["ssh-config", "--install"]);
    assert_eq!(std::fs::read_to_string(&config).unwrap().matches("Include").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_by_scp_and_sftp() {
    let Some(desk) = Desk::with_ssh().await else { return };
    let tree = desk.path("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/a b"), bytes(3_000_000)).unwrap();
    std::fs::write(tree.join("run.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(tree.join("run.sh"), PermissionsExt::from_mode(0o750)).unwrap();
    let ok = |program: &str, args: &[&str]| {
        let o = desk.runs(program, args);
        assert!(o.status.success(), "{program} {args:?}: {o:?}\n{}", desk.daemon.log());
    };
    // Both of scp's protocols, both ways.
    for (n, old) in [&[][..], &["-O"]].into_iter().enumerate() {
        let (there, back) = (format!("devpod:t{n}"), desk.path(&format!("back{n}")).display().to_string());
        ok("scp", &[old, &["-r", "-p", tree.to_str().unwrap(), &there]].concat());
        assert_eq!(
            desk.says(&format!("stat -c %a:%u ~/t{n}/run.sh; cat ~/t{n}/sub/a* | wc -c")),
            format!("750:{UID}\n3000000\n")
        );
        ok("scp", &[old, &["-r", "-p", &there, &back]].concat());
        let diff = Command::new("diff").arg("-r").arg(&tree).arg(&back).output().unwrap();
        assert!(diff.status.success(), "{diff:?}");
        let file = desk.path("one").display().to_string();
        ok("scp", &[old, &[&format!("devpod:/home/ann_/t{n}/run.sh"), &file]].concat());
        ok("scp", &[old, &[&file, "devpod:/work/"]].concat());
        assert_eq!(std::fs::read(desk.path("src/one")).unwrap(), b"#!/bin/sh\n");
        std::fs::remove_file(desk.path("src/one")).unwrap();
        let o = desk.runs("scp", &[old, &["devpod:nosuch", &file]].concat());
        assert!(!o.status.success() && !o.stderr.is_empty(), "{o:?}");
        assert!(!desk.runs("scp", &[old, &[&file, "devpod:/etc/passwd"]].concat()).status.success());
    }
    // sftp, in one go.
    let batch = format!(
        "pwd\nmkdir d\nput {t}/run.sh d/x\nrename d/x d/y\nchmod 600 d/y\nln -s y d/l\nls -l d\nget d/l {b}\nput -r {t} d/t\ndf\n\
         reget d/y {b}\nrm d/y\n-rm d/nosuch\ncd d/t/sub\npwd\n",
        t = tree.display(),
        b = desk.path("got").display()
    );
    let (code, out, err) = fed(&mut desk.ssh("sftp", &["-b", "-", "devpod"]), batch.as_bytes());
    let out = String::from_utf8_lossy(&out).into_owned();
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("Remote working directory: /home/ann_\n"), "{out}");
    assert!(out.contains("Remote working directory: /home/ann_/d/t/sub\n"), "{out}");
    assert!(out.contains("-rw-------") && out.contains("4321"), "{out}");
    assert_eq!(std::fs::read(desk.path("got")).unwrap(), b"#!/bin/sh\n");
    assert_eq!(desk.says("cd d && echo * && cat t/sub/a* | wc -c"), "l t\n3000000\n");
}

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_the_pod_s_own_by_ssh() {
    let Some(desk) = Desk::with_ssh().await else { return };
    // A server that only the pod itself reaches; and one that answers what it is told, once it was told all.
    std::fs::copy(crate::support::program("tests/support/echo.rs"), desk.path("src/echo")).unwrap();
    desk.says("busybox httpd -p 127.0.0.1:8099 -h /www; /work/echo 8098 >~/echo 2>&1 & until grep -q listening ~/echo; do sleep 0.1; done");
    let (web, echo, none, by_name) = (free_port(), free_port(), free_port(), free_port());
    let forwards = [
        format!("{web}:localhost:8099"),
        format!("{echo}:127.0.0.1:8098"),
        format!("{none}:localhost:1"),
        format!("{by_name}:devpod:8099"),
    ];
    let mut ssh = desk.ssh("ssh", &["-N", "-o", "ExitOnForwardFailure=yes"]);
    for forward in &forwards {
        ssh.args(["-L", forward]);
    }
    let _ssh = Running(ssh.arg("devpod").spawn().unwrap());
    let connect = |port: u16| {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(s) => return s,
                Err(e) => assert!(Instant::now() < end, "{e}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    drop(connect(web));
    let hello = || try_get((Ipv4Addr::LOCALHOST, web).into(), "/index.html");
    assert_eq!(hello().as_deref(), Some("hello\n"));
    // Many at once, much of it, and both ends are told.
    let sent = bytes(5_000_000);
    let many: Vec<_> = (0..8)
        .map(|_| {
            let (mut stream, sent) = (connect(echo), sent.clone());
            std::thread::spawn(move || {
                let mut reading = stream.try_clone().unwrap();
                let writing = std::thread::spawn(move || {
                    stream.write_all(&sent).unwrap();
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    sent
                });
                let mut back = Vec::new();
                reading.read_to_end(&mut back).unwrap();
                assert!(back == writing.join().unwrap(), "{} bytes came back", back.len());
            })
        })
        .collect();
    many.into_iter().for_each(|m| m.join().unwrap());
    // Nobody there: told at once. What the pod calls itself is not its loopback.
    let mut nobody = connect(none);
    assert!(matches!(nobody.read(&mut [0]), Ok(0) | Err(_)));
    let mut own = connect(by_name);
    assert!(matches!(own.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(hello().as_deref(), Some("hello\n"));
    // A client that goes away without a word leaves no program behind.
    drop(connect(echo));
    let end = Instant::now() + Duration::from_secs(20);
    while desk.daemon.exec("devpod", "ps | grep -c '[i]nit connect'").await.stdout != "0\n" {
        assert!(Instant::now() < end, "{}", desk.daemon.exec("devpod", "ps").await.stdout);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
