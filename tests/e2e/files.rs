//! Files in and out of pods.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::{Stream, StreamExt};
use torpor::api::client::Client;
use torpor::api::types::{CreatePod, Size, VolumeSpec};

use crate::daemon::{self, Daemon, code, script};

type Bytes = bytes::Bytes;

fn once(bytes: Vec<u8>) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static {
    futures::stream::iter([Ok(Bytes::from(bytes))])
}

async fn get(client: &Client, pod: &str, path: &str) -> Vec<u8> {
    let pieces: Vec<_> = client.get_files(pod, path).await.unwrap().map(|b| b.unwrap()).collect().await;
    pieces.concat()
}

fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut h = tar::Header::new_gnu();
    h.set_entry_type(kind);
    h.set_size(size);
    h.set_mode(0o6751);
    h.set_uid(1000);
    h.set_gid(50);
    h.set_mtime(1_500_000_000);
    h.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    h.set_cksum();
    h
}

fn archive(members: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut b = tar::Builder::new(Vec::new());
    for (name, kind, link, body) in members {
        let mut h = header(name, *kind, body.len() as u64);
        h.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        h.set_cksum();
        b.append(&h, *body).unwrap();
    }
    b.into_inner().unwrap()
}

fn idle(name: &str) -> CreatePod {
    script(name, "sleep 100000")
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_go_in_and_out_and_never_beyond_their_directory() {
    if !daemon::ready() {
        return;
    }
    use tar::EntryType as T;
    let d = Daemon::start();
    d.import("test").await;
    let shared = d.dir.join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::os::unix::fs::symlink("/etc", shared.join("etc")).unwrap();
    let volume = VolumeSpec { source: shared.display().to_string(), target: "/shared".into(), read_only: false };
    d.client.create_pod(&CreatePod { volumes: vec![volume], ..idle("web") }).await.unwrap();
    let put = async |path: &str, bytes: Vec<u8>| d.client.put_files("web", path, once(bytes)).await;
    let good = archive(&[
        ("dir/", T::Directory, "", b""),
        ("dir/file", T::Regular, "", b"hello"),
        ("dir/link", T::Symlink, "file", b""),
        ("dir/hard", T::Link, "dir/file", b""),
    ]);
    put("/tmp", good.clone()).await.unwrap();
    let seen = d.exec("web", "cd /tmp/dir; cat file hard link; stat -c '%u:%g %a %Y %h' file; readlink link").await;
    assert_eq!(seen.stdout, "hellohellohello1000:50 6751 1500000000 2\nfile\n", "{}", seen.stderr);
    // Out again: the same, as another tar reads it.
    let bytes = get(&d.client, "web", "/tmp/dir").await;
    let mut names = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let e = entry.unwrap();
        let h = e.header().clone();
        names.push(format!("{} {:o} {}", e.path().unwrap().display(), h.mode().unwrap(), h.uid().unwrap()));
    }
    names.sort();
    assert_eq!(names[0], "dir/ 6751 1000");
    assert_eq!((names.len(), &names[1][..]), (4, "dir/file 6751 1000"), "{names:?}");
    let stat = d.client.stat_file("web", "/tmp/dir/link").await.unwrap();
    assert_eq!((stat.kind.as_str(), stat.target.as_deref()), ("symlink", Some("file")));
    let only = get(&d.client, "web", "tmp/dir/.").await;
    assert!(tar::Archive::new(&only[..]).entries().unwrap().any(|e| e.unwrap().path().unwrap().ends_with("file")));

    // Hostile archives: refused, and nothing lands elsewhere.
    for (name, kind, link) in [
        ("../x", T::Regular, ""),
        ("/etc/x", T::Regular, ""),
        ("a/../../x", T::Regular, ""),
        ("null", T::Char, ""),
        ("sda", T::Block, ""),
        ("x", T::Link, "../../etc/passwd"),
        ("x", T::Link, "/etc/passwd"),
    ] {
        let e = put("/tmp", archive(&[(name, kind, link, b"")])).await.unwrap_err();
        assert_eq!(code(&e), "bad_archive", "{name} {link}: {e}");
    }
    let trap = archive(&[("l", T::Symlink, "/etc", b""), ("l/evil", T::Regular, "", b"x")]);
    assert_eq!(code(&put("/tmp", trap).await.unwrap_err()), "bad_archive");
    // A link in a directory of the host leads into the pod, if anywhere.
    let through = archive(&[("etc/evil", T::Regular, "", b"x")]);
    assert_eq!(code(&put("/shared", through).await.unwrap_err()), "bad_archive");
    put("/shared/etc", archive(&[("mine", T::Regular, "", b"x")])).await.unwrap();
    assert_eq!(d.exec("web", "cat /etc/mine").await.stdout, "x");
    assert!(!std::path::Path::new("/etc/mine").exists());
    assert_eq!(d.exec("web", "ls /etc/evil /etc/x /x /tmp/null 2>/dev/null").await.stdout, "");
    for rubbish in [b"rubbish".to_vec(), vec![7; 5000], good[..700].to_vec()] {
        assert_eq!(code(&put("/tmp", rubbish).await.unwrap_err()), "bad_archive");
    }
    for path in ["/nosuch", "/tmp/nosuch/x"] {
        assert_eq!(code(&put(path, good.clone()).await.unwrap_err()), "not_found");
        assert_eq!(code(&d.client.get_files("web", path).await.err().unwrap()), "not_found");
    }
    assert_eq!(code(&put("/tmp/dir/file", good.clone()).await.unwrap_err()), "invalid_request");
    assert!(put("/proc", good.clone()).await.is_err());
    for path in ["", "/a/..", "a%00b"] {
        assert!(d.client.get_files("web", path).await.is_err(), "{path:?}");
    }
    assert_eq!(code(&d.client.get_files("nosuch", "/tmp").await.err().unwrap()), "not_found");

    // A pod that does not run.
    d.client.pause("web").await.unwrap();
    assert_eq!(code(&put("/tmp", good.clone()).await.unwrap_err()), "wrong_state");
    d.client.resume("web").await.unwrap();
    d.sleep("web").await;
    let e = put("/tmp", good.clone()).await.unwrap_err();
    assert_eq!((code(&e), e.hint()), ("wrong_state", Some("wake it first")));
    assert_eq!(code(&d.client.stat_file("web", "/tmp").await.unwrap_err()), "wrong_state");
    d.wake("web").await;
    assert_eq!(d.exec("web", "cat /tmp/dir/file").await.stdout, "hello");
    // What was begun before is no process that stays.
    let left = d.exec("web", "ps | grep -c '[t]orpor/init get\\|[t]orpor/init put'").await.stdout;
    assert_eq!(left.trim(), "0");
}

fn memory(d: &Daemon) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", d.pid().unwrap())).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_archives_take_no_memory_and_a_full_disk_is_told() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let disk = Some(Size::Text("96m".into()));
    d.client.create_pod(&CreatePod { disk, ..idle("web") }).await.unwrap();
    // Not /tmp, which gVisor keeps in memory.
    d.exec("web", "mkdir /d").await;
    let before = memory(&d);
    // 64 MiB in and out: more than is kept anywhere.
    let size: u64 = 64 << 20;
    let head = header("big", tar::EntryType::Regular, size).as_bytes().to_vec();
    let piece = Bytes::from((0..65_536_u32).map(|n| (n * 7 % 251) as u8).collect::<Vec<_>>());
    let body = |of: u64| {
        let pieces = std::iter::repeat_n(piece.clone(), usize::try_from(of / 65_536).unwrap());
        futures::stream::iter(std::iter::once(Bytes::from(head.clone())).chain(pieces).map(Ok))
    };
    d.client.put_files("web", "/d", body(size)).await.unwrap();
    let sum = d
        .exec("web", "ls -l /d/big | awk '{print $5}'; head -c 65536 /d/big | md5sum; tail -c 65536 /d/big | md5sum")
        .await;
    let lines: Vec<&str> = sum.stdout.lines().collect();
    assert_eq!((lines[0], lines[1]), ("67108864", lines[2]), "{}", sum.stderr);
    let mut out = Box::pin(d.client.get_files("web", "/d/big").await.unwrap());
    // A slow reader: the pod waits for it, and nobody else does.
    let mut got = out.next().await.unwrap().unwrap().len() as u64;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(d.exec("web", "echo here").await.stdout, "here\n");
    while let Some(bytes) = out.next().await {
        got += bytes.unwrap().len() as u64;
    }
    assert_eq!(got, 512 + size + 1024);
    let grown = memory(&d) - before;
    assert!(grown < 24 * 1024, "{grown} KiB");

    // More than the disk holds: told as what it is, and what was half written is gone.
    d.exec("web", "rm /d/big; head -c 60000000 /dev/zero > /filler").await;
    let e = d.client.put_files("web", "/d", body(size)).await.unwrap_err();
    assert_eq!(code(&e), "exhausted", "{e}");
    assert_eq!(d.exec("web", "ls -A /d").await.stdout, "");
    // Clients that go away in the middle of it leave no program behind.
    d.exec("web", "rm /filler").await;
    let endless = futures::stream::unfold(0, |n| async move {
        if n > 100 {
            std::future::pending::<()>().await;
        }
        Some((Ok(Bytes::from(vec![0; 1024])), n + 1))
    });
    let endless = futures::stream::iter([Ok(Bytes::from(head.clone()))]).chain(endless);
    let going = tokio::time::timeout(Duration::from_millis(700), d.client.put_files("web", "/d", Box::pin(endless)));
    assert!(going.await.is_err());
    let half = d.client.put_files("web", "/d", body(1 << 20)).await.unwrap_err();
    assert_eq!(code(&half), "bad_archive");
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while d.exec("web", "ps | grep -c '[t]orpor/init put'").await.stdout.trim() != "0" {
        assert!(std::time::Instant::now() < end, "{}", d.exec("web", "ps").await.stdout);
    }
    assert_eq!(d.exec("web", "ls -A /d").await.stdout, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn cp_has_docker_s_habits() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    d.client.create_pod(&idle("web")).await.unwrap();
    let here = d.dir.join("here");
    std::fs::create_dir_all(here.join("t/sub")).unwrap();
    std::fs::write(here.join("t/a"), "a").unwrap();
    std::fs::write(here.join("t/sub/b"), "b").unwrap();
    std::os::unix::fs::symlink("a", here.join("t/l")).unwrap();
    std::fs::set_permissions(here.join("t/a"), std::fs::Permissions::from_mode(0o751)).unwrap();
    std::os::unix::fs::chown(here.join("t/a"), Some(1234), Some(1234)).unwrap();
    let torpor = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_torpor"));
        command.args(args).env("TORPOR_HOST", format!("unix://{}", d.socket.display())).current_dir(&here);
        command
    };
    let cp = |args: &[&str]| {
        let out = torpor(&[&["cp"], args].concat()).stdin(Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let done = (Some(0), String::new());
    assert_eq!(cp(&["t", "web:/tmp"]), done);
    assert_eq!(cp(&["t/.", "web:/tmp/new"]), done);
    assert_eq!(cp(&["t/a", "web:/tmp/renamed"]), done);
    assert_eq!(cp(&["-a", "t/a", "web:tmp/kept"]), done);
    assert_eq!(cp(&["-L", "t/l", "web:/tmp/followed"]), done);
    assert_eq!(cp(&["t/l", "web:/tmp/link"]), done);
    let seen = d
        .exec(
            "web",
            "cd /tmp; cat t/sub/b new/a renamed followed; stat -c '%n %u %a' t/a kept; readlink link; readlink t/l",
        )
        .await;
    assert_eq!(seen.stdout, "baaat/a 0 751\nkept 1234 751\na\na\n", "{}", seen.stderr);
    for (args, why) in [
        (["t/a", "web:/nosuch/"], "no such directory"),
        (["t/a", "web:/nosuch/x"], "directory"),
        (["t", "web:/tmp/renamed"], "is a file"),
        (["nosuch", "web:/tmp"], "nosuch"),
        (["web:/nosuch", "x"], "nosuch"),
        (["web:/tmp", "web:/x"], "pod to pod"),
        (["t", "x"], "POD:PATH"),
        (["nopod:/x", "x"], "nopod"),
    ] {
        let (code, said) = cp(&args);
        assert!(code == Some(1) && said.contains(why), "{args:?}: {code:?} {said}");
    }
    // Back again.
    assert_eq!(cp(&["web:/tmp/t", "back"]), done);
    assert_eq!(cp(&["web:/tmp/t/.", "."]), done);
    assert_eq!(cp(&["web:/tmp/t/a", "t/sub"]), done);
    assert_eq!(cp(&["web:/tmp/renamed", "other"]), done);
    assert_eq!(cp(&["-L", "web:/tmp/link", "led"]).0, Some(1), "it leads to nothing there");
    assert_eq!(cp(&["-L", "web:/tmp/t/l", "led"]), done);
    let read = |p: &str| std::fs::read_to_string(here.join(p)).unwrap();
    assert_eq!(
        (read("back/sub/b"), read("sub/b"), read("t/sub/a"), read("other"), read("led")),
        ("b".into(), "b".into(), "a".into(), "a".into(), "a".into())
    );
    let meta = std::fs::metadata(here.join("back/a")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o751, 0));
    // Archives by standard input and output.
    let out = torpor(&["cp", "web:/tmp/t", "-"]).output().unwrap();
    let mut names: Vec<String> = tar::Archive::new(&out.stdout[..])
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["t/", "t/a", "t/l", "t/sub/", "t/sub/b"]);
    let mut child = torpor(&["cp", "-", "web:/home"]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &out.stdout).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(d.exec("web", "cat /home/t/sub/b").await.stdout, "b");
    // A pod that lies about what was asked for harms nobody here.
    d.exec("web", "cd /tmp && mkdir evil && ln -s /etc evil/l && chmod u+s /tmp/renamed").await;
    assert_eq!(cp(&["web:/tmp/evil", "."]), done);
    assert_eq!(std::fs::read_link(here.join("evil/l")).unwrap(), std::path::Path::new("/etc"));
    assert_eq!(cp(&["web:/tmp/renamed", "plain"]), done);
    assert_eq!(std::fs::metadata(here.join("plain")).unwrap().mode() & 0o7777, 0o751, "nothing is set-user-id here");
}
