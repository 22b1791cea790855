//! What monitoring is told is what happened, in a format that it reads; and where the time of an operation went.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use torpor::api::client::Client;
use torpor::api::types::CreateToken;

use crate::daemon::{self, Daemon, Options, code, script};
use crate::exposition::Exposition;
use crate::support;

/// Names of metrics that a text speaks of.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|w| w.starts_with("torpor_") || w.starts_with("process_")).map(str::to_owned).collect()
}

/// The answer to `GET path` on the socket, with one more header.
fn ask(socket: &Path, path: &str, header: &str) -> String {
    let mut s = std::os::unix::net::UnixStream::connect(socket).unwrap();
    s.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).unwrap();
    text
}

/// Prometheus' own judge.
fn promtool(args: &[&str], input: &str) {
    let there = Command::new("promtool").arg("--version").output().is_ok();
    if !support::has("promtool", there) {
        return;
    }
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
    assert!(out.status.success(), "promtool {args:?}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted_and_read_by_prometheus() {
    if !daemon::ready() {
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!("[[listen]]\naddress = '127.0.0.1:{port}'\n");
    let d = Daemon::with(Options { config, ..Options::default() });
    // Before the first pod, too.
    let before = Exposition::read(&d.client.metrics().await.unwrap());
    assert_eq!(before.value("torpor_pods", &[("state", "running")]), Some(0.0));
    d.import("test").await;
    let web = d.counter("web").await;
    daemon::get(web.ports[0].host, "/");
    d.sleep("web").await;
    d.wake("web").await;
    d.client.create_pod(&script("ends", "exit 3")).await.unwrap();
    d.client.wait("ends").await.unwrap();
    let wrong = d.client.sleep("ends", &mut |_| ()).await.unwrap_err();
    assert_eq!(code(&wrong), "wrong_state");
    for n in 0..40 {
        ask(&d.socket, &format!("/v1/nosuch/{n}"), "");
        let _ = d.client.inspect(&format!("pod-{n}")).await;
    }

    let text = d.client.metrics().await.unwrap();
    let seen = Exposition::read(&text);
    let value = |name: &str, labels: &[(&str, &str)]| {
        seen.value(name, labels).unwrap_or_else(|| panic!("{name} {labels:?} is not in\n{text}"))
    };
    assert_eq!(
        (value("torpor_pods", &[("state", "running")]), value("torpor_pods", &[("state", "stopped")])),
        (1.0, 1.0)
    );
    for operation in ["create", "sleep", "wake"] {
        let count = value("torpor_pod_operation_duration_seconds_count", &[("operation", operation)]);
        assert_eq!(count, if operation == "create" { 2.0 } else { 1.0 }, "{operation}");
        assert!(value("torpor_pod_operation_duration_seconds_sum", &[("operation", operation)]) > 0.001);
    }
    let failed = [("operation", "sleep"), ("code", "wrong_state")];
    assert_eq!(value("torpor_pod_operation_failures_total", &failed), 1.0);
    assert_eq!(value("torpor_pod_exits_total", &[("reason", "exited")]), 1.0);
    assert!(value("torpor_store_requests_total", &[("request", "put")]) > 1.0);
    assert_eq!(value("torpor_store_request_failures_total", &[("request", "put")]), 0.0);
    assert!(value("torpor_sandboxes_cpu_seconds_total", &[]) > 0.01);
    assert!(value("torpor_sandboxes_memory_bytes", &[]) > 5e6);
    assert!(value("torpor_network_receive_bytes_total", &[]) > 100.0);
    let promised = value("torpor_capacity_promised_bytes", &[("resource", "memory")]);
    assert_eq!(promised, 256.0 * 1024.0 * 1024.0);
    assert!(value("torpor_capacity_limit_bytes", &[("resource", "memory")]) >= promised);
    assert!(value("process_resident_memory_bytes", &[]) > 1e6 && value("process_open_fds", &[]) > 5.0);
    assert_eq!(value("torpor_healthy", &[]), 1.0);
    assert!(seen.series.keys().any(|(name, labels)| {
        name == "torpor_build_info" && labels.get("version").is_some_and(|v| v == env!("CARGO_PKG_VERSION"))
    }));
    // However many paths are asked for, there are as many series as routes and statuses.
    let routes: BTreeSet<_> = seen
        .series
        .keys()
        .filter(|(n, _)| n == "torpor_http_requests_total")
        .map(|(_, l)| l["route"].clone())
        .collect();
    assert!(routes.contains("other") && routes.contains("/v1/pods/{pod}"), "{routes:?}");
    assert!(routes.iter().all(|r| r == "other" || !r.contains("nosuch") && !r.contains("pod-")), "{routes:?}");
    assert!(!text.contains("web"), "pods are shown if that is asked for");
    promtool(&["check", "metrics"], &text);

    // One by one, and in the newer format.
    let each = Exposition::read(&body(&ask(&d.socket, "/metrics?pods=true", "")));
    let of_web = [("pod", "web"), ("id", web.id.as_str())];
    assert!(each.value("torpor_pod_cpu_seconds_total", &of_web).unwrap() > 0.001);
    assert_eq!(each.value("torpor_pod_memory_limit_bytes", &of_web), Some(256.0 * 1024.0 * 1024.0));
    let newer = ask(&d.socket, "/metrics", "accept: application/openmetrics-text; version=1.0.0\r\n");
    assert!(newer.to_ascii_lowercase().contains("content-type: application/openmetrics-text"), "{newer}");
    assert!(body(&newer).ends_with("# EOF\n"));

    // By TCP for those who may look at all.
    let token = async |scope: &str, pod: Option<&str>| {
        let request = CreateToken { scope: scope.into(), pod: pod.map(str::to_owned), ..CreateToken::default() };
        let text = d.client.create_token(&request).await.unwrap().secret;
        Client::new(&format!("tcp://127.0.0.1:{port}")).unwrap().with_token(&text).unwrap()
    };
    Exposition::read(&token("read-only", None).await.metrics().await.unwrap());
    assert_eq!(code(&token("pod", Some("web")).await.metrics().await.unwrap_err()), "forbidden");
    let nobody = Client::new(&format!("tcp://127.0.0.1:{port}")).unwrap();
    assert_eq!(code(&nobody.metrics().await.unwrap_err()), "unauthorized");

    // Where the time went.
    let traces = d.client.traces(Some("web")).await.unwrap();
    let done: Vec<_> = traces.iter().map(|t| (t.operation.as_str(), t.outcome.as_str())).collect();
    assert_eq!(done, [("create", "ok"), ("sleep", "ok"), ("wake", "ok")]);
    let steps = |n: usize| traces[n].steps.iter().map(|s| s.name.as_str()).collect::<BTreeSet<_>>();
    for (n, wanted) in [
        (0, &["record", "network", "root", "shim", "runsc create", "runsc start", "launch", "ready"][..]),
        (1, &["layers", "quiesce", "pause", "checkpoint", "upload", "manifest", "teardown"]),
        (2, &["fetch", "runsc create", "runsc restore", "identify", "ready"]),
    ] {
        let missing: Vec<_> = wanted.iter().filter(|w| !steps(n).contains(**w)).collect();
        assert!(missing.is_empty(), "{missing:?} of {:?}", traces[n]);
        assert!(traces[n].steps.iter().all(|s| s.after_us + s.took_us <= traces[n].took_us + 1000), "{:?}", traces[n]);
    }
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("traceparent: 00-{id}-00f067aa0ba902b7-01\r\n");
    let mut s = std::os::unix::net::UnixStream::connect(&d.socket).unwrap();
    let head = format!("POST /v1/pods/web/sleep HTTP/1.1\r\nhost: x\r\n{parent}connection: close\r\n\r\n");
    s.write_all(head.as_bytes()).unwrap();
    s.read_to_string(&mut String::new()).unwrap();
    assert_eq!(d.client.traces(Some("web")).await.unwrap().last().unwrap().id, id);
    assert_eq!(code(&d.client.traces(Some("nosuch")).await.unwrap_err()), "not_found");
    let said = Command::new(env!("CARGO_BIN_EXE_torpor"))
        .args(["trace", "web"])
        .env("TORPOR_HOST", format!("unix://{}", d.socket.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("runsc restore") && said.contains("###"), "{said}");

    // What rules and pictures ask for is there.
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/monitoring");
    let there = each.names();
    for file in ["alerts.yml", "dashboard.json"] {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        let missing: Vec<_> = named(&text).into_iter().filter(|n| !there.contains(n)).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}");
    }
    promtool(&["check", "rules", &dir.join("alerts.yml").display().to_string()], "");
}

/// A body that came in chunks or not.
fn body(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        whole.push_str(&more[..length]);
        rest = more.get(length + 2..).unwrap_or_default();
    }
    whole
}
