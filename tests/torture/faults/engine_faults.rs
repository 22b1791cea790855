//! The engine fails, lies and hangs.

use std::time::{Duration, Instant};

use torpor::api::types::{Pod, WakePod};

use super::Bench;
use crate::load::talker;

/// Its files are cut short, and it says that all is well: nothing is acknowledged that is not whole.
pub async fn truncated(b: &Bench, pod: &Pod, round: u64) {
    let how = [
        "odd:pages.img",
        "empty:checkpoint.img",
        "missing:pages.img",
        "empty:pages_meta.img",
        "missing:checkpoint.img",
        "empty:pages.img",
    ];
    let how = how[round as usize % how.len()];
    let mut count = 0;
    b.desk.counts(pod, &mut count).await;
    b.faults.order("checkpoint", Some(&pod.id), how);
    let slept = b.desk.client.sleep(&pod.name, &mut |_| ()).await;
    b.faults.end("checkpoint", Some(&pod.id));
    match slept {
        Err(_) => {
            b.is_untouched(pod, &mut count).await;
            b.naps(pod, &mut count).await;
        }
        Ok(_) => {
            if let Err(e) = b.desk.client.wake(&pod.name, &WakePod::default(), &mut |_| ()).await {
                b.desk.lost(&format!("{how}: a sleep was acknowledged, and the pod does not wake: {e}"));
            }
        }
    }
}

/// Each of its commands fails once, before or after it has done its work.
pub async fn fails(b: &Bench, pod: &Pod, round: u64) {
    let kind = if round.is_multiple_of(2) { "fail" } else { "late" };
    let mut count = 0;
    for verb in ["pause", "checkpoint"] {
        b.faults.order(verb, Some(&pod.id), kind);
        if b.desk.client.sleep(&pod.name, &mut |_| ()).await.is_ok() {
            b.desk.fail(&format!("a sleep whose {verb} failed was acknowledged"));
        }
        b.faults.end(verb, Some(&pod.id));
        b.is_untouched(pod, &mut count).await;
    }
    b.faults.order("resume", Some(&pod.id), "late");
    b.desk.must("snapshot", b.desk.client.snapshot(&pod.name, &mut |_| ())).await;
    b.faults.end("resume", Some(&pod.id));
    b.is_untouched(pod, &mut count).await;
    b.faults.order("delete", Some(&pod.id), kind);
    b.naps(pod, &mut count).await;
    b.faults.end("delete", Some(&pod.id));
    for verb in ["create", "restore", "wait"] {
        if b.desk.must("sleep", b.desk.client.sleep(&pod.name, &mut |_| ())).await.is_none() {
            return;
        }
        b.faults.order(verb, Some(&pod.id), kind);
        let woken = b.desk.client.wake(&pod.name, &WakePod::default(), &mut |_| ()).await;
        b.faults.end(verb, Some(&pod.id));
        if woken.is_ok() {
            b.desk.fail(&format!("a wake whose {verb} failed was acknowledged"));
        }
        b.wakes(pod, &mut count).await;
    }
    b.faults.order("tar", Some(&pod.id), kind);
    b.stops(pod).await;
    b.faults.end("tar", Some(&pod.id));
    b.faults.order("start", Some(&pod.id), kind);
    if b.desk.client.start(&pod.name).await.is_ok() {
        b.desk.fail("a start that failed was acknowledged");
    }
    b.faults.end("start", Some(&pod.id));
    b.starts_again(pod).await;
    for snapshot in b.desk.client.snapshots().await.unwrap_or_default() {
        if snapshot.pod == pod.name {
            b.desk.must("remove a snapshot", b.desk.client.remove_snapshot(&snapshot.id)).await;
        }
    }
}

/// Every wait for the engine is bounded.
const BOUND: Duration = Duration::from_secs(180);

/// Each of its commands hangs, each in a pod of its own, all at once.
pub async fn hangs(b: &mut Bench) {
    let verbs = ["pause", "checkpoint", "resume", "restore", "wait", "delete", "tar", "start"];
    let mut pods = Vec::new();
    for verb in verbs {
        b.desk.tally.begin_trial();
        let mut wanted = talker(&format!("hang-{verb}"));
        wanted.start = verb != "start";
        let Some(pod) = b.desk.must("create", b.desk.client.create_pod(&wanted)).await else { return };
        if matches!(verb, "restore" | "wait") {
            b.desk.must("sleep", b.desk.client.sleep(&pod.name, &mut |_| ())).await;
        }
        b.faults.order(verb, Some(&pod.id), "hang");
        pods.push((verb, pod));
    }
    let busy: Vec<_> = pods
        .iter()
        .map(|(verb, pod)| {
            let (client, desk, verb, name) = (b.desk.client.clone(), b.desk.clone(), *verb, pod.name.clone());
            tokio::spawn(async move {
                let begun = Instant::now();
                let call = async {
                    match verb {
                        "pause" | "checkpoint" => client.sleep(&name, &mut |_| ()).await.err().map(|e| e.to_string()),
                        "restore" | "wait" => {
                            client.wake(&name, &WakePod::default(), &mut |_| ()).await.err().map(|e| e.to_string())
                        }
                        "resume" => {
                            let _ = client.snapshot(&name, &mut |_| ()).await;
                            None
                        }
                        "tar" => client.stop(&name, &Default::default()).await.err().map(|e| e.to_string()),
                        "start" => client.start(&name).await.err().map(|e| e.to_string()),
                        _ => client.remove(&name, true).await.err().map(|e| e.to_string()),
                    }
                };
                match tokio::time::timeout(BOUND, call).await {
                    Ok(told) => eprintln!("{verb} hung: answered after {} ms: {told:?}", begun.elapsed().as_millis()),
                    Err(_) => desk.fail(&format!("{verb} hangs, and there is no answer in {} s", BOUND.as_secs())),
                }
            })
        })
        .collect();
    for task in busy {
        let _ = task.await;
    }
    for (verb, pod) in &pods {
        b.faults.end(verb, Some(&pod.id));
    }
    for (verb, pod) in &pods {
        match *verb {
            "pause" | "checkpoint" | "resume" => {
                let mut count = 0;
                b.is_untouched(pod, &mut count).await;
                b.naps(pod, &mut count).await;
            }
            "restore" | "wait" => b.wakes(pod, &mut 0).await,
            "start" | "tar" => b.starts_again(pod).await,
            _ => {
                if b.desk.look(&pod.name).await.is_some() {
                    b.desk.must("remove", b.desk.client.remove(&pod.id, true)).await;
                }
            }
        }
    }
}
