//! Archives that `docker save` never wrote.

use serde_json::{Value, json};

use crate::archives::{GZIP, Tar, config, dir, docker_save, file, gzip, hex, layer, symlink};
use crate::layouts::{fine, good, one, plain, tar};
use crate::{Case, raw};

pub fn dockers(canary: &str) -> Vec<Case> {
    let own = |manifest: &str| Tar::of([file("manifest.json", manifest), file("layer.tar", tar())]).end();
    // A layer and a configuration that are right, and a manifest as it pleases.
    let with = |f: &dyn Fn(&mut Value, &str)| {
        let c = config(&one()).to_string();
        let name = format!("{}.json", hex(c.as_bytes()));
        let mut m = json!([{"Config": name, "RepoTags": ["x:latest"], "Layers": ["layer.tar"]}]);
        f(&mut m, &name);
        Tar::of([file(&name, &c), file("layer.tar", tar()), file("manifest.json", m.to_string())]).end()
    };
    vec![
        fine("docker's archive as it should be", docker_save(&one(), &config(&one()))),
        fine("names for the image that climb", with(&|m, _| m[0]["RepoTags"] = json!(["../../x:y", "-rf", "\u{0}"]))),
        raw("docker's archive of an object", with(&|m, _| *m = m[0].clone())),
        raw("docker's layers are null", with(&|m, _| m[0]["Layers"] = Value::Null)),
        raw("docker's layers are numbers", with(&|m, _| m[0]["Layers"] = json!([1]))),
        raw("docker's configuration is null", with(&|m, _| m[0]["Config"] = Value::Null)),
        raw("docker's configuration is a layer", with(&|m, _| m[0]["Config"] = "layer.tar".into())),
        raw("docker's layer is the configuration", with(&|m, name| m[0]["Layers"] = json!([name]))),
        raw("docker's layer of no name", with(&|m, _| m[0]["Layers"] = json!([""]))),
        raw("docker's layer outside", with(&|m, _| m[0]["Layers"] = json!([format!("{canary}/file")]))),
        raw("docker's layer twice", with(&|m, _| m[0]["Layers"] = json!(["layer.tar", "layer.tar"]))),
        raw("docker's manifest with a key twice", {
            let c = config(&one()).to_string();
            let name = format!("{}.json", hex(c.as_bytes()));
            let m = format!(r#"[{{"Config":"x","Config":"{name}","Layers":["layer.tar"]}}]"#);
            Tar::of([file(&name, &c), file("layer.tar", tar()), file("manifest.json", m)]).end()
        }),
        raw("docker's manifest of 5 MiB", own(&" ".repeat(5 << 20))),
        raw("docker's manifest that is deep", own(&"[".repeat(100_000))),
        raw("docker's manifest of rubbish", own("\u{0}\u{1}")),
        raw("docker's layers that are links outside", {
            let c = config(&one()).to_string();
            let name = format!("{}.json", hex(c.as_bytes()));
            let m = json!([{"Config": name, "Layers": ["layer.tar"]}]).to_string();
            Tar::of([file(&name, &c), symlink("layer.tar", format!("{canary}/file")), file("manifest.json", m)]).end()
        }),
        raw("docker's layers that are links to themselves", {
            let c = config(&one()).to_string();
            let name = format!("{}.json", hex(c.as_bytes()));
            let m = json!([{"Config": name, "Layers": ["layer.tar"]}]).to_string();
            Tar::of([file(&name, &c), symlink("layer.tar", "../layer.tar"), file("manifest.json", m)]).end()
        }),
        fine("docker's layers that are links to each other", {
            let two = [layer(&tar(), plain, GZIP), layer(&tar(), plain, GZIP)];
            let c = config(&two).to_string();
            let name = format!("{}.json", hex(c.as_bytes()));
            let m = json!([{"Config": name, "Layers": ["a/layer.tar", "b/layer.tar"]}]).to_string();
            let members = [
                file("manifest.json", m),
                file(&name, &c),
                file("a/layer.tar", tar()),
                symlink("b/layer.tar", "../a/layer.tar"),
            ];
            Tar::of(members).end()
        }),
        fine("an archive of both kinds that disagree", {
            let l = good();
            let m = file("manifest.json", r#"[{"Config":"/etc/passwd","Layers":["/etc/shadow"]}]"#);
            Tar::of(l.0.iter().map(|(n, b)| file(n, b)).chain([m])).end()
        }),
        raw("docker's configuration in the layout's place that is not its digest", {
            let c = config(&one()).to_string();
            let name = format!("blobs/sha256/{}", "0".repeat(64));
            let m = json!([{"Config": name, "Layers": ["layer.tar"]}]).to_string();
            Tar::of([file(&name, &c), file("layer.tar", tar()), file("manifest.json", m)]).end()
        }),
        raw("docker's archive with a bomb", {
            let bomb = [layer(&Tar::of([dir("../x")]).end(), gzip, GZIP)];
            docker_save(&bomb, &config(&bomb))
        }),
    ]
}
