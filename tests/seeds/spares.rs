//! Containers made ahead of need.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::containers::{CONFIG, ENV, count, destroy, line, list, make};
use crate::world::{World, answered, until};

/// A host on which spares are kept. At its end they are no more, or they would be made anew as they are removed.
struct Pooled(World);

impl Pooled {
    fn new(ports: &str) -> Option<Self> {
        World::with_ports(&format!("{CONFIG}\n[containers.pool]\n"), &ENV, ports).map(Pooled)
    }
}

impl Deref for Pooled {
    type Target = World;
    fn deref(&self) -> &World {
        &self.0
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.0
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.daemon.terminate();
        self.daemon.configure(CONFIG);
        if !std::thread::panicking() {
            self.daemon.launch();
            until("spares go with the setting", || self.pods().iter().all(|p| !p.labels.contains_key("torpor.spare")));
        }
    }
}

/// Ids of spares that run.
fn spares(w: &World) -> Vec<String> {
    let all = w.pods().into_iter().filter(|p| p.labels.contains_key("torpor.spare") && p.state == "running");
    let mut ids: Vec<String> = all.map(|p| p.id).collect();
    ids.sort();
    ids
}

#[test]
fn spares_are_nobody_s_until_they_are_handed_out() {
    let Some(mut w) = Pooled::new("10000-20000") else { return };
    until("three spares", || spares(&w).len() == 3);
    assert_eq!((count(&w), list(&w).len()), (0, 0));
    // At once, and each to one only.
    let before = spares(&w);
    let both: Vec<_> = ["one", "two"].map(|n| w.begin(&line(&json!({"name": n})))).into_iter().collect();
    let answers: Vec<_> = both.into_iter().map(|c| answered(c).unwrap().good()).collect();
    let mut ports: Vec<_> = answers.iter().map(|a| a["hostPort"].as_u64().unwrap()).collect();
    ports.sort_unstable();
    assert_eq!((ports, count(&w)), (vec![10_000, 10_001], 2));
    assert!(answers.iter().all(|a| before.iter().any(|id| id.starts_with(a["id"].as_str().unwrap()))), "{before:?}");
    assert_ne!(answers[0]["id"], answers[1]["id"]);
    assert_eq!(w.exec("one", "pwd"), "/app\n");
    until("three spares again", || spares(&w).len() == 3);
    let told = |line: &str| w.block_on(w.daemon.client.metrics()).unwrap().lines().any(|l| l == line);
    until("they are counted", || told("torpor_pool_spares{state=\"ready\"} 3"));
    // A name that is taken takes no spare.
    make(&w, &json!({"name": "one"})).refused(409);
    // What a spare can't be is made anew.
    let other = make(&w, &json!({"name": "other", "ports": [4000], "volumeName": "v"})).good();
    assert!(spares(&w).iter().all(|id| !id.starts_with(other["id"].as_str().unwrap())));
    assert_eq!((spares(&w).len(), count(&w)), (3, 3));

    // A spare that ends is replaced; after a kill of torpord those that run are spares again.
    let gone = spares(&w)[0].clone();
    w.stop(&gone);
    until("another in its place", || spares(&w).len() == 3 && w.pods().iter().all(|p| p.id != gone));
    let then = spares(&w);
    w.daemon.kill();
    w.daemon.launch();
    until("the same spares", || spares(&w) == then);
    assert_eq!(count(&w), 3);
    for container in list(&w) {
        destroy(&w, container["id"].as_str().unwrap()).good();
    }
    assert_eq!(count(&w), 0);
}

#[test]
fn spares_are_made_as_soon_as_their_image_comes_and_when_it_changes() {
    let Some(w) = Pooled::new("10000-20000") else { return };
    // World brings the image when torpord runs already. Looking now and then would take a minute.
    let begun = Instant::now();
    until("three spares", || spares(&w).len() == 3);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    let before = spares(&w);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    tar.append_data(&mut header, "new", &b"new\n"[..]).unwrap();
    let bytes = bytes::Bytes::from(tar.into_inner().unwrap());
    let stream = futures::stream::iter([Ok(bytes)]);
    w.block_on(w.daemon.client.import("test", Some("test"), stream, &mut |_| ())).unwrap();
    let begun = Instant::now();
    until("three others", || {
        let now = spares(&w);
        now.len() == 3 && now.iter().all(|id| !before.contains(id)) && w.pods().len() == 3
    });
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    make(&w, &json!({"name": "one"})).good();
    assert_eq!(w.exec("one", "cat /new"), "new\n");
}

#[test]
fn a_spare_stands_in_nobody_s_way() {
    // Room for four ports: three are spares'.
    let Some(w) = Pooled::new("10000-10003") else { return };
    until("three spares", || spares(&w).len() == 3);
    let port = |body| make(&w, &body).good()["hostPort"].as_u64();
    assert_eq!(port(json!({"name": "a", "ports": [4000]})), Some(10_003));
    assert_eq!(port(json!({"name": "b", "ports": [4000]})), Some(10_002));
    assert_eq!(port(json!({"name": "c", "ports": [1, 2]})), Some(10_000));
    assert_eq!((spares(&w).len(), count(&w)), (0, 3));
    make(&w, &json!({"name": "d", "ports": [4000]})).refused(507);
    assert_eq!(count(&w), 3);
    for container in list(&w) {
        destroy(&w, container["id"].as_str().unwrap()).good();
    }
    until("three spares again", || spares(&w).len() == 3);
}

#[test]
fn a_kill_while_spares_are_made_or_handed_out_loses_none() {
    let Some(mut w) = Pooled::new("10000-20000") else { return };
    for (n, after) in [0_u64, 20, 60, 120, 250].into_iter().enumerate() {
        let name = format!("c{n}");
        let making = w.begin(&line(&json!({"name": name})));
        std::thread::sleep(Duration::from_millis(after)); // the moment of the kill is what is tried
        w.daemon.kill();
        let told = answered(making).is_some_and(|a| a.status == 201);
        w.daemon.launch();
        let there = list(&w).iter().any(|c| c["name"] == name.as_str());
        assert!(there || !told, "an answered create is lost after {after} ms");
    }
    until("three spares", || spares(&w).len() == 3 && w.pods().len() as u64 == 3 + count(&w));
}
