//! What `torpor doctor` looks at. The names are stable: the runbook has an entry for each.

/// One thing that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Whether torpord answers at all. Looked at by whoever asks it.
    Torpord,
    /// The engine of new pods.
    Runsc,
    /// What the kernel must have.
    Kernel,
    /// Limits of pods.
    Cgroups,
    /// The firewall's programs.
    Iptables,
    /// The firewall's programs.
    IptablesRestore,
    /// What enters namespaces.
    Nsenter,
    /// Whether the host passes packets on.
    IpForward,
    /// Name servers of pods.
    Dns,
    /// Room on the state directory's disk.
    Disk,
    /// The object store.
    Store,
    /// Records of pods.
    Database,
    /// Host ports that pods want.
    Ports,
    /// A firewall of the host's own.
    Firewall,
}

impl Check {
    /// Every one.
    pub const ALL: [Check; 14] = [
        Check::Torpord,
        Check::Runsc,
        Check::Kernel,
        Check::Cgroups,
        Check::Iptables,
        Check::IptablesRestore,
        Check::Nsenter,
        Check::IpForward,
        Check::Dns,
        Check::Disk,
        Check::Store,
        Check::Database,
        Check::Ports,
        Check::Firewall,
    ];

    /// Its name in a finding.
    pub fn as_str(self) -> &'static str {
        match self {
            Check::Torpord => "torpord",
            Check::Runsc => "runsc",
            Check::Kernel => "kernel",
            Check::Cgroups => "cgroups",
            Check::Iptables => "iptables",
            Check::IptablesRestore => "iptables-restore",
            Check::Nsenter => "nsenter",
            Check::IpForward => "ip_forward",
            Check::Dns => "dns",
            Check::Disk => "disk",
            Check::Store => "store",
            Check::Database => "database",
            Check::Ports => "ports",
            Check::Firewall => "firewall",
        }
    }

    /// The one of that name; none: a newer torpord knows more.
    pub fn of(name: &str) -> Option<Self> {
        Check::ALL.into_iter().find(|c| c.as_str() == name)
    }
}
