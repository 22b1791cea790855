//! What happens to pods is told to whoever listens.

use std::time::Duration;

use futures::{Stream, StreamExt};
use torpor::api::client::Result;
use torpor::api::types::{CreatePod, Event};

use crate::daemon::{self, Daemon, counter, script};

/// Types and names up to the first event that `last` is true of, and that event.
async fn until(
    events: impl Stream<Item = Result<Event>>,
    last: impl Fn(&Event) -> bool,
) -> (Vec<(String, String)>, Event) {
    let mut events = std::pin::pin!(events);
    let mut seen = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        let event = next.unwrap_or_else(|_| panic!("nothing after {seen:?}")).unwrap().unwrap();
        seen.push((event.r#type.clone(), event.name.clone().unwrap_or_default()));
        if last(&event) {
            return (seen, event);
        }
    }
}

fn types(seen: &[(String, String)], name: &str) -> Vec<String> {
    seen.iter().filter(|(_, n)| n == name).map(|(t, _)| t.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_s_life_is_told_and_gone_on_with_after_any_event() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let all = d.client.events("", None).await.unwrap();
    let ends = d.client.events("type=exited&type=oom&label=team=a", None).await.unwrap();
    let web = d.client.events("pod=web", None).await.unwrap();

    d.client.create_pod(&counter("web")).await.unwrap();
    let labels = [("team".to_owned(), "a".to_owned())];
    let short = CreatePod { labels: labels.clone().into(), ..script("short", "exit 3") };
    d.client.create_pod(&short).await.unwrap();
    d.client.wait("short").await.unwrap();
    let hungry = script("hungry", "sleep 0.5; x=x; while :; do x=$x$x; done");
    d.client.create_pod(&CreatePod { labels: labels.into(), ..hungry }).await.unwrap();
    assert_eq!(d.client.wait("hungry").await.unwrap().exit_reason, "oom");
    d.sleep("web").await;
    d.wake("web").await;
    let snapshot = d.client.snapshot("web", &mut |_| ()).await.unwrap();
    d.stop("web").await;
    d.client.restore("web", &snapshot.id, &mut |_| ()).await.unwrap();
    d.client.remove("web", true).await.unwrap();
    d.client.remove("short", false).await.unwrap();

    let (seen, last) = until(all, |e| e.r#type == "removed" && e.name.as_deref() == Some("short")).await;
    let life = "created started sleeping woke snapshot exited stopped restored removed";
    assert_eq!(types(&seen, "web").join(" "), life);
    assert_eq!(types(&seen, "short").join(" "), "created started exited removed");
    assert_eq!(types(&seen, "hungry")[..4].join(" "), "created started oom exited");
    let (seen, exit) = until(ends, |e| e.name.as_deref() == Some("hungry") && e.r#type == "exited").await;
    assert_eq!(
        (types(&seen, "short").join(" "), types(&seen, "hungry").join(" ")),
        ("exited".into(), "oom exited".into())
    );
    assert_eq!((exit.attributes["exitCode"].as_str(), exit.attributes["exitReason"].as_str()), ("137", "oom"));
    let (seen, _) = until(web, |e| e.r#type == "removed").await;
    assert_eq!(types(&seen, "web").len(), seen.len());

    // Whoever goes on after an event gets what came since, once.
    let rest = d.client.events("", Some(&exit.id)).await.unwrap();
    let (seen, again) = until(rest, |e| e.id == last.id).await;
    assert_eq!(types(&seen, "web").join(" "), "sleeping woke snapshot exited stopped restored removed");
    assert_eq!(again, last);

    // After a restart it is told that there is a gap.
    d.kill();
    d.launch();
    let rest = d.client.events("", Some(&last.id)).await.unwrap();
    let (seen, _) = until(rest, |_| true).await;
    assert_eq!(seen, [("gap".to_owned(), String::new())]);
    for bad in ["type=nosuch", "nosuch=1", "since=yesterday"] {
        let e = d.client.events(bad, None).await.err().unwrap();
        assert_eq!(daemon::code(&e), "invalid_request", "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_and_what_was_lost_is_told() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let all = d.client.events("", None).await.unwrap();
    let e = d.client.create_pod(&CreatePod { command: vec!["/nosuch".into()], ..script("bad", "") }).await.unwrap_err();
    let (seen, _) = until(all, |e| e.r#type == "removed").await;
    assert_eq!(types(&seen, "bad").join(" "), "failed removed", "{e}");

    // What happened while torpord was away is told by the next one.
    let pod = d.client.create_pod(&script("web", "sleep 1000")).await.unwrap();
    d.kill();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pod.sandbox_pid.unwrap()).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    d.launch();
    let since = "since=2020-01-01T00:00:00Z&pod=web";
    let (seen, reset) = until(d.client.events(since, None).await.unwrap(), |e| e.r#type == "rootfs-reset").await;
    assert_eq!(types(&seen, "web").join(" "), "exited rootfs-reset");
    assert!(reset.attributes["error"].contains("sandbox is gone"), "{reset:?}");

    let seen = std::process::Command::new("timeout")
        .args(["3", env!("CARGO_BIN_EXE_torpor"), "events", "--since", "1h", "--type", "exited"])
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(text.contains("exited") && text.contains("web") && text.contains("exitReason=sandbox-lost"), "{text}");
}
