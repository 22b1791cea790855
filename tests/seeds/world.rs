//! A torpord with one surface at port 8080 of a host of the test's own, and curl.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{self, Daemon, Options};
use crate::host;

/// What curl shows.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub media: String,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// What succeeded.
    pub fn good(&self) -> Value {
        assert!(matches!(self.status, 200 | 201), "{self:?}");
        assert_eq!(self.media, "application/json", "{self:?}");
        self.json()
    }

    /// The text of what was refused so: an object with that and nothing else.
    pub fn refused(&self, status: u16) -> String {
        assert_eq!((self.status, self.media.as_str()), (status, "application/json"), "{self:?}");
        let object = self.json();
        assert_eq!(object.as_object().unwrap().len(), 1, "{self:?}");
        let text = object["error"].as_str().unwrap().to_owned();
        assert!(!text.is_empty());
        text
    }
}

pub struct World {
    // The order is that of the end.
    pub daemon: Daemon,
    runtime: tokio::runtime::Runtime,
    pub dir: tempfile::TempDir,
}

impl World {
    /// None: there can be no sandboxes here. In `config`, DIR stands for a directory of the test's own.
    pub fn new(config: &str, env: &[(&str, &str)]) -> Option<Self> {
        Self::with_ports(config, env, "10000-20000")
    }

    /// With other host ports to be given out.
    pub fn with_ports(config: &str, env: &[(&str, &str)], ports: &str) -> Option<Self> {
        if !daemon::ready() {
            return None;
        }
        host::new_host();
        let dir = tempfile::Builder::new().prefix("torpor-seeds-").tempdir_in("/var/tmp").unwrap();
        std::fs::write(dir.path().join(".curlrc"), "silent\nwrite-out = \"\\n%{http_code} %{content_type}\"\n")
            .unwrap();
        let options = Options {
            config: config.replace("DIR", dir.path().to_str().unwrap()),
            env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ports: Some(ports.into()),
            ..Options::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let world = World { daemon: Daemon::with(options), runtime, dir };
        world.runtime.block_on(world.daemon.import("test"));
        Some(world)
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn bash(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]).env("CURL_HOME", self.dir.path()).env("API_SECRET", SECRET);
        let programs = Path::new(env!("CARGO_BIN_EXE_torpor")).parent().unwrap();
        command.env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH").unwrap()));
        command.env("TORPOR_HOST", format!("unix://{}", self.daemon.socket.display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs lines as they stand in a document; what is printed.
    pub fn prints(&self, script: &str) -> String {
        let out = self.bash(script).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a curl line; its answer.
    pub fn curl(&self, line: &str) -> Answer {
        let printed = self.prints(line);
        answer(&printed).unwrap_or_else(|| panic!("{line}: {printed:?}\n{}", self.daemon.log()))
    }

    /// Begins to run a curl line.
    pub fn begin(&self, line: &str) -> Child {
        self.bash(line).spawn().unwrap()
    }

    /// A POST of a body.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.curl(&format!("curl -X POST http://localhost:8080{path} -d '{body}'"))
    }

    /// What a shell in a pod prints.
    pub fn exec(&self, pod: &str, script: &str) -> String {
        let done = self.runtime.block_on(self.daemon.exec(pod, script));
        assert_eq!(done.exit_code, 0, "{script}: {done:?}");
        done.stdout
    }

    pub fn pods(&self) -> Vec<torpor::api::types::Pod> {
        self.runtime.block_on(self.daemon.client.pods()).unwrap()
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn stop(&self, pod: &str) {
        self.runtime.block_on(self.daemon.stop(pod));
    }

    pub fn pod(&self, name: &str) -> torpor::api::types::Pod {
        self.runtime.block_on(self.daemon.client.inspect(name)).unwrap()
    }
}

/// The secret of the surfaces that have one.
pub const SECRET: &str = "5f0c1d2e3b4a59687766554433221100";

/// The answer that a finished curl printed.
pub fn answer(printed: &str) -> Option<Answer> {
    let (text, last) = printed.rsplit_once('\n')?;
    let (status, media) = last.split_once(' ')?;
    Some(Answer { status: status.parse().ok().filter(|s| *s > 0)?, media: media.to_owned(), text: text.to_owned() })
}

pub fn answered(child: Child) -> Option<Answer> {
    answer(&String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout))
}

/// Waits until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All that lies in a directory, by name, with what files hold.
pub fn content(dir: &Path) -> Vec<(String, String)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| {
            let path = e.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap_or_else(|_| "directory".into());
            (path.file_name().unwrap().to_str().unwrap().to_owned(), text)
        })
        .collect();
    all.sort();
    all
}
