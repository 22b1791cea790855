//! Listeners beside the Unix socket: `[[listen]]` and `--listen`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::model::{Error, Result};

/// What a listener speaks. To add one: a name here, and what serves it in src/daemon/http/surface.rs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Surface {
    /// torpor's own API.
    #[default]
    V1,
    /// A pod agent's.
    Agent,
    /// A container manager's.
    Containers,
}

impl Surface {
    /// Every one.
    pub const ALL: [Surface; 3] = [Surface::V1, Surface::Agent, Surface::Containers];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Surface::V1 => "v1",
            Surface::Agent => "agent",
            Surface::Containers => "containers",
        }
    }

    /// Whether it may be served to anyone who reaches the address. Who may use `v1` has the host; agents were made to be
    /// open where nothing else is said.
    fn may_be_open(self) -> bool {
        match self {
            Surface::V1 | Surface::Containers => false,
            Surface::Agent => true,
        }
    }

    /// Where it is served if nothing is said: where its clients look for it.
    fn usual_address(self) -> Option<SocketAddr> {
        match self {
            Surface::V1 => None,
            Surface::Agent => Some(([127, 0, 0, 1], USUAL_PORT).into()),
            Surface::Containers => Some(([0, 0, 0, 0], USUAL_PORT).into()),
        }
    }
}

/// Port of those who have one.
const USUAL_PORT: u16 = 8080;

impl FromStr for Surface {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let known = || Surface::ALL.map(Surface::as_str).join(", ");
        let found = Surface::ALL.into_iter().find(|x| x.as_str() == s);
        found.ok_or_else(|| {
            Error::invalid(format!("no surface {:?}: there is {}", s.chars().take(40).collect::<String>(), known()))
        })
    }
}

/// Certificate and key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate and those between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Where a page may come from whose scripts may ask: `scheme://host[:port]`, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// As a browser writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let bad =
            || Error::invalid(format!("{s:?} is no origin: write it as https://app.example, without a path, or *"));
        if s == "*" {
            return Ok(Origin(s.into()));
        }
        let url = url::Url::parse(s).map_err(|_| bad())?;
        // An origin that is none ("null") comes of every sandboxed frame.
        let origin = url.origin();
        let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && !s.ends_with('/');
        if origin.is_tuple() && plain { Ok(Origin(origin.ascii_serialization())) } else { Err(bad()) }
    }
}

/// A name by which a listener may be called, without a port; `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// In lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if s == "*" || (!s.is_empty() && s.len() <= 253 && s.bytes().all(fit)) {
            return Ok(HostName(s.to_ascii_lowercase()));
        }
        Err(Error::invalid(format!("{s:?} is no host's name: write it as torpor.example, without a port")))
    }
}

/// A listener, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where. Port 0: any free one, told in the log.
    pub address: SocketAddr,
    /// Whether that was said: where it was not, PORT of the environment says which port.
    pub given: bool,
    /// What it speaks.
    pub surface: Surface,
    /// Encryption.
    pub tls: Option<Tls>,
    /// Whether a token is asked for.
    pub auth: bool,
    /// Whether `?token=` is taken where a browser can't send a header: WebSocket and server-sent events.
    pub query_token: bool,
    /// Origins whose scripts may ask.
    pub cors: Vec<Origin>,
    /// Names by which it may be called, beside `localhost` and addresses.
    pub hosts: Vec<HostName>,
}

/// One as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    #[serde(default, deserialize_with = "given")]
    address: Option<Address>,
    #[serde(default, deserialize_with = "text")]
    surface: Surface,
    tls: Option<Tls>,
    auth: Option<bool>,
    query_token: Option<bool>,
    #[serde(default, deserialize_with = "texts")]
    cors: Option<Vec<Origin>>,
    #[serde(default, deserialize_with = "texts")]
    hosts: Option<Vec<HostName>>,
}

struct Address(SocketAddr);

impl FromStr for Address {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let bad = || {
            let shown: String = s.chars().take(80).collect();
            Error::invalid(format!(
                "{shown:?} is no address to listen on: write it as 127.0.0.1:8443, [::1]:8443, or 0.0.0.0:8443 for all"
            ))
        };
        s.parse().map(Address).map_err(|_| bad())
    }
}

/// A value from its text: what is wrong is told with the line.
fn text<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(d: D) -> std::result::Result<T, D::Error> {
    String::deserialize(d)?.parse().map_err(|e: Error| serde::de::Error::custom(e.report()))
}

fn given<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(d: D) -> std::result::Result<Option<T>, D::Error> {
    text(d).map(Some)
}

fn texts<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(d: D) -> std::result::Result<Option<Vec<T>>, D::Error> {
    let all = Vec::<String>::deserialize(d)?;
    all.iter()
        .map(|s| s.parse().map_err(|e: Error| serde::de::Error::custom(e.report())))
        .collect::<Result<_, _>>()
        .map(Some)
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let w = Written::deserialize(d)?;
        let given = w.address.map(|a| a.0);
        let address = given.or(w.surface.usual_address()).ok_or_else(|| serde::de::Error::missing_field("address"))?;
        // Pages of the container manager's clients ask from everywhere, and show their token in the query.
        let pages = w.surface == Surface::Containers;
        let anywhere = || if pages { vec![Origin("*".into())] } else { Vec::new() };
        let made = Listen {
            address,
            given: given.is_some(),
            surface: w.surface,
            tls: w.tls,
            auth: w.auth.unwrap_or(w.surface != Surface::Agent),
            query_token: w.query_token.unwrap_or(pages),
            cors: w.cors.unwrap_or_else(anywhere),
            hosts: w.hosts.unwrap_or_default(),
        };
        made.checked().map_err(|e| serde::de::Error::custom(e.report()))
    }
}

impl Listen {
    /// A listener of torpor's own API, everything else as it is if nothing is said.
    fn at(address: SocketAddr) -> Self {
        Listen {
            address,
            given: true,
            surface: Surface::V1,
            tls: None,
            auth: true,
            query_token: false,
            cors: Vec::new(),
            hosts: Vec::new(),
        }
    }

    fn checked(self) -> Result<Self> {
        if !self.auth && !self.surface.may_be_open() {
            return Err(Error::invalid(format!(
                "surface {} can't be served without tokens, for who may use it has the host: leave auth out",
                self.surface.as_str()
            )));
        }
        if let Some(tls) = &self.tls {
            for (what, path) in [("cert", &tls.cert), ("key", &tls.key)] {
                if !Path::is_absolute(path) {
                    return Err(Error::invalid(format!("{what} {} is not an absolute path", path.display())));
                }
            }
        }
        Ok(self)
    }

    /// Whether what is said there can be read on the way: no encryption, and not this host alone.
    pub fn is_exposed(&self) -> bool {
        self.tls.is_none() && !self.address.ip().is_loopback()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "tcp" };
        write!(f, "{scheme}://{} ({})", self.address, self.surface.as_str())
    }
}

/// `--listen ADDRESS[,KEY=VALUE...]`.
impl FromStr for Listen {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let mut parts = s.split(',');
        let mut made = Listen::at(parts.next().unwrap_or_default().parse::<Address>()?.0);
        let (mut cert, mut key) = (None, None);
        for part in parts {
            match part.split_once('=') {
                Some(("surface", value)) => made.surface = value.parse()?,
                Some(("cert", value)) => cert = Some(PathBuf::from(value)),
                Some(("key", value)) => key = Some(PathBuf::from(value)),
                _ => {
                    return Err(Error::invalid(format!("{part:?} is not known of a listener"))
                        .hint("--listen ADDRESS[,surface=v1][,cert=FILE,key=FILE]; all else goes into torpor.toml"));
                }
            }
        }
        made.tls = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Tls { cert, key }),
            _ => return Err(Error::invalid("a listener needs both cert and key, or neither")),
        };
        made.checked()
    }
}

/// Gives a port to those whose address was not said.
///
/// # Errors
/// It is no port.
pub fn at_port(all: &mut [Listen], port: &str) -> Result<()> {
    for one in all.iter_mut().filter(|l| !l.given) {
        let number = port.trim().parse::<u16>().ok().filter(|p| *p > 0);
        one.address.set_port(number.ok_or_else(|| Error::invalid(format!("PORT {port:?} is no port")))?);
    }
    Ok(())
}

/// Refuses two listeners at one address.
pub(super) fn check(all: &[Listen]) -> Result<()> {
    for (n, one) in all.iter().enumerate() {
        if one.address.port() != 0 && all[..n].iter().any(|o| o.address == one.address) {
            return Err(Error::invalid(format!("two listeners have the address {}", one.address))
                .hint("give one [[listen]] another port"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::{complete, parse};

    use super::*;

    #[test]
    fn listeners_are_read_from_the_file() {
        let text = "[[listen]]\naddress = '127.0.0.1:8080'\n[[listen]]\naddress = '[::]:8443'\nsurface = 'v1'\n\
            cors = ['https://App.example:443', '*']\nhosts = ['Torpor.example']\nquery-token = true\n\
            tls = { cert = '/c', key = '/k' }\n";
        let all = complete(parse(text).unwrap().0).unwrap().listen;
        assert_eq!((all.len(), all[0].auth, all[0].tls.is_none()), (2, true, true));
        assert_eq!(all[1].cors.iter().map(Origin::as_str).collect::<Vec<_>>(), ["https://app.example", "*"]);
        assert_eq!((all[1].hosts[0].as_str(), all[1].query_token), ("torpor.example", true));
        assert!(!all[0].is_exposed() && !all[1].is_exposed());
        assert!("0.0.0.0:1".parse::<Listen>().unwrap().is_exposed());
        assert_eq!(all[1].to_string(), "https://[::]:8443 (v1)");
    }

    #[test]
    fn surfaces_of_others_are_where_their_clients_look() {
        let text = "[[listen]]\nsurface = 'agent'\n[[listen]]\naddress = '127.0.0.1:9'\nsurface = 'containers'\n";
        let mut all = parse(text).unwrap().0.listen;
        assert_eq!(
            (all[0].address.to_string().as_str(), all[0].auth, all[0].query_token),
            ("127.0.0.1:8080", false, false)
        );
        assert_eq!((all[1].auth, all[1].query_token, all[1].cors[0].as_str()), (true, true, "*"));
        at_port(&mut all, "9090").unwrap();
        assert_eq!((all[0].address.port(), all[1].address.port()), (9090, 9));
        assert!(at_port(&mut all, "http").is_err() && at_port(&mut all[1..], "http").is_ok());
        assert!(parse("[[listen]]\nsurface = 'containers'\nauth = false\n").is_err());
    }

    #[test]
    fn what_is_wrong_names_the_line_and_what_is_right() {
        for (wrong, line, said) in [
            ("[[listen]]\naddress = '8080'\n", "line 2", "127.0.0.1:8443"),
            ("[[listen]]\nsurface = 'v1'\n", "line 1", "address"),
            ("[[listen]]\naddress = '127.0.0.1:1'\nsurface = 'v9'\n", "line 3", "there is v1"),
            ("[[listen]]\naddress = '127.0.0.1:1'\nauth = false\n", "line", "leave auth out"),
            ("[[listen]]\naddress = '127.0.0.1:1'\ntls = { cert = '/c' }\n", "line 3", "key"),
            ("[[listen]]\naddress = '127.0.0.1:1'\ntls = { cert = 'c', key = '/k' }\n", "line", "absolute"),
            ("[[listen]]\naddress = '127.0.0.1:1'\ncors = ['https://a.example/x']\n", "line 3", "without a path"),
            ("[[listen]]\naddress = '127.0.0.1:1'\ncors = ['null']\n", "line 3", "origin"),
            ("[[listen]]\naddress = '127.0.0.1:1'\nhosts = ['a:1']\n", "line 3", "without a port"),
            ("[[listen]]\naddress = '127.0.0.1:1'\ntoken = 'x'\n", "line 3", "token"),
        ] {
            let e = parse(wrong).unwrap_err().report();
            assert!(e.contains(line) && e.contains(said), "{wrong}: {e}");
        }
        let twice = "[[listen]]\naddress = '127.0.0.1:1'\n".repeat(2);
        assert!(complete(parse(&twice).unwrap().0).is_err());
    }

    #[test]
    fn flags_say_the_same_shortly() {
        let made: Listen = "127.0.0.1:0,surface=v1,cert=/c,key=/k".parse().unwrap();
        assert_eq!(made.tls, Some(Tls { cert: "/c".into(), key: "/k".into() }));
        for bad in ["", "x", "127.0.0.1:0,cert=/c", "127.0.0.1:0,auth=false", "127.0.0.1:0,surface=x"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
