//! What a listener serves, by the name of its surface.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::answer::Refused;
use super::scopes::{Row, row, stream};
use super::{routes, scopes};
use crate::config::listen::Surface;
use crate::daemon::core::Core;
use crate::daemon::surfaces;
use crate::daemon::surfaces::containers::Pool;
use crate::model::Error;
use crate::model::token::Need::{Anyone, Pods, Read};

/// A surface: its routes, who may use which, and how it says that somebody may not.
pub(super) struct Served {
    pub(super) router: Router,
    pub(super) table: &'static [scopes::Row],
    pub(super) refuse: fn(Error) -> Response,
    /// What its clients show besides tokens, and whether by `X-API-Key` too.
    pub(super) key: Option<Key>,
}

/// A secret that clients of a surface have: a hash of it.
#[derive(Clone)]
pub(super) struct Key {
    sha256: [u8; 32],
    by_header: bool,
}

impl Key {
    /// Out of the environment; one that is empty is none.
    fn of(variable: &str, by_header: bool) -> Option<Self> {
        let text = std::env::var(variable).ok().filter(|t| !t.is_empty())?;
        Some(Key { sha256: Sha256::digest(text).into(), by_header })
    }

    /// Whether that is it. Takes as long whatever is wrong with it.
    pub(super) fn is(&self, text: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(text).into();
        bool::from(given.ct_eq(&self.sha256))
    }

    /// Whether it may be shown by `X-API-Key`.
    pub(super) fn by_header(&self) -> bool {
        self.by_header
    }
}

/// The pod agent's routes.
const AGENT: &[Row] = &[
    row("GET", "/health", Anyone),
    row("POST", "/create-pod", Pods),
    row("POST", "/stop-pod", Pods),
    row("POST", "/delete-pod", Pods),
    row("POST", "/snapshot/{podId}", Pods),
    row("POST", "/restore-pod", Pods),
];

/// The container manager's routes.
const CONTAINERS: &[Row] = &[
    row("GET", "/health", Anyone),
    row("GET", "/api/containers", Read),
    row("POST", "/api/containers", Pods),
    row("GET", "/api/containers/{id}", Read),
    row("DELETE", "/api/containers/{id}", Pods),
    row("POST", "/api/containers/{id}/exec", Pods),
    stream("GET", "/api/containers/{id}/logs", Read),
    stream("GET", "/api/containers/{id}/terminal", Pods),
    row("POST", "/api/containers/{id}/setup", Pods),
];

/// What is behind a name.
pub(super) fn of(surface: Surface, core: Arc<Core>, spares: Option<Arc<Pool>>) -> Served {
    match surface {
        Surface::V1 => {
            Served { router: routes::plain(core), table: scopes::V1, refuse: |e| Refused(e).into_response(), key: None }
        }
        Surface::Agent => {
            let settings = core.config().agent.clone();
            let key = Key::of("POD_HOST_API_KEY", true);
            Served { router: surfaces::agent::router(core, settings), table: AGENT, refuse: surfaces::refuse, key }
        }
        Surface::Containers => {
            let key = Key::of("API_SECRET", false);
            if key.is_none() {
                tracing::warn!(
                    "API_SECRET is not in the environment: the container manager takes torpor's tokens alone"
                );
            }
            let router = surfaces::containers::router(core, spares);
            Served { router, table: CONTAINERS, refuse: surfaces::refuse, key }
        }
    }
}
