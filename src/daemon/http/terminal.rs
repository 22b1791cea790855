//! Routes about terminals.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use utoipa::IntoParams;

use super::answer::{Answer, MaybeBody, Path};
use super::web_socket::{Framing, Upgrade, show};
use crate::api::problem::Problem;
use crate::api::terminal::{CreateTerminal, SocketSays, Terminal, Top};
use crate::daemon::core::Core;
use crate::daemon::core::terminals::{Join, admit_terminal, size_if_given};
use crate::model::{Error, Result};

type Cored = State<Arc<Core>>;

/// Lists a pod's terminals, with those that have ended and whose exit code nobody was told yet.
#[utoipa::path(get, path = "/v1/pods/{pod}/terminals", tag = "terminals", operation_id = "listTerminals",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "Oldest first", body = Vec<Terminal>),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(State(core): Cored, Path(pod): Path<String>) -> Answer<Json<Vec<Terminal>>> {
    Ok(Json(core.list_terminals(&pod).await?))
}

/// Makes a terminal with a program on it, the user's shell by default. It belongs to the pod: it goes on without viewers, over
/// restarts of torpord, and over sleep and wake.
#[utoipa::path(post, path = "/v1/pods/{pod}/terminals", tag = "terminals", operation_id = "createTerminal",
    request_body = Option<CreateTerminal>,
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 201, description = "Its program runs", body = Terminal),
        (status = "4XX", description = "Refused; 409 if the id is taken, 422 if the program can't be run", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; 507 if there are 64 already", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(core): Cored,
    Path(pod): Path<String>,
    MaybeBody(request): MaybeBody<CreateTerminal>,
) -> Answer<(StatusCode, Json<Terminal>)> {
    Ok((StatusCode::CREATED, Json(core.create_terminal(&pod, request).await?)))
}

/// Shows a terminal.
#[utoipa::path(get, path = "/v1/pods/{pod}/terminals/{terminal}", tag = "terminals", operation_id = "inspectTerminal",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), ("terminal" = String, Path, description = "Its id")),
    responses((status = 200, description = "The terminal", body = Terminal),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn inspect(
    State(core): Cored,
    Path((pod, terminal)): Path<(String, String)>,
) -> Answer<Json<Terminal>> {
    Ok(Json(core.inspect_terminal(&pod, &terminal).await?))
}

/// Hangs a terminal up: its program gets SIGHUP, and SIGKILL two seconds later. Of one that has ended nothing is kept any more.
#[utoipa::path(delete, path = "/v1/pods/{pod}/terminals/{terminal}", tag = "terminals", operation_id = "deleteTerminal",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), ("terminal" = String, Path, description = "Its id")),
    responses((status = 200, description = "It is gone; as it was, with the exit code if it had ended", body = Terminal),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(core): Cored,
    Path((pod, terminal)): Path<(String, String)>,
) -> Answer<Json<Terminal>> {
    Ok(Json(core.delete_terminal(&pod, &terminal).await?))
}

/// What a terminal's WebSocket may be asked with.
#[derive(Debug, Default, PartialEq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Look {
    /// The terminal's id. Default: a new one with an id that is made up; the first text frame tells it.
    id: Option<String>,
    /// Columns, together with `rows`. Of a terminal that is there already it is the new size: the last one given counts, whoever
    /// gives it. Default: 80 of a new one, and no change otherwise.
    cols: Option<u16>,
    /// Lines, together with `cols`. Default 24.
    rows: Option<u16>,
    /// Program and arguments, one parameter each, for a terminal that is made. Default: the user's shell. With an environment or
    /// what else a program needs, `POST /v1/pods/{pod}/terminals` makes it.
    command: Vec<String>,
    /// `user[:group]` for a terminal that is made; default: that of the pod's command.
    user: Option<String>,
    /// `false`: 404 if there is no terminal of that id, instead of making it. Default true.
    create: Option<bool>,
    /// Place of the first byte wanted, as `start` of the first text frame and the bytes that came after it make it: to go on where a
    /// connection broke off. Default: all that is kept, 256 KiB at most.
    from: Option<u64>,
}

impl Look {
    fn parse(query: &str) -> Result<Self> {
        let mut look = Look::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let bad = |what: &str| {
                let shown: String = value.chars().take(40).collect();
                Error::invalid(format!("{name}={shown:?} is no {what}"))
            };
            match &*name {
                "id" => look.id = Some(value.into_owned()),
                "cols" => look.cols = Some(value.parse().map_err(|_| bad("number of columns"))?),
                "rows" => look.rows = Some(value.parse().map_err(|_| bad("number of lines"))?),
                "command" => look.command.push(value.into_owned()),
                "user" => look.user = Some(value.into_owned()),
                "create" => look.create = Some(value.parse().map_err(|_| bad("answer: true or false"))?),
                "from" => look.from = Some(value.parse().map_err(|_| bad("place"))?),
                _ => {
                    let shown: String = name.chars().take(40).collect();
                    return Err(Error::invalid(format!("unknown parameter {shown:?}"))
                        .hint("id, cols, rows, command, user, create and from are known"));
                }
            }
        }
        Ok(look)
    }

    fn join(self) -> Result<Join> {
        let size = size_if_given(self.cols, self.rows)?;
        if self.create == Some(false) && self.id.is_none() {
            return Err(Error::invalid("create=false needs an id"));
        }
        let new = CreateTerminal {
            command: self.command,
            user: self.user,
            cols: self.cols,
            rows: self.rows,
            ..CreateTerminal::default()
        };
        let create = admit_terminal(&new)?;
        Ok(Join { id: self.id, create: Some(create).filter(|_| self.create != Some(false)), size, from: self.from })
    }
}

/// Looks at a terminal, made if there is none of that id: a WebSocket. What it has said before comes first. Any number may look at
/// once, and all see and may type the same. Closing the socket leaves the terminal as it is.
///
/// Binary frames are bytes, both ways. Text frames are JSON: from the client `SocketAsks` (`resize`, `signal`), from torpord
/// `SocketSays`: first `opened`; `resized`, `missed` (a client that does not read fast enough is not waited for), `state` (of the pod:
/// while it sleeps the socket stays open and the terminal stands still); last `exit` or `error`, before the socket is closed. The exit
/// code is kept until somebody was told. Frames of more than 1 MiB close the socket.
#[utoipa::path(get, path = "/v1/pods/{pod}/terminal", tag = "terminals", operation_id = "openTerminal",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id"), Look),
    responses((status = 101, description = "Text frames from torpord are these", body = SocketSays),
        (status = "4XX", description = "Refused; 409 if the pod does not run, 422 if the program can't be run", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn open(
    State(core): Cored,
    Path(pod): Path<String>,
    RawQuery(query): RawQuery,
    Upgrade(upgrade): Upgrade,
) -> Answer<Response> {
    let join = Look::parse(&query.unwrap_or_default())?.join()?;
    let permit = core.socket_permit()?;
    let joined = core.join_terminal(&pod, join).await?;
    Ok(upgrade.on_upgrade(async move |socket| {
        let _permit = permit;
        show(socket, joined.viewer, joined.created, Framing::Raw, core.shutdown()).await;
    }))
}

/// Lists the processes of a pod, as they are seen in it.
#[utoipa::path(get, path = "/v1/pods/{pod}/top", tag = "pods", operation_id = "podTop",
    params(("pod" = String, Path, description = "Its name, its id, or a unique beginning of the id")),
    responses((status = 200, description = "Its processes", body = Top),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn top(State(core): Cored, Path(pod): Path<String>) -> Answer<Json<Top>> {
    Ok(Json(core.top(&pod).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood_or_refused() {
        let look = Look::parse("id=a&cols=100&rows=30&command=sh&command=-c&command=a%20b%3D%26c&from=7").unwrap();
        assert_eq!((look.id.as_deref(), look.cols, look.rows, look.from), (Some("a"), Some(100), Some(30), Some(7)));
        assert_eq!(look.command, ["sh", "-c", "a b=&c"]);
        let join = look.join().unwrap();
        assert!(join.create.is_some() && join.size.is_some());
        assert!(Look::parse("id=a&create=false").unwrap().join().unwrap().create.is_none());
        for bad in ["cols=x", "rows=70000", "create=maybe", "from=-1", "other=1"] {
            assert!(Look::parse(bad).is_err(), "{bad}");
        }
        for bad in ["cols=80", "cols=0&rows=24", "cols=80&rows=1001", "create=false", "user=a%20b", "command=%00"] {
            assert!(Look::parse(bad).unwrap().join().is_err(), "{bad}");
        }
    }
}
