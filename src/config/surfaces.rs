//! What the surfaces `agent` and `containers` are set to: `[agent]` and `[containers]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::PortRange;
use crate::model::{Error, Result, Sizes};

const GIB: u64 = 1 << 30;

/// `[agent]` as it is written. Every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct AgentFile {
    /// Image of its pods. Default `ubuntu:22.04`.
    pub image: Option<String>,
    /// Images by the names that clients use for them.
    pub images: BTreeMap<String, String>,
    /// What keeps its pods alive. Default `sleep infinity`.
    pub command: Option<Vec<String>>,
    /// Tier of a pod for which none is asked. Default `dev.small`.
    pub tier: Option<String>,
    /// Where its pods' directories lie. Default `/var/pods`.
    pub pods: Option<PathBuf>,
    /// Ports of a pod, forwarded from host ports side by side. Default `[3000, 3001, 8080]`.
    pub ports: Option<Vec<u16>>,
    /// Host ports for that. Default `30000-30100`.
    pub port_range: Option<String>,
}

/// `[containers]` as it is written. Every key is optional.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct ContainersFile {
    /// Image of a container for which none is asked. Default `node:24-slim`.
    pub image: Option<String>,
    /// Images by the names that clients use for them.
    pub images: BTreeMap<String, String>,
    /// What keeps containers alive. Default `sleep infinity`.
    pub command: Option<Vec<String>>,
    /// Bytes of memory of a container. Default 2 GiB.
    pub memory: Option<u64>,
    /// Processors of a container. Default: as for any pod.
    pub cpus: Option<f64>,
    /// Containers made ahead of need. Default: none.
    pub pool: Option<PoolFile>,
}

/// `[containers.pool]` as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct PoolFile {
    /// Spares that are ready. Default 3.
    pub target_size: Option<usize>,
    /// With fewer ready, several are made at once. Default 1.
    pub min_size: Option<usize>,
    /// How many at once then. Default 2.
    pub max_creating: Option<usize>,
    /// Ports of a spare. Default `[3000]`.
    pub container_ports: Option<Vec<u16>>,
}

/// The pod agent's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// See [`AgentFile::image`].
    pub image: String,
    /// See [`AgentFile::images`].
    pub images: BTreeMap<String, String>,
    /// See [`AgentFile::command`].
    pub command: Vec<String>,
    /// See [`AgentFile::tier`].
    pub tier: String,
    /// See [`AgentFile::pods`].
    pub pods: PathBuf,
    /// See [`AgentFile::ports`].
    pub ports: Vec<u16>,
    /// See [`AgentFile::port_range`].
    pub port_range: PortRange,
}

/// The container manager's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Containers {
    /// See [`ContainersFile::image`].
    pub image: String,
    /// See [`ContainersFile::images`].
    pub images: BTreeMap<String, String>,
    /// See [`ContainersFile::command`].
    pub command: Vec<String>,
    /// See [`ContainersFile::memory`].
    pub memory: u64,
    /// See [`ContainersFile::cpus`].
    pub cpus: Option<f64>,
    /// See [`ContainersFile::pool`].
    pub pool: Option<Pool>,
}

/// Containers made ahead of need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// How many.
    pub sizes: Sizes,
    /// Their ports.
    pub ports: Vec<u16>,
}

fn sleep() -> Vec<String> {
    vec!["sleep".into(), "infinity".into()]
}

/// A table without the keys that mean nothing to this torpord would be another one: those are refused, and so is what can't be.
///
/// # Errors
/// A value is out of range.
pub fn agent(file: AgentFile) -> Result<Agent> {
    let pods = file.pods.unwrap_or_else(|| "/var/pods".into());
    let plain = |c| matches!(c, std::path::Component::RootDir | std::path::Component::Normal(_));
    if !pods.is_absolute() || !pods.components().all(plain) || pods.parent().is_none() {
        return Err(Error::invalid(format!("agent: pods {} is no absolute directory below /", pods.display())));
    }
    let ports = file.ports.unwrap_or_else(|| vec![3000, 3001, 8080]);
    check_ports("agent: ports", &ports)?;
    let port_range: PortRange = file.port_range.as_deref().unwrap_or("30000-30100").parse()?;
    if usize::from(port_range.last - port_range.first) + 1 < ports.len() {
        return Err(Error::invalid("agent: port-range has fewer ports than a pod"));
    }
    Ok(Agent {
        image: file.image.unwrap_or_else(|| "ubuntu:22.04".into()),
        images: file.images,
        command: file.command.unwrap_or_else(sleep),
        tier: file.tier.unwrap_or_else(|| "dev.small".into()),
        pods,
        ports,
        port_range,
    })
}

/// As [`agent`].
///
/// # Errors
/// A value is out of range.
pub fn containers(file: ContainersFile) -> Result<Containers> {
    let pool = |p: PoolFile| -> Result<Pool> {
        let ports = p.container_ports.unwrap_or_else(|| vec![3000]);
        check_ports("containers: container-ports", &ports)?;
        let sizes = Sizes {
            target: p.target_size.unwrap_or(3),
            least: p.min_size.unwrap_or(1),
            at_once: p.max_creating.unwrap_or(2),
        };
        if sizes.target > 1000 || sizes.at_once > 100 || (sizes.target > 0 && sizes.at_once == 0) {
            return Err(Error::invalid("containers: target-size may be 1000, and max-creating 1 to 100"));
        }
        Ok(Pool { sizes, ports })
    };
    if let Some(cpus) = file.cpus {
        super::cpu_millis(cpus)?;
    }
    Ok(Containers {
        image: file.image.unwrap_or_else(|| "node:24-slim".into()),
        images: file.images,
        command: file.command.unwrap_or_else(sleep),
        memory: file.memory.unwrap_or(2 * GIB),
        cpus: file.cpus,
        pool: file.pool.map(pool).transpose()?,
    })
}

fn check_ports(what: &str, ports: &[u16]) -> Result<()> {
    let twice = ports.iter().enumerate().any(|(n, p)| ports[..n].contains(p));
    if ports.is_empty() || ports.len() > 64 || ports.contains(&0) || twice {
        return Err(Error::invalid(format!("{what} must be 1 to 64 different ports")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_the_clients_have_it() {
        let a = agent(AgentFile::default()).unwrap();
        assert_eq!(
            (a.image.as_str(), a.ports.as_slice(), a.port_range.first),
            ("ubuntu:22.04", &[3000, 3001, 8080][..], 30_000)
        );
        let c = containers(ContainersFile { pool: Some(PoolFile::default()), ..ContainersFile::default() }).unwrap();
        let pool = c.pool.unwrap();
        assert_eq!((c.image.as_str(), c.memory, pool.ports), ("node:24-slim", 2 << 30, vec![3000]));
        assert_eq!(pool.sizes, Sizes { target: 3, least: 1, at_once: 2 });
        assert!(containers(ContainersFile::default()).unwrap().pool.is_none());
    }

    #[test]
    fn what_can_t_be_is_refused() {
        let a = |f: &dyn Fn(&mut AgentFile)| {
            let mut file = AgentFile::default();
            f(&mut file);
            agent(file)
        };
        assert!(a(&|f| f.pods = Some("/".into())).is_err() && a(&|f| f.pods = Some("pods".into())).is_err());
        assert!(a(&|f| f.pods = Some("/var/../pods".into())).is_err());
        assert!(a(&|f| f.ports = Some(vec![])).is_err() && a(&|f| f.ports = Some(vec![80, 80])).is_err());
        assert!(a(&|f| f.port_range = Some("30000-30001".into())).is_err());
        let pool = PoolFile { max_creating: Some(0), ..PoolFile::default() };
        assert!(containers(ContainersFile { pool: Some(pool), ..ContainersFile::default() }).is_err());
    }
}
