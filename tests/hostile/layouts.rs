//! More images: indexes, manifests, configurations and blobs that lie.

use serde_json::{Value, json};
use torpor::model::Code;

use crate::archives::{
    Entry, GZIP, Layer, Layout, Tar, ZSTD, config, dir, entry, file, gzip, hex, layer, link, symlink, zstd,
};
use crate::{Case, raw};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn tar() -> Vec<u8> {
    Tar::of([file("from-image", "x")]).end()
}
pub fn one() -> [Layer; 1] {
    [layer(&tar(), gzip, GZIP)]
}
pub fn good() -> Layout {
    Layout::new(&one())
}
pub fn fine(what: &'static str, bytes: Vec<u8>) -> Case {
    (what, bytes, None)
}
pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

/// Adds a blob; gives its descriptor.
fn blob(layout: &mut Layout, media: &str, bytes: impl Into<Vec<u8>>) -> Value {
    let bytes = bytes.into();
    let (digest, size) = (hex(&bytes), bytes.len());
    layout.0.push((format!("blobs/sha256/{digest}"), bytes));
    json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": size})
}

fn with_index(mut layout: Layout, index: &Value) -> Vec<u8> {
    layout.0.retain(|(n, _)| n != "index.json");
    layout.0.push(("index.json".into(), index.to_string().into_bytes()));
    layout.tar()
}

fn change_index(f: impl FnOnce(&mut Value)) -> Vec<u8> {
    let l = good();
    let mut i = l.index();
    f(&mut i);
    with_index(l, &i)
}

/// Its index below so many others.
fn nested(depth: usize, media: &str, inner: &str) -> Vec<u8> {
    let mut l = good();
    let mut index = l.index();
    for _ in 0..depth {
        index["mediaType"] = inner.into();
        let below = blob(&mut l, media, index.to_string());
        index = json!({"schemaVersion": 2, "manifests": [below]});
    }
    with_index(l, &index)
}

fn change_manifest(f: impl FnOnce(&mut Value)) -> Vec<u8> {
    Layout::with(&one(), config(&one()), f).tar()
}

fn change_config(f: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut c = config(&one());
    f(&mut c);
    Layout::with(&one(), c, |_| {}).tar()
}

/// The manifest as text, for what no JSON library writes.
fn manifest_text(f: impl FnOnce(&str) -> String) -> Vec<u8> {
    let mut l = good();
    let manifest = l.0.iter().rev().find(|(n, _)| n.starts_with("blobs/")).unwrap().1.clone();
    let text = f(std::str::from_utf8(&manifest).unwrap());
    let d = blob(&mut l, MANIFEST, text);
    with_index(l, &json!({"schemaVersion": 2, "manifests": [d]}))
}

fn config_text(f: impl FnOnce(&str) -> String) -> Vec<u8> {
    let text = f(&config(&one()).to_string());
    let mut l = good();
    let c = blob(&mut l, "application/vnd.oci.image.config.v1+json", text);
    let layers: Value =
        one().iter().map(|x| json!({"mediaType": x.media_type, "digest": format!("sha256:{}", hex(&x.stored)), "size": x.stored.len()})).collect();
    let m = blob(&mut l, MANIFEST, json!({"schemaVersion": 2, "config": c, "layers": layers}).to_string());
    with_index(l, &json!({"schemaVersion": 2, "manifests": [m]}))
}

fn of_layers(layers: &[Layer]) -> Vec<u8> {
    Layout::new(layers).tar()
}

fn of(bytes: &[u8], pack: fn(&[u8]) -> Vec<u8>, media: &'static str) -> Vec<u8> {
    of_layers(&[layer(bytes, pack, media)])
}

/// Another member instead of a file of the layout.
fn instead(name: &str, e: Entry) -> Vec<u8> {
    let l = good();
    let name = if name.is_empty() { l.0[2].0.clone() } else { name.to_owned() };
    let others = l.0.iter().filter(|(n, _)| *n != name).map(|(n, b)| file(n, b));
    Tar::of(others.chain([Entry { name: name.clone().into_bytes(), ..e }])).end()
}

pub fn layouts(canary: &str) -> Vec<Case> {
    let other = "sha256:".to_owned() + &"0".repeat(64);
    let bomb = Tar::of([file("zeros", vec![0; 12 << 20])]).end();
    let machine = config(&one())["architecture"].clone();
    let mut cases = vec![
        fine("an index within an index", nested(1, INDEX, INDEX)),
        fine("three indexes within each other", nested(3, INDEX, INDEX)),
        raw("five indexes within each other", nested(5, INDEX, INDEX)),
        fine("docker's list of manifests", nested(1, LIST, LIST)),
        raw("an index that is said to be a manifest", nested(1, MANIFEST, INDEX)),
        raw("a manifest that is said to be an index", change_index(|i| i["manifests"][0]["mediaType"] = INDEX.into())),
        raw("an index that calls itself a manifest", nested(1, INDEX, MANIFEST)),
        raw("an index that names itself by nothing", change_index(|i| i["manifests"][0]["digest"] = "".into())),
        raw(
            "a manifest digest with capitals",
            change_index(|i| i["manifests"][0]["digest"] = other.to_uppercase().into()),
        ),
        raw(
            "a manifest digest that is a path",
            change_index(|i| i["manifests"][0]["digest"] = format!("sha256:{canary}").into()),
        ),
        raw(
            "a manifest digest of md5",
            change_index(|i| i["manifests"][0]["digest"] = format!("md5:{}", "0".repeat(32)).into()),
        ),
        raw("a manifest digest that is short", change_index(|i| i["manifests"][0]["digest"] = "sha256:00".into())),
        raw("a manifest that is not there", change_index(|i| i["manifests"][0]["digest"] = other.clone().into())),
        raw("a negative size", change_index(|i| i["manifests"][0]["size"] = (-1).into())),
        raw("a size that is a fraction", change_index(|i| i["manifests"][0]["size"] = json!(1.5))),
        raw("a size of 2^64", change_index(|i| i["manifests"][0]["size"] = json!(1.844e19))),
        raw("a size that is a text", change_index(|i| i["manifests"][0]["size"] = "5".into())),
        raw(
            "two manifests",
            change_index(|i| {
                let mut m = i["manifests"][0].clone();
                m["digest"] = other.clone().into();
                i["manifests"].as_array_mut().unwrap().push(m);
            }),
        ),
        raw(
            "20,000 manifests",
            change_index(|i| {
                let all: Vec<Value> = (0..20_000)
                    .map(|n| json!({"mediaType": MANIFEST, "digest": format!("sha256:{n:064}"), "size": 1}))
                    .collect();
                i["manifests"] = all.into();
            }),
        ),
        fine(
            "one manifest twice",
            change_index(|i| {
                let m = i["manifests"][0].clone();
                i["manifests"].as_array_mut().unwrap().push(m);
            }),
        ),
        raw(
            "two manifests for this machine",
            change_index(|i| {
                i["manifests"][0]["platform"] = json!({"os": "linux", "architecture": machine});
                let mut m = i["manifests"][0].clone();
                m["digest"] = other.clone().into();
                i["manifests"].as_array_mut().unwrap().push(m);
            }),
        ),
        raw("a platform that is a text", change_index(|i| i["manifests"][0]["platform"] = "linux/amd64".into())),
        raw(
            "manifests for others only",
            change_index(|i| i["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "s390x"})),
        ),
        fine(
            "a platform with much else",
            change_index(
                |i| i["manifests"][0]["platform"] = json!({"os": "linux", "architecture": machine, "variant": "../v9", "os.features": ["win32k"], "os.version": "x"}),
            ),
        ),
        raw("a configuration for another machine", change_config(|c| c["architecture"] = "s390x".into())),
        raw("a configuration for another system", change_config(|c| c["os"] = "windows".into())),
        raw("an index of an index and layers", nested(1, INDEX, INDEX).into_iter().chain([1]).collect()),
        raw("an index of null", with_index(good(), &Value::Null)),
        raw("an index of a number", with_index(good(), &json!(7))),
        raw("an index without manifests", with_index(good(), &json!({"schemaVersion": 2}))),
        raw(
            "an index in another set of letters",
            good()
                .replace("index.json", "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
                .tar(),
        ),
        raw("an index with more behind it", good().replace("index.json", good().index().to_string() + "{}").tar()),
        raw(
            "an index with a key twice",
            good().replace("index.json", good().index().to_string().replacen('{', r#"{"manifests":[],"#, 1)).tar(),
        ),
        raw("a manifest with a key twice", manifest_text(|m| m.replacen('{', r#"{"layers":[],"#, 1))),
        raw(
            "a manifest with a layer's digest twice",
            manifest_text(|m| m.replacen(r#""layers":[{"#, &format!(r#""layers":[{{"digest":"{other}","#), 1)),
        ),
        raw(
            "a configuration with a key twice",
            config_text(|c| c.replacen(r#""diff_ids":"#, r#""diff_ids":[],"diff_ids":"#, 1)),
        ),
        raw("a manifest of 5 MiB", manifest_text(|m| m.to_owned() + &" ".repeat(5 << 20))),
        raw("a configuration of 5 MiB", config_text(|c| c.to_owned() + &" ".repeat(5 << 20))),
        raw(
            "a configuration that is deep",
            config_text(|c| c.replacen("{", &format!(r#"{{"x":{}{},"#, "[".repeat(50_000), "]".repeat(50_000)), 1)),
        ),
        raw(
            "a manifest of the first schema",
            change_manifest(|m| {
                m["schemaVersion"] = 1.into();
                m["fsLayers"] = json!([]);
                m.as_object_mut().unwrap().remove("layers");
                m.as_object_mut().unwrap().remove("config");
            }),
        ),
        raw(
            "a manifest without a configuration",
            change_manifest(|m| drop(m.as_object_mut().unwrap().remove("config"))),
        ),
        raw("a manifest whose layers are a text", change_manifest(|m| m["layers"] = "x".into())),
        raw("a configuration that is not there", change_manifest(|m| m["config"]["digest"] = other.clone().into())),
        raw("a configuration of another size", change_manifest(|m| m["config"]["size"] = 1.into())),
        raw("a configuration that is a layer", change_manifest(|m| m["config"] = m["layers"][0].clone())),
        raw("a layer that is the configuration", change_manifest(|m| m["layers"][0] = m["config"].clone())),
        raw("a configuration that was changed", {
            let l = good();
            let mut c = l.0[1].1.clone();
            let at = c.len() / 2;
            c[at] ^= 1;
            l.clone_with(1, c)
        }),
        raw("an artifact", config_text(|_| "{}".into())),
        raw("a configuration of an array", config_text(|_| "[]".into())),
        raw(
            "a foreign layer",
            change_manifest(|m| {
                m["layers"][0]["digest"] = other.clone().into();
                m["layers"][0]["urls"] = json!([format!("file://{canary}/file"), "http://169.254.169.254/"]);
            }),
        ),
        fine(
            "a layer with places to fetch it from",
            change_manifest(|m| {
                m["layers"][0]["urls"] = json!([format!("file://{canary}/file"), "http://169.254.169.254/"])
            }),
        ),
        fine("a layer of another type than it says", of(&tar(), gzip, ZSTD)),
        fine(
            "a layer of a type that nobody knows",
            change_manifest(|m| m["layers"][0]["mediaType"] = "text/../../html".into()),
        ),
        fine("a layer twice", of_layers(&[layer(&tar(), gzip, GZIP), layer(&tar(), gzip, GZIP)])),
        raw("a layer twice with one wrong diff id", {
            let two = [layer(&tar(), gzip, GZIP), layer(&tar(), gzip, GZIP)];
            let mut c = config(&two);
            c["rootfs"]["diff_ids"][1] = other.clone().into();
            Layout::with(&two, c, |_| {}).tar()
        }),
        fine("a layer of no bytes", of(b"", plain, GZIP)),
        raw("a layer that is JSON", of(b"{}", plain, GZIP)),
        raw("an encrypted layer", of(&[0xA5; 4000], plain, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted")),
        ("a layer that is a bomb of gzip", of(&bomb, gzip, GZIP), Some(Code::TooLarge)),
        ("a layer that is a bomb of zstd", of(&bomb, zstd, ZSTD), Some(Code::TooLarge)),
        (
            "the last of three layers is a bomb",
            of_layers(&[layer(&tar(), gzip, GZIP), layer(&tar(), plain, GZIP), layer(&bomb, zstd, ZSTD)]),
            Some(Code::TooLarge),
        ),
        raw(
            "the last of three layers is hostile",
            of_layers(&[
                layer(&tar(), gzip, GZIP),
                layer(&tar(), zstd, ZSTD),
                layer(&Tar::of([symlink("e", canary), file("e/pwn", "x")]).end(), gzip, GZIP),
            ]),
        ),
        raw(
            "a link in one layer, a file through it in the next, up from there",
            of_layers(&[
                layer(&Tar::of([symlink("e", canary)]).end(), gzip, GZIP),
                layer(&Tar::of([file("e/../../pwn", "x")]).end(), gzip, GZIP),
            ]),
        ),
        fine(
            "a link in one layer, a file through it in the next",
            of_layers(&[
                layer(&Tar::of([symlink("e", canary)]).end(), gzip, GZIP),
                layer(&Tar::of([file("e/pwn", "x")]).end(), gzip, GZIP),
            ]),
        ),
        fine(
            "volumes, ports and checks of a stranger",
            change_config(|c| {
                c["config"]["Volumes"] = json!({"/../../etc": {}, canary: {}});
                c["config"]["ExposedPorts"] = json!({"99999999/tcp": {}, "../x": {}});
                c["config"]["Healthcheck"] = json!({"Test": ["CMD-SHELL", format!("touch {canary}/pwn")]});
                c["config"]["OnBuild"] = json!([format!("RUN touch {canary}/pwn")]);
                c["config"]["Shell"] = json!(["/bin/sh", "-c"]);
                c["config"]["StopSignal"] = "SIGEVIL; rm -rf /".into();
            }),
        ),
        fine(
            "labels that steer runtimes",
            change_config(|c| {
                c["config"]["Labels"] = json!({
                    "dev.gvisor.spec.mount.x.source": canary, "io.kubernetes.cri.sandbox-log": format!("binary:///bin/sh?{canary}"),
                    "dev.gvisor.flag.debug-log": format!("{canary}/pwn"), "run.oci.keep_original_groups": "1",
                })
            }),
        ),
        fine(
            "annotations that steer runtimes",
            change_manifest(|m| {
                m["annotations"] = json!({
                    "dev.gvisor.internal.checkpoint.path": canary, "org.opencontainers.image.ref.name": "../../x:y",
                })
            }),
        ),
        fine(
            "keys that nobody knows",
            change_config(|c| {
                c["hooks"] = json!({"prestart": [{"path": "/bin/sh"}]});
                c["config"]["Annotations"] = json!({"x": "y"});
                c["history"] = json!([{"created_by": format!("touch {canary}/pwn"), "empty_layer": true}]);
            }),
        ),
        raw("a NUL in the entry point", change_config(|c| c["config"]["Entrypoint"] = json!(["/bin/\0sh"]))),
        raw("a NUL in the command", change_config(|c| c["config"]["Cmd"] = json!(["\0"]))),
        raw("a NUL in the working directory", change_config(|c| c["config"]["WorkingDir"] = "/a\0b".into())),
        raw("a NUL in the user", change_config(|c| c["config"]["User"] = "root\0x".into())),
        raw("a line feed in the user", change_config(|c| c["config"]["User"] = "x:x\nroot".into())),
        raw("a user that is a path", change_config(|c| c["config"]["User"] = "../../root".into())),
        raw("an entry point that is an object", change_config(|c| c["config"]["Entrypoint"] = json!({"0": "/bin/sh"}))),
        raw("an environment of numbers", change_config(|c| c["config"]["Env"] = json!([1, 2]))),
        fine("an environment of nobody's", change_config(|c| c["config"]["Env"] = json!(["=x"]))),
        raw("diff ids that are null", change_config(|c| c["rootfs"]["diff_ids"] = Value::Null)),
        raw("no root file system", change_config(|c| drop(c.as_object_mut().unwrap().remove("rootfs")))),
        fine(
            "200,000 labels",
            change_config(|c| {
                c["config"]["Labels"] =
                    (0..100_000).map(|n| (format!("l{n}"), json!("x"))).collect::<serde_json::Map<_, _>>().into()
            }),
        ),
        raw("a blob that is a link outside", instead("", symlink("", format!("{canary}/file")))),
        raw("a blob that is a link to nothing", instead("", symlink("", "../../nothing"))),
        raw("a blob that is a pipe", instead("", entry("", b'6'))),
        raw("a blob that is a hard link outside", instead("", link("", format!("{canary}/file")))),
        raw("a blob that is the index", instead("", link("", "index.json"))),
        raw("an index that is a link outside", instead("index.json", symlink("", format!("{canary}/file")))),
        raw("an index that is a link to itself", instead("index.json", symlink("", "index.json"))),
        raw("an index that is a pipe", instead("index.json", entry("", b'6'))),
        raw(
            "a blob with holes",
            instead("", file("", "x").pax("GNU.sparse.size", "1024").pax("GNU.sparse.map", "1023,1")),
        ),
        raw("10,001 files", {
            let l = good();
            Tar::of(
                l.0.iter().map(|(n, b)| file(n, b)).chain((0..10_001).map(|n| file(format!("blobs/sha256/{n}"), ""))),
            )
            .end()
        }),
        raw("a file with a name of 1,100 bytes", {
            let l = good();
            Tar::of(
                l.0.iter().map(|(n, b)| file(n, b)).chain(
                    [file(format!("blobs/{}", "n/".repeat(550)), "").clone()]
                        .map(|e| Entry { name: [&e.name[..], b"f"].concat(), ..e }),
                ),
            )
            .end()
        }),
        raw("a blob twice by two names of one path", {
            let l = good();
            let again = file(format!("./{}", l.0[2].0), &l.0[2].1);
            Tar::of(l.0.iter().map(|(n, b)| file(n, b)).chain([again])).end()
        }),
        raw("blobs by climbing names", {
            let l = good();
            Tar::of(l.0.iter().map(|(n, b)| file(n.replace("blobs/sha256/", "blobs/sha256/../sha256/"), b))).end()
        }),
        raw("a directory called index", instead("index.json", dir(""))),
        raw("a layout as a layer", of(&good().tar(), plain, GZIP).into_iter().take(3000).collect()),
    ];
    cases.retain(|c| c.0 != "200,000 labels" || c.1.len() < 8 << 20);
    cases
}
