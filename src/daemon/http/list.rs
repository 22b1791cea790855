//! Lists of pods.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::IntoParams;

use super::answer::{Answer, Asked};
use super::events::{label, parameters, unknown};
use crate::api::problem::Problem;
use crate::api::types::Pod;
use crate::daemon::core::Core;
use crate::daemon::core::list::Which;
use crate::model::{Error, PodState, Result};

/// Pods on one page.
const MOST: usize = 1000;

#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "tells the document what is read one by one")]
pub(super) struct Filters {
    /// Only pods with these labels: `name` or `name=value`. May come more than once; all must be there.
    #[param(required = false)]
    label: Vec<String>,
    /// Only pods in this state. May come more than once.
    #[param(required = false)]
    state: Vec<String>,
    /// Only pods whose name contains this. May come more than once.
    #[param(required = false)]
    name: Vec<String>,
    /// So many at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// The next page: taken from the `link` header of the one before.
    after: Option<String>,
}

fn which(query: &[(String, String)]) -> Result<Which> {
    let mut which = Which::default();
    for (key, value) in query {
        let shown = || value.chars().take(40).collect::<String>();
        match key.as_str() {
            "label" => which.labels.push(label(value)),
            "name" => which.names.push(value.clone()),
            "state" => {
                let state = PodState::ALL.into_iter().find(|s| s.as_str() == value);
                let known = || PodState::ALL.map(PodState::as_str).join(", ");
                which.states.push(state.ok_or_else(|| {
                    Error::invalid(format!("no state {:?}", shown())).hint(format!("there are {}", known()))
                })?);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|n| (1..=MOST).contains(n));
                which.limit =
                    Some(limit.ok_or_else(|| Error::invalid(format!("limit {:?} is not 1 to {MOST}", shown())))?);
            }
            "after" => which.after = Some(value.parse()?),
            other => return Err(unknown(other)),
        }
    }
    Ok(which)
}

/// Lists pods, oldest first. Where there are more than `limit`, the header `link` says where the next page is.
#[utoipa::path(get, path = "/v1/pods", tag = "pods", operation_id = "listPods", params(Filters),
    responses((status = 200, description = "The pods", body = Vec<Pod>,
            headers(("link" = Option<String>, description = "`<PATH>; rel=\"next\"` if there are more"))),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Asked(caller): Asked,
    RawQuery(query): RawQuery,
) -> Answer<Response> {
    let query = parameters(query.as_deref())?;
    let (pods, end) = core.list_some(&Which { only: caller.only().cloned(), ..which(&query)? });
    let Some(end) = end else { return Ok(Json(pods).into_response()) };
    let mut next = url::form_urlencoded::Serializer::new(String::new());
    next.extend_pairs(query.iter().filter(|(k, _)| k != "after"));
    let next = next.append_pair("after", &end.to_string()).finish();
    Ok(([(header::LINK, format!("</v1/pods?{next}>; rel=\"next\""))], Json(pods)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_refused() {
        let read = |q: &str| which(&parameters(Some(q)).unwrap());
        let w = read("label=a%3Db&label=c&state=running&state=paused&name=web&limit=2").unwrap();
        assert_eq!(w.labels, [("a".into(), Some("b".into())), ("c".into(), None)]);
        assert_eq!((w.states.len(), w.names.len(), w.limit), (2, 1, Some(2)));
        for bad in ["state=x", "limit=0", "limit=1001", "limit=-1", "after=x", "nosuch=1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
