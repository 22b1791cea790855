//! The runbook: for each thing that `torpor doctor` looks at, what it is, what to do, and what `--fix` does about it.

use crate::api::doctor::Check;

/// What there is to say of a check.
pub(super) struct Entry {
    /// What it is about, and what a failure means.
    pub(super) about: &'static str,
    /// What to do.
    pub(super) cure: &'static str,
    /// What `--fix` does. None: that is for people to decide.
    pub(super) fix: Option<Fix>,
}

/// A repair, as root.
pub(super) struct Fix {
    /// What it does, and what of it stays.
    pub(super) does: &'static str,
    /// Lines for sh, shown before they are run.
    pub(super) script: &'static str,
}

const RUNSC: Fix = Fix {
    does: "installs runsc from the packages that this host knows; else from gVisor's own, whose source and key are added to apt's; else from Debian's backports. Then torpord is started anew: pods go on",
    script: "\
export DEBIAN_FRONTEND=noninteractive
apt-get update
if ! apt-get install -y runsc; then
    code=$(. /etc/os-release; echo $VERSION_CODENAME)
    if curl -fsS --max-time 30 -o /usr/share/keyrings/gvisor.asc https://gvisor.dev/archive.key; then
        echo \"deb [arch=$(dpkg --print-architecture) signed-by=/usr/share/keyrings/gvisor.asc] https://storage.googleapis.com/gvisor/releases release main\" >/etc/apt/sources.list.d/gvisor.list
        apt-get update
        apt-get install -y runsc
    else
        rm -f /usr/share/keyrings/gvisor.asc
        apt-get install -y -t \"$code-backports\" runsc
    fi
fi
[ ! -d /run/systemd/system ] || systemctl try-restart torpord.service",
};

/// The entry of a check.
pub(super) fn entry(check: Check) -> Entry {
    match check {
        Check::Torpord => Entry {
            about: "torpord does not answer at its socket. Pods that run go on without it; none can be started, put to sleep or woken.",
            cure: "`systemctl status torpord` and `journalctl -u torpord` say why. A configuration that is not good is named with its line: `torpord --check-config`. Who may use the socket is in the group torpor.",
            fix: Some(Fix {
                does: "starts the socket and the service of torpord",
                script: "systemctl start torpord.socket torpord.service",
            }),
        },
        Check::Runsc => Entry {
            about: "There is no engine for new pods, or it does not run. Pods that are there keep the engine that they were made with.",
            cure: "Install runsc: gVisor's own packages, `apt-get install runsc` on Debian 13, or bookworm-backports on Debian 12; or name one by `runsc` in torpor.toml. Then restart torpord.",
            fix: Some(RUNSC),
        },
        Check::Kernel => Entry {
            about: "The kernel has no overlayfs: images can't be put together.",
            cure: "`modprobe overlay`. In a container its host must load it. A kernel built without it is no host for torpor.",
            fix: Some(Fix {
                does: "loads the module overlay, now and at every boot",
                script: "modprobe overlay\necho overlay >/etc/modules-load.d/torpor.conf",
            }),
        },
        Check::Cgroups => Entry {
            about: "Pods can't be limited: the controllers cpu, memory and pids are missing, or are not handed on to where pods are.",
            cure: "Boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1 on the kernel's command line). By the unit pods live in torpor.slice, which TORPOR_CGROUP names. In a container: move its processes out of the top cgroup, and let the container have its cgroups to itself.",
            fix: None,
        },
        Check::Iptables | Check::IptablesRestore => Entry {
            about: "The firewall's program is missing or does not run: no pod gets a network.",
            cure: "`apt-get install iptables`. If it is there and fails, the kernel lacks nf_tables or the host forbids it.",
            fix: Some(Fix {
                does: "installs iptables",
                script: "export DEBIAN_FRONTEND=noninteractive\napt-get update\napt-get install -y iptables",
            }),
        },
        Check::Nsenter => Entry {
            about: "nsenter is missing: the firewall inside the pods' network can't be set.",
            cure: "`apt-get install util-linux`.",
            fix: Some(Fix {
                does: "installs util-linux",
                script: "export DEBIAN_FRONTEND=noninteractive\napt-get update\napt-get install -y util-linux",
            }),
        },
        Check::IpForward => Entry {
            about: "The host passes no packets on: pods reach nothing, and nothing reaches their forwarded ports but from the host itself. torpord switches it on when it starts; something has switched it off since.",
            cure: "`sysctl -w net.ipv4.ip_forward=1`, and see what switches it off: files in /etc/sysctl.d, a network manager, a hardening script.",
            fix: Some(Fix {
                does: "switches it on, now and at every boot",
                script: "echo 'net.ipv4.ip_forward = 1' >/etc/sysctl.d/60-torpor.conf\nsysctl -q -p /etc/sysctl.d/60-torpor.conf",
            }),
        },
        Check::Dns => Entry {
            about: "No name server that pods could reach was found: those of the host listen on its loopback only. Names are not resolved in pods, and much in them is slow for it.",
            cure: "Set `resolvers` in torpor.toml, such as [\"192.0.2.53\"], and restart torpord. Pods that run get it at their next start or wake.",
            fix: None,
        },
        Check::Disk => Entry {
            about: "The state directory's disk is fuller than the reserve allows, or fails. No pod can be put to sleep, and images are not taken.",
            cure: "`torpor system df` shows what takes room, `torpor system prune` removes what nothing uses; or free space otherwise, or lower disk-reserve and `torpor system reload`. A disk that is read-only says why in `dmesg`.",
            fix: None,
        },
        Check::Store => Entry {
            about: "The object store does not answer or refuses. Pods that run go on; sleeping, waking elsewhere and snapshots wait for it.",
            cure: "Are its URL (`store`) and credentials (/etc/torpor/environment) right, is the clock? An http:// endpoint needs store-allow-http. Then restart torpord: pods go on.",
            fix: None,
        },
        Check::Database => Entry {
            about: "Records of some pods can't be read. Nothing of theirs is touched, and the others are served.",
            cure: "torpord's log names them. If an older torpord runs than the one that wrote them, install that again. Else put a backup back: `torpor system restore`.",
            fix: None,
        },
        Check::Ports => Entry {
            about: "Another program has a host port of a pod's. Connections to it don't reach the pod.",
            cure: "End the program that is named, or give the pod another port: `torpor port rm POD HOST:PORT` and `torpor port add POD PORT`. torpord takes the port back when it starts anew.",
            fix: None,
        },
        Check::Firewall => Entry {
            about: "ufw is active and lets nobody reach torpord's listeners unless it is told to. Ports of pods need no rule: what is translated to a pod passes by torpor's own.",
            cure: "Run the `ufw allow` lines that the finding has, for those listeners that are to be reached from elsewhere. After a reload of ufw or firewalld torpord puts back what they took away, within seconds; isolation of pods does not depend on it.",
            fix: None,
        },
    }
}

/// The runbook as it stands in the manual.
pub(super) fn text() -> String {
    let one = |check: Check| {
        let e = entry(check);
        let fix = e.fix.map(|f| format!("\n  --fix: {}.", f.does)).unwrap_or_default();
        format!("{}\n  {}\n  {}{fix}\n", check.as_str(), e.about, e.cure)
    };
    format!("What each finding means, and what to do:\n\n{}", Check::ALL.map(one).join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_an_entry_in_the_manual() {
        let text = text();
        for check in Check::ALL {
            assert!(text.contains(&format!("\n{}\n  ", check.as_str())), "{check:?}");
            assert_eq!(Check::of(check.as_str()), Some(check));
        }
    }

    #[test]
    fn repairs_are_scripts_that_sh_reads() {
        for fix in Check::ALL.into_iter().filter_map(|c| entry(c).fix) {
            let read = std::process::Command::new("sh").args(["-n", "-c", fix.script]).status().unwrap();
            assert!(read.success(), "{}", fix.script);
        }
    }
}
