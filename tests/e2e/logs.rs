//! A pod's output as server-sent events.

use std::time::Duration;

use futures::StreamExt;
use torpor::api::client::Client;
use torpor::api::logs::LogEvent;
use torpor::api::types::CreatePod;

use crate::daemon::{self, Daemon, Options, script};

/// Follows a pod's log to its end, whatever becomes of torpord meanwhile, and after `pause` reads on each line.
async fn viewer(client: Client, pod: &str, pause: Duration) -> Vec<String> {
    let (mut seen, mut last): (Vec<String>, Option<String>) = (Vec::new(), None);
    loop {
        let Ok(events) = client.log_events(pod, "", last.as_deref()).await else {
            // torpord is away: nothing tells when it is back.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(LogEvent::Line { id, line }) => {
                    last = Some(id);
                    seen.push(line.line);
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
                Ok(LogEvent::Gap { .. }) => seen.push("gap".into()),
                Ok(LogEvent::End) => return seen,
                Err(_) => break,
            }
        }
    }
}

fn memory(d: &Daemon) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", d.pid().unwrap())).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_get_every_line_once_over_a_restart_and_slow_ones_harm_nobody() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let talk = "n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo line $n; [ $((n%50)) = 0 ] && sleep 0.05; done; read x < /gate";
    let talk = format!("mkfifo /gate; {talk}; echo last");
    d.client.create_pod(&script("talk", &talk)).await.unwrap();
    // Some that take nothing at all: more than the sockets hold is meant for each of them.
    let big = "head -c 3000000 /dev/zero | tr '\\0' x | fold -w 1000; read x < /gate";
    d.client.create_pod(&script("big", &format!("mkfifo /gate; {big}"))).await.unwrap();
    let before = memory(&d);
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut events = Box::pin(d.client.log_events("big", "", None).await.unwrap());
        assert!(events.next().await.unwrap().is_ok());
        stalled.push(events);
    }
    let quick: Vec<_> = (0..40).map(|_| tokio::spawn(viewer(d.client.clone(), "talk", Duration::ZERO))).collect();
    let slow = tokio::spawn(viewer(d.client.clone(), "talk", Duration::from_millis(1)));
    // In the middle of it.
    let mut lines = Box::pin(d.client.log_events("talk", "", None).await.unwrap());
    for _ in 0..1000 {
        lines.next().await.unwrap().unwrap();
    }
    let grown = memory(&d).saturating_sub(before);
    assert!(grown < 60 * 1024, "{grown} KiB for 61 viewers");
    d.kill();
    drop((stalled, lines));
    d.launch();
    d.exec("talk", "echo > /gate").await;
    let wanted: Vec<String> = (1..=3000).map(|n| format!("line {n}")).chain(["last".into()]).collect();
    for viewer in quick.into_iter().chain([slow]) {
        let seen = tokio::time::timeout(Duration::from_secs(120), viewer).await.unwrap().unwrap();
        assert!(seen == wanted, "{} lines, the first that is wrong: {:?}", seen.len(), {
            seen.iter().zip(&wanted).position(|(a, b)| a != b)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_before_is_gone_on_with_or_told_to_be_lost() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::with(Options { config: "log-max-bytes = 4096\nlog-files = 2\n".into(), ..Options::default() });
    d.import("test").await;
    let pod =
        d.client.create_pod(&script("web", "for i in 1 2 3; do echo out $i; echo err $i >&2; done")).await.unwrap();
    d.client.wait("web").await.unwrap();
    let all = async |query: &str, after: Option<&str>| -> Vec<LogEvent> {
        let events = d.client.log_events("web", query, after).await.unwrap();
        events.map(|e| e.unwrap()).collect().await
    };
    let events = all("", None).await;
    assert_eq!((events.len(), events.last()), (7, Some(&LogEvent::End)));
    let LogEvent::Line { id, line } = &events[5] else { panic!("{events:?}") };
    assert!(line.timestamp.parse::<jiff::Timestamp>().is_ok() && id.starts_with(&pod.id), "{id} {line:?}");
    let LogEvent::Line { id: fourth, .. } = &events[3] else { panic!("{events:?}") };
    assert_eq!(all("", Some(fourth)).await, events[4..]);
    assert_eq!(all("follow=false&tail=2", None).await, events[4..]);
    for bad in ["x", "-1", "99999"] {
        let e = d.client.log_events("web", "", Some(bad)).await.err().unwrap();
        assert_eq!(daemon::code(&e), "invalid_request");
    }
    // Another incarnation goes on counting; what was rotated away meanwhile is told.
    let much = "i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo a line that takes some room $i; done";
    d.client.remove("web", true).await.unwrap();
    d.client.create_pod(&CreatePod { start: false, ..script("web", much) }).await.unwrap();
    // An id of the pod that had the name before: all is new.
    d.client.start("web").await.unwrap();
    d.client.wait("web").await.unwrap();
    let events = all("follow=false", Some(fourth)).await;
    assert!(matches!(events[0], LogEvent::Gap { missed: None, .. }), "{:?}", events[0]);
    let first = all("follow=false", None).await;
    assert_eq!(events[1..], first[..]);
    let LogEvent::Line { id, .. } = &first[first.len() - 2] else { panic!() };
    d.client.start("web").await.unwrap();
    d.client.wait("web").await.unwrap();
    let events = all("", Some(id)).await;
    let LogEvent::Gap { missed: Some(missed), .. } = events[0] else { panic!("{:?}", events[0]) };
    assert_eq!(missed + events.len() as u64 - 2, 500, "lost and told");
}
