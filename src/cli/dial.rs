//! `dial-stdio`: passes standard input on to torpord and its answers back, for a torpor on another machine that runs this by ssh.

use tokio::io::{AsyncWriteExt, copy, split};

use super::output::Failure;
use crate::api::client::{Client, GREETING};

/// Passes on until torpord has said all. The end of one direction is not the end of the other.
pub(super) async fn dial(client: &Client) -> Result<u8, Failure> {
    let (mut from, mut to) = split(client.dial().await?);
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    output.write_all(format!("{GREETING}\n").as_bytes()).await?;
    output.flush().await?;
    let there = async {
        let _ = copy(&mut input, &mut to).await;
        let _ = to.shutdown().await;
        // What is still to be said is waited for.
        std::future::pending::<()>().await;
    };
    let back = async {
        copy(&mut from, &mut output).await?;
        output.flush().await
    };
    tokio::select! {
        done = back => done?,
        () = there => {}
    }
    // Standard input is read by a thread that nothing can interrupt.
    std::process::exit(0)
}
