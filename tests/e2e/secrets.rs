//! What is secret is where it is used, and nowhere else.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use torpor::api::types::{CreatePod, ExecPod, RestoreSnapshot, SecretSpec, SecretText, SecretValue, StartPod, WakePod};

use crate::daemon::{self, Daemon, code, counter, get, script};
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

fn given(name: &str, value: &str) -> SecretSpec {
    SecretSpec { name: name.into(), value: Some(SecretText(value.into())), ..SecretSpec::default() }
}

fn again(name: &str, value: &str) -> SecretValue {
    SecretValue { name: name.into(), value: SecretText(value.into()), encoding: None }
}

const LOOK: &str = "cd /run/secrets && for f in *; do stat -c '%n %a %U %s' $f; done";

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_a_pod_are_in_the_pod_and_nowhere_else() {
    if !daemon::ready() {
        return;
    }
    let Some(server) = s3::Server::start() else { return };
    let outside = tempfile::tempdir().unwrap();
    let (host, credentials) = (outside.path().join("host-key"), outside.path().join("credentials"));
    std::fs::create_dir(&credentials).unwrap();
    let words = [
        "canary-of-a-file-that-nobody-reads-41c7",
        "canary-of-a-variable-0be2",
        "canary-of-a-host-file-93d5",
        "canary-of-a-credential-6f18",
    ];
    std::fs::write(&host, words[2]).unwrap();
    std::fs::write(credentials.join("token"), words[3]).unwrap();
    let mut options = sleep::on(&server);
    options.env.push(("TORPOR_LOG".into(), "trace".into()));
    options.env.push(("CREDENTIALS_DIRECTORY".into(), credentials.display().to_string()));
    let mut d = Daemon::with(options);
    d.import("test").await;
    let of_host = SecretSpec {
        name: "host".into(),
        file: Some(host.display().to_string()),
        mode: Some("0440".into()),
        ..SecretSpec::default()
    };
    let secrets = vec![
        given("key", words[0]),
        SecretSpec { target: Some("env".into()), variable: Some("TOKEN".into()), ..given("var", words[1]) },
        of_host.clone(),
        SecretSpec { name: "cred".into(), credential: Some("token".into()), ..SecretSpec::default() },
    ];
    let pod = CreatePod { secrets, user: Some("ann".into()), ..script("web", "sleep 10000") };
    let pod = d.client.create_pod(&pod).await.unwrap();
    let shown: Vec<_> = pod.secrets.iter().map(|s| (s.name.as_str(), s.target.as_str(), s.source.as_str())).collect();
    let wanted =
        [("key", "file", "value"), ("var", "env", "value"), ("host", "file", "file"), ("cred", "file", "credential")];
    assert_eq!(shown, wanted);
    let there =
        |host: usize| format!("cred 400 ann {}\nhost 440 ann {host}\nkey 400 ann {}\n", words[3].len(), words[0].len());
    let first = there(words[2].len());
    assert_eq!(d.exec("web", LOOK).await.stdout, first, "{}", d.log());
    assert_eq!(
        d.exec("web", "echo $TOKEN; cat /run/secrets/host /run/secrets/cred").await.stdout,
        format!("{}\n{}{}", words[1], words[2], words[3])
    );
    // What goes on after a snapshot has them, what is in the snapshot not.
    let snapshot = d.client.snapshot("web", &mut |_| ()).await.unwrap();
    assert_eq!(d.exec("web", LOOK).await.stdout, first);
    let run = Path::new("/run/torpor").join(&d.tag);
    let kept = run.join("secrets");
    let look = |words: &[&str], skip: &dyn Fn(&Path) -> bool| {
        let mut found = Vec::new();
        for dir in [d.dir.as_path(), &run, server.root()] {
            search(dir, words, skip, &mut found);
        }
        processes(words, &mut found);
        found
    };
    let none = Vec::<String>::new();
    // What a program reads, and what it says, is in its memory and init's, and so in what is saved of them.
    let said = |p: &Path| p == kept || p.ends_with("state/cache") || p.ends_with("v1/packs");
    // In memory, for root alone, and never swapped: there the values of a request are kept.
    assert_eq!(look(&words, &said), none);
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts.lines().any(|l| l.contains(kept.to_str().unwrap()) && l.contains(" ramfs ")), "{mounts}");
    d.sleep("web").await;
    assert_eq!(look(&words, &said), none);
    // A file that nobody has read is not even there: nothing of it is left in init.
    assert_eq!(look(&words[..1], &|p| p == kept), none);
    let shown = serde_json::to_string(&d.client.snapshots().await.unwrap()).unwrap()
        + &serde_json::to_string(&d.client.inspect("web").await.unwrap()).unwrap()
        + &d.log();
    assert!(words.iter().all(|w| !shown.contains(w)));
    // torpord may be killed while it sleeps; a file that has changed is read anew.
    d.kill();
    d.launch();
    std::fs::write(&host, "changed").unwrap();
    d.wake("web").await;
    let changed = there("changed".len());
    assert_eq!(d.exec("web", LOOK).await.stdout, changed);
    assert_eq!(d.exec("web", "echo $TOKEN").await.stdout.trim(), words[1]);
    // And while it runs.
    d.kill();
    d.launch();
    assert_eq!(d.exec("web", LOOK).await.stdout, changed);
    // The host's memory is lost: then they are asked for, and nothing is touched until they come.
    d.sleep("web").await;
    std::fs::remove_dir_all(kept.join(&pod.id)).unwrap();
    let mut how = WakePod::default();
    let e = d.client.wake("web", &how, &mut |_| ()).await.unwrap_err();
    assert_eq!(code(&e), "secrets_missing");
    assert!(e.to_string().contains("key, var"), "{e}");
    assert_eq!(d.client.inspect("web").await.unwrap().state, "sleeping");
    how.secrets = vec![again("nosuch", "x")];
    assert_eq!(code(&d.client.wake("web", &how, &mut |_| ()).await.unwrap_err()), "invalid_request");
    how.secrets = vec![again("key", "another"), again("var", words[1])];
    d.client.wake("web", &how, &mut |_| ()).await.unwrap();
    assert_eq!(d.exec("web", "cat /run/secrets/key").await.stdout, "another");
    // To one that runs a new value is given at once.
    let renewed = StartPod { secrets: vec![again("key", "renewed")] };
    d.client.start_with("web", &renewed).await.unwrap();
    assert_eq!(d.exec("web", "cat /run/secrets/key").await.stdout, "renewed");
    d.stop("web").await;
    std::fs::remove_dir_all(kept.join(&pod.id)).unwrap();
    assert_eq!(code(&d.client.start("web").await.unwrap_err()), "secrets_missing");
    let how = StartPod { secrets: how.secrets };
    d.client.start_with("web", &how).await.unwrap();
    assert_eq!(d.exec("web", "cat /run/secrets/key; echo $TOKEN").await.stdout, format!("another{}\n", words[1]));
    // A copy has none, unless they are given to it.
    d.client.restore_snapshot(&snapshot.id, Some("bare".into()), &mut |_| ()).await.unwrap();
    assert_eq!(d.exec("bare", "ls -A /run/secrets").await.stdout, "");
    assert!(d.client.inspect("bare").await.unwrap().secrets.is_empty());
    let copy = |secrets| RestoreSnapshot { name: Some("copy".into()), secrets, ..RestoreSnapshot::default() };
    let env = SecretSpec { target: Some("env".into()), ..given("A", "x") };
    let e = d.client.restore_snapshot_as(&snapshot.id, &copy(vec![env]), &mut |_| ()).await.unwrap_err();
    assert_eq!(code(&e), "invalid_request");
    d.client.restore_snapshot_as(&snapshot.id, &copy(vec![given("mine", "own")]), &mut |_| ()).await.unwrap();
    assert_eq!(d.exec("copy", "cd /run/secrets; ls; cat mine").await.stdout, "mine\nown");
    // What can't be had is refused, and nothing is made.
    std::fs::remove_file(&host).unwrap();
    let state = d.dir.join("state/torpor.db").display().to_string();
    for bad in [of_host, SecretSpec { name: "a".into(), file: Some(state), ..SecretSpec::default() }] {
        let pod = CreatePod { secrets: vec![bad], ..script("none", "true") };
        assert_eq!(code(&d.client.create_pod(&pod).await.unwrap_err()), "invalid_request");
    }
    assert_eq!(d.client.pods().await.unwrap().len(), 3);
    for pod in ["web", "bare", "copy"] {
        d.client.remove(pod, true).await.unwrap();
    }
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 0);
    crate::support::tried(words.len());
}
