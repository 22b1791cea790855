//! Health checks.

use std::time::{Duration, Instant};

use futures::StreamExt;
use torpor::api::health::{HealthSpec, HealthState};
use torpor::api::types::{CreatePod, HttpCheck};

use sha2::Digest;

use crate::daemon::{self, Daemon, code, counter, script};

fn command(line: &str) -> HealthSpec {
    HealthSpec {
        command: Some(["sh", "-c", line].map(str::to_owned).to_vec()),
        interval_ms: Some(150),
        timeout_ms: Some(5000),
        retries: Some(2),
        ..HealthSpec::default()
    }
}

/// Waits until a pod's health is so.
async fn until(d: &Daemon, pod: &str, is: impl Fn(&HealthState) -> bool) -> HealthState {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let health = d.client.inspect(pod).await.unwrap().health.expect("it is checked");
        if is(&health) {
            return health;
        }
        assert!(Instant::now() < end, "{health:?}\n{}", d.log());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_s_health_is_seen_told_and_kept() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let events = d.client.events("type=health&pod=web", None).await.unwrap();
    let health = Some(command("echo looking; echo x >> /asked; test -f /well"));
    let made = d.client.create_pod(&CreatePod { health, ..script("web", "sleep 100000") }).await.unwrap();
    assert_eq!(made.health.unwrap().status, "starting");
    let ill = until(&d, "web", |h| h.status == "unhealthy").await;
    assert!(ill.failures >= 2 && ill.results.len() >= 2);
    let last = ill.results.last().unwrap();
    assert_eq!((last.exit_code, last.output.as_str()), (1, "looking\n"));
    assert!(last.ended_at > last.started_at);
    d.exec("web", "touch /well").await;
    let well = until(&d, "web", |h| h.status == "healthy").await;
    assert_eq!((well.failures, well.results.last().unwrap().exit_code), (0, 0));
    let ps = std::process::Command::new(env!("CARGO_BIN_EXE_torpor"))
        .arg("ps")
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&ps.stdout).contains("running (healthy)"));
    let told: Vec<String> = events.take(2).map(|e| e.unwrap().attributes["status"].clone()).collect().await;
    assert_eq!(told, ["unhealthy", "healthy"]);

    // Paused and asleep nothing is asked; awake it goes on where it was, at once.
    let asked = async || -> u64 { d.exec("web", "wc -l < /asked").await.stdout.trim().parse().unwrap() };
    d.client.pause("web").await.unwrap();
    let before = d.client.inspect("web").await.unwrap().health.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(d.client.inspect("web").await.unwrap().health.unwrap(), before);
    d.client.resume("web").await.unwrap();
    let count = asked().await;
    until(&d, "web", |h| h.results != before.results).await;
    assert!(asked().await > count || count > 0);
    d.sleep("web").await;
    let asleep = d.client.inspect("web").await.unwrap().health.unwrap();
    assert_eq!(asleep.status, "healthy");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let awake = d.wake("web").await.health.unwrap();
    assert_eq!((awake.status.as_str(), &awake.results[0]), ("healthy", &asleep.results[0]));
    until(&d, "web", |h| h.results.last() != asleep.results.last()).await;

    // So it is over a killed torpord, and a pod that is started anew begins anew.
    d.kill();
    d.launch();
    let after = d.client.inspect("web").await.unwrap().health.unwrap();
    assert_eq!(after.status, "healthy");
    d.exec("web", "rm /well").await;
    until(&d, "web", |h| h.status == "unhealthy").await;
    d.stop("web").await;
    let again = d.client.start("web").await.unwrap().health.unwrap();
    assert_eq!((again.status.as_str(), again.failures), ("starting", 0));
    // No check of before is left running.
    let end = Instant::now() + Duration::from_secs(20);
    while d.exec("web", "ps | grep -c '[l]ooking'").await.stdout.trim().parse::<u32>().unwrap() > 1 {
        assert!(Instant::now() < end);
    }
}

/// As `docker save` writes it.
fn saved(config: &serde_json::Value, layer: &[u8]) -> Vec<u8> {
    let digest: String = sha2::Sha256::digest(layer).iter().map(|b| format!("{b:02x}")).collect();
    let rootfs = serde_json::json!({"type": "layers", "diff_ids": [format!("sha256:{digest}")]});
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": config, "rootfs": rootfs});
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["own:1"], "Layers": ["layer.tar"]}]);
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("manifest.json", manifest.to_string().as_bytes()),
        ("config.json", config.to_string().as_bytes()),
        ("layer.tar", layer),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_s_own_check_is_shown_and_made() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let check = serde_json::json!({"Test": ["CMD-SHELL", "echo fine"], "Interval": 200_000_000_u64, "Retries": 7});
    let bytes = saved(&serde_json::json!({"Healthcheck": check}), &std::fs::read(daemon::image()).unwrap());
    let stream = futures::stream::iter([Ok(bytes::Bytes::from(bytes))]);
    let image = d.client.import("test", None, stream, &mut |_| ()).await.unwrap();
    let shown = d.client.inspect_image("test").await.unwrap().config.health.unwrap();
    assert_eq!(Some(&shown), image.config.health.as_ref());
    assert_eq!((shown.interval_ms, shown.retries, shown.http.is_none()), (Some(200), Some(7), true));
    assert!(shown.command.unwrap().contains(&"echo fine".to_owned()));
    d.client.create_pod(&script("web", "sleep 100000")).await.unwrap();
    let well = until(&d, "web", |h| h.status == "healthy").await;
    assert_eq!(well.results.last().unwrap().output, "fine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_by_http_by_time_and_what_can_not_be_asked() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let quick = HealthSpec { interval_ms: Some(150), retries: Some(1), ..HealthSpec::default() };
    let http = |port| HealthSpec { http: Some(HttpCheck { port, path: Some("/up".into()) }), ..quick.clone() };
    d.client.create_pod(&CreatePod { health: Some(http(80)), ..counter("web") }).await.unwrap();
    let well = until(&d, "web", |h| h.status == "healthy").await;
    assert!(well.results[0].output.starts_with("HTTP/1.0 200 OK"), "{well:?}");
    d.client.create_pod(&CreatePod { health: Some(http(81)), ..counter("shut") }).await.unwrap();
    let ill = until(&d, "shut", |h| h.status == "unhealthy").await;
    assert!(ill.results[0].output.contains("refused"), "{ill:?}");
    let slow = HealthSpec { timeout_ms: Some(200), ..command("sleep 1000") };
    d.client.create_pod(&CreatePod { health: Some(slow), ..counter("slow") }).await.unwrap();
    let ill = until(&d, "slow", |h| h.status == "unhealthy").await;
    assert_eq!(ill.results[0].exit_code, -1);
    assert_eq!(d.exec("slow", "ps | grep -c '[s]leep 1000'").await.stdout.trim().parse::<u32>().unwrap() / 3, 0);
    let missing = HealthSpec { command: Some(vec!["nosuch".into()]), ..quick.clone() };
    d.client.create_pod(&CreatePod { health: Some(missing), ..counter("missing") }).await.unwrap();
    assert_eq!(until(&d, "missing", |h| h.status == "unhealthy").await.results[0].exit_code, 127);
    // What says very much is not kept, and costs nobody anything.
    let loud = HealthSpec { timeout_ms: Some(60_000), ..command("head -c 300000 /dev/zero | tr '\\0' x") };
    d.client.create_pod(&CreatePod { health: Some(loud), ..counter("loud") }).await.unwrap();
    assert_eq!(until(&d, "loud", |h| !h.results.is_empty()).await.results[0].output.len(), 4096);
    // In its start period failures don't count.
    let patient = HealthSpec { start_period_ms: Some(3_600_000), ..command("exit 3") };
    d.client.create_pod(&CreatePod { health: Some(patient), ..counter("patient") }).await.unwrap();
    let young = until(&d, "patient", |h| h.results.len() == 5).await;
    assert_eq!((young.status.as_str(), young.failures), ("starting", 0));
    assert!(d.counter("none").await.health.is_none());
    for bad in [
        HealthSpec { interval_ms: Some(9), ..quick.clone() },
        HealthSpec { command: Some(vec![]), ..quick.clone() },
        HealthSpec { interval_ms: Some(1), ..command("true") },
        HealthSpec { retries: Some(0), ..command("true") },
        HealthSpec { timeout_ms: Some(0), ..command("true") },
        HealthSpec { http: Some(HttpCheck { port: 0, path: None }), ..quick.clone() },
        HealthSpec { http: Some(HttpCheck { port: 1, path: Some("x y".into()) }), ..quick.clone() },
        HealthSpec { disable: true, ..command("true") },
    ] {
        let e = d.client.create_pod(&CreatePod { health: Some(bad.clone()), ..counter("bad") }).await.unwrap_err();
        assert_eq!(code(&e), "invalid_request", "{bad:?}");
    }
}
