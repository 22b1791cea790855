//! What pod is wanted: its name, what it has, and how one that is there already differs from it.

use std::collections::BTreeMap;

use super::caller::Caller;
use super::own;
use super::place::Place;
use super::settings::Profile;
use crate::api::types::{CreatePod, Pod, SecretSpec, Size, VolumeSpec};
use crate::cli::output::Failure;
use crate::cli::{port, run};

/// Made by `up`; its value is the name without a branch.
pub(super) const MADE: &str = "torpor.up";
const BRANCH: &str = "torpor.up.branch";
const USER: &str = "torpor.up.user";
const LOGIN: &str = "torpor.up.login";
const WORK: &str = "/work";
const CACHE: &str = "/cache";
const IMAGE: &str = "devpod-base:latest";
/// Longest name of a pod.
const LONGEST: usize = 63;

/// Where tools keep what they fetched and built.
const CACHES: [(&str, &str); 9] = [
    ("GOMODCACHE", "/cache/go/mod"),
    ("GOCACHE", "/cache/go/build"),
    ("npm_config_cache", "/cache/npm"),
    ("YARN_CACHE_FOLDER", "/cache/yarn"),
    ("PIP_CACHE_DIR", "/cache/pip"),
    ("UV_CACHE_DIR", "/cache/uv"),
    ("MISE_CACHE_DIR", "/cache/mise"),
    ("CCACHE_DIR", "/cache/ccache"),
    ("SCCACHE_DIR", "/cache/sccache"),
];

/// The pod's name: one for each branch.
pub(super) fn name(base: &str, branch: Option<&str>) -> String {
    let Some(branch) = branch else { return base.to_owned() };
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
    let mut name = format!("{base}-{}", branch.chars().map(plain).collect::<String>());
    name.truncate(LONGEST);
    name.trim_end_matches('-').to_owned()
}

/// What was asked for.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) base: &'a str,
    pub(super) branch: Option<&'a str>,
    pub(super) place: &'a Place,
    pub(super) caller: &'a Caller,
    pub(super) profile: &'a Profile,
}

impl Wanted<'_> {
    pub(super) fn name(&self) -> String {
        name(self.base, self.branch)
    }

    /// The request that makes it.
    pub(super) fn request(&self, secrets: Vec<SecretSpec>) -> Result<CreatePod, Failure> {
        let of = |source: &str, target: &str| VolumeSpec {
            source: source.to_owned(),
            target: target.to_owned(),
            read_only: false,
        };
        // Of each user its own: what lies there belongs to whoever put it there.
        let cache = format!("{}-cache-{}", self.base, self.caller.uid);
        let mut volumes = vec![of(&self.place.directory, WORK), of(&cache, CACHE)];
        volumes.extend(self.place.repository.as_deref().map(|r| of(r, r)));
        for text in &self.profile.volumes {
            volumes.push(run::volume(text)?);
        }
        let mut env: BTreeMap<String, String> = CACHES.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        env.extend(self.profile.env.clone());
        let mut labels = BTreeMap::from([
            (MADE.to_owned(), self.base.to_owned()),
            (USER.to_owned(), self.caller.user()),
            (LOGIN.to_owned(), self.caller.login.clone()),
        ]);
        labels.extend(self.branch.map(|b| (BRANCH.to_owned(), b.to_owned())));
        Ok(CreatePod {
            name: Some(self.name()),
            image: self.profile.image.clone().unwrap_or_else(|| IMAGE.into()),
            command: vec!["sleep".into(), "infinity".into()],
            env,
            tier: self.profile.tier.clone(),
            cpus: self.profile.cpus,
            memory: self.profile.memory.clone().map(Size::Text),
            ports: self.profile.ports.iter().map(|p| port::parse(&p.to_string())).collect::<Result<_, _>>()?,
            volumes,
            working_dir: Some(WORK.into()),
            user: Some(self.caller.user()),
            labels,
            secrets,
            start: true,
            ..CreatePod::default()
        })
    }

    /// How a pod of that name is another one.
    ///
    /// # Errors
    /// It is not to be entered in its place.
    pub(super) fn compare(&self, pod: &Pod) -> Result<Vec<String>, Failure> {
        let made = Made::of(pod)?;
        let name = &pod.name;
        let other =
            "`torpor shell` opens a shell in it as it is, `torpor down` removes it, and --name makes another one";
        if made.branch != self.branch.map(str::to_owned) {
            let said = |b: Option<&str>| b.map_or_else(|| "no branch".to_owned(), |b| format!("branch {b}"));
            return Err(own(format!(
                "pod {name} is that of {}, not of {}\nhint: {other}",
                said(made.branch.as_deref()),
                said(self.branch)
            )));
        }
        if made.directory.as_deref() != Some(&self.place.directory) {
            return Err(own(format!(
                "pod {name} has {} at {WORK}, not {}\nhint: {other}",
                made.directory.as_deref().unwrap_or("nothing"),
                self.place.directory
            )));
        }
        if made.user.as_deref() != Some(self.caller.user().as_str()) {
            return Err(own(format!(
                "pod {name} is user {}'s, and what it writes would not be {}'s\nhint: {other}",
                made.user.as_deref().unwrap_or("?"),
                self.caller.user()
            )));
        }
        let mut differs = Vec::new();
        let latest = |image: &str| image.strip_suffix(":latest").unwrap_or(image).to_owned();
        if let Some(image) = self.profile.image.as_deref()
            && latest(image) != latest(&pod.image)
        {
            differs
                .push(format!("pod {name} is made of image {}, not {image}: `torpor down` first for that", pod.image));
        }
        Ok(differs)
    }
}

/// What is known of a pod that `up` made.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Made {
    pub(in crate::cli) branch: Option<String>,
    pub(in crate::cli) directory: Option<String>,
    pub(in crate::cli) user: Option<String>,
    pub(in crate::cli) login: Option<String>,
    pub(in crate::cli) cache: Option<String>,
}

impl Made {
    /// What its labels and volumes say.
    ///
    /// # Errors
    /// Somebody else made it.
    pub(in crate::cli) fn of(pod: &Pod) -> Result<Self, Failure> {
        if !pod.labels.contains_key(MADE) {
            return Err(own(format!("pod {} was not made by `torpor up`\nhint: give another --name", pod.name)));
        }
        let label = |name: &str| pod.labels.get(name).cloned();
        let at = |target: &str| pod.volumes.iter().find(|v| v.target == target).map(|v| v.source.clone());
        Ok(Made {
            branch: label(BRANCH),
            directory: at(WORK),
            user: label(USER),
            login: label(LOGIN),
            cache: at(CACHE),
        })
    }

    /// Numbers of its user and group.
    pub(super) fn numbers(&self) -> Option<(u32, u32)> {
        let (uid, gid) = self.user.as_deref()?.split_once(':')?;
        Some((uid.parse().ok()?, gid.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &str) -> Place {
        Place { directory: directory.into(), ..Place::default() }
    }

    fn pod(request: CreatePod) -> Pod {
        let text = serde_json::json!({
            "id": "0", "name": request.name.unwrap_or_default(), "state": "running", "image": request.image, "command": [], "envNames": [],
            "address": "", "ports": [], "resources": {"cpus": 1.0, "memory": 1, "pids": 1, "disk": 1},
            "volumes": request.volumes, "labels": request.labels, "hostname": "", "incarnation": 1, "sandboxPid": null,
            "engine": "", "snapshot": null, "createdAt": "", "startedAt": null, "finishedAt": null, "exitCode": null,
            "exitReason": null, "lastError": null,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn every_branch_has_a_name() {
        assert_eq!(name("devpod", None), "devpod");
        assert_eq!(name("devpod", Some("feature/Login #2")), "devpod-feature-Login--2");
        assert_eq!(name("d", Some("a/")), "d-a");
        assert_eq!(name("d", Some(&"ü".repeat(99))), "d");
        assert!(name("devpod", Some(&"x".repeat(200))).len() == 63);
    }

    #[test]
    fn a_pod_that_is_there_is_entered_only_if_it_is_the_same() {
        let caller = Caller { uid: 1000, gid: 1001, login: "ann".into() };
        let profile = Profile { env: [("GOCACHE".into(), "/x".into())].into(), ..Profile::default() };
        let here = place("/src/a");
        let wanted = Wanted { base: "devpod", branch: Some("b"), place: &here, caller: &caller, profile: &profile };
        let request = wanted.request(Vec::new()).unwrap();
        assert_eq!((request.image.as_str(), request.user.as_deref()), ("devpod-base:latest", Some("1000:1001")));
        assert_eq!((request.env["GOMODCACHE"].as_str(), request.env["GOCACHE"].as_str()), ("/cache/go/mod", "/x"));
        let volumes: Vec<String> = request.volumes.iter().map(|v| format!("{}:{}", v.source, v.target)).collect();
        assert_eq!(volumes, ["/src/a:/work", "devpod-cache-1000:/cache"]);
        let there = pod(request);
        assert_eq!(wanted.compare(&there).unwrap(), Vec::<String>::new());
        let image = Profile { image: Some("devpod-base".into()), ..Profile::default() };
        assert_eq!(Wanted { profile: &image, ..wanted }.compare(&there).unwrap().len(), 0);
        let image = Profile { image: Some("other".into()), ..Profile::default() };
        assert!(Wanted { profile: &image, ..wanted }.compare(&there).unwrap()[0].contains("devpod-base:latest"));
        let (elsewhere, bob) = (place("/src/b"), Caller { uid: 7, ..caller.clone() });
        let Err(Failure::Own(said)) = (Wanted { place: &elsewhere, ..wanted }).compare(&there) else { panic!() };
        assert!(said.contains("/src/a") && said.contains("/src/b"), "{said}");
        assert!(Wanted { caller: &bob, ..wanted }.compare(&there).is_err());
        assert!(Wanted { branch: None, ..wanted }.compare(&there).is_err());
        assert!(Made::of(&pod(CreatePod::default())).is_err());
        assert_eq!(Made::of(&there).unwrap().numbers(), Some((1000, 1001)));
    }
}
