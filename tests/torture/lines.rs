//! Pods that number their lines, and the check that none is missing or there twice.

use futures::StreamExt;
use torpor::api::client::{Client, ClientError};

/// A shell script that counts on port 80 and prints ten numbered lines ten times a second.
pub const TALK: &str = "counter 80 & n=0; while :; do for i in 0 1 2 3 4 5 6 7 8 9; do n=$((n+1)); echo line $n; done; usleep 100000; done";

/// Numbers of the lines that a log has.
pub async fn numbers(client: &Client, pod: &str) -> Result<Vec<u64>, ClientError> {
    let mut lines = std::pin::pin!(client.logs(pod, "").await?);
    let mut numbers = Vec::new();
    while let Some(line) = lines.next().await {
        numbers.extend(number(&line?.line));
    }
    Ok(numbers)
}

/// The number of one line.
pub fn number(line: &str) -> Option<u64> {
    line.strip_prefix("line ")?.parse().ok()
}

/// What is wrong with numbers that should be consecutive.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// Lines that are missing.
    pub lost: u64,
    /// Lines that are there twice.
    pub doubled: u64,
    /// How often the numbers went back.
    pub rewinds: u64,
    /// The first place, for people.
    pub at: Option<(u64, u64)>,
}

/// Compares numbers with consecutive ones from `first` on.
pub fn gaps(first: u64, numbers: &[u64]) -> Gaps {
    let mut gaps = Gaps::default();
    let mut wanted = first;
    for n in numbers {
        if *n > wanted {
            gaps.lost += n - wanted;
        } else if *n < wanted {
            gaps.doubled += wanted - n;
            gaps.rewinds += 1;
        }
        if *n != wanted {
            gaps.at.get_or_insert((wanted, *n));
        }
        wanted = n + 1;
    }
    gaps
}
