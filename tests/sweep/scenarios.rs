//! The requests.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use torpor::api::types::{
    CreatePod, ExecPod, KillPod, PortPair, PortSpec, RenamePod, RestartPod, RestorePod, RestoreSnapshot, SecretSpec,
    SecretText, SecretValue, Size, StartPod, StopPod, UpdatePod, WakePod,
};
use torpor::daemon::core::Core;
use torpor::daemon::core::idempotency::{Answer, Asked, Begun};
use torpor::host::progress::Progress;
use torpor::model::{Code, PodState, Protocol, Result};

use crate::check::View;
use crate::fake::Fault;
use crate::trial::{Meanwhile, Places, Scenario, Sweep};
use crate::world::World;

pub(crate) fn web(start: bool) -> CreatePod {
    CreatePod {
        name: Some("web".into()),
        image: "base".into(),
        command: vec!["serve".into()],
        ports: vec![PortSpec::Pod(80)],
        start,
        ..CreatePod::default()
    }
}

pub(crate) async fn made(core: &Arc<Core>, start: bool) -> Result<()> {
    core.create_pod(web(start)).await.map(drop)
}

async fn imported(core: &Arc<Core>, places: &Places) -> Result<()> {
    core.import_directory("other", None, &places.other_image, &Progress::default()).await.map(drop)
}

/// Removes a pod that may be there.
pub(crate) async fn removed(core: &Arc<Core>, name: &str) -> Result<()> {
    match core.delete_pod(name, true).await {
        Err(e) if e.code() == Code::NotFound => Ok(()),
        other => other,
    }
}

pub(crate) fn state(view: &View, name: &str) -> Option<PodState> {
    view.pods.get(name).map(|r| r.state)
}

/// What programs counted in a pod that runs.
pub(crate) fn count(view: &View, world: &World, name: &str) -> Option<u64> {
    let id = view.pods.get(name)?.runtime_id().to_string();
    Some(world.kernel.look().sandboxes.get(&id)?.memory.count)
}

pub(crate) async fn run(core: &Arc<Core>, name: &str, program: &str) -> Result<String> {
    let exec = ExecPod { command: vec![program.into()], ..ExecPod::default() };
    let output = core.exec_pod(name, exec).await?;
    Ok(String::from_utf8(output.stdout).unwrap())
}

/// A pod in which `n` was counted.
async fn counted(core: &Arc<Core>, n: u64) -> Result<()> {
    made(core, true).await?;
    for _ in 0..n {
        run(core, "web", "add").await?;
    }
    Ok(())
}

async fn slept(core: &Arc<Core>) -> Result<()> {
    core.sleep_pod("web", Progress::default()).await.map(drop)
}

pub(crate) async fn woken(core: &Arc<Core>) -> Result<()> {
    core.wake_pod("web", WakePod::default(), Progress::default()).await.map(drop)
}

/// The snapshot that was taken on request: the first.
async fn snapshot(core: &Arc<Core>) -> Result<String> {
    Ok(core.list_snapshots().await?.first().unwrap().id.clone())
}

pub(crate) async fn taken(core: &Arc<Core>) -> Result<()> {
    core.create_snapshot("web", Progress::default()).await.map(drop)
}

async fn copied(core: &Arc<Core>) -> Result<()> {
    let request = RestoreSnapshot { name: Some("copy".into()), ..RestoreSnapshot::default() };
    let id = snapshot(core).await?;
    core.restore_snapshot(&id, request, Progress::default()).await.map(drop)
}

pub(crate) async fn put_back(core: &Arc<Core>) -> Result<()> {
    let request = RestorePod { snapshot: snapshot(core).await?, secrets: vec![] };
    core.restore_pod("web", request, Progress::default()).await.map(drop)
}

/// Starts what ended while torpord was dead.
pub(crate) async fn running(core: &Arc<Core>) -> Result<()> {
    if core.inspect_pod("web")?.state == "stopped" {
        core.start_pod("web").await?;
    }
    Ok(())
}

/// The pod is in `done`, or as it was.
pub(crate) fn either(view: &View, was: Option<PodState>, done: Option<PodState>) -> std::result::Result<bool, String> {
    let running = Some(PodState::Running);
    let now = match state(view, "web") {
        // What ran ended with the host, or its sandbox.
        Some(PodState::Stopped) if view.lost && (was == running || done == running) => running,
        other => other,
    };
    match now {
        _ if now == done => Ok(true),
        _ if now == was => Ok(false),
        _ => Err(format!("web is {now:?}")),
    }
}

pub(crate) fn all(scenario: Scenario) {
    let mut sweep = Sweep::new(scenario);
    sweep.crashes(Meanwhile::Nothing, true);
    for meanwhile in [Meanwhile::Reboot, Meanwhile::ShimsDie, Meanwhile::SandboxesDie] {
        sweep.crashes(meanwhile, false);
    }
    sweep.faults("refused", Fault::Refuse);
    sweep.faults("done, said to have failed", Fault::Late);
    sweep.faults("twice", Fault::Twice);
    sweep.faults("unanswered", Fault::Mute);
    sweep.finish();
}

#[test]
fn create() {
    all(Scenario {
        name: "create",
        ports: 21_000,
        setup: |_, _| async { Ok(()) }.boxed(),
        act: |core, _| async move { made(&core, true).await }.boxed(),
        again: |core, _| {
            async move {
                removed(&core, "web").await?;
                made(&core, true).await
            }
            .boxed()
        },
        done: |view, _: &World| either(view, None, Some(PodState::Running)),
        makes_snapshots: false,
    });
}

#[test]
fn start() {
    all(Scenario {
        name: "start",
        ports: 21_020,
        setup: |core, _| async move { made(&core, false).await }.boxed(),
        act: |core, _| async move { core.start_pod("web").await.map(drop) }.boxed(),
        again: |core, _| async move { core.start_pod("web").await.map(drop) }.boxed(),
        done: |view, _| either(view, Some(PodState::Created), Some(PodState::Running)),
        makes_snapshots: false,
    });
}

/// A pod without a name of its own, asked for with an Idempotency-Key.
async fn made_once(core: &Arc<Core>) -> Result<()> {
    let asked = Asked { key: ["", "k"], parts: &[b"POST", b"body"], once: false };
    let ticket = match core.begin_request(&asked).await? {
        Begun::Done(answer) => {
            assert_eq!(answer.status, 201);
            return Ok(());
        }
        Begun::New(ticket) => ticket,
    };
    match core.create_pod_once(CreatePod { name: None, ..web(true) }, Some(ticket.intent())).await {
        Ok(_) => {
            ticket.finish(Answer { status: 201, media: None, body: String::new() }, false).await;
            Ok(())
        }
        Err(e) => {
            ticket.abandon().await;
            Err(e)
        }
    }
}

#[test]
fn create_once() {
    all(Scenario {
        name: "create once",
        ports: 21_400,
        setup: |_, _| async { Ok(()) }.boxed(),
        act: |core, _| async move { made_once(&core).await }.boxed(),
        again: |core, _| async move { made_once(&core).await }.boxed(),
        done: |view, _| {
            let states: Vec<_> = view.pods.values().map(|r| (r.state, r.exit_reason)).collect();
            match states[..] {
                [] => Ok(false),
                [(PodState::Running, _)] => Ok(true),
                // It was made, and then the host, or its sandbox, ended.
                [(PodState::Stopped, Some(_))] => Ok(true),
                _ => Err(format!("pods are {states:?}")),
            }
        },
        makes_snapshots: false,
    });
}

/// It ends, and its policy wants it back.
async fn ended_and_back(core: &Arc<Core>) -> Result<()> {
    let before = core.inspect_pod("web")?.incarnation;
    let sent = core.kill_pod("web", &KillPod { signal: "HUP".into() }).await;
    // A signal that was said to be refused may have been heard.
    let end = sent.is_err().then(|| tokio::time::Instant::now() + Duration::from_millis(500));
    loop {
        let pod = core.inspect_pod("web")?;
        let back = pod.incarnation > before && pod.state == "running";
        if back || end.is_some_and(|end| tokio::time::Instant::now() > end) {
            return sent;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn restart_by_policy() {
    let mut sweep = Sweep::new(Scenario {
        name: "restart by policy",
        ports: 21_280,
        setup: |core, _| {
            async move {
                let request = CreatePod { restart: Some("always".into()), ..web(true) };
                core.create_pod(request).await.map(drop)
            }
            .boxed()
        },
        act: |core, _| async move { ended_and_back(&core).await }.boxed(),
        again: |core, _| async move { ended_and_back(&core).await }.boxed(),
        // Whatever befalls it: it runs.
        done: |view, _| match state(view, "web") {
            Some(PodState::Running) => Ok(true),
            other => Err(format!("web is {other:?}")),
        },
        makes_snapshots: false,
    });
    // Not every crash of every recovery: each trial has a pause of 100 ms.
    for meanwhile in [Meanwhile::Nothing, Meanwhile::Reboot, Meanwhile::ShimsDie, Meanwhile::SandboxesDie] {
        sweep.crashes(meanwhile, false);
    }
    sweep.faults("refused", Fault::Refuse);
    sweep.faults("done, said to have failed", Fault::Late);
    sweep.finish();
}

#[test]
fn update() {
    async fn changed(core: &Arc<Core>) -> Result<()> {
        let request = UpdatePod { memory: Some(Size::Text("1g".into())), ..UpdatePod::default() };
        core.update_pod("web", request).await.map(drop)
    }
    all(Scenario {
        name: "update",
        ports: 21_300,
        setup: |core, _| async move { made(&core, true).await }.boxed(),
        act: |core, _| async move { changed(&core).await }.boxed(),
        again: |core, _| {
            async move {
                running(&core).await?;
                changed(&core).await
            }
            .boxed()
        },
        done: |view, _| {
            either(view, None, Some(PodState::Running))?;
            Ok(view.pods["web"].spec.resources.memory == 1 << 30)
        },
        makes_snapshots: false,
    });
}

#[test]
fn rename() {
    async fn renamed(core: &Arc<Core>) -> Result<()> {
        let id = core.list_pods()[0].id.clone();
        core.rename_pod(&id, RenamePod { name: "site".into() }).await.map(drop)
    }
    all(Scenario {
        name: "rename",
        ports: 21_320,
        setup: |core, _| async move { made(&core, true).await }.boxed(),
        act: |core, _| async move { renamed(&core).await }.boxed(),
        again: |core, _| async move { renamed(&core).await }.boxed(),
        done: |view, _| Ok(view.pods.contains_key("site")),
        makes_snapshots: false,
    });
}

fn udp() -> PortPair {
    PortPair { pod: 53, host: None, protocol: Some("udp".into()), address: None }
}

/// How many forwards the pod has; it runs, or ended with the host.
fn forwards(view: &View) -> std::result::Result<usize, String> {
    either(view, None, Some(PodState::Running))?;
    Ok(view.pods["web"].forwards.len())
}

#[test]
fn add_a_port() {
    async fn added(core: &Arc<Core>) -> Result<()> {
        // Whoever does not know whether the first was done looks.
        if core.list_ports("web")?.len() == 1 {
            core.add_port("web", udp()).await?;
        }
        Ok(())
    }
    all(Scenario {
        name: "add a port",
        ports: 21_400,
        setup: |core, _| async move { made(&core, true).await }.boxed(),
        act: |core, _| async move { added(&core).await }.boxed(),
        again: |core, _| {
            async move {
                running(&core).await?;
                added(&core).await
            }
            .boxed()
        },
        done: |view, _| Ok(forwards(view)? == 2),
        makes_snapshots: false,
    });
}

#[test]
fn remove_a_port() {
    async fn removed(core: &Arc<Core>) -> Result<()> {
        if let Some(port) = core.list_ports("web")?.iter().find(|p| p.protocol == "udp") {
            core.remove_port("web", port.host, Protocol::Udp).await?;
        }
        Ok(())
    }
    all(Scenario {
        name: "remove a port",
        ports: 21_420,
        setup: |core, _| {
            async move {
                made(&core, true).await?;
                core.add_port("web", udp()).await.map(drop)
            }
            .boxed()
        },
        act: |core, _| async move { removed(&core).await }.boxed(),
        again: |core, _| {
            async move {
                running(&core).await?;
                removed(&core).await
            }
            .boxed()
        },
        done: |view, _| Ok(forwards(view)? == 1),
        makes_snapshots: false,
    });
}

#[test]
fn add_a_port_to_a_sleeper() {
    all(Scenario {
        name: "add a port to a sleeper",
        ports: 21_440,
        setup: |core, _| {
            async move {
                counted(&core, 2).await?;
                slept(&core).await
            }
            .boxed()
        },
        act: |core, _| async move { core.add_port("web", udp()).await.map(drop) }.boxed(),
        again: |core, _| {
            async move {
                if core.list_ports("web")?.len() == 1 {
                    core.add_port("web", udp()).await?;
                }
                woken(&core).await?;
                slept(&core).await
            }
            .boxed()
        },
        done: |view, _| {
            either(view, None, Some(PodState::Sleeping))?;
            Ok(view.pods["web"].forwards.len() == 2)
        },
        makes_snapshots: false,
    });
}

#[test]
fn pause() {
    let paused = |view: &View, _: &World| match state(view, "web") {
        Some(PodState::Stopped) if view.lost => Ok(true), // what stood still, too, ended with the host
        _ => either(view, Some(PodState::Running), Some(PodState::Paused)),
    };
    all(Scenario {
        name: "pause",
        ports: 21_340,
        setup: |core, _| async move { made(&core, true).await }.boxed(),
        act: |core, _| async move { core.pause_pod("web").await.map(drop) }.boxed(),
        again: |core, _| {
            async move {
                running(&core).await?;
                core.pause_pod("web").await.map(drop)
            }
            .boxed()
        },
        done: paused,
        makes_snapshots: false,
    });
}

#[test]
fn resume() {
    all(Scenario {
        name: "resume",
        ports: 21_360,
        setup: |core, _| {
            async move {
                made(&core, true).await?;
                core.pause_pod("web").await.map(drop)
            }
            .boxed()
        },
        act: |core, _| async move { core.resume_pod("web").await.map(drop) }.boxed(),
        again: |core, _| {
            async move {
                running(&core).await?;
                core.resume_pod("web").await.map(drop)
            }
            .boxed()
        },
        done: |view, _| either(view, Some(PodState::Paused), Some(PodState::Running)),
        makes_snapshots: false,
    });
}

#[test]
fn sleep_of_a_paused_pod() {
    let asleep = |view: &View, _: &World| match state(view, "web") {
        Some(PodState::Sleeping) => Ok(true),
        // It had to go on for a moment, and what was not acknowledged may stop there.
        Some(PodState::Paused | PodState::Running) => Ok(false),
        Some(PodState::Stopped) if view.lost => Ok(false),
        other => Err(format!("web is {other:?}")),
    };
    all(Scenario {
        name: "sleep of a paused pod",
        ports: 21_380,
        setup: |core, _| {
            async move {
                counted(&core, 2).await?;
                core.pause_pod("web").await.map(drop)
            }
            .boxed()
        },
        act: |core, _| async move { slept(&core).await }.boxed(),
        again: |core, _| async move { slept_well(&core, "2").await }.boxed(),
        done: asleep,
        makes_snapshots: false,
    });
}

#[test]
fn delete() {
    all(Scenario {
        name: "delete",
        ports: 21_040,
        setup: |core, _| async move { made(&core, true).await }.boxed(),
        act: |core, _| async move { core.delete_pod("web", true).await }.boxed(),
        again: |core, _| async move { removed(&core, "web").await }.boxed(),
        done: |view, _| either(view, Some(PodState::Running), None),
        makes_snapshots: false,
    });
}

#[test]
fn import() {
    let has = |view: &View, _: &World| Ok(view.images.iter().any(|i| i.starts_with("other")));
    all(Scenario {
        name: "import",
        ports: 21_060,
        setup: |_, _| async { Ok(()) }.boxed(),
        act: |core, places| async move { imported(&core, &places).await }.boxed(),
        again: |core, places| async move { imported(&core, &places).await }.boxed(),
        done: has,
        makes_snapshots: false,
    });
}

#[test]
fn exec() {
    let at_least_one = |view: &View, world: &World| {
        let running = either(view, None, Some(PodState::Running))?;
        Ok(running && (view.lost || count(view, world, "web") >= Some(1)))
    };
    all(Scenario {
        name: "exec",
        ports: 21_080,
        setup: |core, _| async move { made(&core, true).await }.boxed(),
        act: |core, _| async move { run(&core, "web", "add").await.map(drop) }.boxed(),
        again: |core, _| {
            async move {
                running(&core).await?;
                run(&core, "web", "add").await.map(drop)
            }
            .boxed()
        },
        done: at_least_one,
        makes_snapshots: false,
    });
}

#[test]
fn stop() {
    let stopped = |view: &View, _: &World| match state(view, "web") {
        Some(PodState::Running) => Ok(false),
        Some(PodState::Stopped) if view.lost || !view.pods["web"].private_layers.is_empty() => Ok(true),
        Some(PodState::Stopped) => Err(format!("what was written is lost: {:?}", view.pods["web"].last_error)),
        other => Err(format!("web is {other:?}")),
    };
    all(Scenario {
        name: "stop",
        ports: 21_100,
        setup: |core, _| {
            async move {
                made(&core, true).await?;
                run(&core, "web", "write").await.map(drop)
            }
            .boxed()
        },
        act: |core, _| async move { core.stop_pod("web", StopPod::default()).await.map(drop) }.boxed(),
        again: |core, _| {
            async move {
                core.start_pod("web").await?;
                run(&core, "web", "write").await?;
                core.stop_pod("web", StopPod::default()).await.map(drop)
            }
            .boxed()
        },
        done: stopped,
        makes_snapshots: false,
    });
}

#[test]
fn restart() {
    // Whatever happens between its two halves, it runs as it did, runs anew, or is stopped with all that it had written.
    let restarted = |view: &View, _: &World| match (state(view, "web"), view.pods["web"].incarnation) {
        (Some(PodState::Running), 1) => Ok(false),
        (Some(PodState::Running), _) => Ok(true),
        (Some(PodState::Stopped), _) if view.lost => Ok(true),
        (Some(PodState::Stopped), _) if !view.pods["web"].private_layers.is_empty() => Ok(false),
        other => Err(format!("web is {other:?}: {:?}", view.pods["web"].last_error)),
    };
    all(Scenario {
        name: "restart",
        ports: 22_080,
        setup: |core, _| {
            async move {
                made(&core, true).await?;
                run(&core, "web", "write").await.map(drop)
            }
            .boxed()
        },
        act: |core, _| async move { core.restart_pod("web", RestartPod::default()).await.map(drop) }.boxed(),
        again: |core, _| async move { core.restart_pod("web", RestartPod::default()).await.map(drop) }.boxed(),
        done: restarted,
        makes_snapshots: false,
    });
}

async fn slept_well(core: &Arc<Core>, wanted: &str) -> Result<()> {
    let ended = core.inspect_pod("web")?.state == "stopped";
    running(core).await?;
    slept(core).await?;
    woken(core).await?;
    let found = run(core, "web", "get").await?;
    assert!(ended || found == wanted, "it woke up with {found}");
    slept(core).await
}

fn sleeping(view: &View, _: &World) -> std::result::Result<bool, String> {
    either(view, Some(PodState::Running), Some(PodState::Sleeping))
}

#[test]
fn sleep() {
    all(Scenario {
        name: "sleep",
        ports: 21_120,
        setup: |core, _| async move { counted(&core, 2).await }.boxed(),
        act: |core, _| async move { slept(&core).await }.boxed(),
        again: |core, _| async move { slept_well(&core, "2").await }.boxed(),
        done: sleeping,
        makes_snapshots: false,
    });
}

#[test]
fn sleep_again() {
    all(Scenario {
        name: "sleep again",
        ports: 21_140,
        setup: |core, _| {
            async move {
                counted(&core, 2).await?;
                slept(&core).await?;
                woken(&core).await?;
                run(&core, "web", "add").await.map(drop)
            }
            .boxed()
        },
        act: |core, _| async move { slept(&core).await }.boxed(),
        again: |core, _| async move { slept_well(&core, "3").await }.boxed(),
        done: sleeping,
        makes_snapshots: false,
    });
}

fn awake(view: &View, world: &World) -> std::result::Result<bool, String> {
    let awake = either(view, Some(PodState::Sleeping), Some(PodState::Running))?;
    if awake && !view.lost && count(view, world, "web") != Some(2) {
        return Err(format!("it woke up with {:?}", count(view, world, "web")));
    }
    Ok(awake)
}

/// A pod that ended after it woke is put to sleep and woken again; all others are only woken.
async fn woken_again(core: &Arc<Core>) -> Result<()> {
    if core.inspect_pod("web")?.state == "stopped" {
        running(core).await?;
        for _ in 0..2 {
            run(core, "web", "add").await?;
        }
        slept(core).await?;
    }
    woken(core).await
}

#[test]
fn wake() {
    all(Scenario {
        name: "wake",
        ports: 21_160,
        setup: |core, _| {
            async move {
                counted(&core, 2).await?;
                slept(&core).await
            }
            .boxed()
        },
        act: |core, _| async move { woken(&core).await }.boxed(),
        again: |core, _| async move { woken_again(&core).await }.boxed(),
        done: awake,
        makes_snapshots: false,
    });
}

const SECRET: &str = "a secret that is kept in no file";

fn private() -> CreatePod {
    let value = Some(SecretText(SECRET.into()));
    let key = SecretSpec { name: "key".into(), value, ..SecretSpec::default() };
    CreatePod { secrets: vec![key], ..web(true) }
}

/// After a reboot they have to be given again.
fn given() -> Vec<SecretValue> {
    vec![SecretValue { name: "key".into(), value: SecretText(SECRET.into()), encoding: None }]
}

async fn running_privately(core: &Arc<Core>) -> Result<()> {
    if core.inspect_pod("web")?.state == "stopped" {
        core.start_pod_with("web", StartPod { secrets: given() }).await?;
    }
    Ok(())
}

#[test]
fn sleep_with_secrets() {
    all(Scenario {
        name: "sleep with secrets",
        ports: 21_420,
        setup: |core, _| async move { core.create_pod(private()).await.map(drop) }.boxed(),
        act: |core, _| async move { slept(&core).await }.boxed(),
        again: |core, _| {
            async move {
                running_privately(&core).await?;
                slept(&core).await
            }
            .boxed()
        },
        done: sleeping,
        makes_snapshots: false,
    });
}

#[test]
fn wake_with_secrets() {
    async fn woken_privately(core: &Arc<Core>) -> Result<()> {
        running_privately(core).await?;
        let how = WakePod { secrets: given(), ..WakePod::default() };
        core.wake_pod("web", how, Progress::default()).await.map(drop)
    }
    all(Scenario {
        name: "wake with secrets",
        ports: 21_440,
        setup: |core, _| {
            async move {
                core.create_pod(private()).await?;
                slept(&core).await
            }
            .boxed()
        },
        act: |core, _| async move { woken_privately(&core).await }.boxed(),
        again: |core, _| async move { woken_privately(&core).await }.boxed(),
        done: |view, _| either(view, Some(PodState::Sleeping), Some(PodState::Running)),
        makes_snapshots: false,
    });
}

#[test]
fn wake_from_the_store() {
    all(Scenario {
        name: "wake from the store",
        ports: 21_180,
        setup: |core, places| {
            async move {
                counted(&core, 2).await?;
                slept(&core).await?;
                let id = core.inspect_pod("web")?.snapshot.unwrap();
                std::fs::remove_dir_all(places.cache.join(id)).unwrap();
                Ok(())
            }
            .boxed()
        },
        act: |core, _| async move { woken(&core).await }.boxed(),
        again: |core, _| async move { woken_again(&core).await }.boxed(),
        done: awake,
        makes_snapshots: false,
    });
}

#[test]
fn delete_a_sleeper() {
    all(Scenario {
        name: "delete a sleeper",
        ports: 21_200,
        setup: |core, _| {
            async move {
                counted(&core, 2).await?;
                slept(&core).await
            }
            .boxed()
        },
        act: |core, _| async move { core.delete_pod("web", true).await }.boxed(),
        again: |core, _| async move { removed(&core, "web").await }.boxed(),
        done: |view, _| either(view, Some(PodState::Sleeping), None),
        makes_snapshots: false,
    });
}

#[test]
fn take_a_snapshot() {
    let there = |view: &View, _: &World| {
        either(view, None, Some(PodState::Running))?;
        Ok(!view.snapshots.is_empty())
    };
    all(Scenario {
        name: "snapshot",
        ports: 21_220,
        setup: |core, _| async move { counted(&core, 2).await }.boxed(),
        act: |core, _| async move { taken(&core).await }.boxed(),
        again: |core, _| {
            async move {
                running(&core).await?;
                taken(&core).await
            }
            .boxed()
        },
        done: there,
        makes_snapshots: true,
    });
}

async fn with_snapshot(core: &Arc<Core>) -> Result<()> {
    counted(core, 2).await?;
    taken(core).await?;
    run(core, "web", "add").await.map(drop)
}

/// A pod with a snapshot of another root, and one in which it slept.
async fn with_a_past(core: &Arc<Core>) -> Result<()> {
    counted(core, 2).await?;
    taken(core).await?;
    run(core, "web", "write").await?;
    core.stop_pod("web", StopPod::default()).await?;
    core.start_pod("web").await?;
    slept(core).await?;
    woken(core).await?;
    for _ in 0..3 {
        run(core, "web", "add").await?;
    }
    Ok(())
}

#[test]
fn restore_a_copy() {
    let there = |view: &View, world: &World| {
        either(view, None, Some(PodState::Running))?;
        match state(view, "copy") {
            None => Ok(false),
            Some(PodState::Stopped) if view.lost => Ok(true),
            Some(PodState::Running) if count(view, world, "copy") == Some(2) => Ok(true),
            other => Err(format!("copy is {other:?} with {:?}", count(view, world, "copy"))),
        }
    };
    all(Scenario {
        name: "restore a copy",
        ports: 21_240,
        setup: |core, _| async move { with_snapshot(&core).await }.boxed(),
        act: |core, _| async move { copied(&core).await }.boxed(),
        again: |core, _| {
            async move {
                running(&core).await?;
                removed(&core, "copy").await?;
                copied(&core).await
            }
            .boxed()
        },
        done: there,
        makes_snapshots: false,
    });
}

#[test]
fn restore_in_place() {
    let back = |view: &View, world: &World| match (state(view, "web"), count(view, world, "web")) {
        (Some(PodState::Running), Some(2)) => Ok(true),
        (Some(PodState::Running), Some(3)) => Ok(false),
        // Between the two sandboxes only the snapshot is left: it says so, and is woken from it.
        (Some(PodState::Failed), _) if view.pods["web"].pending.is_some() => Ok(false),
        (Some(PodState::Stopped), _) if view.lost => Ok(true),
        other => Err(format!("web is {other:?}")),
    };
    all(Scenario {
        name: "restore in place",
        ports: 21_260,
        setup: |core, _| async move { with_a_past(&core).await }.boxed(),
        act: |core, _| async move { put_back(&core).await }.boxed(),
        again: |core, _| {
            async move {
                if core.inspect_pod("web")?.state == "failed" {
                    woken(&core).await?;
                    assert_eq!(run(&core, "web", "get").await?, "2");
                }
                put_back(&core).await
            }
            .boxed()
        },
        done: back,
        makes_snapshots: false,
    });
}
