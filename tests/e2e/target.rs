//! The endpoints of the document, what may be sent to them, and a torpord that is asked by the socket and by TCP.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Map, Value, json};
use torpor::api::terminal::CreateTerminal;
use torpor::api::types::CreateToken;

use crate::daemon::Daemon;
use crate::listen::{free, token, with};

/// An endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) method: String,
    /// With `{names}` in it.
    pub(crate) path: String,
    /// Schema of a JSON body that it takes.
    pub(crate) body: Option<Value>,
    /// Whether it takes bytes.
    pub(crate) upload: bool,
    /// Query parameters, and whether they are required.
    pub(crate) query: Vec<(String, bool)>,
    /// Whether it is a WebSocket.
    pub(crate) upgrade: bool,
}

/// All of them.
pub(crate) fn operations() -> Vec<Operation> {
    let document = torpor::daemon::http::document();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, described) in methods.as_object().unwrap() {
            let content = described["requestBody"]["content"].as_object().cloned().unwrap_or_default();
            let parameters = described["parameters"].as_array().cloned().unwrap_or_default();
            let of_query = parameters.iter().filter(|p| p["in"] == "query");
            all.push(Operation {
                id: described["operationId"].as_str().unwrap().into(),
                method: method.to_uppercase(),
                path: path.clone(),
                body: content.get("application/json").map(|c| c["schema"].clone()),
                upload: content.keys().any(|k| k != "application/json"),
                query: of_query.map(|p| (p["name"].as_str().unwrap().into(), p["required"] == true)).collect(),
                upgrade: described["responses"]["101"].is_object(),
            });
        }
    }
    assert!(all.len() > 50, "{}", all.len());
    all
}

/// The schemas that a value of it may follow, references and alternatives resolved.
pub(crate) fn schemas(document: &Value, schema: &Value) -> Vec<Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        return schemas(document, document.pointer(reference.trim_start_matches('#')).unwrap());
    }
    let several = ["oneOf", "anyOf"].iter().find_map(|k| schema[k].as_array());
    several.map_or_else(|| vec![schema.clone()], |all| all.iter().flat_map(|s| schemas(document, s)).collect())
}

/// The types of JSON that it may be; none: any.
fn types(document: &Value, schema: &Value) -> Vec<String> {
    let one = |s: Value| match &s["type"] {
        Value::String(t) => vec![t.clone()],
        Value::Array(all) => all.iter().filter_map(|t| Some(t.as_str()?.to_owned())).collect(),
        _ => vec![],
    };
    schemas(document, schema).into_iter().flat_map(one).collect()
}

/// Values of all types but those that it may be.
pub(crate) fn wrong(document: &Value, schema: &Value) -> Vec<Value> {
    let may = types(document, schema);
    let number = may.iter().any(|t| t == "number");
    [
        ("string", json!("x")),
        ("integer", json!(7)),
        ("number", json!(1.5)),
        ("number", json!(-1e300)),
        ("boolean", json!(true)),
        ("array", json!([[]])),
        ("object", json!({"nosuch": {}})),
    ]
    .into_iter()
    .filter(|(t, _)| !may.is_empty() && !may.iter().any(|m| m == t) && (!number || *t != "integer"))
    .map(|(_, v)| v)
    .collect()
}

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Socket,
    Tcp,
}

pub(crate) enum Line {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Line::Unix(s) => s.read(into),
            Line::Tcp(s) => s.read(into),
        }
    }
}

impl Line {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // An answer may come, and the connection end, before all is sent.
        let _ = match self {
            Line::Unix(s) => s.write_all(bytes),
            Line::Tcp(s) => s.write_all(bytes),
        };
    }

    pub(crate) fn end_of_requests(&self) {
        let _ = match self {
            Line::Unix(s) => s.shutdown(Shutdown::Write),
            Line::Tcp(s) => s.shutdown(Shutdown::Write),
        };
    }

    pub(crate) fn patience(&self, time: Duration) {
        match self {
            Line::Unix(s) => s.set_read_timeout(Some(time)).unwrap(),
            Line::Tcp(s) => s.set_read_timeout(Some(time)).unwrap(),
        }
    }
}

/// The status and the body of an answer; a body without end is not read.
pub(crate) type Answer = (u16, Vec<u8>);

/// Reads an answer; none: it was closed, or nothing came in time.
pub(crate) fn answer(line: &mut Line) -> Option<Answer> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 65536]);
    loop {
        if let Some(at) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
            let status: u16 = head[9..12].parse().unwrap();
            let length = head.split("content-length: ").nth(1);
            let length: Option<usize> = length.map(|l| l.split("\r\n").next().unwrap().parse().unwrap());
            let Some(length) = length.filter(|_| status != 204) else { return Some((status, vec![])) };
            if bytes.len() >= at + 4 + length {
                return Some((status, bytes[at + 4..at + 4 + length].to_vec()));
            }
        }
        match line.read(&mut piece) {
            Ok(n @ 1..) => bytes.extend_from_slice(&piece[..n]),
            _ => return None,
        }
    }
}

/// A torpord with one of everything.
pub(crate) struct Target {
    pub(crate) d: Daemon,
    port: u16,
    token: String,
    pub(crate) known: Map<String, Value>,
}

impl Target {
    pub(crate) async fn new() -> Self {
        let port = free();
        let d = with(port, "", "");
        d.import("test").await;
        let web = d.counter("web").await;
        let snapshot = d.client.snapshot("web", &mut |_| ()).await.unwrap().id;
        d.client.create_volume("vol").await.unwrap();
        let new = CreateToken { name: Some("ci".into()), scope: "read-only".into(), ..CreateToken::default() };
        d.client.create_token(&new).await.unwrap();
        let terminal = CreateTerminal { id: Some("term".into()), ..CreateTerminal::default() };
        d.client.create_terminal("web", &terminal).await.unwrap();
        let known = json!({"pod": "web", "snapshot": snapshot, "name": "test", "volume": "vol", "token": "ci",
            "terminal": "term", "host": web.ports[0].host.to_string()});
        let token = token(&d, "admin", None).await;
        Target { d, port, token, known: known.as_object().unwrap().clone() }
    }

    /// The path with all names filled in by what is there, or by `other`; with what the query must have.
    pub(crate) fn path(&self, operation: &Operation, other: Option<&str>) -> String {
        let mut path = operation.path.clone();
        for (name, value) in &self.known {
            path = path.replace(&format!("{{{name}}}"), other.unwrap_or(value.as_str().unwrap()));
        }
        path =
            path.split('{').map(|p| p.split_once('}').map_or(p.to_owned(), |(_, rest)| format!("x{rest}"))).collect();
        let required = operation.query.iter().filter(|(_, required)| *required);
        let query: Vec<String> = required
            .map(|(name, _)| {
                let value = match name.as_str() {
                    "path" => "/tmp",
                    "command" => "true",
                    _ => "made",
                };
                format!("{name}={value}")
            })
            .collect();
        if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
    }

    /// Where it listens by TCP.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn connect(&self, by: By) -> Line {
        let line = match by {
            By::Socket => Line::Unix(UnixStream::connect(&self.d.socket).unwrap()),
            By::Tcp => Line::Tcp(TcpStream::connect(("127.0.0.1", self.port)).unwrap()),
        };
        line.patience(Duration::from_secs(40));
        line
    }

    pub(crate) fn head(&self, by: By, method: &str, path: &str, more: &str) -> String {
        let auth = if by == By::Tcp { format!("authorization: Bearer {}\r\n", self.token) } else { String::new() };
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{auth}{more}")
    }

    /// Asks; an answer comes.
    pub(crate) fn ask(&self, by: By, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        let mut line = self.connect(by);
        let more = format!("connection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        line.send(self.head(by, method, path, &more).as_bytes());
        line.send(body);
        answer(&mut line).unwrap_or_else(|| panic!("{by:?} {method} {path}: no answer\n{}", self.d.log()))
    }

    /// Asks for what must be refused, with a status that fits.
    pub(crate) fn refused(&self, by: By, method: &str, path: &str, kind: &str, body: &[u8], with: &[u16]) {
        let (status, text) = self.ask(by, method, path, kind, body);
        let shown = format!(
            "{by:?} {method} {} {}: {status} {}",
            &path[..path.len().min(200)],
            String::from_utf8_lossy(&body[..body.len().min(200)]),
            String::from_utf8_lossy(&text)
        );
        assert!(with.contains(&status), "{shown}");
        clear(status, &text, &shown);
    }

    /// All is as it was.
    pub(crate) async fn unchanged(&self, before: &Value) {
        let log = self.d.log();
        assert!(!log.contains("panicked") && !log.contains("code=internal"), "{log}");
        assert_eq!(&self.all().await, before);
        for by in [By::Socket, By::Tcp] {
            assert_eq!(self.ask(by, "GET", "/health", "x/x", b"").0, 200);
        }
    }

    pub(crate) async fn all(&self) -> Value {
        let c = &self.d.client;
        let pods: Vec<Value> = c
            .pods()
            .await
            .unwrap()
            .into_iter()
            .map(|p| json!([p.id, p.name, p.state, p.sandbox_pid, p.labels]))
            .collect();
        let images: Vec<String> = c.images().await.unwrap().into_iter().map(|i| i.name + &i.id).collect();
        let volumes: Vec<String> = c.volumes().await.unwrap().into_iter().map(|v| v.name).collect();
        let snapshots: Vec<String> = c.snapshots().await.unwrap().into_iter().map(|s| s.id).collect();
        let tokens: Vec<String> = c.tokens().await.unwrap().into_iter().map(|t| t.id).collect();
        let terminals: Vec<String> = c.terminals("web").await.unwrap().into_iter().map(|t| t.id).collect();
        let ports = c.ports("web").await.unwrap().len();
        json!([pods, images, volumes, snapshots, tokens, terminals, ports])
    }
}

/// A refusal says what is wrong, as the document says it does.
pub(crate) fn clear(status: u16, text: &[u8], shown: &str) {
    let problem: Value = serde_json::from_slice(text).unwrap_or_else(|e| panic!("{e}: {shown}"));
    assert_eq!(problem["status"], status, "{shown}");
    for field in ["code", "title", "detail", "requestId"] {
        assert!(problem[field].as_str().is_some_and(|t| !t.is_empty()), "{field}: {shown}");
    }
}

/// The path with one parameter, and with all others that it must have.
pub(crate) fn with_query(operation: &Operation, target: &Target, name: &str, value: &str) -> String {
    let others = operation.query.iter().filter(|(n, _)| n != name).cloned().collect();
    let path = target.path(&Operation { query: others, ..operation.clone() }, None);
    format!("{path}{}{name}={value}", if path.contains('?') { "&" } else { "?" })
}
