//! The settings, and how they are read anew while torpord runs.
//!
//! What a running torpord can change is taken over at once, for what is done from then on; the rest is named and stays as it is.
//! A file that is not good changes nothing.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::Core;
use crate::api::types::system::Reloaded;
use crate::config::Config;
use crate::model::{Error, Result};

/// Reads the settings anew, with keys that mean nothing.
pub type Source = Box<dyn Fn() -> Result<(Config, Vec<String>)> + Send + Sync>;

pub(super) struct Settings {
    now: RwLock<Arc<Config>>,
    source: OnceLock<Source>,
    /// Told whenever settings are read anew, good or not: others have files of their own.
    asked: tokio::sync::watch::Sender<()>,
}

impl Settings {
    pub(super) fn new(config: Config) -> Self {
        Settings {
            now: RwLock::new(Arc::new(config)),
            source: OnceLock::new(),
            asked: tokio::sync::watch::Sender::new(()),
        }
    }
}

impl Core {
    /// The settings as they are now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.settings.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says, once, where settings are read anew.
    pub fn read_settings_from(&self, source: Source) {
        let _ = self.settings.source.set(source);
    }

    /// Told whenever somebody asks for settings to be read anew.
    pub fn reloads(&self) -> tokio::sync::watch::Receiver<()> {
        self.settings.asked.subscribe()
    }

    /// `POST /v1/system/reload`.
    ///
    /// # Errors
    /// [`crate::model::Code::InvalidRequest`]: the file is not good, and nothing has changed.
    pub fn reload(&self) -> Result<Reloaded> {
        self.settings.asked.send_replace(());
        let source = self.settings.source.get().ok_or_else(|| Error::internal("nobody said where settings are"))?;
        let (new, unknown) = source().map_err(|e| e.context("read the settings anew; those of before stay"))?;
        let mut now = self.settings.now.write().unwrap_or_else(PoisonError::into_inner);
        let merged = merged(&now, new.clone());
        let changed = differ(&now, &merged);
        let needs_restart = differ(&merged, &new);
        *now = Arc::new(merged);
        drop(now);
        tracing::info!(?changed, ?needs_restart, "settings were read anew");
        for key in &unknown {
            tracing::warn!(%key, "a key of the configuration that this torpord does not know");
        }
        Ok(Reloaded { changed, needs_restart, unknown })
    }
}

/// All keys, with what they say.
fn values(c: &Config) -> Vec<(&'static str, String)> {
    fn value(key: &'static str, v: &impl std::fmt::Debug) -> (&'static str, String) {
        (key, format!("{v:?}"))
    }
    vec![
        value("port-range", &c.port_range),
        value("allowed-ports", &c.allowed_ports),
        value("freeze-limit-seconds", &c.freeze_limit),
        value("log-max-bytes", &c.log_max_bytes),
        value("log-files", &c.log_files),
        value("disk-reserve", &c.disk_reserve),
        value("memory-overcommit", &c.memory_overcommit),
        value("disk-overcommit", &c.disk_overcommit),
        value("memory-head-room", &c.memory_head_room),
        value("tiers", &c.tiers),
        value("token-host-paths", &c.token_host_paths),
        value("state-dir", &c.state_dir),
        value("socket", &c.socket),
        value("store", &c.store),
        value("store-allow-http", &c.store_allow_http),
        value("pod-cidr", &c.pod_cidr),
        value("resolvers", &c.resolvers),
        value("runsc", &c.runsc),
        value("cache-bytes", &c.cache_bytes),
        value("max-layer-bytes", &c.max_layer_bytes),
        value("max-image-bytes", &c.max_image_bytes),
        value("listen", &c.listen),
        value("agent", &c.agent),
        value("containers", &c.containers),
    ]
}

/// The keys that say something else.
fn differ(before: &Config, after: &Config) -> Vec<String> {
    values(before).iter().zip(values(after)).filter(|(a, b)| a.1 != b.1).map(|(a, _)| a.0.to_owned()).collect()
}

/// The new settings in what a running torpord takes over, the old ones in what needs a restart.
fn merged(old: &Config, new: Config) -> Config {
    Config {
        port_range: new.port_range,
        allowed_ports: new.allowed_ports,
        freeze_limit: new.freeze_limit,
        log_max_bytes: new.log_max_bytes,
        log_files: new.log_files,
        disk_reserve: new.disk_reserve,
        memory_overcommit: new.memory_overcommit,
        disk_overcommit: new.disk_overcommit,
        memory_head_room: new.memory_head_room,
        tiers: new.tiers,
        token_host_paths: new.token_host_paths,
        ..old.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn read(text: &str) -> Config {
        config::complete(config::parse(text).unwrap().0).unwrap()
    }

    #[test]
    fn every_key_is_taken_over_or_needs_a_restart() {
        let mut known: Vec<&str> = values(&read("")).into_iter().map(|(k, _)| k).collect();
        let mut keys = config::KEYS.to_vec();
        known.sort_unstable();
        keys.sort_unstable();
        assert_eq!(known, keys);
    }

    #[test]
    fn what_is_taken_over_is_new_and_the_rest_is_as_it_was() {
        let old = read("disk-reserve = 5\nstore = 's3://a'\n");
        let new = read("disk-reserve = 6\nstore = 's3://b'\n[tiers.x]\ncpus = 1\nmemory = '1g'\ndisk = '1g'\n");
        let now = merged(&old, new.clone());
        assert_eq!(differ(&old, &now), ["disk-reserve", "tiers"]);
        assert_eq!(differ(&now, &new), ["store"], "and nothing that is taken over");
        assert_eq!((now.disk_reserve, now.store.as_str(), &now.tiers), (6, "s3://a", &new.tiers));
    }
}
