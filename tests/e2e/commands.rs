//! Commands and options that docker's users type: `restart`, `images`, `rmi`, `--format`, `--entrypoint`.

use torpor::api::types::{CreatePod, RestartPod, SecretSpec, SecretText, Size};

use crate::archives;
use crate::daemon::{self, Daemon, code, counter, get, script};
use crate::habits::shell;

/// What a line says when it succeeds.
fn ok(d: &Daemon, line: &str) -> String {
    let (code, out, err) = shell(d, line);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{line}: {out}\n{}", d.log());
    out
}

/// What a line says when it is refused.
fn refused(d: &Daemon, line: &str) -> String {
    let (code, out, err) = shell(d, line);
    assert!(code != Some(0) && out.is_empty(), "{line}: {code:?} {out}");
    err
}

/// A pod runs before its command has said a word: waits until that is in its log, and nothing else.
async fn until_said(d: &Daemon, pod: &str, text: &str) {
    let begun = std::time::Instant::now();
    loop {
        let said = ok(d, &format!("torpor logs {pod}"));
        if said == text {
            return;
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{said:?}, not {text:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_a_stop_and_a_start_with_nothing_between() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let web = d.counter("web").await;
    let port = web.ports[0].host;
    assert_eq!((get(port, "/").as_str(), get(port, "/").as_str()), ("1", "2"));
    d.exec("web", "echo kept > /kept").await;
    assert_eq!(ok(&d, "torpor restart -t 1 web"), "web\n");
    let again = d.client.inspect("web").await.unwrap();
    assert_eq!((again.id.clone(), again.state.as_str(), again.ports.clone()), (web.id, "running", web.ports));
    assert_eq!((get(port, "/").as_str(), d.exec("web", "cat /kept").await.stdout.as_str()), ("1", "kept\n"));
    // One that stands still, is stopped, or was never started.
    d.client.pause("web").await.unwrap();
    ok(&d, "torpor restart -t 1 web");
    assert_eq!(get(port, "/"), "1");
    d.stop("web").await;
    ok(&d, "torpor restart web");
    assert_eq!(get(port, "/"), "1");
    ok(&d, "torpor create --name new test sleep 1000");
    ok(&d, "torpor restart new");
    assert_eq!(d.client.inspect("new").await.unwrap().state, "running");
    // The signal is the one that was asked for, and it has the time that was given.
    d.client
        .create_pod(&script("traps", "trap 'echo usr; exit 0' USR1; echo set; while true; do usleep 20000; done"))
        .await
        .unwrap();
    until_said(&d, "traps", "set\n").await;
    ok(&d, "torpor restart -s USR1 -t 60 traps");
    assert!(ok(&d, "torpor logs traps").starts_with("set\nusr\n"));
    // A sleeper is not thrown away, and what can't be asked changes nothing.
    d.sleep("new").await;
    assert!(refused(&d, "torpor restart new").contains("is sleeping"));
    d.wake("new").await;
    for line in ["restart -s NOSUCH web", "restart -t 99999 web", "restart nosuch"] {
        refused(&d, &format!("torpor {line}"));
    }
    assert_eq!(d.client.inspect("web").await.unwrap().incarnation, again.incarnation + 2);
    // A pod for one run is still there afterwards, and goes when it has ended.
    ok(&d, "torpor run -d --rm --name once test sh -c 'trap exit TERM; until [ -e /go ]; do usleep 20000; done'");
    ok(&d, "torpor restart -t 5 once");
    assert_eq!(d.client.inspect("once").await.unwrap().state, "running");
    ok(&d, "torpor exec once touch /go");
    while d.client.inspect("once").await.is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_refused_leaves_the_pod_running() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let secret = SecretSpec { name: "key".into(), value: Some(SecretText("old".into())), ..SecretSpec::default() };
    let private =
        CreatePod { secrets: vec![secret], ..script("p", "while true; do cat /run/secrets/key; sleep 1000; done") };
    d.client.create_pod(&private).await.unwrap();
    let before = d.client.inspect("p").await.unwrap();
    // As after a reboot: the values are gone.
    std::fs::remove_dir_all(format!("/run/torpor/{}/secrets/{}", d.tag, before.id)).unwrap();
    let e = d.client.restart("p", &RestartPod::default()).await.unwrap_err();
    assert_eq!(code(&e), "secrets_missing");
    let after = d.client.inspect("p").await.unwrap();
    assert_eq!((after.state, after.incarnation), (before.state, before.incarnation));
    ok(&d, "NEW=new torpor restart -t 1 --secret key=env:NEW p");
    assert_eq!(d.exec("p", "cat /run/secrets/key").await.stdout, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_what_they_are_asked_for() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("team/test:v1").await;
    d.import("test").await;
    let pod = CreatePod { labels: [("team".into(), "a".into())].into(), ..counter("web") };
    let web = d.client.create_pod(&pod).await.unwrap();
    let (short, host) = (&web.id[..12], web.ports[0].host);
    let line = ok(&d, "torpor ps").lines().nth(1).unwrap().to_owned();
    assert!(line.contains("counter 80") && line.contains(short), "{line}");
    assert_eq!(ok(&d, "torpor ps -q"), format!("{short}\n"));
    assert_eq!(ok(&d, "torpor ps -q --no-trunc"), format!("{}\n", web.id));
    assert_eq!(
        ok(
            &d,
            "torpor ps --format '{{.ID}} {{.Names}} {{.State}} {{.Command}} {{.Ports}} {{.Labels.team}} {{.Resources.Memory}}'"
        ),
        format!("{short} web running counter 80 {host}->80/tcp a 268435456\n")
    );
    assert_eq!(ok(&d, r"torpor ps --format 'table {{.Name}}\t{{.State}}'"), "NAME  STATE\nweb   running\n");
    let whole: serde_json::Value = serde_json::from_str(ok(&d, "torpor ps --format json").trim()).unwrap();
    assert_eq!((&whole["id"], &whole["program"]), (&serde_json::json!(web.id), &serde_json::json!(["counter", "80"])));
    assert_eq!(ok(&d, "torpor inspect -f '{{.State}} {{.ExitCode}}' web web"), "running \nrunning \n");
    assert_eq!(
        ok(&d, "torpor inspect --format '{{json .Ports}}' web"),
        format!("[{{\"host\":{host},\"pod\":80,\"protocol\":\"tcp\"}}]\n")
    );
    // What there is not is said with what there is, whether there is something to list or not.
    for line in [
        "ps --format '{{.Nosuch}}'",
        "ps -f name=none --format '{{.Nosuch}}'",
        "inspect -f '{{.Nosuch}}' web",
        "images --format '{{.Nosuch}}'",
    ] {
        let said = refused(&d, &format!("torpor {line}"));
        assert!(said.contains("no field .Nosuch") && said.contains("hint: there are ."), "{line}: {said}");
    }
    assert!(refused(&d, "torpor inspect -f '{{.State.Status}}' web").contains("has no field .Status"));
    assert!(refused(&d, "torpor --json ps --format json").contains("can't be had together"));
    assert_eq!(shell(&d, "torpor ps -q --format json").0, Some(2));
    assert_eq!(
        ok(&d, "torpor images --format '{{.Name}} {{.Repository}} {{.Tag}} {{.Layers}}'"),
        "team/test:v1 team/test v1 1\ntest:latest test latest 1\n"
    );
    assert_eq!(ok(&d, "torpor images"), ok(&d, "torpor image ls"));
    let ids = ok(&d, "torpor images -q --no-trunc");
    assert!(ids.lines().all(|l| l.starts_with("sha256:") && l.len() == 71), "{ids}");
    assert!(refused(&d, "torpor rmi test").contains("is used by pod web"));
    assert_eq!(ok(&d, "torpor rmi team/test:v1"), "team/test:v1\n");
    assert_eq!(ok(&d, "torpor images --format '{{.Name}}'"), "test:latest\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_point_is_replaced_with_all_that_goes_with_it() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let layer = archives::layer(&std::fs::read(daemon::image()).unwrap(), <[u8]>::to_vec, "");
    let mut config = archives::config(std::slice::from_ref(&layer));
    config["config"] = serde_json::json!({"Entrypoint": ["echo", "entry"], "Cmd": ["default"], "Env": ["PATH=/bin"]});
    let tar = d.dir.join("saved.tar");
    std::fs::write(&tar, archives::docker_save(&[layer], &config)).unwrap();
    ok(&d, &format!("torpor image import app {}", tar.display()));
    for (line, said) in [
        ("app", "entry default\n"),
        ("app x", "entry x\n"),
        ("--entrypoint echo app", "\n"),
        ("--entrypoint echo app x y", "x y\n"),
        ("--entrypoint '' app echo z", "z\n"),
    ] {
        assert_eq!(ok(&d, &format!("torpor run --rm {line}")), said, "{line}");
    }
    assert!(refused(&d, "torpor run --entrypoint '' app").contains("nothing to run"));
    assert_eq!(shell(&d, "torpor run --rm --entrypoint nosuch app x").0, Some(127));
    // It is the pod's own: also over a stop, and in a copy that is started anew.
    ok(&d, "torpor run -d --name e --entrypoint sh app -c 'echo again; sleep 1000'");
    until_said(&d, "e", "again\n").await;
    ok(&d, "torpor restart -t 0 e");
    until_said(&d, "e", "again\nagain\n").await;
    assert_eq!(d.client.inspect("e").await.unwrap().program, ["sh", "-c", "echo again; sleep 1000"]);
    let bad = CreatePod {
        entrypoint: Some(vec!["a\0b".into()]),
        memory: Some(Size::Text("64m".into())),
        ..script("n", "true")
    };
    assert_eq!(code(&d.client.create_pod(&bad).await.unwrap_err()), "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_may_come_twice() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let root = archives::layer(&std::fs::read(daemon::image()).unwrap(), <[u8]>::to_vec, "");
    let says = |word: &str| archives::Tar::of([archives::file("said", format!("{word}\n"))]).end();
    let layer = |word| archives::layer(&says(word), <[u8]>::to_vec, "");
    let layers = [root, layer("again"), layer("between"), layer("again")];
    let mut config = archives::config(&layers);
    config["config"] = serde_json::json!({"Env": ["PATH=/bin"]});
    let tar = d.dir.join("saved.tar");
    std::fs::write(&tar, archives::docker_save(&layers, &config)).unwrap();
    ok(&d, &format!("torpor image import twice {}", tar.display()));
    assert_eq!(ok(&d, "torpor run --rm twice cat /said"), "again\n");
}
