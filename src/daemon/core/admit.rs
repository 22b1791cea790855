//! What may come in: requests become specifications, or are refused before anything is touched.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::Core;
use crate::api::types::{CreatePod, PortPair, PortSpec, ReadySpec, Size, VolumeSpec};
use crate::config::{self, DEFAULT_RESOURCES};
use crate::host::volumes::OpenVolume;
use crate::model::{
    Code, Error, ImageConfig, PodName, PodSpec, PortRequest, Protocol, Ready, ReadyCheck, Resources, Result,
    SecretValues, VolumeMount, tier,
};
use crate::plan::admission;
pub(super) use crate::plan::admission::{command, directory, env, user};

/// A number of bytes, or a text that stands for one.
pub(super) fn bytes(size: &Size) -> Result<u64> {
    match size {
        Size::Bytes(n) => Ok(*n),
        Size::Text(t) => tier::size(t),
    }
}

/// A signal by name or number.
pub(super) fn signal(text: &str) -> Result<i32> {
    let bad = || {
        Error::invalid(format!("{:?} is no signal", text.chars().take(20).collect::<String>()))
            .hint("such as SIGTERM, HUP or 9")
    };
    if let Ok(n) = text.parse::<i32>() {
        return if (1..=64).contains(&n) { Ok(n) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<nix::sys::signal::Signal>().map(|s| s as i32).map_err(|_| bad())
}

/// The signal that asks an image's command to stop.
pub(super) fn stop_signal(image: &ImageConfig) -> i32 {
    signal(&image.stop_signal).unwrap_or(libc::SIGTERM)
}

fn ready(spec: &ReadySpec) -> Result<Ready> {
    let checks = [spec.http.is_some(), spec.tcp.is_some(), spec.exec.is_some()].into_iter().filter(|c| *c).count();
    if checks != 1 {
        return Err(Error::invalid("ready needs one of http, tcp and exec"));
    }
    let check = if let Some(http) = &spec.http {
        ReadyCheck::Http { port: http.port, path: http.path.clone().unwrap_or_else(|| "/".into()) }
    } else if let Some(tcp) = spec.tcp {
        ReadyCheck::Tcp { port: tcp }
    } else {
        ReadyCheck::Exec { command: spec.exec.clone().unwrap_or_default() }
    };
    Ok(Ready { check, timeout_ms: spec.timeout_ms.unwrap_or(60_000) })
}

/// An address of the host at which a port is to be open; none: all of them.
fn host_address(text: &str) -> Result<Option<Ipv4Addr>> {
    let shown: String = text.chars().take(60).collect();
    let bad = |why| {
        Error::invalid(format!("{shown:?} {why}"))
            .hint("an IPv4 address of the host; 127.0.0.1 is for the host's own programs, and none for all addresses")
    };
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) if a.is_unspecified() => Ok(None),
        Ok(IpAddr::V4(a)) if a.is_multicast() || a.is_broadcast() => Err(bad("is no address of one host")),
        Ok(IpAddr::V4(a)) => Ok(Some(a)),
        Ok(IpAddr::V6(_)) => Err(bad("is an address of IPv6, by which nothing is forwarded yet")),
        Err(_) => Err(bad("is no address")),
    }
}

impl Core {
    /// A request as a specification.
    pub(super) fn admit(&self, request: &CreatePod) -> Result<(PodSpec, SecretValues)> {
        let (secrets, given) = super::secrets::admit(&request.secrets)?;
        let name: PodName = match &request.name {
            Some(name) => name.parse()?,
            None => self.made_up_name()?,
        };
        self.refuse_taken(&name)?;
        let spec = PodSpec {
            image: request.image.parse()?,
            command: request.command.clone(),
            entrypoint: request.entrypoint.clone(),
            env: request.env.clone(),
            resources: self.resources(request)?,
            ports: self.ports(&request.ports)?,
            volumes: request.volumes.iter().map(volume).collect(),
            working_dir: request.working_dir.clone(),
            user: request.user.clone(),
            hostname: request.hostname.clone(),
            labels: request.labels.clone(),
            ready: request.ready.as_ref().map(ready).transpose()?,
            secrets,
            health: None, // its image has a say in it
            restart: request.restart.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
            on_shutdown: request.on_shutdown.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
            tty: request.tty,
            stdin: request.stdin,
            auto_remove: request.auto_remove,
            name,
        };
        admission::check(&spec)?;
        Ok((spec, given))
    }

    /// Refuses a name that a pod has.
    pub(super) fn refuse_taken(&self, name: &PodName) -> Result<()> {
        match self.records().iter().find(|r| r.spec.name == *name) {
            Some(other) => {
                let text = format!("the name {name} is taken by pod {}", other.id.short());
                Err(Error::new(Code::NameTaken, text).hint("remove that pod or take another name"))
            }
            None => Ok(()),
        }
    }

    fn made_up_name(&self) -> Result<PodName> {
        let id = crate::model::PodId::random()?;
        format!("pod-{}", &id.as_str()[..8]).parse()
    }

    fn resources(&self, request: &CreatePod) -> Result<Resources> {
        let mut r = match &request.tier {
            None => DEFAULT_RESOURCES,
            Some(tier) => *self.config().tiers.get(tier).ok_or_else(|| {
                let config = self.config();
                let known: Vec<&str> = config.tiers.keys().map(String::as_str).collect();
                let shown: String = tier.chars().take(40).collect();
                Error::invalid(format!("no tier {shown:?}")).hint(format!("there are {}", known.join(", ")))
            })?,
        };
        if let Some(cpus) = request.cpus {
            r.cpu_millis = config::cpu_millis(cpus)?;
        }
        if let Some(memory) = &request.memory {
            r.memory = bytes(memory)?;
        }
        if let Some(pids) = request.pids {
            r.pids = pids;
        }
        if let Some(disk) = &request.disk {
            r.disk = bytes(disk)?;
        }
        r.disk = r.disk / 4096 * 4096;
        Ok(r)
    }

    fn ports(&self, specs: &[PortSpec]) -> Result<Vec<PortRequest>> {
        let mut ports: Vec<PortRequest> = Vec::new();
        for spec in specs {
            let port = match spec {
                PortSpec::Pod(pod) => PortRequest { pod: *pod, host: None, protocol: Protocol::Tcp, address: None },
                PortSpec::Full(pair) => self.port(pair)?,
            };
            if let Some(host) = port.host
                && ports.iter().any(|p| (p.host, p.protocol) == (port.host, port.protocol))
            {
                return Err(Error::invalid(format!("host port {host}/{} is asked for twice", port.protocol)));
            }
            ports.push(port);
        }
        Ok(ports)
    }

    /// A forward that was asked for.
    pub(super) fn port(&self, pair: &PortPair) -> Result<PortRequest> {
        if let Some(host) = pair.host
            && !self.config().allowed_ports.contains(host)
        {
            let range = self.config().allowed_ports;
            return Err(Error::invalid(format!("host port {host} is out of range"))
                .hint(format!("{} to {} are allowed (allowed-ports)", range.first, range.last)));
        }
        let protocol = pair.protocol.as_deref().map(str::parse).transpose()?.unwrap_or_default();
        let address = pair.address.as_deref().map(host_address).transpose()?.flatten();
        Ok(PortRequest { pod: pair.pod, host: pair.host, protocol, address })
    }

    /// Where a volume lies: below the state directory if it has a name.
    pub(super) fn volume_path(&self, source: &str) -> PathBuf {
        if source.starts_with('/') { PathBuf::from(source) } else { self.dirs.volumes().join(source) }
    }

    /// Opens volumes, and makes the named ones: what is mounted is what was looked at, as long as these are held.
    pub(super) fn open_volumes(&self, volumes: &[VolumeMount]) -> Result<Vec<OpenVolume>> {
        let open = |v: &VolumeMount| {
            if !v.source.starts_with('/') {
                return OpenVolume::named(&self.dirs.volumes(), &v.source);
            }
            let open = OpenVolume::host(Path::new(&v.source))?;
            self.refuse_own(&open.path()?)?;
            Ok(open)
        };
        volumes.iter().map(open).collect()
    }

    /// A pod must not see what torpor itself keeps.
    pub(super) fn refuse_own(&self, source: &Path) -> Result<()> {
        let volumes = self.dirs.volumes();
        let own = [self.dirs.state(), self.dirs.run()];
        let inside =
            own.iter().any(|d| d.canonicalize().is_ok_and(|d| source.starts_with(&d) || d.starts_with(source)));
        if inside && !volumes.canonicalize().is_ok_and(|v| source.starts_with(v)) {
            return Err(Error::invalid(format!("{} holds torpor's own state and can't be a volume", source.display())));
        }
        Ok(())
    }
}

fn volume(spec: &VolumeSpec) -> VolumeMount {
    let target = PathBuf::from(&spec.target);
    VolumeMount { source: spec.source.clone(), target, read_only: spec.read_only, in_snapshots: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_host() {
        let at = |t: &str| host_address(t).ok();
        assert_eq!(at("127.0.0.1"), Some(Some(Ipv4Addr::LOCALHOST)));
        assert_eq!(at("0.0.0.0"), Some(None));
        for bad in ["", "localhost", "::1", "::", "224.0.0.1", "255.255.255.255", "1.2.3", "127.0.0.1:80"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn signals_as_people_write_them() {
        let s = |t: &str| signal(t).ok();
        assert_eq!(
            (s("TERM"), s("sigkill"), s("1"), s("0"), s("65"), s("x")),
            (Some(15), Some(9), Some(1), None, None, None)
        );
    }
}
