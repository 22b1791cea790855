//! Names, labels and limits change while a pod runs.

use std::process::Command;

use torpor::api::types::{CreatePod, Pod, Size, UpdatePod};

use crate::daemon::{self, Daemon, get, script};

/// Values of a cgroup's file, v1 or v2, wherever it is there.
fn limit(pod: &Pod, files: [&str; 2]) -> Vec<String> {
    let name = format!("{}-{}", pod.id, pod.incarnation);
    let dirs = crate::support::cgroups(&name);
    let all =
        dirs.iter().flat_map(|dir| files.iter().filter_map(move |file| std::fs::read_to_string(dir.join(file)).ok()));
    all.map(|v| v.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_gets_another_name_other_labels_and_other_limits() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let web = d.counter("web").await;
    d.counter("other").await;
    let e = d.client.rename("web", "other").await.unwrap_err();
    assert_eq!(daemon::code(&e), "name_taken");
    assert_eq!(daemon::code(&d.client.rename("web", "../x").await.unwrap_err()), "invalid_request");
    let site = d.client.rename("web", "site").await.unwrap();
    assert_eq!((site.id.as_str(), site.name.as_str(), site.hostname.as_str()), (web.id.as_str(), "site", "web"));
    assert_eq!(daemon::code(&d.client.inspect("web").await.unwrap_err()), "not_found");
    d.counter("web").await; // the name is free
    d.client.remove("web", true).await.unwrap();

    let change =
        |memory: &str, cpus| UpdatePod { memory: Some(Size::Text(memory.into())), cpus, ..UpdatePod::default() };
    let labels = [("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), Some("2".to_owned()))];
    let more = UpdatePod { labels: labels.into(), pids: Some(200), ..change("600m", Some(1.5)) };
    let site = d.client.update("site", &more).await.unwrap();
    assert_eq!((site.resources.memory, site.resources.cpus, site.resources.pids), (600 << 20, 1.5, 200));
    let memory = ["memory.limit_in_bytes", "memory.max"];
    assert_eq!(limit(&site, memory), [(600_u64 << 20).to_string()]);
    assert_eq!(limit(&site, ["pids.max", "nothing"])[0], "200");
    let cpu = limit(&site, ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(cpu.iter().all(|c| c == "15000" || c == "15000 10000") && !cpu.is_empty(), "{cpu:?}");
    let less = UpdatePod { labels: [("a".to_owned(), None)].into(), ..change("200m", None) };
    let site = d.client.update("site", &less).await.unwrap();
    assert_eq!(limit(&site, memory), [(200_u64 << 20).to_string()]);
    assert_eq!(site.labels.into_iter().collect::<Vec<_>>(), [("b".to_owned(), "2".to_owned())]);

    // What can't be is refused, and nothing has changed.
    d.exec(
        "site",
        "head -c 100000000 /dev/zero | tail -c 90000000 > /dev/shm/big || head -c 90000000 /dev/zero > /big",
    )
    .await;
    let e = d.client.update("site", &change("48m", None)).await.unwrap_err();
    assert_eq!(daemon::code(&e), "in_use", "{e}");
    for bad in [change("1m", None), change("x", None), change("200m", Some(-1.0))] {
        assert_eq!(daemon::code(&d.client.update("site", &bad).await.unwrap_err()), "invalid_request");
    }
    let bad = UpdatePod { restart: Some("x".into()), ..UpdatePod::default() };
    assert_eq!(daemon::code(&d.client.update("site", &bad).await.unwrap_err()), "invalid_request");
    assert_eq!(d.client.inspect("site").await.unwrap().resources.memory, 200 << 20);
    let port = site.ports[0].host;
    assert_eq!(get(port, "/"), "1");

    // It holds for the next start, and over a restart of torpord.
    d.kill();
    d.launch();
    assert_eq!((d.client.inspect("site").await.unwrap().name.as_str(), get(port, "/").as_str()), ("site", "2"));
    d.stop("site").await;
    d.client.update("site", &change("300m", None)).await.unwrap();
    let site = d.client.start("site").await.unwrap();
    assert_eq!(limit(&site, memory), [(300_u64 << 20).to_string()]);
    assert_eq!(d.exec("site", "hostname").await.stdout, "web\n");

    let torpor = |args: &[&str]| {
        let host = format!("unix://{}", d.socket.display());
        Command::new(env!("CARGO_BIN_EXE_torpor")).args(args).env("TORPOR_HOST", host).output().unwrap().status.code()
    };
    assert_eq!(torpor(&["update", "-m", "400m", "--label", "c=3", "--restart", "always", "site"]), Some(0));
    assert_eq!(torpor(&["rename", "site", "back"]), Some(0));
    assert_eq!(torpor(&["update", "back"]), Some(1));
    assert_eq!(torpor(&["update", "--on-shutdown", "sleep", "back"]), Some(0));
    assert_eq!(torpor(&["update", "--on-shutdown", "explode", "back"]), Some(2));
    for (pod, what) in [("one", "sleep"), ("two", "stop")] {
        assert_eq!(torpor(&["create", "--name", pod, "--on-shutdown", what, "test", "true"]), Some(0));
        assert_eq!(d.client.inspect(pod).await.unwrap().on_shutdown, what);
    }
    let run = ["run", "-d", "--name", "three", "--on-shutdown", "sleep", "test", "sleep", "1000"];
    assert_eq!(torpor(&run), Some(0));
    assert_eq!(d.client.inspect("three").await.unwrap().on_shutdown, "sleep");
    let back = d.client.inspect("back").await.unwrap();
    assert_eq!((back.resources.memory, back.labels["c"].as_str(), back.restart.as_str()), (400 << 20, "3", "always"));
    assert_eq!(back.on_shutdown, "sleep");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_come_in_pages() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    for n in 0..5 {
        let labels = [("n".to_owned(), n.to_string()), ("odd".to_owned(), (n % 2).to_string())].into();
        let made = CreatePod { labels, start: n == 0, ..script(&format!("pod-{n}"), "sleep 1000") };
        d.client.create_pod(&made).await.unwrap();
    }
    let names = async |query: &str| {
        let pods = d.client.pods_where(query).await.unwrap();
        pods.into_iter().map(|p| p.name.trim_start_matches("pod-").to_owned()).collect::<Vec<_>>().join("")
    };
    assert_eq!(names("").await, "01234");
    assert_eq!(names("label=odd=1").await, "13");
    assert_eq!(names("label=odd=0&label=n&state=created").await, "24");
    assert_eq!(
        (names("state=running").await, names("state=running&state=created").await),
        ("0".into(), "01234".into())
    );
    assert_eq!((names("name=d-3&name=pod-1").await, names("name=nosuch").await), ("13".into(), "".into()));
    let (mut query, mut seen) = ("limit=2&name=pod".to_owned(), Vec::new());
    loop {
        let (page, next) = d.client.pods_page(&query).await.unwrap();
        seen.push(page.iter().map(|p| p.name.clone()).collect::<Vec<_>>());
        // The last of a page may go.
        if seen.len() == 1 {
            d.client.remove("pod-1", true).await.unwrap();
        }
        match next {
            Some(next) => query = next,
            None => break,
        }
    }
    assert_eq!(seen, [vec!["pod-0", "pod-1"], vec!["pod-2", "pod-3"], vec!["pod-4"]]);
    for bad in ["state=x", "limit=0", "limit=x", "after=x", "nosuch=1"] {
        assert_eq!(daemon::code(&d.client.pods_where(bad).await.unwrap_err()), "invalid_request", "{bad}");
    }
    let said = Command::new(env!("CARGO_BIN_EXE_torpor"))
        .args(["ps", "-f", "state=created", "-f", "label=odd=1"])
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("pod-3") && !text.contains("pod-0") && !text.contains("pod-2"), "{text}");
}
