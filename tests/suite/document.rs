//! The OpenAPI document: the committed one is the generated one, and it is sound.

use serde_json::Value;

fn generated() -> Value {
    torpor::daemon::http::document()
}

/// `UPDATE=1 cargo test --test suite` writes it anew.
#[test]
fn the_committed_document_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let text = serde_json::to_string_pretty(&generated()).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == text,
        "openapi.json is out of date: UPDATE=1 cargo test --test suite"
    );
}

#[test]
fn every_operation_is_described() {
    let document = generated();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = std::collections::BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} twice");
            for (status, response) in operation["responses"].as_object().unwrap() {
                let response = match response["$ref"].as_str() {
                    Some(elsewhere) => document.pointer(elsewhere.trim_start_matches('#')).unwrap(),
                    None => response,
                };
                assert!(response["description"].as_str().is_some_and(|d| !d.is_empty()), "{method} {path} {status}");
            }
            // Who may is said of all but what anyone may.
            let open = operation["security"].as_array().unwrap().is_empty();
            assert_eq!(open, operation["x-torpor-scopes"].is_null(), "{method} {path}");
            assert!(open || operation["responses"]["401"].is_object(), "{method} {path}");
            let named: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
            for name in named {
                let parameters = operation["parameters"].as_array().unwrap();
                assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "path"), "{method} {path}: {name}");
            }
        }
    }
    for id in ["createPod", "sleepPod", "wakePod", "execPod", "podLogs", "importImage", "restoreSnapshot"] {
        assert!(ids.contains(id), "{id}");
    }
}

#[test]
fn all_that_is_referred_to_is_there() {
    fn walk(value: &Value, all: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                all.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| walk(v, all));
            }
            Value::Array(list) => list.iter().for_each(|v| walk(v, all)),
            _ => {}
        }
    }
    let document = generated();
    let mut all = Vec::new();
    walk(&document, &mut all);
    assert!(!all.is_empty());
    for reference in all {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}
