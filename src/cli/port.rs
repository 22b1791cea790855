//! `port`.

use std::net::Ipv4Addr;

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
        #[arg(required = true, value_name = FORM)]
        ports: Vec<String>,
    },
    /// Take forwards away
    #[command(visible_alias = "remove")]
    Rm {
        pod: String,
        /// HOST:POD, or POD for all forwards to it
        #[arg(required = true, value_name = FORM)]
        ports: Vec<String>,
    },
}

/// How a forward is written.
pub(super) const FORM: &str = "[[IP:][HOST]:]POD[/tcp|udp]";

/// `[[IP:][HOST]:]POD[/tcp|udp]`, as docker writes it; no host port, or 0, is any of the pool.
pub(super) fn parse(text: &str) -> Result<PortSpec, Failure> {
    let bad = |why: &str| {
        let hint =
            "HOST:POD, or POD for any free host port; IP:HOST:POD for one address of the host; /udp after it for UDP";
        own(format!("{text:?} is no port: {why}\nhint: {hint}"))
    };
    let (ports, protocol) = text.split_once('/').map_or((text, None), |(ports, p)| (ports, Some(p)));
    if let Some(other) = protocol.filter(|p| !matches!(*p, "tcp" | "udp")) {
        return Err(bad(&format!("{other:?} is neither tcp nor udp")));
    }
    if ports.starts_with('[') || ports.matches(':').count() > 2 {
        return Err(bad("nothing is forwarded by IPv6 yet"));
    }
    let number = |t: &str| match t.parse::<u16>() {
        Ok(n) => Ok(n),
        Err(_) if t.contains('-') => Err(bad("ranges are given port by port")),
        Err(_) => Err(bad(&format!("{t:?} is no number from 0 to 65535"))),
    };
    let mut parts = ports.rsplit(':');
    let pod = number(parts.next().unwrap_or_default())?;
    let host = parts.next().filter(|h| !h.is_empty()).map(number).transpose()?.filter(|h| *h != 0);
    let address = match parts.next().filter(|a| !a.is_empty() && *a != "0.0.0.0") {
        Some(a) if a.parse::<Ipv4Addr>().is_err() => return Err(bad(&format!("{a:?} is no IPv4 address"))),
        other => other.map(str::to_owned),
    };
    if pod == 0 {
        return Err(bad("a pod's port is a number from 1"));
    }
    let protocol = protocol.filter(|p| *p != "tcp").map(str::to_owned);
    Ok(match (host, &protocol, &address) {
        (None, None, None) => PortSpec::Pod(pod),
        _ => PortSpec::Full(PortPair { pod, host, protocol, address }),
    })
}

fn pair(text: &str) -> Result<PortPair, Failure> {
    Ok(match parse(text)? {
        PortSpec::Pod(pod) => PortPair { pod, host: None, protocol: None, address: None },
        PortSpec::Full(pair) => pair,
    })
}

/// Where it is reached.
fn open_at(p: &PortInfo) -> String {
    format!("{}:{}", p.address.as_deref().unwrap_or("0.0.0.0"), p.host)
}

fn shown(p: &PortInfo) -> String {
    format!("{}/{} -> {}", p.pod, p.protocol, open_at(p))
}

/// Whether a forward is one of those.
fn is(forward: &PortInfo, asked: &PortPair) -> bool {
    forward.pod == asked.pod
        && asked.host.is_none_or(|h| h == forward.host)
        && (asked.address.is_none() || asked.address == forward.address)
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
        if asked.is_some() { say!("{}", open_at(f)) } else { say!("{}", shown(f)) }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_docker_writes_them() {
        let at = |address: Option<&str>, pod, host, protocol: Option<&str>| {
            let (protocol, address) = (protocol.map(str::to_owned), address.map(str::to_owned));
            Some(PortSpec::Full(PortPair { pod, host, protocol, address }))
        };
        for any in ["80", ":80", "0:80", "::80", ":0:80", "0.0.0.0::80", "80/tcp"] {
            assert_eq!(parse(any).ok(), Some(PortSpec::Pod(80)), "{any}");
        }
        assert_eq!(parse("8080:80/tcp").ok(), at(None, 80, Some(8080), None));
        assert_eq!(parse("0.0.0.0:8080:80").ok(), at(None, 80, Some(8080), None));
        assert_eq!(parse("53:53/udp").ok(), at(None, 53, Some(53), Some("udp")));
        assert_eq!(parse("0:53/udp").ok(), at(None, 53, None, Some("udp")));
        assert_eq!(parse("127.0.0.1:8080:80").ok(), at(Some("127.0.0.1"), 80, Some(8080), None));
        assert_eq!(parse("127.0.0.1::53/udp").ok(), at(Some("127.0.0.1"), 53, None, Some("udp")));
        for (bad, why) in [
            ("x", "no number"),
            ("1:2:3", "no IPv4 address"),
            ("localhost:1:3", "no IPv4 address"),
            ("[::1]:80:80", "IPv6"),
            ("::1:80:80", "IPv6"),
            ("70000", "no number"),
            ("8000-8010:80", "port by port"),
            ("80/sctp", "neither tcp nor udp"),
            ("80/", "neither tcp nor udp"),
            ("0", "from 1"),
            ("8080:0", "from 1"),
            ("/udp", "no number"),
            ("", "no number"),
            ("8080:", "no number"),
        ] {
            let Err(Failure::Own(said)) = parse(bad) else { panic!("{bad:?}") };
            assert!(said.contains(why) && said.contains("hint:"), "{bad:?}: {said}");
        }
    }
}
