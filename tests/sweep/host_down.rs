//! The host is shut down in an orderly way, or loses its power while it is, and comes back.

use std::sync::Arc;
use std::time::Duration;

use torpor::api::types::{CreatePod, UpdatePod};
use torpor::daemon::core::Core;
use torpor::host::progress::Progress;
use torpor::model::{ExitReason, PodState, Result};

use crate::check::View;
use crate::fake::Fault;
use crate::scenarios::{count, run, state, web};
use crate::world::{Daemon, Outcome, World};

fn pod(name: &str, on_shutdown: &str, restart: &str) -> CreatePod {
    CreatePod {
        name: Some(name.into()),
        ports: vec![],
        on_shutdown: Some(on_shutdown.into()),
        restart: Some(restart.into()),
        ..web(true)
    }
}

/// `web` sleeps over a shutdown, and has counted to two; the others are stopped, with three policies; `rests` is stopped already.
async fn pods(core: &Arc<Core>) -> Result<()> {
    for (name, on_shutdown, restart) in [
        ("web", "sleep", "no"),
        ("once", "stop", "no"),
        ("ever", "stop", "always"),
        ("well", "stop", "on-failure"),
        ("rests", "sleep", "unless-stopped"),
    ] {
        core.create_pod(pod(name, on_shutdown, restart)).await?;
    }
    for _ in 0..2 {
        run(core, "web", "add").await?;
    }
    core.stop_pod("rests", torpor::api::types::StopPod::default()).await.map(drop)
}

fn begun() -> World {
    let world = World::new(21_640);
    let daemon = world.start(Fault::None).unwrap().unwrap();
    let image = world.image_dir().display().to_string();
    daemon.block_on(daemon.core().import_directory("base", None, &image, &Progress::default())).unwrap();
    daemon.block_on(pods(&daemon.core())).unwrap();
    world
}

fn down(daemon: &Daemon, fault: Fault) -> Outcome {
    let core = daemon.core();
    daemon.run(fault, async move {
        let done = core.host_down().await?;
        assert_eq!((done.asleep, done.failed), (vec!["web".to_owned()], vec![]));
        assert_eq!(done.stopped, ["ever", "once", "well"]);
        Ok(())
    })
}

/// Waits until nothing is to come any more: what sleeps for the host is awake, what policy wants is started.
fn comes_back(world: &World, trial: &str) -> (Daemon, View) {
    let daemon = world.start(Fault::None).unwrap().unwrap();
    let core = daemon.core();
    daemon.block_on(async {
        loop {
            let pods = core.list_pods();
            let of = |name: &str| pods.iter().find(|p| p.name == name).map(|p| p.state.as_str()).unwrap();
            if of("ever") == "running" && of("well") == "running" && matches!(of("web"), "running" | "stopped") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut view = View::of(world, &daemon, &|_| false);
    view.wrong.retain(|w| !w.starts_with("packs of")); // of an upload that was cut off: swept later
    assert_eq!(view.wrong, Vec::<String>::new(), "{trial}");
    for name in ["once", "rests"] {
        assert_eq!(state(&view, name), Some(PodState::Stopped), "{trial}: {name}");
    }
    (daemon, view)
}

#[test]
fn after_a_shutdown_all_is_as_each_pod_asked_for() {
    let mut world = begun();
    let daemon = world.start(Fault::None).unwrap().unwrap();
    assert!(down(&daemon, Fault::None).is_done());
    let seen: Vec<_> = daemon.core().list_pods().into_iter().map(|p| (p.name, p.state)).collect();
    for (name, now) in seen {
        assert_eq!(
            now,
            if name == "web" { "sleeping" } else { "stopped" },
            "{name}: nothing comes back before the host does"
        );
    }
    drop(daemon);
    world.reboot();
    let (daemon, view) = comes_back(&world, "a shutdown");
    assert_eq!((state(&view, "web"), count(&view, &world, "web")), (Some(PodState::Running), Some(2)));
    assert_eq!(view.pods["once"].exit_reason, Some(ExitReason::HostRestarted));
    // Put to sleep by somebody it sleeps on over the next start, and what policy is can be changed.
    let core = daemon.core();
    daemon.block_on(core.sleep_pod("web", Progress::default())).unwrap();
    let change = UpdatePod { on_shutdown: Some("sleep".into()), ..UpdatePod::default() };
    assert_eq!(daemon.block_on(core.update_pod("ever", change)).unwrap().on_shutdown, "sleep");
    let wrong = UpdatePod { on_shutdown: Some("explode".into()), ..UpdatePod::default() };
    assert!(daemon.block_on(core.update_pod("ever", wrong)).is_err());
    let done = daemon.block_on(core.host_down()).unwrap();
    assert_eq!((done.asleep, done.stopped), (vec!["ever".to_owned()], vec!["well".to_owned()]));
    drop((core, daemon));
    world.reboot();
    let daemon = world.start(Fault::None).unwrap().unwrap();
    let core = daemon.core();
    daemon.block_on(async {
        while core.inspect_pod("ever").unwrap().state != "running" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(core.inspect_pod("web").unwrap().state, "sleeping");
}

#[test]
fn a_power_loss_in_the_middle_loses_no_more_than_one_without_a_shutdown() {
    let base = begun();
    for k in 0.. {
        let mut world = base.fork();
        let daemon = world.start(Fault::None).unwrap().unwrap();
        let outcome = down(&daemon, Fault::Crash(k));
        let trial = format!("crash after {k} effects, {:?}", daemon.life.effects().last());
        drop(daemon);
        if let Outcome::Failed(e) = &outcome {
            panic!("{trial}: {}", e.report());
        }
        world.reboot();
        let (_daemon, view) = comes_back(&world, &trial);
        match (state(&view, "web"), view.pods["web"].exit_reason) {
            (Some(PodState::Running), _) => assert_eq!(count(&view, &world, "web"), Some(2), "{trial}"),
            (Some(PodState::Stopped), Some(ExitReason::HostRestarted)) => {
                assert!(!outcome.is_done(), "{trial}: what slept is lost");
            }
            other => panic!("{trial}: web is {other:?}"),
        }
        if outcome.is_done() {
            return;
        }
    }
}
