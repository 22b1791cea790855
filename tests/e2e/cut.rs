//! What is open by a token ends with it, WebSockets too.

use std::time::{Duration, Instant};

use torpor::api::client::Client;
use torpor::api::socket::{Frame, Socket};
use torpor::api::terminal::{ExecStart, SocketSays};
use torpor::api::types::{CreateToken, RotateToken};

use crate::daemon::{self, code, script};
use crate::listen::{bearer, free, token, with};

/// Seconds for which a token is good that ends by itself: enough to open all that is to be cut.
const LIFE: u64 = 20;

/// Reads what has come up to bytes that hold `text`.
async fn hears(socket: &mut Socket, text: &str) {
    let mut all = Vec::new();
    while memchr::memmem::find(&all, text.as_bytes()).is_none() {
        match tokio::time::timeout(Duration::from_secs(30), socket.receiver.next()).await {
            Ok(Ok(Some(Frame::Bytes(bytes)))) => all.extend_from_slice(&bytes),
            Ok(Ok(Some(Frame::Says(SocketSays::Opened { .. })))) => {}
            other => panic!("{text:?} after {all:?}: {other:?}"),
        }
    }
}

/// Whether a WebSocket is cut, in time: without a word, whatever it was used for.
async fn is_cut(socket: &mut Socket, within: Duration) -> bool {
    let rest = async {
        loop {
            match socket.receiver.next().await {
                Ok(Some(Frame::Says(SocketSays::Exit { .. } | SocketSays::Error { .. }))) => return false,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return true,
            }
        }
    };
    tokio::time::timeout(within, rest).await.unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_cuts_the_web_sockets_that_are_open_by_it() {
    if !daemon::ready() {
        return;
    }
    let port = free();
    let d = with(port, "", "");
    d.import("test").await;
    d.client.create_pod(&script("t", "while :; do echo tick; sleep 0.2; done")).await.unwrap();
    let cat = |mark: &str| ExecStart {
        command: ["sh", "-c", &format!("echo {mark}; cat")].map(str::to_owned).to_vec(),
        stdin: true,
        ..ExecStart::default()
    };
    let name = |name: &str, expires_in_seconds| CreateToken {
        name: Some(name.into()),
        scope: "pods".into(),
        expires_in_seconds,
        ..CreateToken::default()
    };
    let other = bearer(port, &token(&d, "pod", Some("t")).await);
    let mut kept = other.exec_socket("t", &cat("kept")).await.unwrap();
    hears(&mut kept, "kept").await;
    // Revoked, replaced, over: each time all that is open by it, also by a ticket of it.
    for how in ["revoked", "replaced", "over"] {
        let made = d.client.create_token(&name(how, (how == "over").then_some(LIFE))).await.unwrap();
        let client = bearer(port, &made.secret);
        let mut exec = client.exec_socket("t", &cat("here")).await.unwrap();
        hears(&mut exec, "here").await;
        exec.sender.send_bytes(b"\0typed\n".to_vec()).await.unwrap();
        hears(&mut exec, "typed").await;
        let open = [("id", how.to_owned()), ("command", "sh".into())];
        let mut terminal = client.terminal("t", &open).await.unwrap();
        hears(&mut terminal, "#").await;
        let mut attached = client.attach("t", &[]).await.unwrap();
        hears(&mut attached, "tick").await;
        let ticket = client.ticket().await.unwrap().ticket;
        let plain = Client::new(&format!("tcp://127.0.0.1:{port}")).unwrap();
        let mut by_ticket = plain
            .terminal("t", &[("id", how.to_owned()), ("ticket", ticket), ("create", "false".into())])
            .await
            .unwrap();
        hears(&mut by_ticket, "#").await;
        match how {
            "revoked" => d.client.revoke_token(how).await.unwrap(),
            "replaced" => drop(d.client.rotate_token(how, &RotateToken::default()).await.unwrap()),
            _ => {}
        }
        let within = Duration::from_secs(5 + if how == "over" { LIFE } else { 0 });
        for (what, socket) in
            [("exec", &mut exec), ("terminal", &mut terminal), ("attach", &mut attached), ("ticket", &mut by_ticket)]
        {
            assert!(is_cut(socket, within).await, "{what} goes on after its token was {how}");
        }
        assert_eq!(code(&client.exec_socket("t", &cat("no")).await.err().unwrap()), "unauthorized");
        // What it looked at is as it was, and nobody looks at it.
        let end = Instant::now() + Duration::from_secs(20);
        while d.client.inspect_terminal("t", how).await.unwrap().viewers > 0 {
            assert!(Instant::now() < end);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(d.client.inspect_terminal("t", how).await.unwrap().exit_code, None);
    }
    kept.sender.send_bytes(b"\0still\n".to_vec()).await.unwrap();
    hears(&mut kept, "still").await;
    assert_eq!(d.client.inspect("t").await.unwrap().state, "running");
}
