//! Network, cgroups and mounted roots.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use torpor::host::cgroup::{Cgroups, Usage};
use torpor::host::layers::Layers;
use torpor::host::network::{Counters, Network, PodNet};
use torpor::host::rootfs::Roots;
use torpor::model::{Code, Digest, Error, Result};
use torpor::plan::firewall::ForwardTo;
use torpor::plan::limits::Limits;

use super::Life;
use super::kernel::Namespace;

/// Namespaces, links and forwards. Namespaces are files below the run directory.
pub struct FakeNetwork {
    pub life: Arc<Life>,
    pub run: PathBuf,
}

#[async_trait]
impl Network for FakeNetwork {
    async fn ensure_router(&self) -> Result<()> {
        self.life.effect("make the router", |k| k.set(|s| s.router = true)).await
    }

    async fn heal(&self) -> Result<bool> {
        self.life.ask("heal the network").await.map(|()| false)
    }

    async fn attach(&self, pod: &PodNet) -> Result<PathBuf> {
        self.life
            .effect("attach the network", |k| {
                k.change(|s| {
                    if !s.router {
                        return Err(Error::internal("the router is not made yet"));
                    }
                    s.netns.insert(pod.id.clone(), Namespace { addressed: true });
                    Ok(self.run.join("netns").join(&pod.id))
                })
            })
            .await
    }

    async fn readdress(&self, pod: &PodNet) -> Result<()> {
        self.life
            .effect("readdress", |k| {
                k.change(|s| match s.netns.get_mut(&pod.id) {
                    Some(n) => {
                        n.addressed = true;
                        Ok(())
                    }
                    None => Err(Error::internal(format!("open network namespace {}", pod.id))),
                })
            })
            .await
    }

    async fn counters(&self, pod: &PodNet) -> Result<Counters> {
        self.life.ask("read a link's counters").await?;
        let there = self.life.kernel.look().netns.contains_key(&pod.id);
        there.then(Counters::default).ok_or_else(|| Error::internal(format!("no link {}", pod.id)))
    }

    async fn traffic(&self) -> Result<Counters> {
        self.life.ask("read the router's counters").await?;
        let there = self.life.kernel.look().router;
        there.then(Counters::default).ok_or_else(|| Error::internal("there is no router"))
    }

    async fn detach(&self, pod: &PodNet) -> Result<()> {
        self.life
            .effect("detach the network", |k| {
                k.set(|s| {
                    s.netns.remove(&pod.id);
                })
            })
            .await
    }

    async fn set_forwards(&self, forwards: &[ForwardTo]) -> Result<()> {
        let wanted = forwards.iter().copied().collect();
        if self.life.kernel.look().forwards == wanted {
            return Ok(());
        }
        self.life.effect("set the forwards", |k| k.set(|s| s.forwards.clone_from(&wanted))).await
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.life.ask("list networks").await?;
        Ok(self.life.kernel.look().netns.keys().cloned().collect())
    }

    async fn remove_all(&self) -> Result<()> {
        self.life
            .effect("remove the router", |k| {
                k.change(|s| {
                    if !s.netns.is_empty() {
                        return Err(Error::new(Code::InUse, "pods still have a network"));
                    }
                    s.forwards.clear();
                    s.router = false;
                    Ok(())
                })
            })
            .await
    }
}

/// cgroups, which nothing ever runs into.
pub struct FakeCgroups {
    pub life: Arc<Life>,
}

impl FakeCgroups {
    fn require(&self, id: &str) -> Result<()> {
        if self.life.kernel.look().cgroups.contains(id) {
            return Ok(());
        }
        Err(Error::internal(format!("read the cgroup of {id}")))
    }
}

#[async_trait]
impl Cgroups for FakeCgroups {
    async fn ensure(&self, id: &str, _limits: &Limits) -> Result<()> {
        self.life
            .effect("make the cgroup", |k| {
                k.change(|s| s.cgroups.insert(id.to_owned()));
                Ok(())
            })
            .await
    }

    async fn limit(&self, id: &str, _limits: &Limits) -> Result<()> {
        let there = |s: &mut super::kernel::State| {
            if s.cgroups.contains(id) { Ok(()) } else { Err(Error::internal(format!("limit the cgroup of {id}"))) }
        };
        self.life.effect("limit the cgroup", |k| k.change(there)).await
    }

    async fn remove(&self, id: &str) -> Result<()> {
        self.life
            .effect("remove the cgroup", |k| {
                k.change(|s| {
                    if s.cgroups.remove(id)
                        && let Some(sandbox) = s.sandboxes.get_mut(id)
                    {
                        sandbox.status = super::Status::Stopped; // what is left in it is killed
                    }
                    Ok(())
                })
            })
            .await
    }

    async fn usage(&self, id: &str) -> Result<Usage> {
        self.life.ask("usage").await?;
        self.require(id)?;
        Ok(Usage { memory: 1 << 20, cache: 0, cpu_ns: 1, pids: 1 })
    }

    async fn all_usage(&self) -> Result<Usage> {
        self.life.ask("usage of all").await?;
        Ok(Usage { memory: 1 << 20, cache: 0, cpu_ns: 1, pids: 1 })
    }

    fn oom_killed(&self, id: &str) -> Result<bool> {
        self.require(id).map(|()| false)
    }

    fn pids_refused(&self, id: &str) -> Result<bool> {
        self.require(id).map(|()| false)
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.life.ask("list cgroups").await?;
        Ok(self.life.kernel.look().cgroups.iter().cloned().collect())
    }

    fn path_for_spec(&self, id: &str) -> String {
        format!("/fake/{id}")
    }

    fn memory(&self) -> Result<u64> {
        Ok(4 << 30)
    }
}

/// Mounted roots over a real layer store.
pub struct FakeRoots {
    pub life: Arc<Life>,
    pub run: PathBuf,
    pub layers: Layers,
}

#[async_trait]
impl Roots for FakeRoots {
    async fn ensure(&self, key: &str, layers: &[Digest]) -> Result<PathBuf> {
        let path = self.run.join("images").join(key);
        if self.life.kernel.look().roots.contains_key(key) {
            return Ok(path);
        }
        if let Some(missing) = layers.iter().find(|d| !self.layers.has(d)) {
            return Err(Error::new(Code::Damaged, format!("layer {missing} of the root is not on this host")));
        }
        let mount = |k: &super::Kernel| {
            k.set(|s| {
                s.roots.insert(key.to_owned(), layers.to_vec());
            })
        };
        self.life.effect("mount the root", mount).await?;
        Ok(path)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.life
            .effect("unmount the root", |k| {
                k.set(|s| {
                    s.roots.remove(key);
                })
            })
            .await
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.life.kernel.look().roots.keys().cloned().collect())
    }
}
