//! The container manager's terminal.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::containers::{CONFIG, ENV, destroy, make};
use crate::world::{SECRET, World, until};

pub type Socket = tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>;

/// As in the document.
const TERMINAL: &str =
    "ws://<HOST_IP>:8080/api/containers/<container_id>/terminal?token=<API_SECRET_OR_CALLBACK_SECRET>";

/// Opens it; the status if it is refused.
pub async fn open(id: &str, token: &str) -> Result<Socket, u16> {
    let url = TERMINAL.replace("<HOST_IP>", "127.0.0.1").replace("<container_id>", id);
    let url = url.replace("<API_SECRET_OR_CALLBACK_SECRET>", token);
    let stream = tokio::net::TcpStream::connect("127.0.0.1:8080").await.unwrap();
    match tokio_tungstenite::client_async(url, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(e) => panic!("{e}"),
    }
}

/// What is shown until a text is seen: text frames alone.
async fn shown(socket: &mut Socket, text: &str) -> String {
    let mut all = String::new();
    let reads = async {
        while !all.contains(text) {
            match socket.next().await.unwrap().unwrap() {
                Message::Text(t) => all.push_str(t.as_str()),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(60), reads).await;
    assert!(seen.is_ok(), "no {text:?} in {all:?}");
    all
}

#[test]
fn frames_are_what_is_typed_and_what_is_shown() {
    let Some(w) = World::new(CONFIG, &ENV) else { return };
    let id = make(&w, &json!({"name": "shell"})).good()["id"].as_str().unwrap().to_owned();
    w.block_on(async {
        let mut socket = open(&id, SECRET).await.unwrap();
        socket.send(Message::Text("pwd; tty; echo sum=$((40+2))\n".into())).await.unwrap();
        let all = shown(&mut socket, "sum=42").await;
        assert!(all.contains("/app") && all.contains("/dev/pts/"), "{all:?}");
        // A character in two frames, one of them binary, is one character.
        socket.send(Message::Binary(b"echo '\xc3".as_slice().into())).await.unwrap();
        socket.send(Message::Binary(b"\xa4' | wc -c; echo do'ne'\n".as_slice().into())).await.unwrap();
        assert!(shown(&mut socket, "done").await.contains('3'));
        // What looks like JSON is typed like anything else.
        socket.send(Message::Text("echo '{\"type\":\"resize\"}' en'd'\n".into())).await.unwrap();
        shown(&mut socket, "} end").await;
        // Control-C, and the end of the shell is the end of the socket.
        socket.send(Message::Text("sh -c 'echo up-$((1+1)); exec sleep 1000'\n".into())).await.unwrap();
        shown(&mut socket, "up-2").await;
        socket.send(Message::Text("\u{3}".into())).await.unwrap();
        shown(&mut socket, "# ").await;
        socket.send(Message::Text("exit\n".into())).await.unwrap();
        let ends = async {
            while let Some(Ok(m)) = socket.next().await
                && !m.is_close()
            {}
        };
        tokio::time::timeout(Duration::from_secs(60), ends).await.unwrap();

        assert_eq!(open(&id, "x").await.err(), Some(401));
        assert_eq!(open("abc12345", SECRET).await.err(), Some(404));
        // A client that goes takes its shell along.
        let mut gone = open(&id, SECRET).await.unwrap();
        gone.send(Message::Text("exec sleep 4321 # ready\n".into())).await.unwrap();
        shown(&mut gone, "ready").await;
    });
    until("its shell ends", || w.exec("shell", "ps | grep -c '[s]leep 4321' || true") == "0\n");
    w.curl(&format!("curl 'http://localhost:8080/api/containers/{id}/terminal?token={SECRET}'")).refused(400);
    destroy(&w, &id).good();
    assert!(!w.daemon.log().contains(SECRET));
}
