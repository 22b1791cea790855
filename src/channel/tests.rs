use proptest::prelude::*;

use super::secrets::{SecretFile, SecretFiles};
use super::terminal::{NewTerminal, OpenTerminal, ProcessInfo, TerminalAsk, TerminalEnd, TerminalNews, WindowSize};
use super::*;

fn frames_of(bytes: &[u8], step: usize) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for chunk in bytes.chunks(step.max(1)) {
        decoder.push(chunk);
        while let Some(frame) = decoder.next_frame() {
            frames.push(frame);
        }
    }
    frames
}

fn secrets() -> SecretFiles {
    let file = SecretFile { name: "key".into(), mode: 0o400, content: vec![7; 9000].into() };
    SecretFiles { user: "ann".into(), files: vec![file] }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Hello { version: 1, session: u64::MAX, acknowledged: 7 },
        Request::Launch(Launch {
            command: vec!["a".into(), "ü".into()], env: vec!["A=1".into()], ..Launch::default()
        }),
        Request::Exec { process: 3, exec: Exec { stdin: true, ..Exec::default() } },
        Request::Signal { process: 0, signal: 15 },
        Request::Stdin { process: 9, data: vec![0, 255, 10] },
        Request::Stdin { process: 9, data: vec![] },
        Request::Quiesce,
        Request::Resume,
        Request::Identity(Identity { entropy: vec![1, 2], machine_id: Some("x".into()), ..Identity::default() }),
        Request::Probe { id: 4, probe: Probe::Http { port: 80, path: "/".into() }, timeout_ms: 5 },
        Request::Ack(u64::MAX),
        Request::Finish,
        Request::Secrets(secrets()),
        Request::Terminal(TerminalAsk::Open {
            ask: 3,
            open: OpenTerminal { id: "a".into(), create: Some(NewTerminal::default()), ..OpenTerminal::default() },
            window: 7,
        }),
        Request::Terminal(TerminalAsk::Credit { number: 2, upto: u64::MAX }),
        Request::Credit { process: 5, bytes: u64::MAX },
        Request::Processes { id: 9 },
    ]
}

fn events() -> Vec<Event> {
    vec![
        Event::Hello { version: 1, session: 5, launched: true },
        Event::Started { process: 1 },
        Event::StartFailed { process: 1, why: StartFailure::NotFound, message: "no".into() },
        Event::Output { process: 2, stream: Stream::Stderr, data: vec![0; 100_000] },
        Event::Exited { process: 2, code: None, signal: Some(9) },
        Event::Quiesced,
        Event::Identified { failed: None },
        Event::Probed { id: 1, ready: true },
        Event::SecretsFilled { failed: Some("x".into()) },
        Event::Terminal(TerminalNews::Opened {
            ask: 3,
            number: 2,
            created: true,
            size: WindowSize::default(),
            start: 9,
            end: 11,
        }),
        Event::Terminal(TerminalNews::Ended {
            number: 2,
            end: TerminalEnd { code: Some(3), ..TerminalEnd::default() },
        }),
        Event::TerminalOutput { number: 2, place: 1 << 40, data: vec![7; 70_000] },
        Event::InputTaken { process: 3, bytes: 65_536 },
        Event::Processes { id: 9, processes: vec![ProcessInfo { pid: 1, ..ProcessInfo::default() }] },
    ]
}

#[test]
fn all_that_is_said_is_understood() {
    for request in requests() {
        let bytes: Vec<u8> = request.frames().concat();
        let frames = frames_of(&bytes, 7);
        assert_eq!(frames.iter().map(Request::parse).collect::<Vec<_>>(), [Some(request)]);
    }
    for (n, event) in events().into_iter().enumerate() {
        let frames = frames_of(&event.encode(n as u64), 1000);
        assert_eq!(frames[0].sequence, n as u64);
        assert_eq!(frames.iter().map(Event::parse).collect::<Vec<_>>(), [Some(event)]);
    }
}

#[test]
fn long_requests_go_in_pieces_that_a_fifo_takes_whole() {
    let request = Request::Launch(Launch { env: vec!["A=".to_owned() + &"x".repeat(50_000)], ..Launch::default() });
    let frames = request.frames();
    assert!(frames.len() > 10 && frames.iter().all(|f| f.len() <= ATOMIC));
    // A message that was broken off is forgotten when another begins.
    let hello = Request::Hello { version: 1, session: 1, acknowledged: 0 };
    let mut bytes = frames[..3].concat();
    bytes.extend(hello.frames().concat());
    assert_eq!(frames_of(&bytes, 100).iter().filter_map(Request::parse).collect::<Vec<_>>(), [hello]);
}

#[test]
fn reading_begun_in_the_middle_finds_the_next_frame() {
    let first = Event::Output { process: 0, stream: Stream::Stdout, data: b"TTPPTPC1 not a header".to_vec() }.encode(1);
    let second = Event::Quiesced.encode(0);
    for cut in 1..first.len() {
        let mut bytes = first[cut..].to_vec();
        bytes.extend_from_slice(&second);
        assert_eq!(
            frames_of(&bytes, 5).iter().filter_map(Event::parse).collect::<Vec<_>>(),
            [Event::Quiesced],
            "{cut}"
        );
    }
}

#[test]
fn secrets_are_not_shown() {
    let launch = Launch { env: vec!["TOKEN=hunter2".into()], ..Launch::default() };
    assert!(!format!("{launch:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn rubbish_never_panics_and_memory_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..5000), step in 1_usize..600) {
        for frame in frames_of(&bytes, step) {
            let _ = (Request::parse(&frame), Event::parse(&frame));
        }
    }

    #[test]
    fn any_body_comes_through(body in proptest::collection::vec(any::<u8>(), 0..20_000), sequence: u64, step in 1_usize..9000) {
        let frames = frames_of(&encode_fragments(200, sequence, &body).concat(), step);
        prop_assert_eq!(frames, vec![Frame { kind: 200, sequence, body: body.clone() }]);
        let frames = frames_of(&encode(201, sequence, &body), step);
        prop_assert_eq!(frames, vec![Frame { kind: 201, sequence, body }]);
    }
}

#[test]
fn a_frame_is_found_whatever_a_program_wrote_before_it() {
    let hello = Event::Hello { version: 1, session: 77, launched: true };
    let wanted = |f: &Frame| matches!(Event::parse(f), Some(Event::Hello { session: 77, .. }));
    let output = |data| Event::Output { process: 0, stream: Stream::Stdout, data };
    // Half of a frame, then what looks like the beginning of one that never comes, then a hello of another conversation.
    let mut bytes = output(vec![b'x'; 90_000]).encode(5)[..40_000].to_vec();
    for fake in [3000, 100_000] {
        bytes.extend_from_slice(&output(vec![0; fake]).encode(9)[..24]);
    }
    bytes.extend(Event::Hello { version: 1, session: 1, launched: true }.encode(0));
    bytes.extend(hello.encode(0));
    bytes.extend(Event::Started { process: 3 }.encode(6));
    for step in [1, 7, 1000, 100_000] {
        let (mut decoder, mut found) = (Decoder::default(), None);
        for chunk in bytes.chunks(step) {
            decoder.push(chunk);
            found = found.or_else(|| decoder.find(wanted));
        }
        assert_eq!(found.as_ref().and_then(Event::parse), Some(hello.clone()));
        assert_eq!(decoder.next_frame().map(|f| f.sequence), Some(6), "in steps of {step}");
    }
}
