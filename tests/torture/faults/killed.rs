//! Processes below torpord are killed.

use std::time::Duration;

use nix::sys::signal::Signal;
use torpor::api::types::{Pod, WakePod};

use super::Bench;
use crate::daemon::script;
use crate::engine;

pub async fn sandbox(b: &Bench, pod: &Pod) {
    kill_sandbox(pod);
    b.is_known_dead(pod).await;
    b.starts_again(pod).await;
}

fn kill_sandbox(pod: &Pod) {
    if let Some(pid) = pod.sandbox_pid.and_then(|p| i32::try_from(p).ok()) {
        engine::send(pid, Signal::SIGKILL);
    }
}

/// Without its gofer a sandbox has no files: it ends, or it goes on with what it has; in any case it can be stopped.
pub async fn gofer(b: &Bench, pod: &Pod) {
    let Some(gofer) = engine::gofer(b.tag(), pod) else { return b.desk.fail("it has no gofer") };
    gofer.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let Some(now) = b.desk.look(&pod.name).await else { return b.desk.lost("it is gone") };
    if now.state == "running" {
        b.stops(pod).await;
    }
    b.is_known_dead(pod).await;
    b.starts_again(pod).await;
}

/// With torpord too, or not: the pod does not notice.
pub async fn shim(b: &mut Bench, pod: &Pod, torpord_too: bool) {
    let Some(shim) = engine::shim(b.tag(), pod) else { return b.desk.fail("it has no shim") };
    shim.kill();
    if torpord_too {
        b.d.kill();
        let took = b.d.launch();
        b.desk.tally.recovered(took, Duration::from_secs(5));
    }
    let mut count = 0;
    b.is_untouched(pod, &mut count).await;
    b.naps(pod, &mut count).await;
}

/// The pod ends while nobody looks: the exit code is known, or it is said that it is not.
pub async fn shim_at_end(b: &Bench) {
    let name = format!("brief-{}", b.number);
    let made = b.desk.client.create_pod(&script(&name, "usleep 300000; exit 5")).await;
    let Ok(pod) = made else { return b.desk.fail("the pod that ends can't be made") };
    if let Some(shim) = engine::shim(b.tag(), &pod) {
        tokio::time::sleep(Duration::from_millis(200 + b.number % 7 * 30)).await;
        shim.kill();
    }
    match tokio::time::timeout(Duration::from_secs(20), b.desk.client.wait(&name)).await {
        Ok(Ok(end)) if (end.exit_code, end.exit_reason.as_str()) == (5, "exited") => {}
        Ok(Ok(end)) if end.exit_reason == "shim-lost" => {}
        other => b.desk.fail(&format!("it exited with 5: {other:?}")),
    }
}

/// The engine's checkpoint, or the sandbox itself, is killed while it is saved.
pub async fn mid_checkpoint(b: &Bench, pod: &Pod, the_sandbox: bool) {
    let mut count = 0;
    b.desk.counts(pod, &mut count).await;
    let (client, name) = (b.desk.client.clone(), pod.name.clone());
    let sleeping = tokio::spawn(async move { client.sleep(&name, &mut |_| ()).await });
    if let Some(command) = engine::command(b.tag(), pod, "checkpoint", &sleeping).await {
        if the_sandbox {
            kill_sandbox(pod);
        } else {
            command.kill();
        }
    }
    let slept = tokio::time::timeout(Duration::from_secs(60), sleeping).await;
    match slept {
        // It was quicker than the kill: then it sleeps, and all of it is there.
        Ok(Ok(Ok(_))) => b.wakes(pod, &mut count).await,
        Ok(Ok(Err(_))) if the_sandbox => {
            b.is_known_dead(pod).await;
            b.starts_again(pod).await;
        }
        Ok(Ok(Err(_))) => {
            b.is_untouched(pod, &mut count).await;
            b.naps(pod, &mut count).await;
        }
        _ => b.desk.fail("the sleep is not answered"),
    }
}

/// The engine's restore, or the sandbox, is killed while it wakes: its state is not lost.
pub async fn mid_restore(b: &Bench, pod: &Pod, the_sandbox: bool) {
    let mut count = 0;
    b.desk.counts(pod, &mut count).await;
    if b.desk.must("sleep", b.desk.client.sleep(&pod.name, &mut |_| ())).await.is_none() {
        return;
    }
    let (client, name) = (b.desk.client.clone(), pod.name.clone());
    let waking =
        tokio::spawn(
            async move { client.wake(&name, &WakePod::default(), &mut |_| ()).await.map_err(|e| e.to_string()) },
        );
    let mut next = pod.clone();
    next.incarnation += 1;
    if let Some(command) = engine::command(b.tag(), &next, "restore", &waking).await {
        match engine::sandbox(b.tag(), &next) {
            Some(sandbox) if the_sandbox => sandbox.kill(),
            _ => command.kill(),
        }
    }
    match tokio::time::timeout(Duration::from_secs(60), waking).await {
        Ok(Ok(Ok(now))) => {
            b.runs(&now).await;
            b.desk.counts(&now, &mut count).await;
        }
        Ok(Ok(Err(e))) => {
            let Some(now) = b.desk.look(&pod.name).await else { return b.desk.lost("it is gone") };
            // The sandbox may have been killed when the wake was done already.
            if !(the_sandbox && now.state == "stopped") {
                eprintln!("the wake failed: {e}");
                b.wakes(pod, &mut count).await;
            }
        }
        _ => b.desk.fail("the wake is not answered"),
    }
}
