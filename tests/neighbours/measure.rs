//! How the victim and the API answer.

use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use torpor::api::types::Pod;

use crate::daemon::{self, Daemon};

pub struct Figures {
    pub asked: usize,
    pub failed: usize,
    pub median: Duration,
    pub p99: Duration,
    pub slowest: Duration,
    /// The slowest of the API's answers: health, and the victim looked at.
    pub api_slowest: Duration,
}

impl Figures {
    /// What the victim may take while it is not quiet any more.
    pub fn limit(&self) -> Duration {
        (self.p99 * 3).max(Duration::from_millis(50))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        write!(
            f,
            "{} asked, {} failed, median {:.1}, p99 {:.1}, slowest {:.1} ms, API {:.0} ms",
            self.asked,
            self.failed,
            ms(self.median),
            ms(self.p99),
            ms(self.slowest),
            ms(self.api_slowest)
        )
    }
}

/// Asks the victim by its forward, a new connection each time, and the API beside.
pub async fn run(d: &Daemon, victim: &Pod, how_long: Duration) -> Figures {
    let to = ([198, 51, 100, 1], victim.ports[0].host).into();
    let end = Instant::now() + how_long;
    let asker = std::thread::spawn(move || {
        let (mut times, mut failed) = (Vec::new(), 0);
        while Instant::now() < end {
            let begun = Instant::now();
            let answer = daemon::try_get(to, "/x");
            times.push(begun.elapsed());
            failed += usize::from(answer.as_deref() != Some("/x"));
            std::thread::sleep(Duration::from_millis(4));
        }
        (times, failed)
    });
    let mut api_slowest = Duration::ZERO;
    while Instant::now() < end {
        let begun = Instant::now();
        d.client.health().await.unwrap();
        let health = begun.elapsed();
        let begun = Instant::now();
        let pod = d.client.inspect(&victim.id).await.unwrap();
        assert_eq!(pod.state.to_string(), "running");
        api_slowest = api_slowest.max(health).max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut times, failed) = tokio::task::spawn_blocking(|| asker.join().unwrap()).await.unwrap();
    times.sort();
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let n = ((times.len() - 1) as f64 * share).round() as usize;
        times[n]
    };
    Figures { asked: times.len(), failed, median: at(0.5), p99: at(0.99), slowest: at(1.0), api_slowest }
}

/// A request whose answer nobody reads.
pub struct Asked {
    _stream: UnixStream,
}

impl Asked {
    pub fn logs(socket: &Path, pod: &str) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        let path = format!("/v1/pods/{pod}/logs?follow=true");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: torpor\r\n\r\n").as_bytes()).unwrap();
        Asked { _stream: stream }
    }
}

/// Bytes of memory of a process.
pub fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
