//! What a listener serves, by the name of its surface.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};

use super::answer::Refused;
use super::{routes, scopes};
use crate::config::listen::Surface;
use crate::daemon::core::Core;
use crate::model::Error;

/// A surface: its routes, who may use which, and how it says that somebody may not.
pub(super) struct Served {
    pub(super) router: Router,
    pub(super) table: &'static [scopes::Row],
    pub(super) refuse: fn(Error) -> Response,
}

/// What is behind a name.
pub(super) fn of(surface: Surface, core: Arc<Core>) -> Served {
    match surface {
        Surface::V1 => {
            Served { router: routes::plain(core), table: scopes::V1, refuse: |e| Refused(e).into_response() }
        }
    }
}
