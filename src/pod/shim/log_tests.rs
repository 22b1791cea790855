use super::*;

fn lines(dir: &Path) -> Vec<(u64, String)> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_by_key(|n| std::cmp::Reverse(n.parse::<u32>().unwrap_or(0)));
    let bytes: Vec<u8> = names.iter().flat_map(|n| std::fs::read(dir.join(n)).unwrap()).collect();
    let parse = |l: &[u8]| serde_json::from_slice::<Record<'_>>(l).map(|r| (r.n, r.line.into_owned())).unwrap();
    bytes.split_inclusive(|b| *b == b'\n').map(parse).collect()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.run()).unwrap();
        place
    }
    fn run(&self) -> PathBuf {
        self.0.path().join("run")
    }
    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }
    fn open(&self, max: u64, files: u32) -> Log {
        Log::open(&self.log(), &self.run(), max, files).unwrap()
    }
}

/// A shim dies after any step of any batch; its successor is sent the output after the saved frame again.
#[test]
fn every_line_is_there_once_wherever_a_shim_dies() {
    // Frames that end in the middle of lines, of both streams.
    let frames: Vec<(Stream, String)> = (0..40)
        .map(|n| (if n % 3 == 0 { Stream::Stderr } else { Stream::Stdout }, format!("{n}a\n{n}b\n{n}c")))
        .collect();
    let whole = Place::new();
    let mut log = whole.open(300, 100);
    for (n, (stream, data)) in frames.iter().enumerate() {
        log.write(n as u64 + 1, *stream, data.as_bytes());
        log.commit();
    }
    log.flush_partial();
    log.commit();
    let expected = lines(&whole.log());
    assert!(std::fs::read_dir(whole.log()).unwrap().count() > 10);
    for batch in [1, 3, 7] {
        let place = Place::new();
        let mut log = place.open(300, 100);
        let mut at = 0;
        let mut turn = 0_usize;
        while at < frames.len() {
            let end = (at + batch).min(frames.len());
            for (n, (stream, data)) in frames.iter().enumerate().take(end).skip(at) {
                log.write(n as u64 + 1, *stream, data.as_bytes());
            }
            turn += 1;
            let state = place.run().join("log.state");
            let before = std::fs::read(&state).unwrap();
            log.commit();
            if turn.is_multiple_of(2) {
                // It died after the batch was written, in whole or in part, and before the state was saved.
                std::fs::write(&state, before).unwrap();
                if turn.is_multiple_of(4) {
                    let file = OpenOptions::new().write(true).open(place.log().join("current")).unwrap();
                    let length = file.metadata().unwrap().len();
                    file.set_len(length.saturating_sub(turn as u64)).unwrap();
                }
                log = place.open(300, 100);
                at = log.sequence() as usize;
                // Told again once only: dying at every turn would never get on.
                let again = frames.len().min(at + batch);
                for (n, (stream, data)) in frames.iter().enumerate().take(again).skip(at) {
                    log.write(n as u64 + 1, *stream, data.as_bytes());
                }
                log.commit();
                at = again;
            } else {
                at = end;
            }
        }
        log.flush_partial();
        log.commit();
        assert_eq!(lines(&place.log()), expected, "in batches of {batch}");
    }
}

/// One dies after it has written much, the next after a little of that has come again, and so on.
#[test]
fn a_successor_that_dies_early_doubles_nothing() {
    let frames: Vec<String> = (1..=60).map(|n| format!("{n}a\n{n}b\n{n}")).collect();
    let place = Place::new();
    let write = |log: &mut Log, count: usize| {
        let from = log.sequence() as usize;
        for (n, data) in frames.iter().enumerate().skip(from).take(count) {
            log.write(n as u64 + 1, Stream::Stdout, data.as_bytes());
        }
    };
    let mut log = place.open(300, 100);
    write(&mut log, 1);
    log.commit();
    // A notice among what is there already.
    log.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    log.write(2, Stream::Stdout, b"lost\n");
    log.commit();
    log.file = open_current(&place.log()).unwrap();
    let state = place.run().join("log.state");
    let before = std::fs::read(&state).unwrap();
    write(&mut log, 40);
    log.commit();
    std::fs::write(&state, before).unwrap(); // it died before the state was saved
    let written = lines(&place.log());
    assert!(written.iter().any(|(_, line)| line.starts_with("torpor: 1 lines")), "{written:?}");
    for count in [0, 1, 2, 5, 9] {
        let mut log = place.open(300, 100);
        write(&mut log, count);
        assert!(log.commit());
        assert_eq!(lines(&place.log()), written, "after {count} frames");
    }
    let mut log = place.open(300, 100);
    write(&mut log, 60);
    log.flush_partial();
    log.commit();
    let (numbers, said): (Vec<u64>, Vec<String>) = lines(&place.log()).into_iter().unzip();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
    let (notices, own): (Vec<&String>, Vec<&String>) = said.iter().partition(|l| l.starts_with("torpor:"));
    assert_eq!(notices.len(), 1);
    let text = [&*frames[..1].concat(), "lost\n", &*frames[2..].concat()].concat();
    assert!(own.iter().map(|l| &***l).eq(text.lines().filter(|l| *l != "1lost")), "{own:?}");
}

#[test]
fn a_rotation_that_was_not_finished_is_healed() {
    let place = Place::new();
    let mut log = place.open(100, 5);
    let write = |log: &mut Log, n: u64| {
        log.write(n, Stream::Stdout, format!("{n}\n").as_bytes());
        log.commit();
    };
    (1..=3).for_each(|n| write(&mut log, n)); // one record a file
    std::fs::rename(place.log().join("2"), place.log().join("3")).unwrap();
    std::fs::rename(place.log().join("1"), place.log().join("2")).unwrap();
    let mut log = place.open(100, 5);
    (4..=5).for_each(|n| write(&mut log, n));
    assert_eq!(lines(&place.log()).iter().map(|l| l.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    (6..=9).for_each(|n| write(&mut log, n));
    assert_eq!(lines(&place.log()).iter().map(|l| l.0).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
}

#[test]
fn numbers_go_on_in_the_next_incarnation() {
    let place = Place::new();
    let mut log = place.open(1000, 3);
    log.write(1, Stream::Stdout, b"a\nb");
    log.flush_partial();
    log.commit();
    std::fs::remove_file(place.run().join("log.state")).unwrap();
    let mut log = place.open(1000, 3);
    assert_eq!(log.sequence(), 0);
    log.write(1, Stream::Stdout, b"c\n");
    log.commit();
    assert_eq!(lines(&place.log()), [(1, "a".into()), (2, "b".into()), (3, "c".into())]);
}

#[test]
fn a_full_disk_costs_lines_and_is_told() {
    let place = Place::new();
    let mut log = place.open(1 << 20, 3);
    log.write(1, Stream::Stdout, b"first\n");
    log.commit();
    log.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    log.write(2, Stream::Stdout, b"lost\nlost too\n");
    assert!(log.commit(), "the pod goes on");
    log.file = open_current(&place.log()).unwrap();
    log.write(3, Stream::Stdout, b"last\n");
    log.commit();
    let lines = lines(&place.log());
    assert_eq!(lines.iter().map(|l| l.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(lines[1].1.contains("2 lines") && lines[2].1 == "last", "{lines:?}");
}

#[test]
fn long_lines_are_split_between_characters() {
    let place = Place::new();
    let mut log = place.open(1 << 20, 3);
    let long = format!("x{}\n", "ü".repeat(LONGEST_LINE));
    log.write(1, Stream::Stdout, long.as_bytes());
    log.commit();
    let joined: String = lines(&place.log()).into_iter().map(|l| l.1).collect();
    assert_eq!(joined, long.trim_end());
}

#[test]
fn a_state_that_is_half_written_gives_the_one_before() {
    let place = Place::new();
    let path = place.run().join("state");
    let mut file = StateFile::open(&path).unwrap();
    assert_eq!(file.load(), None);
    let saved = |n| Saved { sequence: n, line: n, dropped: 0, stdout: vec![7; 100], stderr: vec![] };
    for n in 1..=4 {
        file.save(&saved(n)).unwrap();
        assert_eq!(StateFile::open(&path).unwrap().load(), Some(saved(n)));
    }
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1; // the place of turn 4
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(StateFile::open(&path).unwrap().load(), Some(saved(3)));
}
