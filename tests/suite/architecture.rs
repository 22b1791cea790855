//! The arrows between the rooms, and the paths that the documents name.

use std::path::{Path, PathBuf};

/// Room, and the rooms that it may use.
const ARROWS: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("channel", &["model"]),
    ("tree", &["model"]),
    ("plan", &["model"]),
    ("config", &["model"]),
    ("host", &["model", "channel", "plan"]),
    ("api", &["model"]),
    ("cli", &["api", "tree"]),
    ("pod", &["model", "channel", "tree"]),
    ("daemon", &["model", "channel", "plan", "config", "host", "api"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn no_arrow_is_reversed() {
    let src = root().join("src");
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let below = path.strip_prefix(&src).unwrap();
        let first = below.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let Some((room, allowed)) = ARROWS.iter().find(|(room, _)| *room == first) else {
            assert!(matches!(first, "lib" | "bin"), "a room without arrows: {first}");
            continue;
        };
        let text = std::fs::read_to_string(&path).unwrap();
        for (n, line) in text.lines().enumerate() {
            let mut rest = line;
            while let Some(at) = rest.find("crate::") {
                rest = &rest[at + "crate::".len()..];
                let used: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = ARROWS.iter().any(|(r, _)| *r == used);
                if known && used != *room && !allowed.contains(&used.as_str()) && !line.trim_start().starts_with("//") {
                    wrong.push(format!("{}:{}: {room} -> {used}", below.display(), n + 1));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn files_stay_small() {
    for path in sources(&root().join("src")) {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 800, "{} has {lines} lines", path.display());
    }
}

#[test]
fn what_the_documents_name_is_there() {
    for document in ["README.md", "ARCHITECTURE.md", "SPECIFICATION.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for word in text.split(|c: char| c.is_whitespace() || matches!(c, '`' | '(' | ')' | ',')) {
            let word = word.trim_end_matches(['.', ':', ';']);
            let is_path =
                ["src/", "scripts/", "tests/", "bundles/", "netconf/", "systemd/"].iter().any(|p| word.starts_with(p));
            if is_path && !word.contains(['*', '<', '{', '[']) {
                assert!(root().join(word).exists(), "{document} names {word}, which is not there");
            }
        }
    }
}
