//! Sleep, wake, snapshots, and another host.

use torpor::api::types::{VolumeSpec, WakePod};

use crate::daemon::{self, Daemon, Options, get, script, try_get};
use crate::{s3, support};

/// Both engines that must work.
pub fn engines() -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = support::runsc().into_iter().collect();
    let old = all[0].with_file_name("runsc-20240729");
    if support::has("runsc-20240729", old.is_file()) {
        all.push(old);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_sleeps_and_goes_on_where_it_was() {
    if !daemon::ready() {
        return;
    }
    for runsc in engines() {
        let d = Daemon::with(Options { runsc: Some(runsc.clone()), ..Options::default() });
        d.import("test").await;
        let pod = d.counter("web").await;
        let port = pod.ports[0].host;
        assert_eq!(get(port, "/"), "1");
        get(port, "/hold?8");
        let sum = get(port, "/sum");
        // A program that was started by exec goes on too.
        let client = d.client.clone();
        d.exec("web", "(i=0; while :; do i=$((i+1)); echo $i > /tmp/n; sleep 0.02; done) > /dev/null 2>&1 &").await;
        let asleep = d.sleep("web").await;
        assert_eq!((asleep.state.as_str(), asleep.sandbox_pid), ("sleeping", None), "{}", runsc.display());
        assert!(!std::path::Path::new(&format!("/proc/{}", pod.sandbox_pid.unwrap())).exists());
        assert!(try_get(([127, 0, 0, 1], port).into(), "/").is_none(), "a sleeper does not answer");
        let awake = d.wake("web").await;
        assert_eq!((awake.state.as_str(), &awake.address, &awake.ports), ("running", &pod.address, &pod.ports));
        assert_eq!((get(port, "/"), get(port, "/sum")), ("2".into(), sum));
        let first: u64 = d.exec("web", "cat /tmp/n").await.stdout.trim().parse().unwrap();
        let mut second = first;
        for _ in 0..200 {
            second = d.exec("web", "cat /tmp/n").await.stdout.trim().parse().unwrap_or(first);
            if second > first {
                break;
            }
        }
        assert!(second > first, "what exec started goes on");
        // From the store, once the raw image is gone.
        d.sleep("web").await;
        let mut d = d;
        d.terminate();
        std::fs::remove_dir_all(d.dir.join("state/cache")).unwrap();
        d.launch();
        assert_eq!(d.client.inspect("web").await.unwrap().state, "sleeping");
        d.wake("web").await;
        assert_eq!(get(port, "/"), "3");
        // A cold start is asked for.
        d.sleep("web").await;
        client.wake("web", &WakePod { cold: true, ..WakePod::default() }, &mut |_| ()).await.unwrap();
        assert_eq!(get(port, "/"), "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_become_new_pods_and_old_states() {
    if !daemon::ready() {
        return;
    }
    for runsc in engines() {
        become_new_pods_and_old_states(Options { runsc: Some(runsc), ..Options::default() }).await;
    }
}

async fn become_new_pods_and_old_states(options: Options) {
    // The older engine gives a copy back the name that its kernel had, and init may not change that.
    let renames = !options.runsc.as_ref().is_some_and(|r| r.ends_with("runsc-20240729"));
    let d = Daemon::with(options);
    d.import("test").await;
    let pod = d.counter("web").await;
    let port = pod.ports[0].host;
    assert_eq!(get(port, "/"), "1");
    d.exec("web", "echo before > /state").await;
    let taken = d.client.snapshot("web", &mut |_| ()).await.unwrap();
    assert_eq!(get(port, "/"), "2", "the pod goes on");
    d.exec("web", "echo after > /state").await;
    let copy = d.client.restore_snapshot(&taken.id, Some("copy".into()), &mut |_| ()).await.unwrap();
    assert_ne!((&copy.address, copy.ports[0].host), (&pod.address, port));
    assert_eq!(get(copy.ports[0].host, "/"), "2");
    let name = if renames { "copy" } else { "web" };
    let says = d.exec("copy", "hostname; cat /etc/hostname /state").await.stdout;
    assert_eq!(says, format!("{name}\ncopy\nbefore\n"));
    assert_eq!(d.exec("web", "hostname; cat /etc/hostname /state").await.stdout, "web\nweb\nafter\n");
    let back = d.client.restore("web", &taken.id[..8], &mut |_| ()).await.unwrap();
    assert_eq!((&back.address, &back.ports), (&pod.address, &pod.ports));
    assert_eq!(get(port, "/"), "2");
    assert_eq!(d.exec("web", "cat /state").await.stdout, "before\n");
    let e = d.client.restore("copy", &taken.id, &mut |_| ()).await.unwrap_err();
    assert_eq!(daemon::code(&e), "invalid_request");
    // It outlives its pod, and goes when asked.
    d.client.remove("web", true).await.unwrap();
    assert_eq!(d.client.snapshots().await.unwrap().iter().map(|s| &s.id).collect::<Vec<_>>(), [&taken.id]);
    d.client.remove_snapshot(&taken.id).await.unwrap();
    let e = d.client.restore_snapshot(&taken.id, None, &mut |_| ()).await.unwrap_err();
    assert_eq!(daemon::code(&e), "not_found");
}

/// A daemon whose store is that server.
pub fn on(server: &s3::Server) -> Options {
    Options {
        store: Some("s3://bucket/some/prefix".into()),
        config: "store-allow-http = true\n".into(),
        env: server.environment(),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_daemon_that_shares_an_s3_store_restores_the_snapshot() {
    if !daemon::ready() {
        return;
    }
    let Some(server) = s3::Server::start() else { return };
    let here = Daemon::with(on(&server));
    here.import("test").await;
    let pod = here.counter("web").await;
    assert_eq!(get(pod.ports[0].host, "/"), "1");
    get(pod.ports[0].host, "/hold?40");
    let sum = get(pod.ports[0].host, "/sum");
    here.exec("web", "mkdir /dir; echo kept > /dir/file; rm -r /www; mkdir /www").await;
    here.stop("web").await; // its root becomes a layer of its own, which travels too
    here.client.start("web").await.unwrap();
    get(pod.ports[0].host, "/hold?40");
    assert_eq!(get(pod.ports[0].host, "/"), "1");
    let taken = here.client.snapshot("web", &mut |_| ()).await.unwrap();
    assert!(taken.stored > 0 && taken.stored < taken.size);

    let there = Daemon::with(on(&server));
    assert_eq!(there.client.snapshots().await.unwrap(), std::slice::from_ref(&taken));
    let copy = there.client.restore_snapshot(&taken.id, None, &mut |_| ()).await.unwrap();
    assert_eq!(copy.name, "web-copy");
    let port = copy.ports[0].host;
    assert_eq!((get(port, "/"), get(port, "/sum")), ("2".into(), sum));
    assert_eq!(there.exec("web-copy", "cat /dir/file; ls /www").await.stdout, "kept\n");
    there.sleep("web-copy").await;
    there.wake("web-copy").await;
    assert_eq!(get(port, "/"), "3");

    // A named volume does not travel: what is missing is named before anything is made.
    let mut with = script("with", "while :; do usleep 10000; done");
    with.volumes = vec![VolumeSpec { source: "data".into(), target: "/data".into(), read_only: false }];
    here.client.create_pod(&with).await.unwrap();
    let taken = here.client.snapshot("with", &mut |_| ()).await.unwrap();
    let e = there.client.restore_snapshot(&taken.id, None, &mut |_| ()).await.unwrap_err();
    assert_eq!(daemon::code(&e), "incompatible");
    assert!(e.to_string().contains("volume data at /data"), "{e}");
    assert_eq!(there.client.pods().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_costs_a_pod_nothing() {
    if !daemon::ready() {
        return;
    }
    let Some(mut server) = s3::Server::start() else { return };
    let d = Daemon::with(on(&server));
    d.import("test").await;
    let pod = d.counter("web").await;
    let port = pod.ports[0].host;
    assert_eq!(get(port, "/"), "1");
    server.stop();
    let e = d.client.sleep("web", &mut |_| ()).await.unwrap_err();
    assert_eq!(daemon::code(&e), "store_unavailable", "{e}");
    let now = d.client.inspect("web").await.unwrap();
    assert_eq!((now.state.as_str(), now.sandbox_pid, now.incarnation), ("running", pod.sandbox_pid, 1));
    assert_eq!(get(port, "/"), "2");
    let findings = d.client.doctor().await.unwrap().findings;
    assert!(findings.iter().any(|f| f.check == "store" && f.status == "fail"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_told_plainly_and_kept() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let pod = d.counter("web").await;
    assert_eq!(get(pod.ports[0].host, "/"), "1");
    let asleep = d.sleep("web").await;
    d.terminate();
    std::fs::remove_dir_all(d.dir.join("state/cache")).unwrap();
    let pack = d.dir.join("state/store/v1/packs").join(asleep.snapshot.unwrap()).join("0");
    let good = std::fs::read(&pack).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&pack, &bad).unwrap();
    d.launch();
    let e = d.client.wake("web", &WakePod::default(), &mut |_| ()).await.unwrap_err();
    assert_eq!(daemon::code(&e), "damaged", "{e}");
    assert_eq!(d.client.inspect("web").await.unwrap().state, "sleeping");
    std::fs::write(&pack, &good).unwrap();
    d.wake("web").await;
    assert_eq!(get(pod.ports[0].host, "/"), "2");
}
