//! The only place where an OCI `config.json` is built, and so the boundary that no user input crosses unchecked.
//!
//! A template has a number for ever: what is stored with a pod and a snapshot is that number, and a restore builds by it.
//! The templates are `bundles/template-<n>.json`; this code puts in what differs from pod to pod. Command, environment,
//! user and working directory are not here: init gets them by the channel.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder,
    LinuxResourcesBuilder, Mount, MountBuilder, Spec,
};

use crate::model::{Attempt, Code, Error, Resources, Result};
use crate::plan::limits::{CPU_PERIOD_US, cpu_quota_us};

/// The template of new pods.
pub const TEMPLATE: u32 = 1;

const TEMPLATE_1: &str = include_str!("../../bundles/template-1.json");

/// Whether this torpord can build by that template.
pub fn knows_template(template: u32) -> bool {
    template == 1
}

/// A host directory seen in a pod: already opened and checked by who made this value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Absolute host directory.
    pub source: PathBuf,
    /// Absolute path in the pod.
    pub target: PathBuf,
    /// Whether the pod may not write to it.
    pub read_only: bool,
}

/// What differs from pod to pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundlePlan {
    /// Number of the template.
    pub template: u32,
    /// Host name.
    pub hostname: String,
    /// The mounted root: read-only; what the pod writes lies in the sandbox.
    pub root: PathBuf,
    /// As the OCI specification has it.
    pub cgroups_path: String,
    /// The pod's network namespace.
    pub netns: PathBuf,
    /// Limits.
    pub resources: Resources,
    /// Volumes, in the order in which they are mounted.
    pub volumes: Vec<Volume>,
}

/// Builds the bundle's `config.json`.
///
/// # Errors
/// The template is not known, or a path is not fit to stand in it.
pub fn build(plan: &BundlePlan) -> Result<Spec> {
    let text = match plan.template {
        1 => TEMPLATE_1,
        n => return Err(Error::new(Code::Incompatible, format!("build a bundle by template {n}: not known"))),
    };
    let what = || "build the bundle".to_owned();
    let mut spec: Spec = serde_json::from_str(text).attempt(Code::Internal, what)?;
    spec.set_hostname(Some(plan.hostname.clone()));
    for path in [&plan.root, &plan.netns] {
        absolute(path)?;
    }
    let mut root = spec.root().clone().ok_or_else(|| Error::internal("the template has no root"))?;
    root.set_path(plan.root.clone());
    spec.set_root(Some(root));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for volume in &plan.volumes {
        mounts.push(bind(volume)?);
    }
    spec.set_mounts(Some(mounts));
    let template = spec.linux().as_ref().and_then(|l| l.namespaces().clone()).unwrap_or_default();
    let mut namespaces = Vec::new();
    for namespace in template {
        let mut builder = LinuxNamespaceBuilder::default().typ(namespace.typ());
        if namespace.typ() == LinuxNamespaceType::Network {
            builder = builder.path(plan.netns.clone());
        }
        namespaces.push(builder.build().attempt(Code::Internal, what)?);
    }
    let r = &plan.resources;
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let cpu = LinuxCpuBuilder::default()
        .quota(cpu_quota_us(r))
        .period(CPU_PERIOD_US)
        .build()
        .attempt(Code::Internal, what)?;
    let memory = LinuxMemoryBuilder::default()
        .limit(signed(r.memory))
        .swap(signed(r.memory))
        .build()
        .attempt(Code::Internal, what)?;
    let pids = LinuxPidsBuilder::default().limit(i64::from(r.pids)).build().attempt(Code::Internal, what)?;
    let resources =
        LinuxResourcesBuilder::default().cpu(cpu).memory(memory).pids(pids).build().attempt(Code::Internal, what)?;
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(PathBuf::from(&plan.cgroups_path))
        .resources(resources)
        .build()
        .attempt(Code::Internal, what)?;
    spec.set_linux(Some(linux));
    Ok(spec)
}

pub(super) fn absolute(path: &Path) -> Result<()> {
    let clean = path.is_absolute()
        && path.to_str().is_some_and(|s| !s.contains(|c: char| c.is_control()))
        && path.components().all(|c| !matches!(c, std::path::Component::ParentDir | std::path::Component::CurDir));
    if clean {
        Ok(())
    } else {
        Err(Error::invalid(format!("{:?} is no clean absolute path", path.display().to_string())))
    }
}

fn bind(volume: &Volume) -> Result<Mount> {
    absolute(&volume.source)?;
    check_target(&volume.target)?;
    let mode = if volume.read_only { "ro" } else { "rw" };
    MountBuilder::default()
        .destination(volume.target.clone())
        .typ("bind")
        .source(volume.source.clone())
        .options(["bind", "nosuid", "nodev", mode].map(str::to_owned).to_vec())
        .build()
        .attempt(Code::Internal, || "build a volume's mount".into())
}

/// Checks where a volume may appear in a pod.
///
/// # Errors
/// It is no clean absolute path, or would cover what torpor itself mounts.
pub fn check_target(target: &Path) -> Result<()> {
    absolute(target)?;
    let taken = ["/", "/proc", "/sys", "/dev", "/run/secrets", "/.torpor"];
    let under = ["/proc", "/sys", "/dev", "/.torpor", "/run/secrets"];
    if taken.iter().any(|t| target == Path::new(t)) || under.iter().any(|t| target.starts_with(t)) {
        return Err(Error::invalid(format!("a volume can't be mounted at {}", target.display()))
            .hint("choose another directory of the pod"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> BundlePlan {
        BundlePlan {
            template: 1,
            hostname: "web".into(),
            root: "/run/torpor/abcdef/images/0123".into(),
            cgroups_path: "/torpor-abcdef/0123456789abcdef-1".into(),
            netns: "/run/torpor/abcdef/netns/0123456789abcdef-1".into(),
            resources: Resources { cpu_millis: 1500, memory: 256 << 20, pids: 100, disk: 1 << 30 },
            volumes: vec![Volume { source: "/srv/data".into(), target: "/data".into(), read_only: true }],
        }
    }

    #[test]
    fn template_1_never_changes() {
        let mut spec = serde_json::to_value(build(&example()).unwrap()).unwrap();
        // Capabilities are a set: their order means nothing.
        for set in spec["process"]["capabilities"].as_object_mut().unwrap().values_mut() {
            let names = set.as_array_mut().unwrap();
            names.sort_by_key(ToString::to_string);
        }
        insta::assert_json_snapshot!("template-1", spec);
    }

    #[test]
    fn mounts_have_the_same_shape_for_every_pod() {
        let mut other = example();
        other.hostname = "x".into();
        other.resources.memory = 1 << 30;
        other.volumes.clear();
        let mounts = |p: &BundlePlan| build(p).unwrap().mounts().clone().unwrap();
        assert_eq!(mounts(&other)[..], mounts(&example())[..6]);
    }

    #[test]
    fn paths_that_are_not_clean_are_refused() {
        for bad in ["relative", "/a/../b", "/a\nb", ""] {
            assert!(build(&BundlePlan { root: bad.into(), ..example() }).is_err(), "{bad:?}");
            let volume = Volume { source: bad.into(), target: "/x".into(), read_only: false };
            assert!(build(&BundlePlan { volumes: vec![volume], ..example() }).is_err(), "{bad:?}");
        }
        for bad in ["/", "/proc/x", "/dev", "/.torpor/init", "/run/secrets", "x"] {
            assert!(check_target(Path::new(bad)).is_err(), "{bad:?}");
        }
        assert!(build(&BundlePlan { template: 2, ..example() }).is_err());
    }
}
