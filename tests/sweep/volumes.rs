//! A pod goes back to a snapshot that holds what lay in its volume.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use torpor::api::types::{CreatePod, PortSpec, VolumeSpec};
use torpor::daemon::core::Core;
use torpor::model::{PodState, Result};

use crate::check::View;
use crate::scenarios::{all, count, put_back, run, state, taken, woken};
use crate::support;
use crate::trial::{Places, Scenario};
use crate::world::World;

fn volume(state: &Path) -> PathBuf {
    state.join("volumes/data")
}

fn of(places: &Places) -> PathBuf {
    volume(places.cache.parent().unwrap())
}

fn says(volume: &Path) -> String {
    std::fs::read_to_string(volume.join("says")).unwrap_or_default()
}

/// A pod that counted to 2 and said `then` in its volume when a snapshot was taken, and says `now`.
async fn with_a_volume(core: &Arc<Core>, places: &Places) -> Result<()> {
    let request = CreatePod {
        name: Some("web".into()),
        image: "base".into(),
        command: vec!["serve".into()],
        ports: vec![PortSpec::Pod(80)],
        volumes: vec![VolumeSpec { source: "data".into(), target: "/data".into(), read_only: false }],
        start: true,
        ..CreatePod::default()
    };
    core.create_pod_keeping(request, &[Path::new("/data")]).await?;
    let volume = of(places);
    for _ in 0..2 {
        run(core, "web", "add").await?;
    }
    std::fs::write(volume.join("says"), "then").unwrap();
    std::fs::write(volume.join("more"), "more").unwrap();
    taken(core).await?;
    run(core, "web", "add").await?;
    std::fs::write(volume.join("says"), "now").unwrap();
    std::fs::remove_file(volume.join("more")).unwrap();
    Ok(())
}

fn back(view: &View, world: &World) -> std::result::Result<bool, String> {
    let volume = volume(&world.state());
    let beside: Vec<_> = std::fs::read_dir(volume.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    let (says, more) = (says(&volume), volume.join("more").exists());
    let then = says == "then" && more;
    let now = says == "now" && !more;
    if beside != ["data"] || !(then || now) {
        return Err(format!("the volume says {says:?} ({more}) beside {beside:?}"));
    }
    match (state(view, "web"), count(view, world, "web")) {
        (Some(PodState::Running), Some(2)) if then => Ok(true),
        (Some(PodState::Running), Some(3)) if now => Ok(false),
        (Some(PodState::Failed), _) if view.pods["web"].pending.is_some() && now => Ok(false),
        (Some(PodState::Stopped), _) if view.lost => Ok(then),
        other => Err(format!("web is {other:?}, and its volume says {says}")),
    }
}

#[test]
fn restore_in_place_with_a_volume() {
    if !support::root() {
        return;
    }
    all(Scenario {
        name: "restore in place with a volume",
        ports: 21_940,
        setup: |core, places| async move { with_a_volume(&core, &places).await }.boxed(),
        act: |core, _| async move { put_back(&core).await }.boxed(),
        again: |core, places| {
            async move {
                if core.inspect_pod("web")?.state == "failed" {
                    woken(&core).await?;
                    assert_eq!((run(&core, "web", "get").await?.as_str(), says(&of(&places)).as_str()), ("2", "then"));
                }
                put_back(&core).await
            }
            .boxed()
        },
        done: back,
        makes_snapshots: false,
    });
}
