//! Several layers made one show the same tree, whatever was removed and made anew in them.

use super::*;
use crate::dice::Dice;

/// What one layer says of a directory: few names, so that layers meet.
fn grow(dice: &mut Dice, tar: Tar, below: &str, lowest: bool, unique: &mut u32) -> Tar {
    let depth = below.matches('/').count();
    let mut entries = Vec::new();
    let mut inner = Vec::new();
    for name in ["a", "b", "c"] {
        let path = format!("{below}{name}");
        *unique += 1;
        match dice.below(9) {
            0 => entries.push(file(&path, unique.to_string()).mode(0o600 + *unique % 64)),
            1 if !lowest => entries.push(device(&path, b'3', 0, 0)),
            2 => entries.push(symlink(&path, format!("to-{unique}"))),
            3 => {
                entries.push(file(&path, unique.to_string()));
                entries.push(link(format!("{path}-link"), &path));
            }
            4 if depth < 3 => {
                entries.push(dir(&path).pax("SCHILY.xattr.trusted.overlay.opaque", "y"));
                inner.push(path);
            }
            5 | 6 if depth < 3 => {
                entries.push(dir(&path).owner(u64::from(*unique), 7));
                inner.push(path);
            }
            _ => {}
        }
    }
    let mut tar = entries.into_iter().fold(tar, Tar::add);
    for path in inner {
        tar = grow(dice, tar, &format!("{path}/"), lowest, unique);
    }
    tar
}

/// All that can be seen of a tree, but for times; and how many names are listed that can't be found: overlayfs lists
/// whiteouts in directories that no lower layer has.
fn look(top: &Path) -> (Vec<String>, usize) {
    let mut paths = Vec::new();
    walk(top, top, &mut paths);
    let seen: Vec<String> = paths
        .iter()
        .filter_map(|path| {
            let at = top.join(path);
            let meta = std::fs::symlink_metadata(&at).ok()?;
            let body = if meta.is_symlink() {
                std::fs::read_link(&at).unwrap().display().to_string()
            } else if meta.is_file() {
                std::fs::read_to_string(&at).unwrap()
            } else {
                String::new()
            };
            let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
            Some(format!("{path} {mode:o} {uid}:{gid} {body}"))
        })
        .collect();
    let ghosts = paths.len() - seen.len();
    (seen, ghosts)
}

#[tokio::test]
async fn merged_layers_show_the_same_tree() {
    if !support::root() {
        return;
    }
    let place = place();
    let rootfs = place.rootfs();
    let mut hidden = 0;
    for seed in 0..30 {
        let mut dice = Dice::new(seed, &[]);
        let mut unique = 0;
        let mut layers = Vec::new();
        for n in 0..5 {
            let own = file(format!("own-{n}"), format!("{seed}"));
            let tar = grow(&mut dice, Tar::of([own]), "", n == 0, &mut unique);
            layers.push(place.one(tar).await.0.digest);
        }
        let merged = place.layers.merge(&layers[1..], &layers[..1]).await.unwrap();
        let (apart, as_one) = (Mounted(&rootfs, "apart"), Mounted(&rootfs, "one"));
        let (several, _) = look(&rootfs.ensure(apart.1, &layers).await.unwrap());
        let (one, ghosts) = look(&rootfs.ensure(as_one.1, &[layers[0].clone(), merged.digest.clone()]).await.unwrap());
        assert_eq!(several, one, "seed {seed}");
        assert_eq!(ghosts, 0, "seed {seed}: whiteouts show");
        let (lowest, _) = look(&place.layers.path(&layers[0]));
        hidden += lowest.iter().filter(|l| !several.contains(l)).count();
        // The same again is the same layer.
        assert_eq!(place.layers.merge(&layers[1..], &layers[..1]).await.unwrap(), merged, "seed {seed}");
    }
    assert!(hidden > 30, "the layers hardly met: {hidden}");
    place.is_clean();
}
