//! The guard of a listener: who asks, and whether they may. It stands before the routes, so that what it decides on is what they
//! see: a token of one pod, say, has the pod's id put in the place of its name, whoever is called so a moment later.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer;
use super::cors::{self, Page, Rules};
use super::cut::Holder;
use super::failures::{Failed, Failures};
use super::scopes::{self, Row};
use super::surface::{Key, Served};
use crate::config::listen::Listen;
use crate::daemon::core::Core;
use crate::daemon::core::tokens::Admitted;
use crate::model::token::{Caller, Grant, Need};
use crate::model::{Code, Error, PodId};

/// The other side of a connection.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// What ends it when its token ends.
    pub(super) holder: Arc<Holder>,
}

/// What stands before a listener's routes.
pub(super) struct Guard {
    core: Arc<Core>,
    rules: Rules,
    auth: bool,
    query_token: bool,
    table: &'static [Row],
    refuse: fn(Error) -> Response,
    /// A secret of the surface's own clients.
    key: Option<Key>,
    failures: Failures,
}

/// Why somebody may not, and when to ask again.
struct Denied {
    error: Error,
    wait: Option<Duration>,
    /// The methods that are allowed, where that is why.
    methods: Option<String>,
}

impl From<Error> for Denied {
    fn from(error: Error) -> Self {
        Denied { error, wait: None, methods: None }
    }
}

/// What somebody shows.
enum Shown {
    Token(String),
    Ticket(String),
}

impl Guard {
    pub(super) fn new(core: Arc<Core>, listen: &Listen, served: &Served) -> Self {
        Guard {
            core,
            rules: Rules::of(listen),
            auth: listen.auth || served.key.is_some(),
            query_token: listen.query_token,
            table: served.table,
            refuse: served.refuse,
            key: served.key.clone(),
            failures: Failures::default(),
        }
    }

    fn refused(&self, denied: Denied) -> Response {
        let unauthorized = denied.error.code() == Code::Unauthorized;
        let mut response = (self.refuse)(denied.error);
        if unauthorized {
            let how = HeaderValue::from_static("Bearer realm=\"torpor\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
        }
        if let Some(wait) = denied.wait {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = denied.methods.and_then(|m| HeaderValue::try_from(m).ok()) {
            response.headers_mut().insert(header::ALLOW, methods);
        }
        response
    }

    /// Lets a request through, changed so that only who asks is in it and no more what was shown; or does not.
    fn admit(&self, request: &mut Request) -> Result<(), Denied> {
        let row = scopes::find(self.table, request.method().as_str(), request.uri().path());
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Error::internal("nobody said who the peer is"))?;
        let shown = if self.auth { self.shown(request, row)? } else { None };
        // Without a row nobody but an administrator learns more than that there is no such route.
        let need = row.map_or(Need::Admin, |r| r.need);
        peer.holder.send_replace(None);
        let caller = match shown {
            _ if !self.auth => Caller { grant: Grant::Admin, token: None },
            _ if need == Need::Anyone => Caller::nobody(),
            None => {
                return Err(Error::new(Code::Unauthorized, "this needs a token")
                    .hint("send `Authorization: Bearer TOKEN`; `torpor token create` makes one")
                    .into());
            }
            Some(Shown::Token(text)) if self.key.as_ref().is_some_and(|k| k.is(&text)) => {
                Caller { grant: Grant::Admin, token: None }
            }
            Some(shown) => {
                let admitted = match &shown {
                    Shown::Token(text) => self.core.admitted(text),
                    Shown::Ticket(text) => self.core.admitted_by_ticket(text),
                };
                let Some(admitted) = admitted else { return Err(self.failed(&peer, &shown)) };
                peer.holder.send_replace(Some(admitted.ended.clone()));
                let caller = admitted.caller.clone();
                request.extensions_mut().insert::<Admitted>(admitted);
                caller
            }
        };
        let pod = match (&caller.grant, row) {
            (Grant::Pod(own), Some(row)) => self.held_to(own, row, request)?,
            _ => None,
        };
        if row.is_none() && !caller.grant.may(need, None) {
            let methods = scopes::methods(self.table, request.uri().path());
            if !methods.is_empty() {
                let error = answer::not_allowed(request);
                return Err(Denied { error, wait: None, methods: Some(methods.join(", ")) });
            }
            let path: String = request.uri().path().chars().take(200).collect();
            let text = format!("no route {} {path}", request.method());
            return Err(Error::new(Code::NotFound, text).hint("GET /openapi.json lists them").into());
        }
        if !caller.grant.may(need, pod.as_ref()) {
            let text = match need {
                Need::Admin => "this needs a token of scope admin",
                Need::Pods => "this needs a token of scope pods or admin",
                Need::UsePod => "this token may look, and do nothing",
                Need::Read | Need::ReadPod | Need::Known | Need::Anyone => "this token is for one pod only",
            };
            return Err(Error::new(Code::Forbidden, text).hint("`torpor token create --scope` makes others").into());
        }
        request.extensions_mut().insert::<Caller>(caller);
        Ok(())
    }

    /// A token that is not good. Those are few or they have to wait: a good one is let in all the same, so that nobody shuts out
    /// others who come by the same address.
    fn failed(&self, peer: &Peer, shown: &Shown) -> Denied {
        let (what, hint) = match shown {
            Shown::Token(_) => ("token", "it may have been revoked or replaced, or have expired: `torpor token ls`"),
            Shown::Ticket(_) => ("ticket", "it is good once, and for half a minute: ask for another"),
        };
        let wait = match self.failures.note(peer.address, Instant::now()) {
            Failed::Few => None,
            Failed::First(wait) => {
                tracing::warn!(peer = %peer.address, "shows too many tokens that are not good: it has to wait");
                Some(wait)
            }
            Failed::Many(wait) => Some(wait),
        };
        match wait {
            None => Error::new(Code::Unauthorized, format!("the {what} is not good")).hint(hint).into(),
            Some(wait) => {
                let text = format!("the {what} is not good, as too many others were from this address");
                Denied { error: Error::new(Code::RateLimited, text).hint(hint), wait: Some(wait), methods: None }
            }
        }
    }

    /// Takes out what is shown.
    fn shown(&self, request: &mut Request, row: Option<&Row>) -> Result<Option<Shown>, Error> {
        let mut by_header = bearer(request.headers())?;
        if self.key.as_ref().is_some_and(Key::by_header)
            && let Some(key) = request.headers_mut().remove("x-api-key")
        {
            by_header = by_header.or(key.to_str().ok().map(str::to_owned));
        }
        request.headers_mut().remove(header::AUTHORIZATION);
        // Where a query may not have one, it is a parameter like any other, of which the route knows nothing.
        let (by_query, rest) = match row.filter(|r| r.stream).zip(request.uri().query()) {
            Some((_, query)) => take(query, self.query_token)?,
            None => (None, None),
        };
        if let Some(rest) = rest {
            *request.uri_mut() =
                with(request.uri(), request.uri().path(), (!rest.is_empty()).then_some(rest.as_str()))?;
        }
        match (by_header, by_query) {
            (Some(_), Some(_)) => Err(Error::invalid("two tokens are shown, by header and by query")),
            (Some(token), None) => Ok(Some(Shown::Token(token))),
            (None, shown) => Ok(shown),
        }
    }

    /// The pod that the path names. Any but the token's own is not there for it; its own is called by its id from here on.
    fn held_to(&self, own: &PodId, row: &Row, request: &mut Request) -> Result<Option<PodId>, Error> {
        let Some(at) = scopes::pod_of(row) else { return Ok(None) };
        let path = request.uri().path();
        let mut parts: Vec<&str> = path.split('/').collect();
        let reference = decoded(parts.get(at).copied().unwrap_or_default());
        let is_own = self.core.pod_id(&reference).is_ok_and(|id| id == *own);
        if !is_own {
            let shown: String = reference.chars().take(80).collect();
            return Err(Error::new(Code::NotFound, format!("no pod {shown:?}")).hint("this token is for one pod only"));
        }
        if let Some(part) = parts.get_mut(at) {
            *part = own.as_str();
        }
        *request.uri_mut() = with(request.uri(), &parts.join("/"), request.uri().query())?;
        Ok(Some(own.clone()))
    }
}

/// The token in `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Ok(None) };
    let wrong = || Error::new(Code::Unauthorized, "Authorization is not understood").hint("send `Bearer TOKEN`, once");
    let text = value.to_str().map_err(|_| wrong())?;
    let (kind, token) = text.split_once(' ').ok_or_else(wrong)?;
    if all.next().is_some() || !kind.eq_ignore_ascii_case("bearer") {
        return Err(wrong());
    }
    Ok(Some(token.trim().to_owned()))
}

/// Takes `ticket`, and `token` if that may be, out of a query; gives what is left if anything was taken.
fn take(query: &str, token: bool) -> Result<(Option<Shown>, Option<String>), Error> {
    let (mut found, mut rest) = (None, url::form_urlencoded::Serializer::new(String::new()));
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let shown = match &*key {
            "ticket" => Shown::Ticket(value.into_owned()),
            "token" if token => Shown::Token(value.into_owned()),
            _ => {
                rest.append_pair(&key, &value);
                continue;
            }
        };
        if found.replace(shown).is_some() {
            return Err(Error::invalid("the query shows more than one token"));
        }
    }
    Ok(if found.is_some() { (found, Some(rest.finish())) } else { (None, None) })
}

fn decoded(part: &str) -> String {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (mut out, mut rest) = (Vec::new(), part.as_bytes());
    while let [first, more @ ..] = rest {
        let escaped = match more {
            [a, b, ..] if *first == b'%' => digit(*a).zip(digit(*b)),
            _ => None,
        };
        out.push(escaped.map_or(*first, |(a, b)| a << 4 | b));
        rest = if escaped.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn with(uri: &Uri, path: &str, query: Option<&str>) -> Result<Uri, Error> {
    let text = query.map_or_else(|| path.to_owned(), |q| format!("{path}?{q}"));
    let mut parts = uri.clone().into_parts();
    let wrong = |e: &dyn std::fmt::Display| Error::invalid(format!("the request's path: {e}"));
    parts.path_and_query = Some(PathAndQuery::try_from(text).map_err(|e| wrong(&e))?);
    Uri::from_parts(parts).map_err(|e| wrong(&e))
}

/// Answers in the place of the routes, or lets them answer.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let page: Page = match guard.rules.check(request.uri(), request.headers()) {
        Ok(page) => page,
        Err(e) => return guard.refused(e.into()),
    };
    let mut response = if cors::is_preflight(request.method(), request.headers()) {
        let mut response = StatusCode::NO_CONTENT.into_response();
        page.allow(response.headers_mut());
        response
    } else {
        match guard.admit(&mut request) {
            Ok(()) => next.run(request).await,
            Err(denied) => guard.refused(denied),
        }
    };
    page.mark(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_taken_out() {
        let shown = |q: &str, token| match take(q, token) {
            Ok((Some(Shown::Token(t)), rest)) => format!("token {t} {}", rest.unwrap()),
            Ok((Some(Shown::Ticket(t)), rest)) => format!("ticket {t} {}", rest.unwrap()),
            Ok((None, rest)) => format!("nothing {rest:?}"),
            Err(e) => e.to_string(),
        };
        assert_eq!(shown("a=b&ticket=x%20y&c", false), "ticket x y a=b&c=");
        assert_eq!(shown("token=t&pod=a%26b", true), "token t pod=a%26b");
        assert_eq!(shown("token=t", false), "nothing None");
        assert_eq!(shown("tokens=t&Ticket=u", true), "nothing None");
        assert!(shown("token=t&token=u", true).contains("more than one"));
        assert!(shown("token=t&ticket=u", true).contains("more than one"));
    }

    #[test]
    fn only_bearers_are_understood() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for v in values {
                headers.append(header::AUTHORIZATION, v.parse().unwrap());
            }
            bearer(&headers).map_err(|e| e.code())
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["Bearer x"]), Ok(Some("x".into())));
        assert_eq!(read(&["bearer  x "]), Ok(Some("x".into())));
        for bad in [&["Basic eDp5"][..], &["Bearer"], &["x"], &[""], &["Bearer x", "Bearer x"]] {
            assert_eq!(read(bad), Err(Code::Unauthorized), "{bad:?}");
        }
    }

    #[test]
    fn paths_are_put_together_again() {
        let uri: Uri = "/v1/pods/w%65b/logs?tail=1".parse().unwrap();
        assert_eq!(with(&uri, "/v1/pods/id/logs", uri.query()).unwrap(), "/v1/pods/id/logs?tail=1");
        assert_eq!(with(&uri, uri.path(), None).unwrap(), "/v1/pods/w%65b/logs");
        assert_eq!(
            ["w%65b", "a+b", "a%2Fb", "a&b=", "%", "%4", "%zz", "%C3%A4"].map(decoded),
            ["web", "a+b", "a/b", "a&b=", "%", "%4", "%zz", "\u{e4}"]
        );
    }
}
