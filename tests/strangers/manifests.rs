//! Snapshots whose manifests are a stranger's.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use torpor::api::types::{CreatePod, RestoreSnapshot, VolumeSpec};

use crate::canary::{self, Canary, SECRET};
use crate::daemon::{self, Daemon, counter, get};
use crate::forge::{Forge, Forged};

/// A case: what it is, how it is made, and the codes with which it may be refused.
pub type Case = (String, Box<dyn Fn(&mut Forged)>, &'static [&'static str]);

pub const DAMAGED: &[&str] = &["damaged"];
pub const INCOMPATIBLE: &[&str] = &["incompatible"];

pub fn case(what: impl Into<String>, codes: &'static [&'static str], make: impl Fn(&mut Forged) + 'static) -> Case {
    (what.into(), Box::new(make), codes)
}

fn body(what: &str, codes: &'static [&'static str], change: impl Fn(&mut Value) + 'static) -> Case {
    case(what, codes, move |f| change(&mut f.body))
}

fn raw(what: &str, bytes: impl Into<Vec<u8>>) -> Case {
    let bytes = bytes.into();
    case(what, DAMAGED, move |f| f.raw = Some(bytes.clone()))
}

/// What lies around the manifest.
fn envelopes() -> Vec<Case> {
    let sealed = |what: &str, codes, key: &'static str, value: Value| {
        case(what, codes, move |f: &mut Forged| f.sealed[key] = value.clone())
    };
    vec![
        raw("no bytes", ""),
        raw("rubbish", vec![0xA5; 5000]),
        raw("an empty object", "{}"),
        raw("an array", "[]"),
        raw("null", "null"),
        raw("deep JSON", "[".repeat(200_000)),
        raw("an envelope without a manifest", r#"{"format":1,"minReader":1}"#),
        raw("an envelope without a seal", r#"{"format":1,"minReader":1,"body":"{}"}"#),
        raw("a seal twice", r#"{"format":1,"minReader":1,"mac":"a","mac":"b","body":"{}"}"#),
        raw("another set of letters", "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()),
        raw("a manifest of 65 MiB", vec![b' '; 65 << 20]),
        sealed("a newer format", INCOMPATIBLE, "minReader", 9.into()),
        sealed("a format beyond numbers", DAMAGED, "minReader", json!(4_294_967_296_u64)),
        sealed("a negative format", DAMAGED, "minReader", (-1).into()),
        sealed("a format of letters", DAMAGED, "format", "one".into()),
        sealed("a seal of nothing", DAMAGED, "mac", "".into()),
        sealed("a seal of another key", DAMAGED, "mac", "0".repeat(64).into()),
        sealed("a seal that is null", DAMAGED, "mac", Value::Null),
        sealed("a manifest that is no text", DAMAGED, "body", json!({"id": "x"})),
        case("a manifest cut off and sealed", DAMAGED, |f| f.text = Some(f.body.to_string()[..200].to_owned())),
        case("an empty manifest that is sealed", DAMAGED, |f| f.text = Some(String::new())),
        case("a manifest with a key twice", DAMAGED, |f| {
            f.text = Some(f.body.to_string().replacen('{', r#"{"template":1,"#, 1));
        }),
        case("deep JSON that is sealed", DAMAGED, |f| f.text = Some("[".repeat(100_000))),
        case("the manifest of another snapshot", DAMAGED, |f| f.body["id"] = "b".repeat(32).into()),
        case("a manifest named by a path", DAMAGED, |f| f.body["id"] = "../../etc/passwd".into()),
    ]
}

/// What stands in it about files.
fn files() -> Vec<Case> {
    let extent = |what: &str, change: fn(&mut Value)| {
        body(what, DAMAGED, move |b| {
            let file = b["files"].as_array_mut().unwrap().iter_mut().find(|f| f["name"] == "checkpoint.img").unwrap();
            let at = file["extents"].as_array().unwrap().iter().position(|e| e["size"] != 0).unwrap();
            change(&mut file["extents"][at]);
        })
    };
    let named = |what: &str, name: &'static str| body(what, DAMAGED, move |b| b["files"][0]["name"] = name.into());
    vec![
        body("no files", DAMAGED, |b| b["files"] = json!([])),
        body("files that are null", DAMAGED, |b| b["files"] = Value::Null),
        named("a file that climbs", "../../../pwn"),
        named("a file that is a path", "/etc/cron.d/pwn"),
        named("a file below another", "pages.img/x"),
        named("a file of no name", ""),
        named("a file of another name", "config.json"),
        body("a file twice", DAMAGED, |b| {
            let again = b["files"][0].clone();
            b["files"].as_array_mut().unwrap().push(again);
        }),
        body("a file longer than its extents", DAMAGED, |b| b["files"][0]["length"] = json!(1_u64 << 40)),
        body("a file of 2^64", DAMAGED, |b| b["files"][0]["length"] = json!(u64::MAX)),
        body("a size that is not its files'", DAMAGED, |b| b["size"] = 1.into()),
        body("300 GiB of holes", DAMAGED, |b| {
            let hole = json!({"length": 1 << 20, "pack": "", "frame": 0, "size": 0, "offset": 0, "digest": ""});
            let file = b["files"].as_array_mut().unwrap().iter_mut().find(|f| f["name"] == "pages.img").unwrap();
            file["extents"] = vec![hole; 300_000].into();
            file["length"] = json!(300_000_u64 << 20);
            let sum: u64 = b["files"].as_array().unwrap().iter().map(|f| f["length"].as_u64().unwrap()).sum();
            b["size"] = sum.into();
        }),
        extent("an extent of nothing", |e| e["length"] = 0.into()),
        extent("an extent of 2^64", |e| e["length"] = json!(u64::MAX)),
        extent("an extent with an offset", |e| e["offset"] = 1.into()),
        extent("a frame at the end of all numbers", |e| e["frame"] = json!(u64::MAX)),
        extent("a frame that is too large", |e| e["size"] = json!(64 << 20)),
        extent("a frame with a negative size", |e| e["size"] = (-1).into()),
        extent("a frame far behind its pack's end", |e| e["frame"] = json!(1_u64 << 50)),
        extent("a pack that climbs", |e| e["pack"] = "v1/packs/../../../../etc/passwd".into()),
        extent("a pack that is a path", |e| e["pack"] = "/etc/passwd".into()),
        extent("a pack that is a key", |e| e["pack"] = "torpor.json".into()),
        extent("a pack with a number like another", |e| e["pack"] = format!("v1/packs/{}/00", "a".repeat(32)).into()),
        extent("a pack that is not there", |e| e["pack"] = format!("v1/packs/{}/0", "a".repeat(32)).into()),
        extent("a pack of number 2^32", |e| e["pack"] = format!("v1/packs/{}/4294967296", "a".repeat(32)).into()),
        extent("a hole with a pack", |e| e["size"] = 0.into()),
        extent("a digest that is short", |e| e["digest"] = "ab".into()),
        extent("a digest of no digits", |e| e["digest"] = "z".repeat(64).into()),
        extent("a digest of other bytes", |e| e["digest"] = "0".repeat(64).into()),
        extent("half an extent", |e| e["length"] = json!(e["length"].as_u64().unwrap() / 2)),
    ]
}

/// What stands in it about hosts, engines and layers.
fn places() -> Vec<Case> {
    let digest = |c: char| format!("sha256:{}", c.to_string().repeat(64));
    vec![
        body("another architecture", INCOMPATIBLE, |b| b["architecture"] = "s390x".into()),
        body("an architecture that clears screens", DAMAGED, |b| b["architecture"] = "\u{1b}[2J\u{7}".into()),
        body("an architecture of a megabyte", DAMAGED, |b| b["architecture"] = "x".repeat(1 << 20).into()),
        body("pages of no bytes", INCOMPATIBLE, |b| b["pageSize"] = 0.into()),
        body("pages of 64 KiB", INCOMPATIBLE, |b| b["pageSize"] = 65536.into()),
        body("an engine that is not here", INCOMPATIBLE, move |b| {
            b["engine"] = digest('e').into();
            b["pod"]["engine"] = digest('e').into();
        }),
        body("an engine that is a path", DAMAGED, |b| b["engine"] = "sha256:../../../bin/sh".into()),
        body("an engine that is not its pod's", DAMAGED, move |b| b["pod"]["engine"] = digest('e').into()),
        body("an engine's version with line feeds", DAMAGED, |b| b["engineVersion"] = "1\n2".into()),
        body("a template to come", INCOMPATIBLE, |b| {
            b["template"] = 7.into();
            b["pod"]["template"] = 7.into();
        }),
        body("a template that is not its pod's", DAMAGED, |b| b["pod"]["template"] = 7.into()),
        body("a processor that nobody has", INCOMPATIBLE, |b| b["cpuFeatures"] = json!(["telepathy"])),
        body("a million features", DAMAGED, |b| b["cpuFeatures"] = vec!["x"; 1_000_000].into()),
        body("a feature of a megabyte", DAMAGED, |b| b["cpuFeatures"] = json!(["x".repeat(1 << 20)])),
        body("2,000 features that nobody has", INCOMPATIBLE, |b| {
            b["cpuFeatures"] = (0..2000).map(|n| format!("{n:060}")).collect::<Vec<_>>().into();
        }),
        body("a layer that is not in the store", DAMAGED, move |b| {
            let info = json!({"digest": digest('c'), "size": 1, "compressed": 1});
            b["layers"].as_array_mut().unwrap().push(info);
            b["pod"]["layers"].as_array_mut().unwrap().push(digest('c').into());
        }),
        body("a layer that is a path", DAMAGED, |b| b["layers"][0]["digest"] = "sha256:../../x".into()),
        body("a layer that its pod has not", DAMAGED, move |b| b["layers"][0]["digest"] = digest('c').into()),
        body("a pod's layer that is not listed", DAMAGED, move |b| b["pod"]["layers"] = json!([digest('c')])),
        body("no layers", DAMAGED, |b| b["layers"] = json!([])),
        body("300 layers", DAMAGED, |b| {
            let all: Vec<String> = (0..300).map(|n| format!("sha256:{n:064x}")).collect();
            b["pod"]["layers"] = all.clone().into();
            let infos = all.into_iter().chain([b["pod"]["init"].as_str().unwrap().to_owned()]);
            b["layers"] = infos.map(|d| json!({"digest": d, "size": 1, "compressed": 1})).collect();
        }),
        body("an init that is not listed", DAMAGED, move |b| b["pod"]["init"] = digest('c').into()),
    ]
}

/// What stands in it about its pod.
fn pods(canary: &str) -> Vec<Case> {
    let spec = |what: &str, key: &'static str, value: Value| {
        body(what, DAMAGED, move |b| b["pod"]["spec"][key] = value.clone())
    };
    let image = |what: &str, key: &'static str, value: Value| {
        body(what, DAMAGED, move |b| b["pod"]["imageConfig"][key] = value.clone())
    };
    let volume = |what: &str, codes, source: &str, target: &str| {
        let volume = json!([{"source": source, "target": target, "readOnly": false}]);
        body(what, codes, move |b| b["pod"]["spec"]["volumes"] = volume.clone())
    };
    let limits = |what: &str, key: &'static str, value: u64| {
        body(what, DAMAGED, move |b| b["pod"]["spec"]["resources"][key] = value.into())
    };
    let http = |path: &str, timeout: u64| json!({"check": {"http": {"port": 80, "path": path}}, "timeoutMs": timeout});
    vec![
        spec("a name that climbs", "name", "../../x".into()),
        spec("a name with a NUL", "name", "a\u{0}b".into()),
        spec("an image that climbs", "image", "../../x".into()),
        spec("a NUL in the command", "command", json!(["a\u{0}b"])),
        spec("20,000 arguments", "command", vec!["x"; 20_000].into()),
        spec("an argument of a megabyte", "command", json!(["x".repeat(1 << 20)])),
        spec("3 MiB of arguments", "command", vec!["x".repeat(100_000); 30].into()),
        spec("a variable without a name", "env", json!({"": "x"})),
        spec("a variable with =", "env", json!({"A=B": "x"})),
        spec("a NUL in a variable", "env", json!({"A": "\u{0}"})),
        limits("no memory", "memory", 0),
        limits("all memory there is", "memory", u64::MAX),
        limits("no processor", "cpuMillis", 0),
        limits("no processes", "pids", 0),
        limits("no disk", "disk", 0),
        limits("all disks there are", "disk", u64::MAX),
        spec("port 0", "ports", json!([{"pod": 0, "host": null, "protocol": "tcp"}])),
        spec("1,000 ports", "ports", vec![json!({"pod": 80, "host": null, "protocol": "tcp"}); 1000].into()),
        spec("a port of SCTP", "ports", json!([{"pod": 80, "host": null, "protocol": "sctp"}])),
        volume("this host's root as a volume", INCOMPATIBLE, "/", "/host"),
        volume("this host's /etc as a volume", INCOMPATIBLE, "/etc", "/host"),
        volume("the canary as a volume", INCOMPATIBLE, canary, "/host"),
        volume("a volume that is not here", INCOMPATIBLE, "/nothing/here", "/host"),
        volume("a named volume that climbs", DAMAGED, "../../../../etc", "/host"),
        volume("a volume of no name", DAMAGED, "", "/host"),
        volume("a volume with a NUL", DAMAGED, "/etc\u{0}/x", "/host"),
        volume("a volume with dots", DAMAGED, "/var/../etc", "/host"),
        volume("a volume over proc", DAMAGED, "data", "/proc/sys"),
        volume("a volume over the root", DAMAGED, "data", "/"),
        volume("a volume over init", DAMAGED, "data", "/.torpor"),
        volume("a volume over secrets", DAMAGED, "data", "/run/secrets/x"),
        volume("a volume that climbs", DAMAGED, "data", "/a/../../etc"),
        volume("a volume at a place that is no path", DAMAGED, "data", "host"),
        volume("a volume at a place with a line feed", DAMAGED, "data", "/a\nb"),
        spec("1,000 volumes", "volumes", vec![json!({"source": "v", "target": "/v", "readOnly": true}); 1000].into()),
        spec("a working directory that is relative", "workingDir", "x".into()),
        spec("a working directory with a NUL", "workingDir", "/\u{0}".into()),
        spec("a user with a line feed", "user", "x\nroot:x:0".into()),
        spec("a user of a path", "user", "../root".into()),
        spec("a host name with a line feed", "hostname", "x\n127.0.0.1 bank.example".into()),
        spec("a host name that is a path", "hostname", "../../x".into()),
        spec("a host name of a kilobyte", "hostname", "x".repeat(1024).into()),
        spec(
            "1,000 labels",
            "labels",
            (0..1000).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into(),
        ),
        spec("a probe that splits its request", "ready", http("/ HTTP/1.1\r\nHost: x\r\n\r\nGET /", 1000)),
        spec("a probe without end", "ready", http("/", u64::MAX)),
        spec("a probe without time", "ready", http("/", 0)),
        spec("a probe of nothing", "ready", json!({"check": {"exec": {"command": []}}, "timeoutMs": 1000})),
        spec("a probe of no kind", "ready", json!({"check": {"telepathy": {}}, "timeoutMs": 1000})),
        image("a NUL in the image's command", "cmd", json!(["\u{0}"])),
        image("an image's working directory that is relative", "workingDir", "../x".into()),
        image("an image's user with a line feed", "user", "a\nb".into()),
        image("an image's environment of 10 MiB", "env", vec![format!("A={}", "x".repeat(100_000)); 105].into()),
        body("a pod's id that is a path", DAMAGED, |b| b["pod"]["id"] = "../../x".into()),
        body("a pod's address that is none", DAMAGED, |b| b["pod"]["address"] = "300.1.2.3".into()),
        body("a pod of another kind of root", DAMAGED, |b| b["pod"]["rootfsMode"] = "host".into()),
        body("a pod that is null", DAMAGED, |b| b["pod"] = Value::Null),
        body("a time that is none", DAMAGED, |b| b["createdAt"] = "yesterday".into()),
    ]
}

/// Runs cases on a daemon with one pod, and proves that nothing of them is left.
pub async fn run(cases: impl FnOnce(&Canary, &Forge) -> Vec<Case>) {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    let canary = Canary::new(d.dir.join("canary"));
    d.import("test").await;
    let web = d.counter("web").await;
    let taken = d.client.snapshot("web", &mut |_| ()).await.unwrap();
    let mut forge = Forge::new(&d.dir.join("state/store"), &taken.id);
    let pid = d.pid().unwrap();
    let before = canary::resident(pid);
    let mut wrong = Vec::new();
    let all = cases(&canary, &forge);
    crate::support::tried(all.len());
    for (what, make, codes) in all {
        let mut forged = forge.copy();
        make(&mut forged);
        forge.write(&forged);
        canary::peak(pid);
        let begun = Instant::now();
        let how = RestoreSnapshot { name: Some("copy".into()), ..RestoreSnapshot::default() };
        let answer = d.client.restore_snapshot_as(&forged.id, &how, &mut |_| ()).await;
        let took = begun.elapsed();
        let grown = canary::peak(pid).saturating_sub(before);
        forge.remove(&forged.id);
        let (code, said) = match &answer {
            Ok(_) => ("no error", String::new()),
            Err(e) => (daemon::code(e), e.to_string()),
        };
        if !codes.contains(&code) {
            wrong.push(format!("{what}: {code}, not {codes:?}: {}", said.chars().take(300).collect::<String>()));
        }
        assert!(took < Duration::from_secs(30), "{what} took {took:?}");
        assert!(grown < 512 << 20, "{what} took {grown} bytes of memory");
        assert!(!said.contains(SECRET) && said.len() < 6000, "{what}: {said}");
        assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{what}: {said:?}");
        canary.check(&what);
        let pods = d.client.pods().await.unwrap();
        if pods.len() != 1 {
            wrong.push(format!("{what} left a pod"));
            d.client.remove("copy", true).await.unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(get(web.ports[0].host, "/"), "1");
    assert!(!d.log().contains(SECRET) && !d.log().contains("panicked"), "{}", d.log());
    for dir in ["pods", "tmp"] {
        let left = std::fs::read_dir(d.dir.join("state").join(dir)).unwrap().count();
        assert_eq!(left, usize::from(dir == "pods"), "something was left in {dir}");
    }
    // Words that nobody asks for are not heard: what a pod gets is what this daemon builds.
    let mut fine = forge.copy();
    fine.body["pod"]["spec"]["annotations"] = json!({"dev.gvisor.spec.mount.x.source": canary.dir()});
    fine.body["pod"]["spec"]["mounts"] = json!([{"source": "/", "destination": "/host"}]);
    fine.body["pod"]["forwards"] = json!([{"pod": 22, "host": 22, "protocol": "tcp"}]);
    fine.body["pod"]["incarnation"] = json!(u32::MAX);
    fine.body["pod"]["state"] = "deleting".into();
    fine.body["pod"]["address"] = "127.0.0.1".into();
    forge.write(&fine);
    let copy = d.client.restore_snapshot(&fine.id, Some("copy".into()), &mut |_| ()).await.unwrap();
    assert_eq!((copy.state.as_str(), get(copy.ports[0].host, "/").as_str()), ("running", "1"));
    let bundle = format!("/run/torpor/{}/pods/{}-1/config.json", d.tag, copy.id);
    let bundle = std::fs::read_to_string(bundle).unwrap();
    assert!(!bundle.contains("gvisor") && !bundle.contains("/host") && !bundle.contains("annotations"), "{bundle}");
    forge.remove(&fine.id);
    d.terminate();
    d.launch();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_manifest_of_a_stranger_does_harm() {
    run(|canary, _| {
        let all: Vec<Case> = [envelopes(), files(), places(), pods(&canary.dir())].into_iter().flatten().collect();
        assert!(all.len() >= 120, "{}", all.len());
        all
    })
    .await;
}

/// Directories of the host come back to a pod by a snapshot only where they were, or where it is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_alone_shows_nobody_a_directory_of_the_host() {
    if !daemon::ready() {
        return;
    }
    let d = Daemon::start();
    d.import("test").await;
    let shared = d.dir.join("shared");
    std::fs::create_dir(&shared).unwrap();
    let source = shared.display().to_string();
    let volumes = vec![VolumeSpec { source: source.clone(), target: "/data".into(), read_only: false }];
    d.client.create_pod(&CreatePod { volumes, ..counter("web") }).await.unwrap();
    d.exec("web", "echo mine > /data/file").await;
    let taken = d.client.snapshot("web", &mut |_| ()).await.unwrap();
    d.client.restore_snapshot(&taken.id, Some("copy".into()), &mut |_| ()).await.unwrap();
    assert_eq!(d.exec("copy", "cat /data/file").await.stdout, "mine\n");
    d.client.remove("copy", true).await.unwrap();
    d.client.remove("web", true).await.unwrap();
    let e = d.client.restore_snapshot(&taken.id, Some("copy".into()), &mut |_| ()).await.unwrap_err();
    assert_eq!(daemon::code(&e), "incompatible", "{e}");
    let how =
        RestoreSnapshot { name: Some("copy".into()), host_directories: vec![source], ..RestoreSnapshot::default() };
    d.client.restore_snapshot_as(&taken.id, &how, &mut |_| ()).await.unwrap();
    assert_eq!(d.exec("copy", "cat /data/file").await.stdout, "mine\n");
}
