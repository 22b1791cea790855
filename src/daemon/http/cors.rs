//! By which names a listener may be called, and pages of which origin may ask. Decisions only.
//!
//! A page of a stranger's runs in a browser that reaches what the stranger does not. If it has its own name resolve to this host,
//! the Host header tells; if it asks across origins, Origin tells, and that is the only thing that does for a WebSocket.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};

use crate::config::listen::{HostName, Listen, Origin};
use crate::model::{Code, Error, Result};

/// What a page may send besides what every page may.
const ALLOWED_HEADERS: &str = "authorization, content-type, idempotency-key, last-event-id, x-api-key, x-request-id";
const ALLOWED_METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
/// What a page may read besides what every page may.
const EXPOSED: &str = "link, location, retry-after, www-authenticate, x-request-id";

/// The rules of one listener.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    hosts: Vec<HostName>,
    origins: Vec<Origin>,
}

/// What a page is to be told with the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Page(Option<HeaderValue>);

fn once<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Result<Option<&'a str>> {
    let mut all = headers.get_all(name).iter();
    let first = all.next();
    if all.next().is_some() {
        return Err(Error::invalid(format!("{name} is there twice")));
    }
    first.map(|v| v.to_str().map_err(|_| Error::invalid(format!("{name} is no text")))).transpose()
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

impl Rules {
    pub(super) fn of(listen: &Listen) -> Self {
        Rules { hosts: listen.hosts.clone(), origins: listen.cors.clone() }
    }

    /// Refuses a request that calls this host by a name that is not its own, or comes from a page that may not ask.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<Page> {
        let host = once(headers, &header::HOST)?.ok_or_else(|| Error::invalid("the request has no Host"))?;
        let host: Authority = host.parse().map_err(|_| Error::invalid("Host is no host"))?;
        self.named(&host)?;
        if let Some(authority) = uri.authority() {
            self.named(authority)?;
        }
        let Some(origin) = once(headers, &header::ORIGIN)? else { return Ok(Page(None)) };
        if self.origins.iter().any(|o| o.as_str() == "*") {
            return Ok(Page(Some(HeaderValue::from_static("*"))));
        }
        if self.origins.iter().any(|o| o.as_str().eq_ignore_ascii_case(origin)) {
            return Ok(Page(HeaderValue::from_str(origin).ok()));
        }
        if same(origin, &host) {
            return Ok(Page(None));
        }
        Err(Error::new(Code::Forbidden, format!("pages of {:?} may not ask here", shown(origin)))
            .hint("put its origin into `cors` of the [[listen]] in torpor.toml"))
    }

    fn named(&self, host: &Authority) -> Result<()> {
        let name = host.host().trim_end_matches('.').to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
        let known = self.hosts.iter().any(|h| h.as_str() == "*" || h.as_str() == name);
        if address || known || name == "localhost" {
            return Ok(());
        }
        Err(Error::new(Code::Forbidden, format!("this listener is not called {:?}", shown(&name)))
            .hint("ask by its address, or put the name into `hosts` of the [[listen]] in torpor.toml"))
    }
}

/// Whether an origin is this host itself, as the request calls it.
fn same(origin: &str, host: &Authority) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let Ok(of_page) = rest.parse::<Authority>() else { return false };
    let port = |a: &Authority| a.port_u16().unwrap_or(usual);
    of_page.host().eq_ignore_ascii_case(host.host()) && port(&of_page) == port(host)
}

/// Whether a browser asks if a page may ask.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Page {
    /// Lets the page see the answer.
    pub(super) fn mark(&self, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = &self.0 {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }

    /// Lets the page ask.
    pub(super) fn allow(&self, headers: &mut HeaderMap) {
        if self.0.is_some() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(ALLOWED_METHODS));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(more: &str) -> Rules {
        let text = format!("[[listen]]\naddress = '127.0.0.1:0'\n{more}");
        Rules::of(&crate::config::parse(&text).unwrap().0.listen[0])
    }

    fn asked(host: &[&str], origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for h in host {
            headers.append(header::HOST, h.parse().unwrap());
        }
        origin.map(|o| headers.insert(header::ORIGIN, o.parse().unwrap()));
        headers
    }

    #[test]
    fn only_its_own_names_are_answered_to() {
        let r = rules("hosts = ['torpor.example']");
        let fine = |host: &str, uri: &str| r.check(&uri.parse().unwrap(), &asked(&[host], None)).is_ok();
        for host in [
            "127.0.0.1",
            "10.1.2.3:80",
            "[::1]:8443",
            "localhost",
            "LocalHost:1",
            "torpor.example.",
            "Torpor.Example:9",
        ] {
            assert!(fine(host, "/v1/pods"), "{host}");
        }
        for host in [
            "evil.example",
            "torpor.example.evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "x:y",
            "",
            "a b",
        ] {
            assert!(!fine(host, "/v1/pods"), "{host}");
        }
        assert!(!fine("127.0.0.1", "http://evil.example/v1/pods") && fine("127.0.0.1", "http://127.0.0.1/v1/pods"));
        assert!(r.check(&"/".parse().unwrap(), &asked(&[], None)).is_err());
        assert!(r.check(&"/".parse().unwrap(), &asked(&["127.0.0.1", "127.0.0.1"], None)).is_err());
        assert!(rules("hosts = ['*']").check(&"/".parse().unwrap(), &asked(&["any.example"], None)).is_ok());
    }

    #[test]
    fn pages_ask_where_they_are_allowed_to() {
        let r = rules("cors = ['https://app.example', 'http://localhost:3000']");
        let asks = |origin| r.check(&"/".parse().unwrap(), &asked(&["127.0.0.1:8080"], Some(origin)));
        for origin in ["https://app.example", "http://localhost:3000"] {
            let mut headers = HeaderMap::new();
            asks(origin).unwrap().mark(&mut headers);
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], origin);
        }
        let mut headers = HeaderMap::new();
        asks("http://127.0.0.1:8080").unwrap().mark(&mut headers);
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "the same origin needs nothing");
        for origin in [
            "null",
            "https://evil.example",
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil.example",
            "http://127.0.0.1",
            "http://127.0.0.1:8081",
            "127.0.0.1:8080",
            "file://",
            "",
        ] {
            assert!(asks(origin).is_err(), "{origin}");
        }
        let any = rules("cors = ['*']").check(&"/".parse().unwrap(), &asked(&["127.0.0.1"], Some("null"))).unwrap();
        assert_eq!(any, Page(Some("*".parse().unwrap())));
        let default_port = asked(&["127.0.0.1"], Some("http://127.0.0.1:80"));
        assert!(r.check(&"/".parse().unwrap(), &default_port).is_ok());
    }
}
