use std::io::Write;
use std::time::Duration;

use futures::StreamExt;

use super::*;

fn record(n: u64) -> Vec<u8> {
    let timestamp = Timestamp::from_second(n as i64).unwrap();
    let line = format!("line {n}").into();
    let record = Record { n, timestamp, stream: channel::Stream::Stdout, line, partial: false, notice: false };
    let mut bytes = serde_json::to_vec(&record).unwrap();
    bytes.push(b'\n');
    bytes
}

struct Writer {
    dir: tempfile::TempDir,
    next: u64,
    keep: u32,
}

impl Writer {
    fn new(keep: u32) -> Self {
        let writer = Writer { dir: tempfile::tempdir().unwrap(), next: 1, keep };
        writer.current();
        writer
    }
    fn current(&self) -> File {
        File::options().create(true).append(true).open(self.dir.path().join("current")).unwrap()
    }
    fn write(&mut self, count: u64) {
        let mut file = self.current();
        for n in self.next..self.next + count {
            file.write_all(&record(n)).unwrap();
        }
        self.next += count;
    }
    fn rotate(&self) {
        for n in (1..self.keep - 1).rev() {
            let name = |n: u32| self.dir.path().join(n.to_string());
            let _ = std::fs::rename(name(n), name(n + 1));
        }
        std::fs::rename(self.dir.path().join("current"), self.dir.path().join("1")).unwrap();
        self.current();
    }
    async fn read(&self, query: LogQuery) -> Vec<u64> {
        let (_end, ended) = watch::channel(false);
        numbers(read(self.dir.path(), query, ended).unwrap().map(Result::unwrap).concat().await)
    }
}

fn numbers(lines: Vec<LogLine>) -> Vec<u64> {
    lines.into_iter().map(|l| l.line.strip_prefix("line ").unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn the_last_lines_and_those_since_then() {
    let mut w = Writer::new(4);
    assert!(w.read(LogQuery::default()).await.is_empty());
    for _ in 0..3 {
        w.write(10);
        w.rotate();
    }
    let query = |tail, since: Option<i64>| LogQuery {
        tail,
        since: since.map(|s| Timestamp::from_second(s).unwrap()),
        ..LogQuery::default()
    };
    assert_eq!(w.read(query(Some(2), None)).await, [29, 30], "current is empty");
    w.write(5);
    assert_eq!(w.read(query(None, None)).await, (1..=35).collect::<Vec<_>>());
    for tail in [0, 1, 5, 6, 25, 34] {
        assert_eq!(w.read(query(Some(tail), None)).await, (36 - tail..=35).collect::<Vec<_>>(), "tail {tail}");
    }
    assert_eq!(w.read(query(Some(1000), None)).await.len(), 35);
    assert_eq!(w.read(query(Some(3), Some(34))).await, [34, 35]);
    w.rotate();
    assert_eq!(w.read(query(Some(30), None)).await, (11..=35).collect::<Vec<_>>(), "the oldest file is gone");
}

#[tokio::test]
async fn a_follower_gets_each_line_once_over_rotations_and_torn_ends() {
    let mut w = Writer::new(20);
    w.write(3);
    let (end, ended) = watch::channel(false);
    let stream = read(w.dir.path(), LogQuery { tail: Some(1), follow: true, ..LogQuery::default() }, ended).unwrap();
    let follower = tokio::spawn(stream.map(Result::unwrap).concat());
    for turn in 0..100 {
        w.write(turn % 7);
        if turn % 10 == 3 {
            w.rotate();
        }
        if turn % 9 == 0 {
            // Half of a record that a dying shim left is cut off again by the next.
            let mut file = w.current();
            let length = file.metadata().unwrap().len();
            file.write_all(&record(w.next)[..20]).unwrap();
            tokio::task::yield_now().await;
            file.set_len(length).unwrap();
        }
        tokio::task::yield_now().await;
    }
    end.send(true).unwrap();
    let got = numbers(tokio::time::timeout(Duration::from_secs(20), follower).await.unwrap().unwrap());
    assert_eq!(got, (3..w.next).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_long_log_leaves_others_their_turn() {
    let mut w = Writer::new(3);
    w.write(20_000); // some batches
    let turns = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(w.read(LogQuery::default()).await.len(), 20_000);
    other.abort();
    assert!(turns.load(std::sync::atomic::Ordering::Relaxed) >= 4);
}

#[tokio::test]
async fn a_gap_in_the_names_hides_nothing() {
    let mut w = Writer::new(9);
    for _ in 0..4 {
        w.write(2);
        w.rotate();
    }
    for n in (2..=4).rev() {
        std::fs::rename(w.dir.path().join(n.to_string()), w.dir.path().join((n + 1).to_string())).unwrap();
    }
    assert_eq!(w.read(LogQuery::default()).await, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_follower_ends_with_the_log() {
    let mut w = Writer::new(3);
    w.write(1);
    let (_end, ended) = watch::channel(false);
    let mut stream = Box::pin(read(w.dir.path(), LogQuery { follow: true, ..LogQuery::default() }, ended).unwrap());
    assert_eq!(numbers(stream.next().await.unwrap().unwrap()), [1]);
    w.dir.close().unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.unwrap();
    assert!(end.is_none());
}

#[tokio::test]
async fn rubbish_in_the_files_is_passed_over() {
    let mut w = Writer::new(3);
    w.write(1);
    let mut file = w.current();
    file.write_all(b"{\"n\":2,\"line\":1}\nnothing\n").unwrap();
    file.write_all(&vec![b'x'; 3 * BATCH]).unwrap();
    file.write_all(b"\n").unwrap();
    w.next = 3;
    w.write(2);
    assert_eq!(w.read(LogQuery::default()).await, [1, 3, 4]);
}

#[tokio::test]
async fn who_goes_on_after_a_record_is_told_what_is_not_there_any_more() {
    let mut w = Writer::new(3);
    w.write(10);
    let raw = async |w: &Writer, query: LogQuery| {
        let (_end, ended) = watch::channel(false);
        let all: Vec<Raw> = read_raw(w.dir.path(), query, ended).unwrap().map(Result::unwrap).collect().await;
        let numbers: Vec<u64> =
            all.iter().flat_map(|r| records(&r.records).map(|(n, _)| n).collect::<Vec<_>>()).collect();
        (all.iter().map(|r| r.missed).sum::<u64>(), numbers)
    };
    let after = |n| LogQuery { after: Some(n), tail: Some(1), ..LogQuery::default() };
    assert_eq!(raw(&w, after(7)).await, (0, vec![8, 9, 10]));
    assert_eq!(raw(&w, after(10)).await, (0, vec![]));
    assert_eq!(raw(&w, after(99)).await, (0, vec![]), "an id that is still to come");
    assert_eq!(raw(&w, LogQuery { tail: Some(2), ..LogQuery::default() }).await, (0, vec![9, 10]));
    let since = Some(Timestamp::from_second(9).unwrap());
    assert_eq!(raw(&w, LogQuery { since, ..after(2) }).await, (0, vec![9, 10]));
    for _ in 0..4 {
        w.rotate();
        w.write(5);
    }
    // Two files and the current one are left: 16 to 30.
    assert_eq!(raw(&w, after(8)).await, (7, (16..=30).collect()));
    assert_eq!(raw(&w, after(15)).await, (0, (16..=30).collect()));
    assert_eq!(raw(&w, LogQuery::default()).await, (0, (16..=30).collect()), "nobody had anything before");

    // A record that is longer than a batch, and a follower that is overtaken.
    let (end, ended) = watch::channel(false);
    let query = LogQuery { follow: true, ..after(28) };
    let mut follower = Box::pin(read_raw(w.dir.path(), query, ended).unwrap());
    assert_eq!(records(&follower.next().await.unwrap().unwrap().records).count(), 2);
    for _ in 0..4 {
        w.rotate();
        w.write(5);
    }
    let line = "y".repeat(3 * RAW).into();
    let timestamp = Timestamp::UNIX_EPOCH;
    let long = Record { n: w.next, timestamp, stream: channel::Stream::Stderr, line, partial: false, notice: false };
    let long = [serde_json::to_vec(&long).unwrap(), b"\n".to_vec()].concat();
    w.current().write_all(&long).unwrap();
    end.send(true).unwrap();
    let rest: Vec<Raw> = follower.map(Result::unwrap).collect().await;
    let numbers: Vec<u64> = rest.iter().flat_map(|r| records(&r.records).map(|(n, _)| n).collect::<Vec<_>>()).collect();
    let missed: u64 = rest.iter().map(|r| r.missed).sum();
    assert_eq!((numbers.last(), missed + numbers.len() as u64), (Some(&51), 21), "{numbers:?}");
    assert_eq!(rest.last().unwrap().records.len(), long.len());
}
