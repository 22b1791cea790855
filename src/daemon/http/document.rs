//! What the document says of tokens: for every route, from the table by which they are asked for.

use serde_json::{Value, json};

use super::scopes::{self, Row};
use crate::model::PodId;
use crate::model::token::{Grant, Need, Scope};

/// The scopes whose tokens suffice.
fn scopes(need: Need) -> Vec<&'static str> {
    let pod = "0".repeat(16).parse::<PodId>().ok();
    let grant = |scope| match scope {
        Scope::Admin => Grant::Admin,
        Scope::Pods => Grant::Pods,
        Scope::ReadOnly => Grant::Read,
        Scope::Pod => pod.clone().map_or(Grant::Nothing, Grant::Pod),
    };
    Scope::ALL.into_iter().filter(|s| grant(*s).may(need, pod.as_ref())).map(Scope::as_str).collect()
}

fn refusal(description: &str, header: Option<(&str, &str)>) -> Value {
    let problem = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
    let mut response = json!({ "description": description, "content": problem });
    if let Some((name, about)) = header {
        response["headers"] = json!({ name: { "description": about, "schema": { "type": "string" } } });
    }
    response
}

fn operation(operation: &mut Value, row: &Row) {
    if row.need == Need::Anyone {
        operation["security"] = json!([]);
        return;
    }
    // By the Unix socket nothing is asked for.
    operation["security"] =
        if row.stream { json!([{}, { "token": [] }, { "ticket": [] }]) } else { json!([{}, { "token": [] }]) };
    operation["x-torpor-scopes"] = json!(scopes(row.need));
    for (status, name) in [("401", "Unauthorized"), ("403", "Forbidden"), ("429", "RateLimited")] {
        operation["responses"][status] = json!({ "$ref": format!("#/components/responses/{name}") });
    }
}

/// The document with all of that.
pub(super) fn guarded(mut document: Value) -> Value {
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, methods) in paths {
            // Names of images have slashes, which the document can't say.
            let routed = path.replace("/v1/images/{name}", "/v1/images/{*name}");
            for (method, described) in methods.as_object_mut().into_iter().flatten() {
                if let Some(row) = scopes::V1.iter().find(|r| r.path == routed && r.method.eq_ignore_ascii_case(method))
                {
                    operation(described, row);
                }
            }
        }
    }
    document["components"]["securitySchemes"] = json!({
        "token": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "torpor_ID_SECRET",
            "description": "On listeners other than the Unix socket. `x-torpor-scopes` says which suffice; one of scope `pod` for its pod only.",
        },
        "ticket": {
            "type": "apiKey",
            "in": "query",
            "name": "ticket",
            "description": "Of `POST /v1/tickets`, for one request. `token=` is taken likewise where the listener is told so.",
        },
    });
    document["components"]["responses"] = json!({
        "Unauthorized": refusal("No token, or one that is not good", Some(("WWW-Authenticate", "`Bearer`"))),
        "Forbidden": refusal("The token, or the page that asks, may not; or this is not what the listener is called", None),
        "RateLimited": refusal("Too many tokens that are not good", Some(("Retry-After", "Seconds"))),
    });
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_those_that_suffice() {
        assert_eq!(scopes(Need::Admin), ["admin"]);
        assert_eq!(scopes(Need::Pods), ["admin", "pods"]);
        assert_eq!(scopes(Need::Read), ["admin", "pods", "read-only"]);
        assert_eq!(scopes(Need::ReadPod), ["admin", "pods", "read-only", "pod"]);
        assert_eq!(scopes(Need::UsePod), ["admin", "pods", "pod"]);
        assert_eq!(scopes(Need::Known).len(), 4);
    }
}
