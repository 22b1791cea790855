//! The client's side of the API's WebSockets.

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::Upgraded;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::client::{Client, ClientError, Result, broken, escape, query};
use super::problem::Problem;
use super::terminal::{CreateTerminal, ExecStart, SocketAsks, SocketSays, Terminal, Top};

/// What torpord sends on a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A binary frame.
    Bytes(Bytes),
    /// A text frame.
    Says(SocketSays),
}

/// An open WebSocket.
pub struct Socket {
    /// What comes.
    pub receiver: Receiver,
    /// What goes.
    pub sender: Sender,
}

/// The direction from torpord.
pub struct Receiver(SplitStream<WebSocketStream<TokioIo<Upgraded>>>);

/// The direction to torpord.
pub struct Sender(SplitSink<WebSocketStream<TokioIo<Upgraded>>, Message>);

impl Receiver {
    /// The next frame; none: it was closed. May be given up and asked again.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            match self.0.next().await {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(Frame::Bytes(bytes))),
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map(|s| Some(Frame::Says(s))).map_err(broken);
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(broken(e)),
            }
        }
    }
}

impl Sender {
    async fn send(&mut self, message: Message) -> Result<()> {
        self.0.send(message).await.map_err(broken)
    }

    /// Sends a binary frame.
    ///
    /// # Errors
    /// [`ClientError::Broken`], as for all that is sent.
    pub async fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.send(Message::Binary(bytes.into())).await
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// As [`Sender::send_bytes`].
    pub async fn ask(&mut self, asks: &SocketAsks) -> Result<()> {
        self.send_text(serde_json::to_string(asks).map_err(broken)?).await
    }

    /// Sends the first frame of an exec.
    ///
    /// # Errors
    /// As [`Sender::send_bytes`].
    pub async fn start(&mut self, start: &ExecStart) -> Result<()> {
        self.send_text(serde_json::to_string(start).map_err(broken)?).await
    }

    /// Sends any text frame.
    ///
    /// # Errors
    /// As [`Sender::send_bytes`].
    pub async fn send_text(&mut self, text: String) -> Result<()> {
        self.send(Message::Text(text.into())).await
    }

    /// Closes it.
    pub async fn close(&mut self) {
        // Whoever is not there any more has closed it already.
        let _ = self.0.close().await;
    }
}

impl Client {
    /// Opens a WebSocket.
    ///
    /// # Errors
    /// [`ClientError`]: refused, as every call may be.
    pub async fn socket(&self, path: &str) -> Result<Socket> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            // What goes wrong on the connection is seen by whoever uses the socket.
            let _ = connection.with_upgrades().await;
        });
        let request = self
            .request(Method::GET, path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", generate_key())
            .body(Empty::<Bytes>::new())
            .map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
            return match serde_json::from_slice::<Problem>(&bytes) {
                Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
                Err(_) => Err(broken("torpord did not open a WebSocket")),
            };
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
        let config = WebSocketConfig::default().read_buffer_size(16 << 10).write_buffer_size(0);
        let stream = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
        let (sender, receiver) = stream.split();
        Ok(Socket { receiver: Receiver(receiver), sender: Sender(sender) })
    }

    /// `GET .../exec`: runs a program and follows it.
    ///
    /// # Errors
    /// [`ClientError`], as for every call here.
    pub async fn exec_socket(&self, pod: &str, start: &ExecStart) -> Result<Socket> {
        let mut socket = self.socket(&Self::pod(pod, "/exec")).await?;
        socket.sender.start(start).await?;
        Ok(socket)
    }

    /// `GET .../attach`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn attach(&self, pod: &str, parameters: &[(&str, String)]) -> Result<Socket> {
        self.socket(&Self::pod(pod, &format!("/attach?{}", query(parameters)))).await
    }

    /// `GET .../terminal`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn terminal(&self, pod: &str, parameters: &[(&str, String)]) -> Result<Socket> {
        self.socket(&Self::pod(pod, &format!("/terminal?{}", query(parameters)))).await
    }

    /// `GET .../terminals`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn terminals(&self, pod: &str) -> Result<Vec<Terminal>> {
        self.json(Method::GET, &Self::pod(pod, "/terminals"), None).await
    }

    /// `POST .../terminals`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_terminal(&self, pod: &str, terminal: &CreateTerminal) -> Result<Terminal> {
        let body = serde_json::to_vec(terminal).map_err(broken)?;
        self.json(Method::POST, &Self::pod(pod, "/terminals"), Some(body)).await
    }

    /// `GET .../terminals/{id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn inspect_terminal(&self, pod: &str, id: &str) -> Result<Terminal> {
        self.json(Method::GET, &Self::pod(pod, &format!("/terminals/{}", escape(id, false))), None).await
    }

    /// `DELETE .../terminals/{id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_terminal(&self, pod: &str, id: &str) -> Result<Terminal> {
        self.json(Method::DELETE, &Self::pod(pod, &format!("/terminals/{}", escape(id, false))), None).await
    }

    /// `GET .../top`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn top(&self, pod: &str) -> Result<Top> {
        self.json(Method::GET, &Self::pod(pod, "/top"), None).await
    }
}
