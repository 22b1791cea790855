//! `port`.

use clap::{Args, Subcommand};

use super::output::{self, Failure, say};
use crate::api::client::Client;
use crate::api::types::{PortInfo, PortPair, PortSpec};

fn own(text: impl Into<String>) -> Failure {
    Failure::Own(text.into())
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Port {
    #[command(subcommand)]
    change: Option<Change>,
    #[arg(required = true)]
    pod: Option<String>,
    /// Only where this port of the pod is reached: PORT[/tcp|udp]
    port: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Forward ports to a pod, whether it runs or not
    Add {
        pod: String,
        /// HOST:POD, or POD for any free host port
        #[arg(required = true, value_name = "[HOST:]POD[/tcp|udp]")]
        ports: Vec<String>,
    },
    /// Take forwards away
    #[command(visible_alias = "remove")]
    Rm {
        pod: String,
        /// HOST:POD, or POD for all forwards to it
        #[arg(required = true, value_name = "[HOST:]POD[/tcp|udp]")]
        ports: Vec<String>,
    },
}

/// `[HOST:]POD[/tcp|udp]`, as docker writes it.
pub(super) fn parse(text: &str) -> Result<PortSpec, Failure> {
    let bad = || own(format!("{text:?} is no port: write HOST:POD or POD, and /udp after it if it is one of UDP"));
    let (ports, protocol) = text.split_once('/').map_or((text, None), |(ports, p)| (ports, Some(p)));
    if protocol.is_some_and(|p| !matches!(p, "tcp" | "udp")) {
        return Err(bad());
    }
    let number = |t: &str| t.parse::<u16>().map_err(|_| bad());
    let (host, pod) = match ports.split_once(':') {
        None | Some(("", _)) => (None, number(ports.trim_start_matches(':'))?),
        Some((host, pod)) => (Some(number(host)?), number(pod)?),
    };
    let protocol = protocol.filter(|p| *p != "tcp").map(str::to_owned);
    Ok(match (host, &protocol) {
        (None, None) => PortSpec::Pod(pod),
        _ => PortSpec::Full(PortPair { pod, host, protocol }),
    })
}

fn pair(text: &str) -> Result<PortPair, Failure> {
    Ok(match parse(text)? {
        PortSpec::Pod(pod) => PortPair { pod, host: None, protocol: None },
        PortSpec::Full(pair) => pair,
    })
}

fn shown(p: &PortInfo) -> String {
    format!("{}/{} -> 0.0.0.0:{}", p.pod, p.protocol, p.host)
}

/// Whether a forward is one of those.
fn is(forward: &PortInfo, asked: &PortPair) -> bool {
    forward.pod == asked.pod
        && asked.host.is_none_or(|h| h == forward.host)
        && forward.protocol == asked.protocol.as_deref().unwrap_or("tcp")
}

/// `torpor port`.
pub(super) async fn port(client: &Client, args: &Port, json: bool) -> Result<u8, Failure> {
    match &args.change {
        None => list(client, args, json).await,
        Some(Change::Add { pod, ports }) => {
            let asked = ports.iter().map(|p| pair(p)).collect::<Result<Vec<_>, _>>()?;
            for pair in asked {
                let given = client.add_port(pod, &pair).await?;
                if json { output::json(&given) } else { say!("{}", shown(&given)) }
            }
            Ok(0)
        }
        Some(Change::Rm { pod, ports }) => {
            let all = client.ports(pod).await?;
            let mut gone = Vec::new();
            for text in ports {
                let asked = pair(text)?;
                let before = gone.len();
                gone.extend(all.iter().filter(|f| is(f, &asked)));
                if gone.len() == before {
                    return Err(own(format!("pod {pod} has no forward {text}: `torpor port {pod}` lists them")));
                }
            }
            for f in gone {
                client.remove_port(pod, f.host, &f.protocol).await?;
                if !json {
                    say!("{}", shown(f));
                }
            }
            Ok(0)
        }
    }
}

/// As docker: all of them, or where one port of the pod is reached.
async fn list(client: &Client, args: &Port, json: bool) -> Result<u8, Failure> {
    let pod = args.pod.as_deref().unwrap_or_default();
    let mut all = client.ports(pod).await?;
    let asked = args.port.as_deref().map(pair).transpose()?;
    if let Some(asked) = &asked {
        all.retain(|f| is(f, asked));
        if all.is_empty() {
            return Err(own(format!("no forward leads to port {} of pod {pod}", asked.pod)));
        }
    }
    if json {
        output::json(&all);
        return Ok(0);
    }
    for f in &all {
        if asked.is_some() { say!("0.0.0.0:{}", f.host) } else { say!("{}", shown(f)) }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_docker_writes_them() {
        let full = |pod, host, protocol: Option<&str>| {
            Some(PortSpec::Full(PortPair { pod, host, protocol: protocol.map(str::to_owned) }))
        };
        assert_eq!(parse("80").ok(), Some(PortSpec::Pod(80)));
        assert_eq!(parse(":80").ok(), Some(PortSpec::Pod(80)));
        assert_eq!(parse("8080:80/tcp").ok(), full(80, Some(8080), None));
        assert_eq!(parse("53:53/udp").ok(), full(53, Some(53), Some("udp")));
        assert_eq!(parse("53/udp").ok(), full(53, None, Some("udp")));
        for bad in ["x", "1:2:3", "70000", "80/sctp", "80/", "/udp", ""] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
