//! `torpor.toml` and the flags of `torpord`: text in, [`Config`] out. Reading the file is the caller's.
//!
//! Unknown keys are warned about, not refused: an older torpord must start with a newer file.

pub mod listen;
pub mod surfaces;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::model::{Error, Resources, Result, tier};

/// The file as it is written. Every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ConfigFile {
    /// Where all durable state lives. Default `/var/lib/torpor`.
    pub state_dir: Option<PathBuf>,
    /// The API's Unix socket. Default `/run/torpor/torpor.sock`.
    pub socket: Option<PathBuf>,
    /// Object store URL. Default: `file://<state-dir>/store`.
    pub store: Option<String>,
    /// Whether `http://` endpoints of a store are allowed. Default false.
    pub store_allow_http: Option<bool>,
    /// Addresses of pods. Default `10.90.0.0/16`.
    pub pod_cidr: Option<String>,
    /// Host ports given out when none is asked for, `A-B`. Default `10000-20000`.
    pub port_range: Option<String>,
    /// Host ports that may be asked for by number, `A-B`. Default `1024-65535`.
    pub allowed_ports: Option<String>,
    /// Name servers for pods. Default: those of the host's resolv.conf that are not on its loopback.
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// The runsc to use for new pods. Default: the first on PATH.
    pub runsc: Option<PathBuf>,
    /// Bytes that raw checkpoint images may take in the local cache. Default 8 GiB.
    pub cache_bytes: Option<u64>,
    /// Bytes that one imported layer may unpack to. Default 32 GiB.
    pub max_layer_bytes: Option<u64>,
    /// Bytes that the layers of one imported image may unpack to, together. Default 64 GiB.
    pub max_image_bytes: Option<u64>,
    /// Seconds a pod may be frozen while it is saved. Default 30.
    pub freeze_limit_seconds: Option<u64>,
    /// Bytes of one log file before it is rotated. Default 16 MiB.
    pub log_max_bytes: Option<u64>,
    /// Log files kept per pod. Default 4.
    pub log_files: Option<u32>,
    /// Bytes kept free on the state directory's file system. Default 256 MiB.
    pub disk_reserve: Option<u64>,
    /// How many times the host's memory may be promised to pods that have a sandbox. Default 1.
    pub memory_overcommit: Option<f64>,
    /// How many times the state directory's file system may be promised to their writable layers. Default 10.
    pub disk_overcommit: Option<f64>,
    /// Bytes of memory kept for the host. Default 1 GiB, or an eighth of it if that is less.
    pub memory_head_room: Option<u64>,
    /// Limits by name, such as `dev.small`.
    pub tiers: BTreeMap<String, Tier>,
    /// Listeners beside the socket. Default: none.
    pub listen: Vec<listen::Listen>,
    /// Directories of the host that may be had with a token, and all below them. Default: none.
    pub token_host_paths: Vec<PathBuf>,
    /// What the surface `agent` is set to.
    pub agent: surfaces::AgentFile,
    /// What the surface `containers` is set to.
    pub containers: surfaces::ContainersFile,
}

/// Named limits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tier {
    /// Processors.
    pub cpus: f64,
    /// Bytes of memory, or a text such as `512m`.
    pub memory: Bytes,
    /// Bytes of the writable layer, or a text such as `8g`.
    pub disk: Bytes,
    /// Processes.
    #[serde(default = "default_pids")]
    pub pids: u32,
}

fn default_pids() -> u32 {
    1024
}

/// A number of bytes, or a text that stands for one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// The number.
    Number(u64),
    /// With a unit.
    Text(String),
}

impl Bytes {
    fn get(&self) -> Result<u64> {
        match self {
            Bytes::Number(n) => Ok(*n),
            Bytes::Text(text) => tier::size(text),
        }
    }
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

impl PortRange {
    /// Whether `port` is in it.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl std::str::FromStr for PortRange {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("{s:?} is no port range")).hint("write it as 10000-20000");
        let (a, b) = s.split_once('-').ok_or_else(bad)?;
        let (first, last) = (a.trim().parse().map_err(|_| bad())?, b.trim().parse().map_err(|_| bad())?);
        if first == 0 || first > last { Err(bad()) } else { Ok(PortRange { first, last }) }
    }
}

/// All settings, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// See [`ConfigFile::state_dir`].
    pub state_dir: PathBuf,
    /// See [`ConfigFile::socket`].
    pub socket: PathBuf,
    /// See [`ConfigFile::store`].
    pub store: String,
    /// See [`ConfigFile::store_allow_http`].
    pub store_allow_http: bool,
    /// See [`ConfigFile::pod_cidr`].
    pub pod_cidr: Ipv4Net,
    /// See [`ConfigFile::port_range`].
    pub port_range: PortRange,
    /// See [`ConfigFile::allowed_ports`].
    pub allowed_ports: PortRange,
    /// See [`ConfigFile::resolvers`].
    pub resolvers: Option<Vec<Ipv4Addr>>,
    /// See [`ConfigFile::runsc`].
    pub runsc: Option<PathBuf>,
    /// See [`ConfigFile::cache_bytes`].
    pub cache_bytes: u64,
    /// See [`ConfigFile::max_layer_bytes`].
    pub max_layer_bytes: u64,
    /// See [`ConfigFile::max_image_bytes`].
    pub max_image_bytes: u64,
    /// See [`ConfigFile::freeze_limit_seconds`].
    pub freeze_limit: std::time::Duration,
    /// See [`ConfigFile::log_max_bytes`].
    pub log_max_bytes: u64,
    /// See [`ConfigFile::log_files`].
    pub log_files: u32,
    /// See [`ConfigFile::disk_reserve`].
    pub disk_reserve: u64,
    /// See [`ConfigFile::memory_overcommit`].
    pub memory_overcommit: f64,
    /// See [`ConfigFile::disk_overcommit`].
    pub disk_overcommit: f64,
    /// See [`ConfigFile::memory_head_room`].
    pub memory_head_room: Option<u64>,
    /// See [`ConfigFile::tiers`].
    pub tiers: BTreeMap<String, Resources>,
    /// See [`ConfigFile::listen`].
    pub listen: Vec<listen::Listen>,
    /// See [`ConfigFile::token_host_paths`].
    pub token_host_paths: Vec<PathBuf>,
    /// See [`ConfigFile::agent`].
    pub agent: surfaces::Agent,
    /// See [`ConfigFile::containers`].
    pub containers: surfaces::Containers,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Limits of a pod that asks for none.
pub const DEFAULT_RESOURCES: Resources = Resources { cpu_millis: 1000, memory: 512 * MIB, pids: 1024, disk: 8 * GIB };

/// Reads the text of a configuration file. Also returns the keys that mean nothing to this torpord.
///
/// # Errors
/// The text is no TOML or a value is of the wrong type; the message names the line.
pub fn parse(text: &str) -> Result<(ConfigFile, Vec<String>)> {
    let hint = "see the configuration table in the README";
    let table: toml::Table =
        text.parse().map_err(|e| Error::invalid(format!("read the configuration: {e}")).hint(hint))?;
    let file: ConfigFile =
        toml::from_str(text).map_err(|e| Error::invalid(format!("read the configuration: {e}")).hint(hint))?;
    let unknown = table.keys().filter(|k| !KEYS.contains(&k.as_str())).cloned().collect();
    Ok((file, unknown))
}

/// Every key of the file.
pub const KEYS: [&str; 24] = [
    "state-dir",
    "socket",
    "store",
    "store-allow-http",
    "pod-cidr",
    "port-range",
    "allowed-ports",
    "resolvers",
    "runsc",
    "cache-bytes",
    "max-layer-bytes",
    "max-image-bytes",
    "freeze-limit-seconds",
    "log-max-bytes",
    "log-files",
    "disk-reserve",
    "memory-overcommit",
    "disk-overcommit",
    "memory-head-room",
    "tiers",
    "listen",
    "token-host-paths",
    "agent",
    "containers",
];

/// Fills in defaults and checks that the values go together.
///
/// # Errors
/// A value is out of range; nothing has been touched.
pub fn complete(file: ConfigFile) -> Result<Config> {
    let state_dir = file.state_dir.unwrap_or_else(|| "/var/lib/torpor".into());
    let socket = file.socket.unwrap_or_else(|| "/run/torpor/torpor.sock".into());
    for (what, path) in [("state-dir", &state_dir), ("socket", &socket)] {
        if !path.is_absolute() {
            return Err(Error::invalid(format!("{what} {} is not an absolute path", path.display())));
        }
    }
    let pod_cidr = pod_cidr(file.pod_cidr.as_deref().unwrap_or("10.90.0.0/16"))?;
    let tiers = tiers(file.tiers)?;
    let ratio = |key: &str, given: Option<f64>, default: f64| match given {
        Some(r) if !(r.is_finite() && (0.01..=10_000.0).contains(&r)) => {
            Err(Error::invalid(format!("{key} = {r} is no ratio")).hint("a number from 0.01 to 10000"))
        }
        other => Ok(other.unwrap_or(default)),
    };
    listen::check(&file.listen)?;
    for root in &file.token_host_paths {
        let plain = |c| matches!(c, std::path::Component::RootDir | std::path::Component::Normal(_));
        if !root.is_absolute() || !root.components().all(plain) {
            let text = format!("token-host-paths: {} is not an absolute path without ..", root.display());
            return Err(Error::invalid(text));
        }
    }
    Ok(Config {
        store: file.store.unwrap_or_else(|| format!("file://{}/store", state_dir.display())),
        state_dir,
        socket,
        store_allow_http: file.store_allow_http.unwrap_or(false),
        pod_cidr,
        port_range: file.port_range.as_deref().unwrap_or("10000-20000").parse()?,
        allowed_ports: file.allowed_ports.as_deref().unwrap_or("1024-65535").parse()?,
        resolvers: file.resolvers,
        runsc: file.runsc,
        cache_bytes: file.cache_bytes.unwrap_or(8 * GIB),
        max_layer_bytes: file.max_layer_bytes.unwrap_or(32 * GIB),
        max_image_bytes: file.max_image_bytes.unwrap_or(64 * GIB),
        freeze_limit: std::time::Duration::from_secs(file.freeze_limit_seconds.unwrap_or(30)),
        log_max_bytes: file.log_max_bytes.unwrap_or(16 * MIB).max(4096),
        log_files: file.log_files.unwrap_or(4).clamp(1, 1000),
        disk_reserve: file.disk_reserve.unwrap_or(256 * MIB),
        memory_overcommit: ratio("memory-overcommit", file.memory_overcommit, 1.0)?,
        disk_overcommit: ratio("disk-overcommit", file.disk_overcommit, 10.0)?,
        memory_head_room: file.memory_head_room,
        tiers,
        listen: file.listen,
        token_host_paths: file.token_host_paths,
        agent: surfaces::agent(file.agent)?,
        containers: surfaces::containers(file.containers)?,
    })
}

fn pod_cidr(text: &str) -> Result<Ipv4Net> {
    let bad = |why| {
        Error::invalid(format!("pod-cidr {text:?} {why}"))
            .hint("an address, / and 8 to 26, such as 10.90.0.0/16: a network that nobody else uses")
    };
    let network: Ipv4Net = match text.trim().split_once('/') {
        None => return Err(bad("is an address: how many of its bits are the network's is missing")),
        Some((address, _)) if address.parse::<Ipv4Addr>().is_err() => {
            return Err(bad("does not begin with an IPv4 address"));
        }
        Some(_) => text.trim().parse().map_err(|_| bad("has no number of bits that there can be"))?,
    };
    if (8..=26).contains(&network.prefix_len()) { Ok(network.trunc()) } else { Err(bad("is too large or too small")) }
}

/// The tiers that are built in, and those of the file on top.
fn tiers(given: BTreeMap<String, Tier>) -> Result<BTreeMap<String, Resources>> {
    let mut all: BTreeMap<String, Resources> = tier::BUILT_IN.map(|(n, r)| (n.to_owned(), r)).into();
    for (name, t) in given {
        let wrong = |e: Error| {
            let why = e.report();
            e.context(format!("tier {name:?} of the configuration: {why}"))
        };
        if !tier::is_tier_name(&name) {
            return Err(Error::invalid(format!("{name:?} can't name a tier")).hint("letters, digits, . _ and -"));
        }
        let read = || -> Result<Resources> {
            let (memory, disk) = (t.memory.get()?, t.disk.get()? / 4096 * 4096);
            let r = Resources { cpu_millis: cpu_millis(t.cpus)?, memory, pids: t.pids, disk };
            r.check().map(|()| r)
        };
        let resources = read().map_err(wrong)?;
        all.insert(name, resources);
    }
    Ok(all)
}

/// Processors as thousandths.
///
/// # Errors
/// Not a number between 0.01 and 1024.
pub fn cpu_millis(cpus: f64) -> Result<u32> {
    if cpus.is_finite() && (0.01..=1024.0).contains(&cpus) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie in 10..=1024000")]
        return Ok((cpus * 1000.0).round() as u32);
    }
    Err(Error::invalid(format!("{cpus} processors can't be given")).hint("a number from 0.01 to 1024"))
}

/// The name servers of a resolv.conf that a pod can reach: not those on the host's loopback.
pub fn usable_resolvers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    resolv_conf
        .lines()
        .filter_map(|l| l.trim().strip_prefix("nameserver"))
        .filter_map(|a| a.trim().parse::<Ipv4Addr>().ok())
        .filter(|a| !a.is_loopback() && !a.is_unspecified())
        .take(3)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_complete_and_unknown_keys_are_named() {
        let (file, unknown) =
            parse("state-dir = '/x'\nnew-thing = 1\n[tiers.'a.b']\ncpus = 0.5\nmemory = '64m'\ndisk = 1048577\n")
                .unwrap();
        assert_eq!(unknown, ["new-thing"]);
        let config = complete(file).unwrap();
        assert_eq!(config.store, "file:///x/store");
        let mine = config.tiers["a.b"];
        assert_eq!((mine.cpu_millis, mine.memory, mine.disk, mine.pids), (500, 64 * MIB, MIB, 1024));
        assert!(config.tiers.contains_key("dev.small"));
    }

    #[test]
    fn wrong_values_name_the_line() {
        let e = parse("socket = 1\nstate-dir = 'x'\n").unwrap_err().report();
        assert!(e.contains("line 1") && e.contains("socket"), "{e}");
        for bad in [
            "port-range = '9'",
            "port-range = '0-1'",
            "port-range = '5-4'",
            "pod-cidr = '10.0.0.0/30'",
            "pod-cidr = '8.8.8.8/33'",
            "pod-cidr = '10.0.0.0'",
            "pod-cidr = 'fd00::/16'",
            "pod-cidr = '/16'",
            "pod-cidr = ''",
            "state-dir = 'rel'",
            "memory-overcommit = 0",
            "disk-overcommit = -1",
            "memory-overcommit = nan",
            "[tiers.'a b']\ncpus = 1\nmemory = '1g'\ndisk = '1g'",
            "[tiers.a]\ncpus = 1\nmemory = 1\ndisk = '1g'",
            "[tiers.a]\ncpus = 0\nmemory = '1g'\ndisk = '1g'",
            "[tiers.a]\ncpus = 1\nmemory = '1x'\ndisk = '1g'",
        ] {
            assert!(complete(parse(bad).unwrap().0).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_that_can_not_be_is_told_why() {
        let said = |text| complete(ConfigFile { pod_cidr: Some(text), ..ConfigFile::default() }).unwrap_err();
        for (text, why) in
            [("8.8.8.8/33", "number of bits"), ("10.0.0.0", "missing"), ("x/8", "IPv4"), ("10.0.0.0/4", "large")]
        {
            let e = said(text.into());
            assert!(e.report().contains(text) && e.report().contains(why) && e.hint_text().is_some(), "{}", e.report());
        }
        let fine = complete(ConfigFile { pod_cidr: Some("10.1.2.3/16".into()), ..ConfigFile::default() }).unwrap();
        assert_eq!(fine.pod_cidr.to_string(), "10.1.0.0/16");
    }

    #[test]
    fn every_key_of_the_file_is_known() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/config.rs")).unwrap();
        let fields = text.split("pub struct ConfigFile {").nth(1).unwrap().split("\n}").next().unwrap();
        let names: Vec<String> = fields
            .lines()
            .filter_map(|l| l.trim().strip_prefix("pub "))
            .map(|l| l.split(':').next().unwrap().replace('_', "-"))
            .collect();
        assert_eq!(names, KEYS);
    }

    #[test]
    fn resolvers_on_the_loopback_are_left_out() {
        assert_eq!(
            usable_resolvers("nameserver 127.0.0.53\nnameserver 169.254.169.254\nsearch x\n"),
            [Ipv4Addr::new(169, 254, 169, 254)]
        );
    }
}
