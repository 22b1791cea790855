//! Every promise names tests, and every test that is named exists and is run.

use std::collections::BTreeSet;
use std::path::Path;

/// The names of all tests of the targets in `tests/`, as `target::module::name`.
fn tests(dir: &Path, prefix: &str, all: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let module = match (prefix, stem.as_str()) {
            (p, "main" | "mod") => p.to_owned(),
            ("", s) => s.to_owned(),
            (p, s) => format!("{p}::{s}"),
        };
        if path.is_dir() {
            tests(&path, &module, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("#[test]").skip(1).chain(text.split("#[tokio::test").skip(1)) {
                let name = part.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap();
                all.insert(format!("{module}::{name}"));
            }
        }
    }
}

#[test]
fn every_promise_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = BTreeSet::new();
    tests(&root.join("tests"), "", &mut all);
    let text = std::fs::read_to_string(root.join("SPECIFICATION.md")).unwrap();
    let mut checks = String::new();
    for entry in std::fs::read_dir(root.join("tests/vm")).unwrap().flatten() {
        checks += &std::fs::read_to_string(entry.path()).unwrap();
    }
    let mut promises = 0;
    for part in text.split("\n## ").skip(1) {
        let title = part.lines().next().unwrap();
        // A promise has a letter; other parts tell of runs.
        if title.chars().nth(1) != Some('.') {
            continue;
        }
        promises += 1;
        let (_, named) = part.split_once("Tests:").unwrap_or_else(|| panic!("{title} has no tests"));
        let named: Vec<&str> = named.split('`').filter(|w| w.contains("::")).collect();
        assert!(!named.is_empty(), "{title} names no test");
        for name in named {
            assert!(all.contains(name), "{title} names {name}, which is no test");
        }
        let (_, in_vm) = part.split_once("in the VM").unwrap_or_default();
        for name in in_vm.split('`').skip(1).step_by(2).filter(|n| !n.contains("::")) {
            assert!(checks.contains(&format!("\ncheck_{name}()")), "{title} names {name}, which is no check");
        }
    }
    assert!(promises >= 9, "{promises} promises");
}
