//! A pod that was made ahead of need is given to whoever asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use torpor::api::types::CreatePod;
use torpor::daemon::core::Core;
use torpor::model::{Code, Result};

use crate::scenarios::{all, either, removed, running, web};
use crate::trial::Scenario;

const SPARE: &str = "spare";

async fn spare(core: &Arc<Core>) -> Result<()> {
    core.create_pod(CreatePod { labels: [(SPARE.to_owned(), String::new())].into(), ..web(true) }).await.map(drop)
}

async fn given(core: &Arc<Core>) -> Result<()> {
    let labels = BTreeMap::from([("owner".to_owned(), "ann".to_owned())]);
    core.assign_pod("web", SPARE, &"site".parse()?, &labels).await.map(drop)
}

#[test]
fn give_a_spare() {
    all(Scenario {
        name: "give a spare",
        ports: 21_960,
        setup: |core, _| async move { spare(&core).await }.boxed(),
        act: |core, _| async move { given(&core).await }.boxed(),
        again: |core, _| {
            async move {
                // Whoever does not know whether it was given looks for it by its name.
                if core.inspect_pod("site").is_err() {
                    running(&core).await?;
                    given(&core).await?;
                }
                let gone = core.delete_labelled("site", SPARE).await.unwrap_err();
                assert_eq!(gone.code(), Code::NotFound, "it is somebody's");
                Ok(())
            }
            .boxed()
        },
        done: |view, _| match (view.pods.get("web"), view.pods.get("site")) {
            (Some(web), None) if web.spec.labels.contains_key(SPARE) => Ok(false),
            (None, Some(site)) if site.spec.labels.keys().eq(["owner"]) => Ok(true),
            _ => Err(format!("pods are {:?}", view.pods.keys())),
        },
        makes_snapshots: false,
    });
}

#[test]
fn remove_a_spare() {
    all(Scenario {
        name: "remove a spare",
        ports: 21_980,
        setup: |core, _| async move { spare(&core).await }.boxed(),
        act: |core, _| async move { core.delete_labelled("web", SPARE).await }.boxed(),
        again: |core, _| async move { removed(&core, "web").await }.boxed(),
        done: |view, _| either(view, Some(torpor::model::PodState::Running), None),
        makes_snapshots: false,
    });
}
