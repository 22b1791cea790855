//! What is wrong is refused before anything is touched.

use std::io::{Read, Write};

use crate::daemon::{self, Daemon, counter, get};

/// One raw request; gives status and body.
fn raw(d: &Daemon, request: &str) -> (u16, serde_json::Value) {
    let mut s = std::os::unix::net::UnixStream::connect(&d.socket).unwrap();
    // A body that is too large is answered before it is read.
    let _ = s.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    let _ = s.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(status < 400 || head.to_lowercase().contains("content-type: application/problem+json"), "{text}");
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn post(d: &Daemon, path: &str, body: &str) -> (u16, serde_json::Value) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    raw(d, &(head + body))
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_with_a_stable_code_and_change_nothing() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let web = d.counter("web").await;
    let taken = web.ports[0].host;
    let other = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let foreign = other.local_addr().unwrap().port();
    let cases = [
        (r#"{"image":"nosuch","command":["x"]}"#.to_owned(), 404, "not_found"),
        (r#"{"image":"test"}"#.into(), 400, "invalid_request"),
        (r#"{"image":"../etc","command":["x"]}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"name":"../../x"}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"name":"-x"}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"name":"web"}"#.into(), 409, "name_taken"),
        (r#"{"image":"test","command":["x"],"nosuch":1}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"memory":0}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"memory":"1x"}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"cpus":0}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"cpus":-1}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"pids":1}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"disk":1}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"tier":"nosuch"}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"ports":[0]}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"ports":[{"pod":1,"host":80}]}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"ports":[{"pod":1,"host":70000}]}"#.into(), 400, "invalid_request"),
        (format!(r#"{{"image":"test","command":["x"],"ports":[{{"pod":1,"host":{taken}}}]}}"#), 409, "port_taken"),
        (format!(r#"{{"image":"test","command":["x"],"ports":[5,{{"pod":1,"host":{foreign}}}]}}"#), 409, "port_taken"),
        (r#"{"image":"test","command":["x"],"ports":[{"pod":1,"protocol":"sctp"}]}"#.into(), 400, "invalid_request"),
        (
            r#"{"image":"test","command":["x"],"volumes":[{"source":"../x","target":"/x"}]}"#.into(),
            400,
            "invalid_request",
        ),
        (
            r#"{"image":"test","command":["x"],"volumes":[{"source":"/nosuch/dir","target":"/x"}]}"#.into(),
            400,
            "invalid_request",
        ),
        (
            r#"{"image":"test","command":["x"],"volumes":[{"source":"v","target":"/proc/x"}]}"#.into(),
            400,
            "invalid_request",
        ),
        (
            format!(
                r#"{{"image":"test","command":["x"],"volumes":[{{"source":"{}","target":"/x"}}]}}"#,
                d.dir.join("state").display()
            ),
            400,
            "invalid_request",
        ),
        (r#"{"image":"test","command":["x"],"workingDir":"rel"}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"user":"a b"}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"hostname":"a_b"}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["a\u0000b"]}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["x"],"ready":{}}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["nosuchprogram"]}"#.into(), 422, "command_not_found"),
        (r#"{"image":"test","command":["sleep","9"],"user":"nobodyhere"}"#.into(), 400, "invalid_request"),
        (r#"{"image":"test","command":["sleep","9"],"ready":{"tcp":9,"timeoutMs":200}}"#.into(), 504, "timeout"),
        ("{".into(), 400, "invalid_request"),
        ("[]".into(), 400, "invalid_request"),
        (format!(r#"{{"image":"{}"}}"#, "x".repeat(2 << 20)), 413, "too_large"),
    ];
    for (body, status, code) in &cases {
        let (got, problem) = post(&d, "/v1/pods", body);
        let shown: String = body.chars().take(200).collect();
        assert_eq!((got, problem["code"].as_str()), (*status, Some(*code)), "{shown}: {problem}");
        assert!(problem["requestId"].as_str().is_some_and(|id| !id.is_empty()) && problem["status"] == *status);
    }
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");
    for (request, status) in [
        (head("GET /nosuch", ""), 404),
        (head("GET /v1/pods/nosuch", ""), 404),
        (head("PUT /v1/pods", "content-length: 0\r\n"), 405),
        (head("POST /v1/pods", "content-length: 2\r\ncontent-type: text/plain\r\n") + "{}", 415),
        (head("GET /v1/pods/web/logs?since=yesterday", ""), 400),
        (head("GET /v1/pods/web/logs?nosuch=1", ""), 400),
        (head("DELETE /v1/pods/web", ""), 409),
        (head("GET /v1/snapshots/..%2f..%2fx", ""), 400),
        (head("GET /v1/images/%00", ""), 400),
    ] {
        let (got, problem) = raw(&d, &request);
        assert_eq!(got, status, "{request}: {problem}");
    }
    // Nothing of all that is there.
    assert_eq!(d.client.pods().await.unwrap().len(), 1);
    assert_eq!(get(taken, "/"), "1");
    assert_eq!(std::fs::read_dir(d.dir.join("state/pods")).unwrap().count(), 1);
    // The same request succeeds when it is right.
    d.client.create_pod(&counter("second")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_archives_are_refused() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    let tar = |build: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut b = tar::Builder::new(Vec::new());
        build(&mut b);
        b.into_inner().unwrap()
    };
    let entry = |b: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, link: &str| {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_size(0);
        h.set_mode(0o644);
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(0);
        h.set_device_major(1).unwrap();
        h.set_device_minor(3).unwrap();
        h.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        h.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        h.set_cksum();
        b.append(&h, std::io::empty()).unwrap();
    };
    use tar::EntryType as T;
    for (kind, name, link) in [
        (T::Regular, "/etc/x", ""),
        (T::Regular, "../x", ""),
        (T::Regular, "a/../../x", ""),
        (T::Link, "x", "/etc/passwd"),
        (T::Link, "x", "../../etc/passwd"),
        (T::Link, "x", "nosuch"),
        (T::Char, "dev/null", ""),
        (T::Block, "sda", ""),
        (T::Regular, ".wh.", ""),
        (T::Regular, ".wh...", ""),
    ] {
        let bytes = tar(&|b| entry(b, kind, name, link));
        let stream = futures::stream::iter([Ok(bytes::Bytes::from(bytes))]);
        let e = d.client.import("bad", None, stream, &mut |_| ()).await.unwrap_err();
        assert_eq!(daemon::code(&e), "bad_archive", "{name} {link}: {e}");
    }
    for bytes in [
        &b""[..],
        b"rubbish that is no tar at all, but long enough to look like a block".as_slice(),
        &[0x1f, 0x8b, 8, 0, 1, 2, 3],
    ] {
        let stream = futures::stream::iter([Ok(bytes::Bytes::from_static(bytes))]);
        let e = d.client.import("bad", None, stream, &mut |_| ()).await.unwrap_err();
        assert_eq!(daemon::code(&e), "bad_archive", "{bytes:?}: {e}");
    }
    assert!(d.client.images().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(d.dir.join("state/tmp")).unwrap().count(), 0);
    d.import("test").await;
}
