//! Snapshots whose packs are a stranger's, under manifests that are right.

use serde_json::{Value, json};

use crate::forge::Forged;
use crate::manifests::{Case, DAMAGED, case, run};

/// The first extent of a file that has a frame.
fn extent<'a>(forged: &'a mut Forged, file: &str) -> &'a mut Value {
    let file = forged.body["files"].as_array_mut().unwrap().iter_mut().find(|f| f["name"] == file).unwrap();
    file["extents"].as_array_mut().unwrap().iter_mut().find(|e| e["size"] != 0).unwrap()
}

/// Another frame in place of the first one of the kernel's state.
fn frame(forged: &mut Forged, frame: &[u8]) {
    let at = forged.packs[0].len();
    let n = extent(forged, "checkpoint.img");
    n["pack"] = n["pack"].as_str().unwrap().rsplit_once('/').map(|(k, _)| format!("{k}/0")).unwrap().into();
    n["frame"] = at.into();
    n["size"] = frame.len().into();
    forged.packs[0].extend_from_slice(frame);
}

fn framed(what: &str, bytes: Vec<u8>) -> Case {
    case(what, DAMAGED, move |f| frame(f, &bytes))
}

fn packs(outside: &str) -> Vec<Case> {
    let big = zstd::encode_all(&vec![0_u8; 256 << 20][..], 19).unwrap();
    let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..], &[1, 0, 0, 0, 0, 0]].concat();
    let outside = outside.to_owned();
    vec![
        case("no packs", DAMAGED, |f| f.packs.clear()),
        case("an empty pack", DAMAGED, |f| f.packs[0].clear()),
        case("a pack cut off", DAMAGED, |f| {
            let half = f.packs[0].len() / 2;
            f.packs[0].truncate(half);
        }),
        case("a pack without its last byte", DAMAGED, |f| {
            f.packs[0].pop();
        }),
        case("a pack with one bit changed", DAMAGED, |f| f.packs[0][1000] ^= 4),
        case("a pack of zeros", DAMAGED, |f| f.packs[0].fill(0)),
        case("a pack that begins one byte later", DAMAGED, |f| f.packs[0].insert(0, 0)),
        framed("a frame that becomes 256 MiB", big),
        framed("a frame with a window of 2 GiB", window),
        framed("a frame of rubbish", vec![0xA5; 4000]),
        framed("a frame of nothing", zstd::encode_all(&b""[..], 1).unwrap()),
        framed("a frame of other bytes", zstd::encode_all(&[7_u8; 1 << 20][..], 1).unwrap()),
        framed("a skippable frame", vec![0x50, 0x2a, 0x4d, 0x18, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        framed("a frame with a dictionary", vec![0x28, 0xb5, 0x2f, 0xfd, 0x23, 9, 9, 9, 9, 1, 1, 0, 0]),
        framed("a layer's bytes as a frame", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]),
        case("two files of one frame", DAMAGED, |f| {
            let of = extent(f, "pages_meta.img").clone();
            let e = extent(f, "checkpoint.img");
            (e["frame"], e["size"], e["pack"]) = (of["frame"].clone(), of["size"].clone(), of["pack"].clone());
        }),
        case("a frame that overlaps its neighbour", DAMAGED, |f| {
            let e = extent(f, "checkpoint.img");
            e["frame"] = json!(e["frame"].as_u64().unwrap() / 2);
        }),
        case("a frame that takes in its neighbour", DAMAGED, |f| {
            let e = extent(f, "checkpoint.img");
            e["size"] = json!(e["size"].as_u64().unwrap() + 10);
        }),
        case("a pack that is a link to a file of this host", DAMAGED, move |f| {
            f.packs.clear();
            let file = outside.clone();
            f.links.push(file);
        }),
    ]
}

/// Right in all its digests, and no checkpoint: the engine gets it, in its sandbox, and fails.
fn engines() -> Vec<Case> {
    const REFUSED: &[&str] = &["runtime", "damaged", "timeout", "internal", "incompatible"];
    let content = |what: &str, bytes: Vec<u8>| {
        case(what, REFUSED, move |f| {
            let digest = f.digest(&bytes);
            frame(f, &zstd::encode_all(&bytes[..], 1).unwrap());
            let e = extent(f, "checkpoint.img");
            e["length"] = bytes.len().into();
            e["digest"] = digest.into();
            let one = e.clone();
            let files = f.body["files"].as_array_mut().unwrap();
            let file = files.iter_mut().find(|x| x["name"] == "checkpoint.img").unwrap();
            file["extents"] = json!([one]);
            file["length"] = bytes.len().into();
            let sum: u64 = files.iter().map(|x| x["length"].as_u64().unwrap()).sum();
            f.body["size"] = sum.into();
        })
    };
    vec![
        content("a kernel of zeros and ones", (0..100_000_u32).map(|n| u8::from(n % 2 == 0)).collect()),
        content("a kernel of rubbish", vec![0xA5; 100_000]),
        content("a kernel of one byte", vec![1]),
        content("a kernel with a header of 2^63", [&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..]; 64].concat()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pack_of_a_stranger_does_harm() {
    run(|canary, _| packs(&canary.file()).into_iter().chain(engines()).collect()).await;
}
