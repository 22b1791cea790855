//! The requests.

use std::sync::Arc;

use futures::FutureExt;
use torpor::api::types::{CreatePod, PortSpec};
use torpor::daemon::core::Core;
use torpor::host::progress::Progress;
use torpor::model::{Code, PodState, Result};

use crate::check::View;
use crate::fake::Fault;
use crate::trial::{Meanwhile, Places, Scenario, Sweep};
use crate::world::World;

fn web(start: bool) -> CreatePod {
    CreatePod {
        name: Some("web".into()),
        image: "base".into(),
        command: vec!["serve".into()],
        ports: vec![PortSpec::Pod(80)],
        start,
        ..CreatePod::default()
    }
}

async fn made(core: &Arc<Core>, start: bool) -> Result<()> {
    core.create_pod(web(start)).await.map(drop)
}

async fn imported(core: &Arc<Core>, places: &Places) -> Result<()> {
    core.import_directory("other", None, &places.other_image, &Progress::default()).await.map(drop)
}

/// Removes a pod that may be there.
async fn removed(core: &Arc<Core>, name: &str) -> Result<()> {
    match core.delete_pod(name, true).await {
        Err(e) if e.code() == Code::NotFound => Ok(()),
        other => other,
    }
}

fn state(view: &View, name: &str) -> Option<PodState> {
    view.pods.get(name).map(|r| r.state)
}

/// The pod is in `done`, or as it was.
fn either(view: &View, was: Option<PodState>, done: Option<PodState>) -> std::result::Result<bool, String> {
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

fn all(scenario: Scenario) {
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
        ports: 24_000,
        setup: |_| async { Ok(()) }.boxed(),
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
        ports: 24_020,
        setup: |core| async move { made(&core, false).await }.boxed(),
        act: |core, _| async move { core.start_pod("web").await.map(drop) }.boxed(),
        again: |core, _| async move { core.start_pod("web").await.map(drop) }.boxed(),
        done: |view, _| either(view, Some(PodState::Created), Some(PodState::Running)),
        makes_snapshots: false,
    });
}

#[test]
fn delete() {
    all(Scenario {
        name: "delete",
        ports: 24_040,
        setup: |core| async move { made(&core, true).await }.boxed(),
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
        ports: 24_060,
        setup: |_| async { Ok(()) }.boxed(),
        act: |core, places| async move { imported(&core, &places).await }.boxed(),
        again: |core, places| async move { imported(&core, &places).await }.boxed(),
        done: has,
        makes_snapshots: false,
    });
}
