//! Routes about tokens and tickets.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};

use super::answer::{Answer, Body, MaybeBody, Path};
use crate::api::problem::Problem;
use crate::api::types::{CreateToken, NewToken, RotateToken, Ticket, Token};
use crate::daemon::core::Core;
use crate::daemon::core::tokens::Admitted;
use crate::model::{Code, Error};

type Cored = State<Arc<Core>>;

/// What no cache on the way may keep.
const UNKEPT: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

/// Lists the tokens, oldest first, without what proves them.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", operation_id = "listTokens",
    responses((status = 200, description = "The tokens", body = Vec<Token>)))]
pub(super) async fn list(State(core): Cored) -> Json<Vec<Token>> {
    Json(core.list_tokens())
}

/// Makes a token. Its text is in this answer and nowhere else: torpord keeps a hash of it.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", operation_id = "createToken", request_body = CreateToken,
    responses((status = 201, description = "It is good from now on", body = NewToken),
        (status = "4XX", description = "Refused; 409 if the name is taken", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(State(core): Cored, Body(request): Body<CreateToken>) -> Answer<impl IntoResponse> {
    Ok((StatusCode::CREATED, UNKEPT, Json(core.create_token(request).await?)))
}

/// Gives a token a new text. The old one is good for `overlapSeconds` more; what is open by it ends then.
#[utoipa::path(post, path = "/v1/tokens/{token}/rotate", tag = "tokens", operation_id = "rotateToken",
    request_body = Option<RotateToken>, params(("token" = String, Path, description = "Its name or id")),
    responses((status = 200, description = "The new text is good", body = NewToken),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; it is as it was", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn rotate(
    State(core): Cored,
    Path(token): Path<String>,
    MaybeBody(request): MaybeBody<RotateToken>,
) -> Answer<impl IntoResponse> {
    Ok((UNKEPT, Json(core.rotate_token(&token, request.overlap_seconds).await?)))
}

/// Revokes a token. What is open by it ends.
#[utoipa::path(delete, path = "/v1/tokens/{token}", tag = "tokens", operation_id = "revokeToken",
    params(("token" = String, Path, description = "Its name or id")),
    responses((status = 204, description = "It is good no more"),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed; it is still good", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn revoke(State(core): Cored, Path(token): Path<String>) -> Answer<StatusCode> {
    core.revoke_token(&token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a ticket: it stands for the token with which it was asked for, in one request within half a minute, as `?ticket=`. For
/// WebSocket and server-sent events in a browser, which can send no header there: addresses end up in logs, and this one is worth
/// nothing then.
#[utoipa::path(post, path = "/v1/tickets", tag = "tokens", operation_id = "createTicket",
    responses((status = 201, description = "The ticket", body = Ticket),
        (status = "4XX", description = "Refused; 409 by the Unix socket, where no token is asked for", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn ticket(State(core): Cored, of: Option<Extension<Admitted>>) -> Answer<impl IntoResponse> {
    let Some(Extension(of)) = of else {
        return Err(Error::new(Code::WrongState, "a ticket stands for a token, and this request has none")
            .hint("ask a listener that wants tokens, with one")
            .into());
    };
    Ok((StatusCode::CREATED, UNKEPT, Json(core.ticket(of)?)))
}
