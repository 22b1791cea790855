//! What is secret is where it is used, and nowhere else.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use torpor::api::types::ExecPod;

use crate::daemon::{self, Daemon, counter, get};
use crate::{s3, sleep};

/// Where in files below `dir`, and in their names, one of the words stands. Pipes and sockets are not opened.
fn search(dir: &Path, words: &[&str], skip: &dyn Fn(&Path) -> bool, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if skip(&path) {
            continue;
        }
        let mut bytes = path.as_os_str().as_bytes().to_vec();
        if kind.is_dir() {
            search(&path, words, skip, found);
        } else if kind.is_file() {
            bytes.extend(std::fs::read(&path).unwrap_or_default());
        }
        let hit = |w: &&&str| memchr::memmem::find(&bytes, w.as_bytes()).is_some();
        found.extend(words.iter().filter(hit).map(|w| format!("{w} in {}", path.display())));
    }
}

/// Whose command line has one of the words, among all processes but this one.
fn processes(words: &[&str], found: &mut Vec<String>) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line);
        // The server of the test has its own key as an argument.
        if !own && !text.starts_with("s3s-fs") {
            found.extend(words.iter().filter(|w| text.contains(**w)).map(|w| format!("{w}: {text}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_left_where_it_does_not_belong() {
    if !daemon::ready() {
        return;
    }
    let Some(server) = s3::Server::start() else { return };
    let mut options = sleep::on(&server);
    options.env.push(("TORPOR_LOG".into(), "trace".into()));
    let d = Daemon::with(options);
    d.import("test").await;
    let (env, exec_env, stdin) = ("canary-of-a-pod-77a1", "canary-of-an-exec-5e02", "canary-of-an-input-9b44");
    let mut pod = counter("web");
    pod.env.insert("TOKEN".into(), env.into());
    let pod = d.client.create_pod(&pod).await.unwrap();
    assert_eq!(pod.env_names, ["TOKEN"]);
    assert!(!serde_json::to_string(&d.client.inspect("web").await.unwrap()).unwrap().contains(env));
    assert_eq!(get(pod.ports[0].host, "/"), "1");
    d.client.snapshot("web", &mut |_| ()).await.unwrap();
    let exec = ExecPod {
        command: ["sh", "-c", "echo $TOKEN $OTHER | wc -c; cat | wc -c; sleep 0.2"].map(str::to_owned).to_vec(),
        env: [("OTHER".to_owned(), exec_env.to_owned())].into(),
        stdin: Some(stdin.into()),
        ..ExecPod::default()
    };
    let words = [env, exec_env, stdin, s3::SECRET];
    let run = Path::new("/run/torpor").join(&d.tag);
    let look = |skip: &dyn Fn(&Path) -> bool| {
        let mut found = Vec::new();
        for dir in [d.dir.as_path(), &run, server.root()] {
            search(dir, &words, skip, &mut found);
        }
        processes(&words, &mut found);
        found
    };
    // The pod's environment is kept, in the database alone, for the pod's next start.
    let database = |p: &Path| p.file_name().is_some_and(|n| n.as_bytes().starts_with(b"torpor.db"));
    let client = d.client.clone();
    // What was there before and never changes need not be looked through again and again.
    let old = |p: &Path| database(p) || ["engines", "layers", "blobs", "cache", "v1"].iter().any(|n| p.ends_with(n));
    let running = tokio::spawn(async move { client.exec("web", &exec).await });
    let mut during = Vec::new();
    while !running.is_finished() {
        during.extend(look(&old));
        tokio::task::yield_now().await;
    }
    let done = running.await.unwrap().unwrap();
    assert_eq!(done.stdout.split_whitespace().collect::<Vec<_>>(), ["44", "23"], "{done:?}");
    assert_eq!(during, Vec::<String>::new());
    d.stop("web").await;
    d.client.start("web").await.unwrap();
    d.sleep("web").await;
    // A process' memory is in its snapshot, and so in the raw image on this host: that is said in the README.
    let image = |p: &Path| database(p) || p.ends_with("state/cache") || p.ends_with("v1/packs");
    assert_eq!(look(&image), Vec::<String>::new());
    let snapshots = d.client.snapshots().await.unwrap();
    let shown = serde_json::to_string(&snapshots).unwrap() + &d.log();
    assert!(words.iter().all(|w| !shown.contains(w)));
    let mut exposed = Vec::new();
    search(&d.dir, &[exec_env, stdin, s3::SECRET], &|p| p.ends_with("state/cache"), &mut exposed);
    assert_eq!(exposed, Vec::<String>::new(), "not even in the database");
    for file in std::fs::read_dir(d.dir.join("state")).unwrap().flatten().filter(|f| database(&f.path())) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
    }
    crate::support::tried(words.len());
    d.wake("web").await;
    assert_eq!(d.exec("web", "echo $TOKEN").await.stdout.trim(), env);
}
