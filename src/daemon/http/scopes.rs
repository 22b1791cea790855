//! Who may do what: one table over all routes of torpor's own API. A route that is not in it is the administrators' alone.

use crate::model::token::Need;
use crate::model::token::Need::{Admin, Anyone, Known, Pods, Read, ReadPod, UsePod};

/// A route and what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) method: &'static str,
    /// As the router has it: `{x}` is one part, `{*x}` all the rest.
    pub(super) path: &'static str,
    pub(super) need: Need,
    /// Whether browsers open it without a header of their own: WebSocket and server-sent events.
    pub(super) stream: bool,
}

pub(super) const fn row(method: &'static str, path: &'static str, need: Need) -> Row {
    Row { method, path, need, stream: false }
}

pub(super) const fn stream(method: &'static str, path: &'static str, need: Need) -> Row {
    Row { method, path, need, stream: true }
}

/// torpor's own API.
pub(super) const V1: &[Row] = &[
    row("GET", "/health", Anyone),
    row("GET", "/openapi.json", Anyone),
    row("GET", "/version", Known),
    row("GET", "/metrics", Read),
    row("GET", "/v1/traces", Read),
    row("GET", "/v1/doctor", Read),
    stream("GET", "/v1/events", Known),
    row("GET", "/v1/pods", Known),
    row("POST", "/v1/pods", Pods),
    row("GET", "/v1/pods/{pod}", ReadPod),
    row("PATCH", "/v1/pods/{pod}", Pods),
    row("DELETE", "/v1/pods/{pod}", UsePod),
    row("POST", "/v1/pods/{pod}/rename", Pods),
    row("POST", "/v1/pods/{pod}/pause", UsePod),
    row("POST", "/v1/pods/{pod}/resume", UsePod),
    row("POST", "/v1/pods/{pod}/start", UsePod),
    row("POST", "/v1/pods/{pod}/stop", UsePod),
    row("POST", "/v1/pods/{pod}/restart", UsePod),
    row("POST", "/v1/pods/{pod}/kill", UsePod),
    row("POST", "/v1/pods/{pod}/sleep", UsePod),
    row("POST", "/v1/pods/{pod}/wake", UsePod),
    row("POST", "/v1/pods/{pod}/restore", UsePod),
    row("GET", "/v1/pods/{pod}/wait", ReadPod),
    row("POST", "/v1/pods/{pod}/exec", UsePod),
    stream("GET", "/v1/pods/{pod}/exec", UsePod),
    stream("GET", "/v1/pods/{pod}/attach", UsePod),
    stream("GET", "/v1/pods/{pod}/terminal", UsePod),
    row("GET", "/v1/pods/{pod}/terminals", ReadPod),
    row("POST", "/v1/pods/{pod}/terminals", UsePod),
    row("GET", "/v1/pods/{pod}/terminals/{terminal}", ReadPod),
    row("DELETE", "/v1/pods/{pod}/terminals/{terminal}", UsePod),
    row("GET", "/v1/pods/{pod}/top", ReadPod),
    stream("GET", "/v1/pods/{pod}/logs", ReadPod),
    stream("GET", "/v1/pods/{pod}/stats", ReadPod),
    row("GET", "/v1/pods/{pod}/ports", ReadPod),
    row("POST", "/v1/pods/{pod}/ports", Pods),
    row("DELETE", "/v1/pods/{pod}/ports/{host}", Pods),
    row("GET", "/v1/pods/{pod}/files", UsePod),
    row("PUT", "/v1/pods/{pod}/files", UsePod),
    row("GET", "/v1/pods/{pod}/files/stat", UsePod),
    row("POST", "/v1/pods/{pod}/snapshots", UsePod),
    row("GET", "/v1/snapshots", Known),
    row("GET", "/v1/snapshots/{snapshot}", Known),
    row("DELETE", "/v1/snapshots/{snapshot}", Pods),
    row("POST", "/v1/snapshots/{snapshot}/restore", Pods),
    row("GET", "/v1/images", Read),
    row("POST", "/v1/images", Admin),
    row("GET", "/v1/images/{*name}", Read),
    row("DELETE", "/v1/images/{*name}", Admin),
    row("GET", "/v1/volumes", Read),
    row("POST", "/v1/volumes", Pods),
    row("GET", "/v1/volumes/{volume}", Read),
    row("DELETE", "/v1/volumes/{volume}", Pods),
    row("GET", "/v1/tiers", Read),
    row("GET", "/v1/system/capacity", Read),
    row("GET", "/v1/system/df", Read),
    row("POST", "/v1/system/prune", Admin),
    row("POST", "/v1/system/reload", Admin),
    row("POST", "/v1/system/host-down", Admin),
    row("GET", "/v1/system/log", Admin),
    row("PUT", "/v1/system/log", Admin),
    row("GET", "/v1/system/backup", Admin),
    row("GET", "/v1/tokens", Admin),
    row("POST", "/v1/tokens", Admin),
    row("POST", "/v1/tokens/{token}/rotate", Admin),
    row("DELETE", "/v1/tokens/{token}", Admin),
    row("POST", "/v1/tickets", Known),
];

/// How well a route fits a path: for each part whether it is named or stands for any. None: not at all. The router takes the one
/// whose first different part is named, and so does the order of these.
fn fits(route: &str, path: &str) -> Option<Vec<bool>> {
    let (mut route, mut path) = (route.split('/').skip(1), path.split('/').skip(1));
    let mut named = Vec::new();
    loop {
        match (route.next(), path.next()) {
            (None, None) => return Some(named),
            (Some(r), Some(p)) if r.starts_with("{*") => {
                named.push(false);
                return (!p.is_empty()).then_some(named);
            }
            (Some(r), Some(p)) if r.starts_with('{') && !p.is_empty() => named.push(false),
            (Some(r), Some(p)) if r == p => named.push(true),
            _ => return None,
        }
    }
}

/// The row of a request. The path as it came: the router, too, looks at it before anything in it is decoded.
pub(super) fn find<'a>(table: &'a [Row], method: &str, path: &str) -> Option<&'a Row> {
    let method = if method == "HEAD" { "GET" } else { method };
    let fitting = table.iter().filter(|r| r.method == method).filter_map(|r| Some((fits(r.path, path)?, r)));
    fitting.max_by(|a, b| a.0.cmp(&b.0)).map(|(_, row)| row)
}

/// The methods that a path has rows for.
pub(super) fn methods<'a>(table: &'a [Row], path: &str) -> Vec<&'a str> {
    table.iter().filter(|r| fits(r.path, path).is_some()).map(|r| r.method).collect()
}

/// Where in a path the pod stands that a route is about.
pub(super) fn pod_of(row: &Row) -> Option<usize> {
    row.path.split('/').position(|part| part == "{pod}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_the_document_has_a_row_and_every_row_a_route() {
        let document = super::super::document();
        let mut wanted: Vec<String> = vec!["GET /openapi.json".into()];
        for (path, methods) in document["paths"].as_object().unwrap() {
            let path = path.replace("/v1/images/{name}", "/v1/images/{*name}");
            wanted.extend(methods.as_object().unwrap().keys().map(|m| format!("{} {path}", m.to_uppercase())));
        }
        let mut there: Vec<String> = V1.iter().map(|r| format!("{} {}", r.method, r.path)).collect();
        wanted.sort();
        there.sort();
        assert_eq!(there, wanted);
    }

    #[test]
    fn a_pod_s_routes_are_held_to_the_pod() {
        for row in V1 {
            let of_pod = matches!(row.need, ReadPod | UsePod);
            assert!(!of_pod || pod_of(row) == Some(3), "{row:?}");
            // What the names of routes say of pods is asked for of pods.
            assert!(pod_of(row).is_none() || of_pod || row.need == Pods || row.need == Admin, "{row:?}");
        }
    }

    #[test]
    fn rows_are_found_as_the_router_finds_routes() {
        let found = |method: &str, path: &str| find(V1, method, path).map(|r| (r.path, r.need));
        assert_eq!(found("GET", "/v1/pods"), Some(("/v1/pods", Known)));
        assert_eq!(found("HEAD", "/v1/pods/x"), Some(("/v1/pods/{pod}", ReadPod)));
        assert_eq!(found("DELETE", "/v1/images/a/b:c"), Some(("/v1/images/{*name}", Admin)));
        for (method, path) in [
            ("GET", "/v1/pods/"),
            ("GET", "/v1/pods/x/"),
            ("GET", "//v1/pods"),
            ("GET", "/v1/%70ods"),
            ("GET", "/v1/pods/x/nosuch"),
            ("PUT", "/v1/pods"),
            ("GET", "/v1/images/"),
            ("GET", ""),
            ("GET", "*"),
        ] {
            assert_eq!(found(method, path), None, "{method} {path}");
        }
        assert_eq!(methods(V1, "/v1/pods"), ["GET", "POST"]);
        assert_eq!(methods(V1, "/v1/pods/x/nosuch"), [""; 0]);
        let table = [row("GET", "/a/{x}", Read), row("GET", "/a/b", Admin), row("GET", "/{*rest}", Anyone)];
        let need = |path| find(&table, "GET", path).map(|r| r.need);
        assert_eq!(
            (need("/a/b"), need("/a/c"), need("/a/b/c"), need("/x")),
            (Some(Admin), Some(Read), Some(Anyone), Some(Anyone))
        );
    }
}
