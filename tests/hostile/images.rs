//! Images whose parts contradict each other, or name what they should not.

use crate::archives::{GZIP, Layout, Tar, config, docker_save, file, gzip, layer};
use crate::{Case, raw};

pub fn images() -> Vec<Case> {
    let tar = Tar::of([file("from-image", "x")]).end();
    let one = || [layer(&tar, gzip, GZIP)];
    let good = || Layout::new(&one());
    let name_of = |l: &Layout, n: usize| l.0[n].0.clone();
    let json = |text: &str| text.as_bytes().to_vec();
    let change = |f: fn(&mut serde_json::Value)| Layout::with(&one(), config(&one()), f).tar();
    let with_config = |f: fn(&mut serde_json::Value)| {
        let mut c = config(&one());
        f(&mut c);
        Layout::with(&one(), c, |_| {}).tar()
    };
    let index = |f: fn(&mut serde_json::Value)| {
        let l = good();
        let mut i = l.index();
        f(&mut i);
        l.replace("index.json", i.to_string()).tar()
    };
    let swapped = {
        let l = good();
        let name = name_of(&l, 2);
        let mut other = l.0[2].1.clone();
        other[20] ^= 1;
        l.replace(&name, other)
    };
    let evil = [layer(&Tar::of([file("../pwn", "x")]).end(), gzip, GZIP)];
    let docker = |f: fn(&mut serde_json::Value)| {
        let mut c = config(&one());
        f(&mut c);
        docker_save(&one(), &c)
    };
    let own = |manifest: &str| Tar::of([file("manifest.json", manifest), file("layer.tar", &tar)]).end();
    vec![
        raw("a layer that is not what its digest says", swapped.tar()),
        raw(
            "a diff id that is not the layer's",
            with_config(|c| c["rootfs"]["diff_ids"][0] = format!("sha256:{}", "0".repeat(64)).into()),
        ),
        raw("more layers than diff ids", with_config(|c| c["rootfs"]["diff_ids"] = serde_json::json!([]))),
        raw("a diff id that is a path", with_config(|c| c["rootfs"]["diff_ids"][0] = "sha256:../../x".into())),
        raw(
            "a diff id in capitals",
            with_config(|c| {
                let id = c["rootfs"]["diff_ids"][0].as_str().unwrap().to_uppercase();
                c["rootfs"]["diff_ids"][0] = id.into()
            }),
        ),
        raw("a working directory that climbs", with_config(|c| c["config"]["WorkingDir"] = "../x".into())),
        raw("a NUL in the environment", with_config(|c| c["config"]["Env"] = serde_json::json!(["A=\0"]))),
        raw("a layer digest that is a path", change(|m| m["layers"][0]["digest"] = "sha256:../../etc/passwd".into())),
        raw("a layer of sha512", change(|m| m["layers"][0]["digest"] = format!("sha512:{}", "0".repeat(128)).into())),
        raw(
            "a layer that is not there",
            change(|m| m["layers"][0]["digest"] = format!("sha256:{}", "0".repeat(64)).into()),
        ),
        raw("a layer of another size", change(|m| m["layers"][0]["size"] = 1.into())),
        raw("a manifest that is an index too (CVE-2021-41190)", change(|m| m["manifests"] = serde_json::json!([]))),
        raw(
            "a manifest that calls itself an index",
            change(|m| m["mediaType"] = "application/vnd.oci.image.index.v1+json".into()),
        ),
        raw("no layers", change(|m| m["layers"] = serde_json::json!([]))),
        raw("an index of nothing", index(|i| i["manifests"] = serde_json::json!([]))),
        raw("an index that is no list", index(|i| i["manifests"] = "x".into())),
        raw("an index with layers", index(|i| i["layers"] = serde_json::json!([]))),
        raw(
            "an index for another machine",
            index(|i| i["manifests"][0]["platform"] = serde_json::json!({"os": "windows", "architecture": "amd64"})),
        ),
        raw("a manifest of another size", index(|i| i["manifests"][0]["size"] = 5.into())),
        raw("an index that is no JSON", good().replace("index.json", json("{")).tar()),
        raw("an index of 5 MiB", good().replace("index.json", vec![b' '; 5 << 20]).tar()),
        raw("deep JSON", good().replace("index.json", "[".repeat(100_000)).tar()),
        raw("no index", Tar::of([file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)]).end()),
        raw("an index twice", Tar::of(good().0.iter().chain([&good().0[4]]).map(|(n, b)| file(n, b))).end()),
        raw("a layout cut off", {
            let t = good().tar();
            t[..t.len() - 2048].to_vec()
        }),
        raw("an image with a hostile layer", Layout::new(&evil).tar()),
        raw("docker's archive with a hostile layer", docker_save(&evil, &config(&evil))),
        raw(
            "docker's archive with a wrong diff id",
            docker(|c| c["rootfs"]["diff_ids"][0] = format!("sha256:{}", "0".repeat(64)).into()),
        ),
        raw("docker's archive of nothing", own("[]")),
        raw("docker's archive without its files", own(r#"[{"Config":"x.json","Layers":["y"]}]"#)),
        raw("docker's archive with paths", own(r#"[{"Config":"../../etc/passwd","Layers":["/etc/passwd"]}]"#)),
        raw("docker's archive of two", own(r#"[{"Config":"a","Layers":[]},{"Config":"b","Layers":[]}]"#)),
        raw("docker's configuration that is not its digest", {
            let c = config(&one());
            let name = format!("{}.json", "0".repeat(64));
            let manifest = serde_json::json!([{"Config": name, "Layers": ["layer.tar"]}]).to_string();
            Tar::of([file(&name, c.to_string()), file("layer.tar", &tar), file("manifest.json", manifest)]).end()
        }),
        raw("81 layers", {
            let many: Vec<_> =
                (0..81).map(|n| layer(&Tar::of([file(format!("{n}"), "x")]).end(), gzip, GZIP)).collect();
            Layout::new(&many).tar()
        }),
    ]
}
