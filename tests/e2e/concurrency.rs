//! Four clients at once, doing what they like: what they were told must fit one order of events for each pod.
//!
//! The search for that order is Wing and Gong's (Testing and verifying concurrent objects, 1993): of the calls that had begun
//! before the first of the others ended, each is tried as the next; states that were seen are not tried again.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use torpor::api::client::ClientError;
use torpor::api::types::{ExecPod, StopPod, WakePod};

use crate::daemon::{Daemon, code, counter, ready};
use crate::dice::Dice;
use crate::support;

const CLIENTS: u64 = 4;
const CALLS: u64 = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    Absent,
    Running,
    Stopped,
    Sleeping,
}

/// What a pod is, and how often its counter was raised.
type Model = (State, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Create,
    Start,
    Stop,
    Sleep,
    Wake,
    Remove,
    /// Raises the counter, which is a file in its root, and tells it.
    Count,
    Inspect,
}

#[derive(Debug, Clone)]
struct Call {
    op: Op,
    began: Instant,
    ended: Instant,
    /// The counter or the state that was told, or the code of the refusal.
    told: Result<String, String>,
}

/// What a pod may be after a call that was answered so; none: it can't have been this pod's turn.
fn after(model: Model, call: &Call, alone: bool) -> Vec<Model> {
    let (state, count) = model;
    let told = call.told.as_deref().map_err(String::as_str);
    let refused = |code: &str| told == Err(code);
    let become_if = |from: &[State], to: State| -> Vec<Model> {
        if told.is_ok() { if from.contains(&state) { vec![(to, count)] } else { vec![] } } else { vec![model] }
    };
    let absent = refused("not_found");
    match call.op {
        Op::Create if told.is_ok() => {
            if state == State::Absent {
                vec![(State::Running, 0)]
            } else {
                vec![]
            }
        }
        Op::Create => {
            if refused("name_taken") && state != State::Absent {
                vec![model]
            } else {
                vec![]
            }
        }
        _ if absent => {
            if state == State::Absent {
                vec![model]
            } else {
                vec![]
            }
        }
        Op::Inspect => match told {
            Ok("running") => {
                if state == State::Running {
                    vec![model]
                } else {
                    vec![]
                }
            }
            Ok("stopped") => {
                if state == State::Stopped {
                    vec![model]
                } else {
                    vec![]
                }
            }
            Ok("sleeping") => {
                if state == State::Sleeping {
                    vec![model]
                } else {
                    vec![]
                }
            }
            // On its way from one to another: some other call must be at work.
            _ => {
                if alone {
                    vec![]
                } else {
                    vec![model]
                }
            }
        },
        Op::Count => match told {
            Ok(n) => {
                if state == State::Running && *n == (count + 1).to_string() {
                    vec![(state, count + 1)]
                } else {
                    vec![]
                }
            }
            Err("wrong_state") => {
                if state != State::Running || !alone {
                    vec![model]
                } else {
                    vec![]
                }
            }
            // The pod was taken away under it: it may have counted or not.
            Err(_) => {
                if alone {
                    vec![]
                } else {
                    vec![model, (state, count + 1)]
                }
            }
        },
        Op::Start => match told {
            Err("wrong_state") => {
                if state == State::Sleeping {
                    vec![model]
                } else {
                    vec![]
                }
            }
            _ => become_if(&[State::Running, State::Stopped], State::Running),
        },
        Op::Stop => match told {
            Err("wrong_state") => {
                if state == State::Sleeping {
                    vec![model]
                } else {
                    vec![]
                }
            }
            Ok(_) => become_if(&[State::Running, State::Stopped], State::Stopped),
            Err(_) => vec![],
        },
        Op::Sleep => match told {
            Err("wrong_state") => {
                if state == State::Stopped {
                    vec![model]
                } else {
                    vec![]
                }
            }
            Ok(_) => become_if(&[State::Running, State::Sleeping], State::Sleeping),
            Err(_) => vec![],
        },
        Op::Wake => match told {
            Err("wrong_state") => {
                if state == State::Stopped {
                    vec![model]
                } else {
                    vec![]
                }
            }
            Ok(_) => become_if(&[State::Running, State::Sleeping], State::Running),
            Err(_) => vec![],
        },
        Op::Remove => {
            if told.is_ok() && state != State::Absent {
                vec![(State::Absent, 0)]
            } else {
                vec![]
            }
        }
    }
}

/// Whether the calls fit one order. `done` says which are placed.
fn fits(calls: &[Call], done: &mut Vec<bool>, model: Model, seen: &mut HashSet<(Vec<bool>, Model)>) -> bool {
    if done.iter().all(|d| *d) {
        return true;
    }
    if !seen.insert((done.clone(), model)) {
        return false;
    }
    let first_end = calls.iter().zip(done.iter()).filter(|(_, d)| !**d).map(|(c, _)| c.ended).min().unwrap();
    for n in 0..calls.len() {
        if done[n] || calls[n].began > first_end {
            continue;
        }
        let call = &calls[n];
        let alone = !calls
            .iter()
            .enumerate()
            .any(|(m, c)| m != n && c.op != Op::Inspect && c.began < call.ended && call.began < c.ended);
        done[n] = true;
        for next in after(model, call, alone) {
            if fits(calls, done, next, seen) {
                return true;
            }
        }
        done[n] = false;
    }
    false
}

async fn make(d: &Daemon, pod: &str, op: Op) -> Result<String, String> {
    let c = &d.client;
    let state = |p: torpor::api::types::Pod| p.state;
    let told = match op {
        Op::Create => c.create_pod(&counter(pod)).await.map(state),
        Op::Start => c.start(pod).await.map(state),
        Op::Stop => c.stop(pod, &StopPod { grace_seconds: Some(5), signal: None }).await.map(state),
        Op::Sleep => c.sleep(pod, &mut |_| ()).await.map(state),
        Op::Wake => c.wake(pod, &WakePod::default(), &mut |_| ()).await.map(state),
        Op::Remove => c.remove(pod, true).await.map(|()| String::new()),
        Op::Inspect => c.inspect(pod).await.map(state),
        Op::Count => {
            // Whole or not at all: it may be ended at any moment.
            let script = "exec 9>>/lock; flock 9; read n </n || n=0; n=$((n+1)); echo $n >/m && mv /m /n && echo $n";
            let exec = ExecPod { command: ["sh", "-c", script].map(str::to_owned).to_vec(), ..ExecPod::default() };
            match c.exec(pod, &exec).await {
                Ok(done) if done.exit_code == 0 => Ok(done.stdout.trim().to_owned()),
                // With its pod.
                Ok(_) => return Err("ended".into()),
                Err(e) => Err(e),
            }
        }
    };
    told.map_err(|e: ClientError| code(&e).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_four_clients_are_told_fits_one_order() {
    if !ready() {
        return;
    }
    let mut raw = [0; 8];
    getrandom::fill(&mut raw).unwrap();
    let seed = std::env::var("TORPOR_TEST_SEED").map_or(u64::from_le_bytes(raw), |s| s.parse().unwrap());
    eprintln!("seed {seed} (TORPOR_TEST_SEED)");
    let d = Arc::new(Daemon::start());
    d.import("test").await;
    let history: Arc<Mutex<BTreeMap<&'static str, Vec<Call>>>> = Arc::default();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (d, history) = (Arc::clone(&d), Arc::clone(&history));
        clients.spawn(async move {
            let mut dice = Dice::new(seed, &[client]);
            for _ in 0..CALLS {
                let pod = ["one", "two"][usize::try_from(dice.below(2)).unwrap()];
                let op = match dice.below(16) {
                    0..=2 => Op::Create,
                    3 | 4 => Op::Start,
                    5 => Op::Stop,
                    6 | 7 => Op::Sleep,
                    8 | 9 => Op::Wake,
                    10 => Op::Remove,
                    11..=13 => Op::Count,
                    _ => Op::Inspect,
                };
                let began = Instant::now();
                let told = make(&d, pod, op).await;
                let call = Call { op, began, ended: Instant::now(), told };
                history.lock().unwrap().entry(pod).or_default().push(call);
                // No port and no address is ever given twice.
                let pods = d.client.pods().await.unwrap();
                let addresses: HashSet<_> = pods.iter().map(|p| &p.address).collect();
                let ports: Vec<_> = pods.iter().flat_map(|p| p.ports.iter().map(|f| f.host)).collect();
                assert_eq!(addresses.len(), pods.len(), "{pods:?}");
                assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len(), "{pods:?}");
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    support::tried(usize::try_from(CLIENTS * CALLS).unwrap());
    let history = std::mem::take(&mut *history.lock().unwrap());
    for (pod, mut calls) in history {
        calls.sort_by_key(|c| c.began);
        let start = calls[0].began;
        let shown: Vec<String> = calls
            .iter()
            .map(|c| format!("{:>9.4?} {:>9.4?} {:?} {:?}", c.began - start, c.ended - start, c.op, c.told))
            .collect();
        let fit = fits(&calls, &mut vec![false; calls.len()], (State::Absent, 0), &mut HashSet::new());
        assert!(fit, "seed {seed}: what was told of pod {pod} fits no order:\n{}\n{}", shown.join("\n"), d.log());
    }
}

#[test]
fn the_checker_finds_what_can_not_be() {
    let zero = Instant::now();
    let at = |ms: u64| zero + std::time::Duration::from_millis(ms);
    let call = |op, began, ended, told: Result<&str, &str>| Call {
        op,
        began: at(began),
        ended: at(ended),
        told: told.map(str::to_owned).map_err(str::to_owned),
    };
    let check = |calls: &[Call]| fits(calls, &mut vec![false; calls.len()], (State::Absent, 0), &mut HashSet::new());
    let create = call(Op::Create, 0, 10, Ok("running"));
    assert!(check(&[create.clone(), call(Op::Count, 11, 12, Ok("1")), call(Op::Sleep, 13, 15, Ok("sleeping"))]));
    // At the same time either order is right.
    assert!(check(&[create.clone(), call(Op::Count, 11, 20, Ok("2")), call(Op::Count, 12, 19, Ok("1"))]));
    // A count twice, a lost count, a running pod after an answered sleep, two creates.
    assert!(!check(&[create.clone(), call(Op::Count, 11, 20, Ok("1")), call(Op::Count, 12, 19, Ok("1"))]));
    assert!(!check(&[create.clone(), call(Op::Count, 11, 12, Ok("1")), call(Op::Count, 13, 14, Ok("3"))]));
    assert!(!check(&[
        create.clone(),
        call(Op::Sleep, 11, 12, Ok("sleeping")),
        call(Op::Inspect, 13, 14, Ok("running"))
    ]));
    assert!(!check(&[create.clone(), call(Op::Create, 5, 12, Ok("running"))]));
    assert!(!check(&[create, call(Op::Inspect, 11, 12, Err("not_found"))]));
}
