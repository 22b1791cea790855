//! Tokens: made, replaced, revoked, and gone with their pod.

use std::sync::Arc;

use futures::FutureExt;
use torpor::api::types::CreateToken;
use torpor::daemon::core::Core;
use torpor::model::{Code, PodState, Result};

use crate::check::View;
use crate::scenarios::{all, either, made, removed};
use crate::trial::Scenario;
use crate::world::World;

/// One that was said to be made is good, and stays so.
async fn token(core: &Arc<Core>, scope: &str, pod: Option<&str>) -> Result<()> {
    let request = CreateToken {
        name: Some("ci".into()),
        scope: scope.into(),
        pod: pod.map(str::to_owned),
        ..CreateToken::default()
    };
    let made = core.create_token(request).await?;
    assert!(core.admitted(&made.secret).is_some());
    Ok(())
}

async fn replaced(core: &Arc<Core>) -> Result<()> {
    let made = core.rotate_token("ci", 3600).await?;
    assert!(core.admitted(&made.secret).is_some());
    Ok(())
}

async fn revoked(core: &Arc<Core>) -> Result<()> {
    match core.revoke_token("ci").await {
        Err(e) if e.code() == Code::NotFound => Ok(()),
        done => done,
    }
}

/// What is shown is what is written down.
fn texts(view: &View, world: &World) -> std::result::Result<Option<usize>, String> {
    let stored = world.tokens();
    if stored.keys().ne(view.tokens.iter()) {
        return Err(format!("the API shows {:?}, the database has {:?}", view.tokens, stored.keys()));
    }
    Ok(stored.get("ci").map(|t| t.secrets.len()))
}

#[test]
fn create_a_token() {
    all(Scenario {
        name: "create a token",
        ports: 22_000,
        setup: |_, _| async { Ok(()) }.boxed(),
        act: |core, _| async move { token(&core, "pods", None).await }.boxed(),
        again: |core, _| {
            async move {
                // Who lost the answer has no text of it.
                revoked(&core).await?;
                token(&core, "pods", None).await
            }
            .boxed()
        },
        done: |view, world| Ok(texts(view, world)? == Some(1)),
        makes_snapshots: false,
    });
}

#[test]
fn rotate_a_token() {
    all(Scenario {
        name: "rotate a token",
        ports: 22_020,
        setup: |core, _| async move { token(&core, "pods", None).await }.boxed(),
        act: |core, _| async move { replaced(&core).await }.boxed(),
        again: |core, _| async move { replaced(&core).await }.boxed(),
        done: |view, world| match texts(view, world)? {
            Some(1) => Ok(false),
            Some(2 | 3) => Ok(true),
            other => Err(format!("it has {other:?} texts")),
        },
        makes_snapshots: false,
    });
}

#[test]
fn revoke_a_token() {
    all(Scenario {
        name: "revoke a token",
        ports: 22_040,
        setup: |core, _| async move { token(&core, "pods", None).await }.boxed(),
        act: |core, _| async move { revoked(&core).await }.boxed(),
        again: |core, _| async move { revoked(&core).await }.boxed(),
        done: |view, world| Ok(texts(view, world)?.is_none()),
        makes_snapshots: false,
    });
}

#[test]
fn a_pod_s_token_goes_with_it() {
    all(Scenario {
        name: "delete a pod with a token",
        ports: 22_060,
        setup: |core, _| {
            async move {
                made(&core, true).await?;
                token(&core, "pod", Some("web")).await
            }
            .boxed()
        },
        act: |core, _| async move { core.delete_pod("web", true).await }.boxed(),
        again: |core, _| async move { removed(&core, "web").await }.boxed(),
        done: |view, world| {
            let gone = either(view, Some(PodState::Running), None)?;
            match texts(view, world)? {
                None if gone => Ok(true),
                Some(1) if !gone => Ok(false),
                other => Err(format!("the pod is gone: {gone}; its token has {other:?} texts")),
            }
        },
        makes_snapshots: false,
    });
}
