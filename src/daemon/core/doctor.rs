//! What may be wrong with a host, and what to do about it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use super::Core;
use crate::api::doctor::Check;
use crate::api::types::{Doctor, Finding, Health};
use crate::host::{command, files, listeners};
use crate::model::Protocol;

fn finding(check: Check, result: Result<String, (String, String)>) -> Finding {
    let (status, detail, hint) = match result {
        Ok(detail) => ("ok", detail, None),
        Err((detail, hint)) => ("fail", detail, Some(hint)),
    };
    Finding { check: check.as_str().into(), status: status.into(), detail, hint }
}

async fn program(check: Check, package: &str) -> Finding {
    let (name, args) = (check.as_str(), ["--version"]);
    let ran = command::run(&command::EngineCommand::new(name, args.iter().copied()), &[]).await;
    let result = ran
        .map(|o| String::from_utf8_lossy(&o.stdout).lines().next().unwrap_or("").trim().to_owned())
        .map_err(|e| (e.report(), format!("apt-get install {package}")));
    finding(check, result)
}

impl Core {
    /// `GET /v1/doctor`.
    pub async fn doctor(self: &Arc<Self>) -> Doctor {
        let mut findings = vec![self.engine_finding(), kernel(), self.cgroup_finding()];
        findings.push(program(Check::Iptables, "iptables").await);
        findings.push(program(Check::IptablesRestore, "iptables").await);
        findings.push(program(Check::Nsenter, "util-linux").await);
        findings.push(forwarding());
        findings.push(self.resolver_finding());
        findings.push(self.disk_finding());
        findings.push(self.ports_finding());
        findings.push(self.firewall_finding());
        let store = self.host.store.check().await;
        findings.push(finding(
            Check::Store,
            store
                .map(|()| format!("{} answers", self.host.store.shown()))
                .map_err(|e| (e.report(), e.hint_text().unwrap_or("check the store's URL and credentials").to_owned())),
        ));
        if !self.unreadable.is_empty() {
            findings.push(finding(
                Check::Database,
                Err((
                    format!("the records of {} pods can't be read", self.unreadable.len()),
                    "they are left alone; see torpord's log, and restore a backup or use the torpord that wrote them"
                        .into(),
                )),
            ));
        }
        Doctor { findings }
    }

    /// `GET /health`: what is wrong that keeps torpord from working.
    pub fn health(&self) -> Health {
        let problems: Vec<String> = [self.engine_finding(), self.disk_finding()]
            .into_iter()
            .filter(|f| f.status == "fail")
            .map(|f| f.detail)
            .chain((!self.unreadable.is_empty()).then(|| "some pods' records can't be read".to_owned()))
            .collect();
        Health { status: if problems.is_empty() { "ok" } else { "degraded" }.into(), problems }
    }

    fn engine_finding(&self) -> Finding {
        let known = self.engine.as_ref().and_then(|d| self.host.engines.get(d).ok());
        finding(
            Check::Runsc,
            known.map(|e| format!("{} ({})", e.version, e.digest)).ok_or_else(|| {
                let hint = "install runsc (gVisor's own packages, or `apt-get install runsc` on Debian 13) and restart torpord";
                ("no runsc was found".to_owned(), hint.to_owned())
            }),
        )
    }

    fn cgroup_finding(&self) -> Finding {
        finding(Check::Cgroups, Ok(format!("pods are limited below {}", self.host.cgroups.path_for_spec(""))))
    }

    fn resolver_finding(&self) -> Finding {
        if self.resolvers.is_empty() {
            let mut f = finding(
                Check::Dns,
                Err((
                    "no name server that pods could reach".into(),
                    "set `resolvers` in torpor.toml: the host's own listen on its loopback only".into(),
                )),
            );
            f.status = "warn".into();
            return f;
        }
        let all: Vec<String> = self.resolvers.iter().map(ToString::to_string).collect();
        finding(Check::Dns, Ok(format!("pods ask {}", all.join(", "))))
    }

    /// Ports of pods that torpord does not hold, and who does.
    fn ports_finding(&self) -> Finding {
        let held = self.host.ports.held();
        let mut wanted = 0;
        let mut taken = Vec::new();
        for record in self.records() {
            for f in &record.forwards {
                wanted += 1;
                if !held.contains(&(f.host, f.protocol)) {
                    let who = match f.protocol {
                        Protocol::Tcp => {
                            let address = f.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
                            listeners::who_listens((address, f.host).into())
                        }
                        Protocol::Udp => None,
                    };
                    let who = who.unwrap_or_else(|| "another program".into());
                    taken.push(format!("{}/{} of pod {} is held by {who}", f.host, f.protocol, record.spec.name));
                }
            }
        }
        let result = if taken.is_empty() {
            Ok(format!("{wanted} host ports of pods are held"))
        } else {
            Err((taken.join("; "), "end that program and restart torpord, or give the pod another port".to_owned()))
        };
        finding(Check::Ports, result)
    }

    fn firewall_finding(&self) -> Finding {
        let text = files::read_if_present(Path::new("/etc/ufw/ufw.conf")).ok().flatten().unwrap_or_default();
        let config = self.config();
        let open: Vec<u16> =
            config.listen.iter().filter(|l| !l.address.ip().is_loopback()).map(|l| l.address.port()).collect();
        firewall(&text, &open)
    }

    fn disk_finding(&self) -> Finding {
        let reserve = self.config().disk_reserve;
        let free = files::free_bytes(self.dirs.state());
        let result = match free {
            Ok(free) if free > reserve => Ok(format!("{} MiB free in {}", free >> 20, self.dirs.state().display())),
            Ok(free) => Err((
                format!("{} MiB free in {}, less than the reserve", free >> 20, self.dirs.state().display()),
                "free space there or lower disk-reserve: no pod can be put to sleep".into(),
            )),
            Err(e) => Err((e.report(), "look at the disk".into())),
        };
        finding(Check::Disk, result)
    }
}

/// By the text of ufw.conf and the ports of listeners that are reached from elsewhere.
fn firewall(ufw: &str, listeners: &[u16]) -> Finding {
    let active = ufw.lines().any(|l| l.trim().eq_ignore_ascii_case("enabled=yes"));
    if !active {
        return finding(Check::Firewall, Ok("ufw is not active".into()));
    }
    if listeners.is_empty() {
        return finding(Check::Firewall, Ok("ufw is active; nothing of torpor's needs a rule".into()));
    }
    let lines: Vec<String> = listeners.iter().map(|p| format!("ufw allow {p}/tcp")).collect();
    let text = "ufw is active: torpord's listeners are reached from elsewhere only if it is told so".to_owned();
    Finding { status: "warn".into(), ..finding(Check::Firewall, Err((text, lines.join("\n")))) }
}

fn kernel() -> Finding {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    // A module is loaded by the first mount.
    let modules = std::fs::read_to_string(format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
    finding(
        Check::Kernel,
        if has_overlay(&known, &modules) {
            Ok(release)
        } else {
            Err((format!("{release} has no overlayfs"), "modprobe overlay".into()))
        },
    )
}

/// Whether there is overlayfs, by the text of /proc/filesystems and that of modules.dep.
fn has_overlay(known: &str, modules: &str) -> bool {
    known.split_whitespace().any(|w| w == "overlay")
        || modules.lines().filter_map(|l| l.split(':').next()).any(|m| m.contains("/overlay.ko"))
}

fn forwarding() -> Finding {
    let on = files::read(Path::new("/proc/sys/net/ipv4/ip_forward")).is_ok_and(|t| t.trim() == "1");
    let result = if on { Ok("on".into()) } else { Err(("off".into(), "sysctl -w net.ipv4.ip_forward=1".into())) };
    finding(Check::IpForward, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ufw_is_told_of_what_listens_and_of_nothing_else() {
        let on = "# comment\nENABLED=yes\n";
        assert_eq!(firewall("ENABLED=no\n", &[8443]).status, "ok");
        assert_eq!(firewall(on, &[]).status, "ok");
        let told = firewall(on, &[8443, 8080]);
        assert_eq!(
            (told.status.as_str(), told.hint.as_deref()),
            ("warn", Some("ufw allow 8443/tcp\nufw allow 8080/tcp"))
        );
    }

    #[test]
    fn overlayfs_may_be_a_module_that_nobody_has_needed_yet() {
        assert!(has_overlay("nodev\toverlay\n", ""));
        assert!(has_overlay("\text4\n", "kernel/fs/overlayfs/overlay.ko: kernel/x.ko\n"));
        assert!(!has_overlay("\text4\n", "kernel/y.ko: kernel/fs/overlayfs/overlay.ko\n"));
    }
}
