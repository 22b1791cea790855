//! A container asked for: a spare if there is one that is as it should be, else a new one at the lowest free host port.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{CONTAINERS, Containers, SPARE, short, show};
use crate::api::types;
use crate::config::surfaces;
use crate::daemon::core::Core;
use crate::daemon::surfaces::answer::{Answer, Lenient, Refused};
use crate::daemon::surfaces::{SURFACE, image, to_the_end};
use crate::model::{Code, Error, PodName, Result};
use crate::plan::runs::runs;

/// The label of one that its creator keeps for later.
const POOL: &str = "torpor.pool";
/// Where a volume is seen.
const MODULES: &str = "/app/node_modules";
/// Ports of a container if nothing is said.
const PORTS: [u16; 1] = [3000];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Create {
    name: Option<String>,
    image: Option<String>,
    ports: Option<Vec<u16>>,
    volume_name: Option<String>,
    pool: Option<bool>,
}

pub(super) async fn create(
    State(this): State<Arc<Containers>>,
    Lenient(request): Lenient<Create>,
) -> Answer<(StatusCode, Json<Value>)> {
    let name = request.name.clone().filter(|n| !n.is_empty()).ok_or_else(|| Error::invalid("name is required"))?;
    let name = name.parse::<PodName>()?;
    let wanted = wanted(&this.settings, &name, request)?;
    let asked = wanted.image.clone();
    let (of, at) = (Arc::clone(&this), name.clone());
    let made = to_the_end(async move {
        let Some(pool) = &of.pool else { return at_free_ports(&of.core, wanted).await };
        match pool.take(&at, &wanted).await? {
            Some(pod) => Ok(pod),
            None => pool.make_way(|| at_free_ports(&of.core, wanted.clone())).await,
        }
    });
    match made.await {
        Ok(pod) => {
            let answer = json!({"id": short(&pod), "name": pod.name, "hostPort": show::host_port(&pod)});
            Ok((StatusCode::CREATED, Json(answer)))
        }
        Err(e) if e.code() == Code::NameTaken => Err(taken(&this, &name, e)),
        Err(e) if e.code() == Code::NotFound => {
            Err(Refused::new(StatusCode::NOT_FOUND, format!("No such image: {asked} ({})", e.report())))
        }
        Err(e) => Err(e.into()),
    }
}

/// Clients read the id out of the text, delete that container and ask again.
fn taken(this: &Containers, name: &PodName, e: Error) -> Refused {
    let other = super::all(&this.core).into_iter().find(|p| p.name == name.as_str());
    let Some(other) = other else { return e.into() };
    let text =
        format!("Conflict. The container name \"/{name}\" is already in use by container \"{}\".", short(&other));
    Refused::new(StatusCode::CONFLICT, text)
}

fn wanted(s: &surfaces::Containers, name: &PodName, request: Create) -> Result<types::CreatePod> {
    let asked = request.image.filter(|i| !i.is_empty()).unwrap_or_else(|| s.image.clone());
    let ports = request.ports.unwrap_or_else(|| PORTS.to_vec());
    if ports.iter().enumerate().any(|(n, p)| ports[..n].contains(p)) {
        return Err(Error::invalid("ports: one is there twice"));
    }
    let mut made = container(s, name, image(&s.images, &asked), &ports);
    if let Some(volume) = request.volume_name.filter(|v| !v.is_empty()) {
        // A directory of the host is nothing that these clients could ask for.
        volume.parse::<PodName>().map_err(|_| {
            let shown: String = volume.chars().take(80).collect();
            Error::invalid(format!("{shown:?} is no name of a volume"))
                .hint("a letter or digit, then letters, digits, _ . or -, 63 characters at most")
        })?;
        made.volumes.push(types::VolumeSpec { source: volume, target: MODULES.into(), read_only: false });
    }
    if request.pool == Some(true) {
        made.labels.insert(POOL.into(), "client".into());
    }
    Ok(made)
}

/// A container of an image, host ports still to be chosen.
pub(super) fn container(s: &surfaces::Containers, name: &PodName, image: &str, ports: &[u16]) -> types::CreatePod {
    types::CreatePod {
        name: Some(name.to_string()),
        image: image.to_owned(),
        command: s.command.clone(),
        cpus: s.cpus,
        memory: Some(types::Size::Bytes(s.memory)),
        working_dir: Some(super::APP.into()),
        ports: ports.iter().map(|p| types::PortSpec::Pod(*p)).collect(),
        labels: [(SURFACE.to_owned(), CONTAINERS.to_owned())].into(),
        start: true,
        ..types::CreatePod::default()
    }
}

/// Makes it at the lowest host ports side by side that nobody has.
pub(super) async fn at_free_ports(core: &Arc<Core>, mut wanted: types::CreatePod) -> Result<types::Pod> {
    let ports: Vec<u16> = wanted
        .ports
        .iter()
        .map(|p| match p {
            types::PortSpec::Pod(pod) => *pod,
            types::PortSpec::Full(pair) => pair.pod,
        })
        .collect();
    let Some(length) = u16::try_from(ports.len()).ok().filter(|n| *n > 0) else {
        return core.create_pod(wanted).await;
    };
    let range = core.config().port_range;
    for first in runs(range.first, range.last, 1, length, &core.host_ports()) {
        let pair = |(pod, host): (&u16, u16)| {
            types::PortSpec::Full(types::PortPair { pod: *pod, host: Some(host), protocol: None, address: None })
        };
        wanted.ports = ports.iter().zip(first..=u16::MAX).map(pair).collect();
        match core.create_pod(wanted.clone()).await {
            // Another program has one of them, or another container was quicker.
            Err(e) if e.code() == Code::PortTaken => {}
            made => return made,
        }
    }
    let text = format!("no {length} host ports side by side are free from {} to {}", range.first, range.last);
    Err(Error::new(Code::Exhausted, text).hint("delete containers that are no longer needed, or set port-range"))
}

/// A spare of an image that is now `digest`.
pub(super) fn spare(
    s: &surfaces::Containers,
    name: &PodName,
    image: &str,
    ports: &[u16],
    digest: &str,
) -> types::CreatePod {
    let mut made = container(s, name, image, ports);
    made.labels.insert(SPARE.into(), digest.to_owned());
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::surfaces::{ContainersFile, containers};

    fn asked(body: &str) -> Result<types::CreatePod> {
        let images = [("node:24-slim".to_owned(), "node".to_owned())].into();
        let s = containers(ContainersFile { images, ..ContainersFile::default() }).unwrap();
        wanted(&s, &"a".parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn what_is_left_out_is_as_the_clients_expect() {
        let made = asked("{}").unwrap();
        assert_eq!((made.image.as_str(), made.ports), ("node", vec![types::PortSpec::Pod(3000)]));
        assert_eq!((made.memory, made.working_dir.as_deref()), (Some(types::Size::Bytes(2 << 30)), Some("/app")));
        assert!(made.volumes.is_empty() && !made.labels.contains_key(POOL));
        let made = asked(r#"{"image":"other","ports":[],"volumeName":"a-b-node_modules","pool":true}"#).unwrap();
        assert_eq!((made.image.as_str(), made.ports.len(), made.volumes[0].target.as_str()), ("other", 0, MODULES));
        assert_eq!(made.labels[POOL], "client");
    }

    #[test]
    fn no_directory_of_the_host_is_a_volume() {
        for volume in ["/etc", "../x", "a/b", ".", ".x"] {
            assert!(asked(&format!(r#"{{"volumeName":"{volume}"}}"#)).is_err(), "{volume}");
        }
        assert!(asked(r#"{"ports":[80,80]}"#).is_err());
    }
}
