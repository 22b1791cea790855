//! What is logged, which can be changed while torpord runs.

use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use super::journal::Journal;
use crate::model::{Error, Result};

/// Characters of a filter.
const LONGEST: usize = 1000;

type Set = Box<dyn Fn(EnvFilter) -> std::result::Result<(), String> + Send + Sync>;

struct Level {
    now: Mutex<String>,
    set: Set,
}

static LEVEL: OnceLock<Level> = OnceLock::new();

/// Begins to log what `TORPOR_LOG` asks for, or `info`: on standard error, or with its fields apart where that is systemd's journal.
/// Once.
pub fn begin() {
    let asked = std::env::var("TORPOR_LOG").ok().filter(|t| read(t).is_ok()).unwrap_or_else(|| "info".into());
    let filter = read(&asked).unwrap_or_else(|_| "info".into());
    let (filter, handle) = reload::Layer::new(filter);
    let journal = Journal::of_environment();
    let plain =
        journal.is_none().then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false));
    tracing_subscriber::registry().with(filter).with(journal).with(plain).init();
    let set: Set = Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()));
    let _ = LEVEL.set(Level { now: Mutex::new(asked), set });
}

fn read(text: &str) -> Result<EnvFilter> {
    let bad = |why: &str| {
        Error::invalid(format!("{:?} is no log filter: {why}", text.chars().take(80).collect::<String>()))
            .hint("such as info, debug, or info,torpor::host=debug")
    };
    if text.is_empty() || text.len() > LONGEST {
        return Err(bad("it is empty or too long"));
    }
    EnvFilter::builder().parse(text).map_err(|e| bad(&e.to_string()))
}

/// What is logged now.
pub fn now() -> String {
    LEVEL.get().map(|l| l.now.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
}

/// From now on that is logged: `debug`, or `info,torpor::host=debug`.
///
/// # Errors
/// It is no filter: nothing has changed.
pub fn set(text: &str) -> Result<()> {
    let filter = read(text)?;
    let level = LEVEL.get().ok_or_else(|| Error::internal("change what is logged: nothing is"))?;
    let mut now = level.now.lock().unwrap_or_else(PoisonError::into_inner);
    (level.set)(filter).map_err(|e| Error::internal(format!("change what is logged: {e}")))?;
    text.clone_into(&mut now);
    drop(now);
    tracing::info!(filter = text, "what is logged was changed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_refused() {
        for good in ["info", "debug", "info,torpor::host=debug", "off"] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in ["", "torpor::host=loud", "a=b=c", &"x,".repeat(600)] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
