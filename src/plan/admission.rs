//! What a pod may be asked to be: the bounds of a specification, whoever wrote it. A request passes here, and so does what a
//! snapshot in the store says of its pod: nothing that a client could not ask for comes in by another door.

use std::collections::BTreeSet;
use std::path::Path;

use crate::model::{
    Error, HealthAsk, HealthCheck, ImageConfig, PodName, PodSpec, ReadyCheck, Result, VolumeMount, secret,
};
use crate::plan::bundle;

const MOST_TEXT: usize = 128 * 1024;
const MOST_PORTS: usize = 256;
/// Volumes that a pod may have.
pub(super) const MOST_VOLUMES: usize = 64;
const MOST_VARIABLES: usize = 10_000;
/// Bytes of command and environment together: they go to init in one message.
const MOST_LAUNCH: usize = 2 << 20;

/// Checks a whole specification.
///
/// # Errors
/// [`crate::model::Code::InvalidRequest`], with what is wrong.
pub fn check(spec: &PodSpec) -> Result<()> {
    command(&spec.command)?;
    let entrypoint = spec.entrypoint.as_deref().unwrap_or_default();
    command(entrypoint)?;
    env(spec.env.iter())?;
    let launch = spec.command.iter().chain(entrypoint).map(String::len).sum::<usize>()
        + spec.env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    if launch > MOST_LAUNCH {
        return Err(Error::invalid(format!("command and environment have more than {MOST_LAUNCH} bytes")));
    }
    secret::check(&spec.secrets, &spec.env)?;
    directory(spec.working_dir.as_ref())?;
    user(spec.user.as_ref())?;
    if let Some(h) = &spec.hostname {
        hostname(h)?;
    }
    let fine = |(k, v): (&String, &String)| !k.is_empty() && k.len() <= 128 && v.len() <= 4096;
    if spec.labels.len() > 64 || !spec.labels.iter().all(fine) {
        return Err(Error::invalid("labels: 64 at most, names of 1 to 128 and values of up to 4096 bytes"));
    }
    if spec.auto_remove && !spec.restart.is_no() {
        return Err(Error::invalid("a pod that is removed when its command ends can't be started again then")
            .hint("leave out autoRemove or restart"));
    }
    spec.resources.check()?;
    if spec.ports.len() > MOST_PORTS {
        return Err(Error::invalid(format!("a pod can have {MOST_PORTS} forwards at most")));
    }
    if spec.ports.iter().any(|p| p.pod == 0 || p.host == Some(0)) {
        return Err(Error::invalid("port 0 can't be forwarded"));
    }
    if spec.volumes.len() > MOST_VOLUMES {
        return Err(Error::invalid(format!("a pod can have {MOST_VOLUMES} volumes at most")));
    }
    spec.volumes.iter().try_for_each(volume)?;
    let mut targets = BTreeSet::new();
    if let Some(twice) = spec.volumes.iter().find(|v| !targets.insert(v.target.as_path())) {
        return Err(Error::invalid(format!("two volumes are to be at {}", twice.target.display())));
    }
    spec.ready.as_ref().map_or(Ok(()), |r| ready(&r.check, r.timeout_ms))?;
    spec.health.as_ref().map_or(Ok(()), health)
}

/// Milliseconds that a health check may be set to.
const HEALTH_MS: std::ops::RangeInclusive<u64> = 100..=24 * 3_600_000;

fn health(check: &HealthCheck) -> Result<()> {
    match &check.ask {
        HealthAsk::Command(line) if line.is_empty() => return Err(Error::invalid("health: the command is empty")),
        HealthAsk::Command(line) => command(line)?,
        HealthAsk::Http { port, path } => {
            let http = ReadyCheck::Http { port: *port, path: path.clone() };
            ready(&http, 1).map_err(|_| {
                Error::invalid("health: http needs a port and a path that begins with / and has no spaces")
            })?;
        }
    }
    for (what, ms) in [("intervalMs", check.interval_ms), ("timeoutMs", check.timeout_ms)] {
        if !HEALTH_MS.contains(&ms) {
            let (least, most) = (HEALTH_MS.start(), HEALTH_MS.end());
            return Err(Error::invalid(format!("health: {what} must be {least} to {most}")));
        }
    }
    if !(1..=1000).contains(&check.retries) || check.start_period_ms > *HEALTH_MS.end() {
        return Err(Error::invalid("health: retries must be 1 to 1000, and startPeriodMs a day at most"));
    }
    Ok(())
}

/// Checks what an image says about running it, as a snapshot has it.
///
/// # Errors
/// [`crate::model::Code::InvalidRequest`], with what is wrong.
pub fn check_image(image: &ImageConfig) -> Result<()> {
    let texts = image.entrypoint.iter().chain(&image.cmd).chain(&image.env).chain([&image.working_dir]);
    let (mut sum, mut count) = (0, 0);
    for t in texts {
        text("the image's configuration", t)?;
        sum += t.len();
        count += 1;
    }
    if sum > 2 * MOST_LAUNCH || count > 100_000 {
        return Err(Error::invalid("the image's configuration is too large"));
    }
    let some = |t: &String| (!t.is_empty()).then(|| t.clone());
    directory(some(&image.working_dir).as_ref())?;
    image.healthcheck.as_ref().map_or(Ok(()), health)?;
    user(some(&image.user).as_ref())
}

fn volume(volume: &VolumeMount) -> Result<()> {
    let named = !volume.source.starts_with('/');
    if named && volume.source.parse::<PodName>().is_err() {
        return Err(Error::invalid(format!("{:?} is no volume", volume.source.chars().take(80).collect::<String>()))
            .hint("a name, or an absolute directory of the host"));
    }
    if !named {
        bundle::absolute(Path::new(&volume.source))?;
    }
    text("a volume's target", volume.target.to_str().unwrap_or("\0"))?;
    if volume.source.len() > 4095 || volume.target.as_os_str().len() > 4095 {
        return Err(Error::invalid("a volume's path is longer than 4095 bytes"));
    }
    bundle::check_target(&volume.target)
}

fn ready(check: &ReadyCheck, timeout_ms: u64) -> Result<()> {
    match check {
        ReadyCheck::Http { port: 0, .. } | ReadyCheck::Tcp { port: 0 } => {
            return Err(Error::invalid("ready: port 0 can't be asked"));
        }
        ReadyCheck::Http { path, .. } => {
            if !path.starts_with('/') || path.contains(|c: char| c.is_control() || c == ' ') || path.len() > 2000 {
                return Err(Error::invalid("ready: the path must begin with / and have no spaces"));
            }
        }
        ReadyCheck::Tcp { .. } => {}
        ReadyCheck::Exec { command: line } => {
            if line.is_empty() {
                return Err(Error::invalid("ready: exec needs a command"));
            }
            command(line)?;
        }
    }
    if !(1..=3_600_000).contains(&timeout_ms) {
        return Err(Error::invalid("ready: timeoutMs must be 1 to 3600000"));
    }
    Ok(())
}

fn text(what: &str, value: &str) -> Result<()> {
    if value.contains('\0') {
        return Err(Error::invalid(format!("{what} contains a NUL byte")));
    }
    if value.len() > MOST_TEXT {
        return Err(Error::invalid(format!("{what} is longer than {MOST_TEXT} bytes")));
    }
    Ok(())
}

/// Checks a command.
///
/// # Errors
/// Too many or too long arguments, or a NUL byte.
pub fn command(command: &[String]) -> Result<()> {
    if command.len() > 10_000 {
        return Err(Error::invalid("the command has too many arguments"));
    }
    command.iter().try_for_each(|a| text("the command", a))
}

/// Checks an environment.
///
/// # Errors
/// A name that is none, too long a text, or a NUL byte.
pub fn env<'a>(env: impl Iterator<Item = (&'a String, &'a String)>) -> Result<()> {
    for (n, (name, value)) in env.enumerate() {
        if n >= MOST_VARIABLES {
            return Err(Error::invalid(format!("more than {MOST_VARIABLES} variables")));
        }
        if name.is_empty() || name.contains('=') {
            return Err(Error::invalid("a variable's name is empty or contains ="));
        }
        text("a variable's name", name)?;
        text("a variable's value", value)?;
    }
    Ok(())
}

/// Checks a working directory.
///
/// # Errors
/// It is not absolute, too long, or has a NUL byte.
pub fn directory(path: Option<&String>) -> Result<()> {
    match path {
        Some(p) if !p.starts_with('/') => Err(Error::invalid(format!(
            "working directory {:?} is not absolute",
            p.chars().take(80).collect::<String>()
        ))),
        Some(p) => text("the working directory", p),
        None => Ok(()),
    }
}

/// Checks a user.
///
/// # Errors
/// It is not `user[:group]`.
pub fn user(user: Option<&String>) -> Result<()> {
    match user {
        Some(u) if !crate::model::is_user(u) => {
            Err(Error::invalid(format!("user {:?} is not user[:group]", u.chars().take(80).collect::<String>())))
        }
        _ => Ok(()),
    }
}

fn hostname(name: &str) -> Result<()> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(label) {
        return Ok(());
    }
    Err(Error::invalid(format!("{:?} is no host name", name.chars().take(80).collect::<String>()))
        .hint("letters, digits and -, 64 at most"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        for good in ["a", "web-1", "a.b"] {
            assert!(hostname(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a_b", "a b", &"x".repeat(65)] {
            assert!(hostname(bad).is_err(), "{bad}");
        }
    }
}
