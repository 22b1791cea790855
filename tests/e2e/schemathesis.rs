//! Schemathesis against the document: whatever it thinks of is answered as the document says, by TCP and by the socket.

use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use torpor::api::types::CreatePod;
use torpor::daemon::http::document;

use crate::daemon::{self, counter};
use crate::listen::token;
use crate::support;
use crate::target::{By, Target};

/// Cases for each operation of a kind: with more it finds more, and takes longer.
const CASES: &str = "8";
/// Without end, or the end of all pods: asked elsewhere.
const LEFT_OUT: [&str; 2] = ["events", "hostDown"];
/// As many are made of some fifty operations at least.
const LEAST: usize = 1000;

fn program() -> Option<PathBuf> {
    let found = std::env::var_os("TORPOR_TEST_SCHEMATHESIS").map(PathBuf::from).filter(|p| p.is_file());
    support::has("schemathesis", found.is_some()).then_some(found).flatten()
}

/// A port by which the socket is reached: schemathesis knows TCP alone.
fn forward(socket: &Path) -> u16 {
    let (listener, socket) = (TcpListener::bind("127.0.0.1:0").unwrap(), socket.to_owned());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = UnixStream::connect(&socket) else { return };
            let (near2, far2) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut &near, &mut &far);
                let _ = far.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut &far2, &mut &near2);
                let _ = near2.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

/// What it is given: the document and what is there.
struct Run<'a> {
    program: &'a Path,
    dir: &'a Path,
    known: String,
}

impl Run<'_> {
    /// All was as the document says, in so many cases.
    fn finds_nothing(&self, port: u16, header: Option<&str>) {
        let file = self.dir.join("openapi.json");
        std::fs::write(&file, document().to_string()).unwrap();
        let mut command = Command::new(self.program);
        command
            .arg("run")
            .arg(&file)
            .args(["--no-color", "--url", &format!("http://127.0.0.1:{port}")])
            // Requests that fit the document may still be refused: for names of what is not there, or two that exclude each other.
            // A refusal may be 501, 503 or 507, as the document says; a fault of torpord's own is looked for in its log.
            .args(["--checks", "all", "--exclude-checks", "positive_data_acceptance,not_a_server_error"])
            .args(["--max-examples", CASES, "--seed", "1", "--generation-deterministic"])
            .args(["--request-timeout", "60"])
            .env("SCHEMATHESIS_HOOKS", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/schemathesis_hooks.py"))
            .env("TORPOR_KNOWN", &self.known)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(self.dir);
        for id in LEFT_OUT {
            command.args(["--exclude-operation-id", id]);
        }
        if let Some(header) = header {
            command.args(["-H", header]);
        }
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}");
        let cases = said.lines().find_map(|l| l.split_once(" generated, ")).map(|(n, _)| n.trim().parse::<usize>());
        assert!(cases.is_some_and(|n| n.is_ok_and(|n| n >= LEAST)), "{said}");
    }
}

/// A torpord with one of everything, and a pod that has ended; whether it is asked by TCP, with a token that may all but administer.
async fn ask(program: &Path, by: By) {
    let target = Target::new().await;
    let mut known = Value::Object(target.known.clone());
    let done = CreatePod { command: vec!["true".into()], ready: None, ..counter("done") };
    let done = target.d.client.create_pod(&done).await.unwrap().id;
    target.d.client.wait(&done).await.unwrap();
    // By their ids: they are given other names.
    let web = target.d.client.inspect("web").await.unwrap().id;
    (known["pod"], known["ended"]) = (json!(web), json!(done));
    let run = Run { program, dir: &target.d.dir, known: known.to_string() };
    let (port, header) = match by {
        By::Socket => (forward(&target.d.socket), None),
        By::Tcp => (target.port(), Some(format!("Authorization: Bearer {}", token(&target.d, "pods", None).await))),
    };
    tokio::task::block_in_place(|| run.finds_nothing(port, header.as_deref()));
    let log = target.d.log();
    assert!(!log.contains("code=internal") && !log.contains("panicked"), "{log}");
    assert_eq!(target.ask(by, "GET", "/health", "x/x", b"").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_by_tcp_is_as_the_document_says() {
    if let (true, Some(program)) = (daemon::ready(), program()) {
        ask(&program, By::Tcp).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_by_the_socket_is_as_the_document_says() {
    if let (true, Some(program)) = (daemon::ready(), program()) {
        ask(&program, By::Socket).await;
    }
}
