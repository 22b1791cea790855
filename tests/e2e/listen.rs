//! Listeners on TCP: who may do what, and what hostile clients can't.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::Value;
use torpor::api::client::Client;
use torpor::api::types::{CreatePod, CreateToken, ExecPod, NewToken, RotateToken, VolumeSpec};

use crate::daemon::{self, Daemon, Options, code, script};

/// A port that is free now.
pub(crate) fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A torpord with a listener at that port; more of its configuration.
pub(crate) fn with(port: u16, listen: &str, more: &str) -> Daemon {
    let config = format!("{more}\n[[listen]]\naddress = '127.0.0.1:{port}'\n{listen}\n");
    Daemon::with(Options { config, ..Options::default() })
}

pub(crate) async fn token(d: &Daemon, scope: &str, pod: Option<&str>) -> String {
    let request = CreateToken { scope: scope.into(), pod: pod.map(str::to_owned), ..CreateToken::default() };
    d.client.create_token(&request).await.unwrap().secret
}

pub(crate) fn bearer(port: u16, token: &str) -> Client {
    Client::new(&format!("tcp://127.0.0.1:{port}")).unwrap().with_token(token).unwrap()
}

/// Status, headers and body of the answer to a request whose head lacks its last empty line.
fn ask(port: u16, head: &str) -> (u16, String, Value) {
    let mut s = TcpStream::connect(local(port)).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    s.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or_default())
}

fn get(port: u16, path: &str, more: &str) -> (u16, String, Value) {
    ask(port, &format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{more}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_may_what_its_scope_says() {
    if !daemon::ready() {
        return;
    }
    let port = free();
    let root = tempfile::tempdir().unwrap();
    let inside = root.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::os::unix::fs::symlink("/etc", root.path().join("link")).unwrap();
    let d = with(port, "", &format!("token-host-paths = ['{}']", root.path().display()));
    d.import("test").await;
    let web = d.client.create_pod(&script("web", "sleep 1000")).await.unwrap();
    let other = d.client.create_pod(&script("other", "sleep 1000")).await.unwrap();

    // Nothing without a token but what says that it lives.
    let (status, head, problem) = get(port, "/v1/pods", "");
    assert_eq!((status, problem["code"].as_str()), (401, Some("unauthorized")));
    assert!(head.contains("www-authenticate: bearer") && head.contains("application/problem+json"), "{head}");
    assert!(head.contains("x-request-id") && !problem["requestId"].as_str().unwrap().is_empty());
    assert_eq!(get(port, "/v1/nosuch", "").0, 401);
    assert_eq!((get(port, "/health", "").0, get(port, "/openapi.json", "").0), (200, 200));

    let admin = bearer(port, &token(&d, "admin", None).await);
    let pods = bearer(port, &token(&d, "pods", None).await);
    let read = bearer(port, &token(&d, "read-only", None).await);
    let one = bearer(port, &token(&d, "pod", Some("web")).await);
    let names = async |c: &Client| c.pods().await.unwrap().into_iter().map(|p| p.name).collect::<Vec<_>>();
    for client in [&admin, &pods, &read] {
        assert_eq!(names(client).await, ["web", "other"]);
        assert_eq!(client.images().await.unwrap().len(), 1);
    }
    let denied = |e| assert_eq!(code(&e), "forbidden", "{e}");
    let exec = ExecPod { command: vec!["true".into()], ..ExecPod::default() };
    denied(read.exec("web", &exec).await.unwrap_err());
    denied(read.create_pod(&script("x", "true")).await.unwrap_err());
    denied(read.remove("web", true).await.unwrap_err());
    denied(pods.tokens().await.unwrap_err());
    denied(pods.remove_image("test").await.unwrap_err());
    denied(pods.create_token(&CreateToken { scope: "admin".into(), ..CreateToken::default() }).await.unwrap_err());
    denied(one.create_pod(&script("x", "true")).await.unwrap_err());
    denied(one.images().await.unwrap_err());
    denied(one.rename("web", "x").await.unwrap_err());
    assert_eq!(admin.tokens().await.unwrap().len(), 4);

    // One pod: by its name and id, and no other is there.
    assert_eq!(names(&one).await, ["web"]);
    assert_eq!(one.exec("web", &exec).await.unwrap().exit_code, 0);
    assert_eq!(one.inspect(&web.id[..8]).await.unwrap().id, web.id);
    for reference in ["other", &other.id, &other.id[..8], "nosuch"] {
        assert_eq!(code(&one.inspect(reference).await.unwrap_err()), "not_found");
        assert_eq!(code(&one.exec(reference, &exec).await.unwrap_err()), "not_found");
    }
    // It is held to the pod, not to its name; a pod that is called by its id is not it.
    d.client.rename("web", "was-web").await.unwrap();
    d.client.rename("other", "web").await.unwrap();
    assert_eq!(code(&one.inspect("web").await.unwrap_err()), "not_found");
    d.client.rename(&other.id, &web.id).await.unwrap();
    assert_eq!(one.inspect(&web.id).await.unwrap().name, "was-web");
    let mut events = std::pin::pin!(one.events("since=2020-01-01T00:00:00Z", None).await.unwrap());
    d.client.stop(&other.id, &Default::default()).await.unwrap();
    d.client.kill("was-web", "KILL").await.unwrap();
    while let Some(event) = events.next().await {
        let event = event.unwrap();
        assert_eq!(event.pod.as_deref(), Some(web.id.as_str()), "{event:?}");
        if event.r#type == "exited" {
            break;
        }
    }

    // The host's directories: those below the root, by no link and no way round.
    let volume = |source: &str| CreatePod {
        volumes: vec![VolumeSpec { source: source.into(), target: "/v".into(), read_only: true }],
        ..script("v", "true")
    };
    for (source, expected) in [
        ("/etc".to_owned(), "forbidden"),
        (format!("{}/../x", root.path().display()), "forbidden"),
        (format!("{}x", root.path().display()), "forbidden"),
        (format!("{}/link", root.path().display()), "invalid_request"),
    ] {
        for client in [&pods, &admin] {
            assert_eq!(code(&client.create_pod(&volume(&source)).await.unwrap_err()), expected, "{source}");
        }
    }
    pods.create_pod(&volume(inside.to_str().unwrap())).await.unwrap();
    pods.remove("v", true).await.unwrap();
    pods.create_pod(&volume("named")).await.unwrap();
    denied(admin.import_directory("x", None, "/etc", &mut |_| ()).await.unwrap_err());
    // A snapshot carries its pod's volumes: a copy is a pod with them.
    d.client
        .create_pod(&CreatePod {
            name: Some("etc".into()),
            command: vec!["sleep".into(), "1000".into()],
            ..volume("/etc")
        })
        .await
        .unwrap();
    let snapshot = d.client.snapshot("etc", &mut |_| ()).await.unwrap();
    denied(pods.restore_snapshot(&snapshot.id, None, &mut |_| ()).await.unwrap_err());
    assert_eq!(code(&one.inspect_snapshot(&snapshot.id).await.unwrap_err()), "not_found");
    assert!(one.snapshots().await.unwrap().is_empty() && pods.snapshots().await.unwrap().len() == 1);
    // With the pod its token is gone.
    d.client.remove(&web.id, true).await.unwrap();
    assert_eq!(code(&one.pods().await.unwrap_err()), "unauthorized");
    assert_eq!(d.client.tokens().await.unwrap().len(), 3);
}

/// Whether a stream ends, in time.
async fn ends<T>(stream: impl futures::Stream<Item = T>) -> bool {
    let all = stream.for_each(|_| std::future::ready(()));
    tokio::time::timeout(Duration::from_secs(15), all).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_replaced_and_revoked_and_what_is_open_by_it_ends() {
    if !daemon::ready() {
        return;
    }
    let (port, second) = (free(), free());
    let mut d = with(port, &format!("[[listen]]\naddress = '127.0.0.1:{second}'\nquery-token = true"), "");
    let make = CreateToken { name: Some("ci".into()), scope: "read-only".into(), ..CreateToken::default() };
    let NewToken { token, secret: old } = d.client.create_token(&make).await.unwrap();
    assert!(old.starts_with(&format!("torpor_{}_", token.id)) && old.len() == 84, "{}", old.len());
    assert_eq!(code(&d.client.create_token(&make).await.unwrap_err()), "name_taken");

    // It is good after a restart, and at both listeners.
    d.kill();
    d.launch();
    for at in [port, second] {
        assert!(bearer(at, &old).pods().await.unwrap().is_empty());
    }
    let by_old = bearer(port, &old).events("", None).await.unwrap();
    let rotated = d.client.rotate_token("ci", &RotateToken { overlap_seconds: 4 }).await.unwrap();
    assert!(rotated.token.old_until.is_some());
    let new = bearer(second, &rotated.secret);
    let begun = Instant::now();
    bearer(port, &old).pods().await.unwrap();
    new.pods().await.unwrap();
    let by_new = new.events("", None).await.unwrap();
    assert!(ends(by_old).await && begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(code(&bearer(port, &old).pods().await.unwrap_err()), "unauthorized");
    new.pods().await.unwrap();

    // Tickets: once, and where the address is all that can be said.
    let ticket = new.ticket().await.unwrap().ticket;
    let sse = |query: &str| {
        let mut s = TcpStream::connect(local(second)).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        s.write_all(format!("GET /v1/events?{query} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut head = [0; 12];
        s.read_exact(&mut head).unwrap();
        (String::from_utf8(head.to_vec()).unwrap()[9..].to_owned(), s)
    };
    let (status, mut by_ticket) = sse(&format!("ticket={ticket}&type=started"));
    assert_eq!((status.as_str(), sse(&format!("ticket={ticket}")).0.as_str()), ("200", "401"));
    assert_eq!(sse(&format!("token={}", rotated.secret)).0, "200");
    let at_pods = new.ticket().await.unwrap().ticket;
    assert_eq!(get(second, &format!("/v1/pods?ticket={at_pods}"), "").0, 401);
    assert_eq!(get(second, &format!("/v1/pods?token={}", rotated.secret), "").0, 401);
    // Where it is not configured, a token in a query is none.
    assert_eq!(get(port, &format!("/v1/events?token={}", rotated.secret), "").0, 401);
    assert_eq!(code(&d.client.ticket().await.unwrap_err()), "wrong_state");

    d.client.revoke_token(&token.id).await.unwrap();
    let begun = Instant::now();
    assert!(ends(by_new).await && begun.elapsed() < Duration::from_secs(3));
    by_ticket.read_to_end(&mut Vec::new()).ok();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(code(&new.pods().await.unwrap_err()), "unauthorized");
    assert_eq!(code(&d.client.revoke_token(&token.id).await.unwrap_err()), "not_found");
    // What was revoked is so after a crash.
    d.kill();
    d.launch();
    assert_eq!(code(&new.pods().await.unwrap_err()), "unauthorized");

    let short = CreateToken { expires_in_seconds: Some(3), scope: "admin".into(), ..CreateToken::default() };
    let short = d.client.create_token(&short).await.unwrap();
    let open = bearer(port, &short.secret).events("", None).await.unwrap();
    assert!(ends(open).await, "a stream outlives its token");
    assert!(d.client.tokens().await.unwrap()[0].expired);
    assert_eq!(
        code(&d.client.rotate_token(&short.token.id, &RotateToken::default()).await.unwrap_err()),
        "wrong_state"
    );
    for wrong in [
        CreateToken { scope: "root".into(), ..CreateToken::default() },
        CreateToken { scope: "pod".into(), ..CreateToken::default() },
        CreateToken { scope: "pods".into(), pod: Some("x".into()), ..CreateToken::default() },
        CreateToken { scope: "pods".into(), name: Some("../x".into()), ..CreateToken::default() },
        CreateToken { scope: "pods".into(), expires_in_seconds: Some(0), ..CreateToken::default() },
        CreateToken { scope: "pods".into(), expires_in_seconds: Some(u64::MAX), ..CreateToken::default() },
    ] {
        assert_eq!(code(&d.client.create_token(&wrong).await.unwrap_err()), "invalid_request", "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_names_and_pages_are_refused() {
    if !daemon::ready() {
        return;
    }
    let port = free();
    let d = with(port, "hosts = ['torpor.example']\ncors = ['https://app.example']", "");
    let good = token(&d, "admin", None).await;
    let auth = format!("authorization: Bearer {good}\r\n");
    let named = |host: &str, more: &str| {
        let (status, head, problem) = ask(port, &format!("GET /v1/pods HTTP/1.1\r\nhost: {host}\r\n{auth}{more}"));
        (status, problem["code"].as_str().unwrap_or_default().to_owned(), head)
    };
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "torpor.example.evil.example"] {
        assert_eq!(named(host, "").1, "forbidden", "{host}");
    }
    for host in ["torpor.example", "localhost:1", "[::1]"] {
        assert_eq!(named(host, "").0, 200, "{host}");
    }
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    for origin in ["https://evil.example", "null", "http://app.example"] {
        assert_eq!(named("localhost", &format!("origin: {origin}\r\n")).1, "forbidden", "{origin}");
        assert_eq!(named("localhost", &format!("origin: {origin}\r\n{upgrade}")).1, "forbidden", "{origin}");
    }
    let (status, _, head) = named("localhost", "origin: https://app.example\r\n");
    assert!(status == 200 && head.contains("access-control-allow-origin: https://app.example"), "{head}");
    // A page is told what is wrong, too.
    let (status, head, _) = get(port, "/v1/pods", "origin: https://app.example\r\n");
    assert!(status == 401 && head.contains("access-control-allow-origin: https://app.example"), "{head}");
    let preflight = |origin: &str| {
        let more = "access-control-request-method: DELETE\r\naccess-control-request-headers: authorization\r\n";
        ask(port, &format!("OPTIONS /v1/pods/x HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\n{more}"))
    };
    let (status, head, _) = preflight("https://app.example");
    assert!(status == 204 && head.contains("access-control-allow-methods: get, post, put, patch, delete"), "{head}");
    assert!(head.contains("access-control-allow-headers: authorization"), "{head}");
    let (status, head, _) = preflight("https://evil.example");
    assert!(status == 403 && !head.contains("access-control-allow"), "{head}");

    // Too many wrong ones have to wait; a good one from the same address does not.
    let mut last = (0, String::new());
    let (start, end) = good.split_at(good.len() - 3);
    let other = if end.starts_with('a') { 'b' } else { 'a' };
    for n in 0..12 {
        let wrong = format!("authorization: Bearer {start}{other}{n:02}\r\n");
        let (status, head, _) = get(port, "/v1/pods", &wrong);
        assert_eq!(status, if n < 9 { 401 } else { 429 }, "{n}");
        last = (status, head);
    }
    assert!(last.0 == 429 && last.1.contains("retry-after: "), "{}", last.1);
    assert_eq!(get(port, "/v1/pods", &auth).0, 200);
    assert_eq!(d.log().matches("has to wait").count(), 1, "{}", d.log());
    for wrong in ["Basic eDp5", "Bearer", "bearer", "torpor"] {
        assert_eq!(get(port, "/v1/pods", &format!("authorization: {wrong}\r\n")).0, 401, "{wrong}");
    }
    assert_eq!(get(port, "/v1/pods", &format!("{auth}{auth}")).0, 401);
    let shouted = auth.replace("Bearer", "BEARER");
    assert_eq!(get(port, "/v1/pods", &shouted).0, 200);
    assert_eq!(get(port, "/v1/nosuch", &auth).0, 404);
    assert_eq!(get(port, "/v1/pods/%00", &auth).0, 404);
}
