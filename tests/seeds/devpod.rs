//! The personal dev pod: `up` from a directory to a shell, `shell`, `down`.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{self, Daemon};
use crate::screen::Screen;

/// Whose the files are to be: a user that neither this host nor the image knows.
pub const UID: u32 = 4321;

/// Somebody with a directory, settings and keys of their own.
pub struct Desk {
    // The order is that of the end.
    pub daemon: Daemon,
    pub dir: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

impl Desk {
    /// None: there can be no sandboxes here.
    pub async fn new(settings: &str) -> Option<Self> {
        if !daemon::ready() {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("torpor-desk-").tempdir_in("/var/tmp").unwrap();
        let daemon = Daemon::start();
        for name in ["home/.config/torpor", "src", "other"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["src", "other"] {
            std::os::unix::fs::chown(dir.path().join(name), Some(UID), Some(UID)).unwrap();
        }
        std::fs::write(dir.path().join("home/.config/torpor/config.toml"), settings).unwrap();
        let env = [
            ("TORPOR_HOST", format!("unix://{}", daemon.socket.display())),
            ("HOME", dir.path().join("home").display().to_string()),
            ("SUDO_UID", UID.to_string()),
            ("SUDO_GID", UID.to_string()),
            ("SUDO_USER", "ann".into()),
            ("TERM", "xterm".into()),
        ];
        let env = env.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let desk = Desk { daemon, dir, env };
        desk.daemon.import("test").await;
        desk.import("devpod-base").await;
        Some(desk)
    }

    /// The image of the tests, with a zsh on top that says so.
    async fn import(&self, name: &str) {
        let bin = self.dir.path().join("layer/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("zsh"), "#!/bin/sh\n[ $# -gt 0 ] || echo this is zsh\nexec sh \"$@\"\n").unwrap();
        std::fs::set_permissions(bin.join("zsh"), PermissionsExt::from_mode(0o755)).unwrap();
        let tar = Command::new("tar").arg("-C").arg(self.dir.path().join("layer")).args(["-c", "."]).output().unwrap();
        let stream = futures::stream::iter([Ok(bytes::Bytes::from(tar.stdout))]);
        self.daemon.client.import(name, Some("test"), stream, &mut |_| ()).await.unwrap();
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn text(&self, below: &str) -> String {
        self.path(below).display().to_string()
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.envs(&self.env).env_remove("SSH_AUTH_SOCK").current_dir(self.path("src")).stdin(Stdio::null());
        command
    }

    pub fn torpor(&self, args: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_torpor")).args(args).output().unwrap()
    }

    /// What it prints; it must not fail.
    pub fn good(&self, args: &[&str]) -> String {
        let o = self.torpor(args);
        let (out, err) = (String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        assert!(o.status.success(), "{args:?}: {out}{err}\n{}", self.daemon.log());
        out.into_owned()
    }

    /// What a shell in the pod prints.
    fn shell(&self, script: &str) -> String {
        self.good(&["shell", "--", "sh", "-c", script])
    }

    /// What it says when it fails.
    fn bad(&self, args: &[&str]) -> String {
        let o = self.torpor(args);
        assert!(!o.status.success(), "{args:?}: {o:?}");
        String::from_utf8_lossy(&o.stderr).into_owned()
    }

    pub fn screen(&self, line: &[&str]) -> Screen {
        let env: Vec<(&str, &str)> = self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        Screen::run(line, &env)
    }

    fn on_screen(&self, args: &[&str]) -> Screen {
        self.screen(&[&[env!("CARGO_BIN_EXE_torpor")], args].concat())
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = std::fs::metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_directory_to_a_shell_and_away() {
    let cold = Instant::now();
    let Some(desk) = Desk::new("[up]\nmemory = '256m'\n").await else { return };
    let (src, client) = (desk.text("src"), desk.daemon.client.clone());
    std::fs::write(desk.path("src/there"), "from the host\n").unwrap();
    // Up: a shell, zsh as it is there, in the directory, with a home.
    let begun = Instant::now();
    let mut s = desk.on_screen(&["up", &src]);
    s.shows("this is zsh");
    s.shows("$ ");
    let (first, cold) = (begun.elapsed(), cold.elapsed());
    s.type_in("echo [$(id -u):$(id -g)] [$(pwd)] [$HOME] [$(id -un)] [$SHELL]\r");
    // The image has an ann already, who is somebody else.
    s.shows("[4321:4321] [/work] [/home/ann_] [ann_] [/bin/zsh]");
    s.type_in("cat there; echo from the pod > made; mkdir d; touch ~/x /cache/kept && exit 5\r");
    s.shows("from the host");
    assert_eq!(s.ends(), 5);
    // Written here and there, and the caller's.
    assert_eq!(std::fs::read_to_string(desk.path("src/made")).unwrap(), "from the pod\n");
    assert_eq!((owner(&desk.path("src/made")), owner(&desk.path("src/d"))), ((UID, UID), (UID, UID)));
    std::fs::write(desk.path("src/later"), "later\n").unwrap();
    assert_eq!(
        desk.shell("cat /work/later; ls ~; echo $GOMODCACHE $GOCACHE $npm_config_cache"),
        "later\nx\n/cache/go/mod /cache/go/build /cache/npm\n"
    );
    // As docker would be asked.
    let mut s = desk.on_screen(&["exec", "-it", "devpod", "zsh"]);
    s.shows("this is zsh");
    s.type_in("exit\r");
    assert_eq!(s.ends(), 0);
    // Again: the same one, awake, asleep or stopped; without a terminal, too.
    let id = client.inspect("devpod").await.unwrap().id;
    let begun = Instant::now();
    let mut s = desk.on_screen(&["up", &src]);
    s.shows("this is zsh");
    let again = begun.elapsed();
    s.type_in("exit\r");
    assert_eq!(s.ends(), 0);
    eprintln!(
        "up to a prompt: {first:?}, with torpord and the image to begin with {cold:?}, of a pod that is there {again:?}"
    );
    assert!(cold < Duration::from_secs(120), "{cold:?}");
    assert!(first < Duration::from_secs(5) && again < Duration::from_secs(5), "{first:?} {again:?}");
    desk.daemon.sleep("devpod").await;
    assert_eq!(desk.good(&["up", "-d", &src]), "devpod\n");
    desk.daemon.stop("devpod").await;
    let mut up = desk.command(env!("CARGO_BIN_EXE_torpor"));
    let mut child = up.args(["up"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"ls ~; exit 3\n").unwrap();
    let o = child.wait_with_output().unwrap();
    assert_eq!((o.status.code(), String::from_utf8_lossy(&o.stdout).as_ref()), (Some(3), "this is zsh\nx\n"));
    client.pause("devpod").await.unwrap();
    assert_eq!(desk.shell("echo $$ >/dev/null; echo on"), "on\n");
    assert_eq!(client.inspect("devpod").await.unwrap().id, id);
    // Another directory is not entered by mistake; another image is told.
    let said = desk.bad(&["up", "-d", &desk.text("other")]);
    assert!(said.contains(&src) && said.contains(&desk.text("other")) && said.contains("hint:"), "{said}");
    let o = desk.torpor(&["up", "-d", "--image", "test", &src]);
    assert!(o.status.success() && String::from_utf8_lossy(&o.stderr).contains("devpod-base"), "{o:?}");
    assert!(desk.bad(&["up", "-d", "--user", "7", &src]).contains("4321"));
    // Down: all but the cache. A second time there is nothing, and that is said.
    assert_eq!(desk.good(&["down"]), "devpod\n");
    assert_eq!(desk.good(&["down"]), "");
    assert!(client.pods().await.unwrap().is_empty());
    let left: Vec<String> = client.volumes().await.unwrap().into_iter().map(|v| v.name).collect();
    assert_eq!(left, ["devpod-cache-4321"]);
    assert_eq!(std::fs::read_dir(desk.path("src")).unwrap().count(), 4);
    assert_eq!(desk.good(&["up", "-d", &src]), "devpod\n");
    assert_eq!(desk.shell("ls /cache; ls ~; stat -c %u /cache"), "kept\n4321\n");
    // What somebody else made is left alone.
    client.create_pod(&daemon::script("mine", "sleep 1000")).await.unwrap();
    for args in [&["up", "-d", "--name", "mine", &src][..], &["shell", "--name", "mine"], &["down", "--name", "mine"]] {
        assert!(desk.bad(args).contains("not made by"), "{args:?}");
    }
    assert!(desk.bad(&["shell", "--name", "nosuch"]).contains("torpor up"));
    assert!(desk.bad(&["up", "-d", "--name", "x", "/nonexistent"]).contains("/nonexistent"));
    assert!(desk.bad(&["up", "-d", "--name", "x", "--image", "nosuch"]).contains("import"));
    assert_eq!(client.pods().await.unwrap().len(), 2);
}

const PROFILES: &str = "
[up]
memory = '256m'
[profile.go]
env = { GREETING = 'hello' }
ports = [8099]
bootstrap = 'echo booted >> ~/boots; id -u; pwd'
secrets = { token = 'cmd:echo canary-by-command' }
secret-env = { KEY = 'cmd:echo canary-in-env' }
ssh = true
";

#[tokio::test(flavor = "multi_thread")]
async fn profiles_secrets_branches_and_a_bootstrap() {
    let Some(desk) = Desk::new(PROFILES).await else { return };
    let client = desk.daemon.client.clone();
    std::fs::write(desk.path("src/secret"), "canary-in-file").unwrap();
    let file = format!("file=file:{}", desk.text("src/secret"));
    let up = ["up", "-d", "--profile", "go", "--secret", &file];
    let o = desk.torpor(&up);
    let said = String::from_utf8_lossy(&o.stdout).into_owned() + &String::from_utf8_lossy(&o.stderr);
    assert!(o.status.success() && said.contains("4321\n/work\n"), "{said}");
    let look = "cat ~/boots /run/secrets/token /run/secrets/file; echo; echo $GREETING $KEY";
    let all = "booted\ncanary-by-commandcanary-in-file\nhello canary-in-env\n";
    assert_eq!(desk.shell(look), all);
    let pod = client.inspect("devpod").await.unwrap();
    assert!(!serde_json::to_string(&pod).unwrap().contains("canary") && !desk.daemon.log().contains("canary"));
    assert_eq!((pod.ports.len(), pod.ports[0].pod), (1, 8099));
    // The bootstrap ran once; the secrets are given again when the host has lost them.
    desk.good(&up);
    desk.daemon.sleep("devpod").await;
    let kept = Path::new("/run/torpor").join(&desk.daemon.tag).join("secrets").join(&pod.id);
    std::fs::remove_dir_all(&kept).unwrap();
    desk.good(&up);
    assert_eq!(desk.shell(look), all);
    // A new value that is typed is there at once.
    desk.good(&["up", "-d", "--secret", "token=cmd:printf other"]);
    assert_eq!(desk.shell("cat /run/secrets/token"), "other");
    // ssh was told, once.
    let config = std::fs::read_to_string(desk.path("home/.ssh/config")).unwrap();
    assert_eq!(
        (config.matches("Include").count(), config.contains(".config/torpor/ssh/*.conf")),
        (1, true),
        "{config}"
    );
    // A bootstrap that fails is told; the shell comes all the same, and the next up tries again.
    let src = desk.text("src");
    let fails = ["up", "--name", "b", "--bootstrap", "test -e /work/now", &src];
    let o = desk.torpor(&[&fails[..], &["-d"]].concat());
    assert!(o.status.code() == Some(1) && String::from_utf8_lossy(&o.stderr).contains("exit code 1"), "{o:?}");
    let mut s = desk.on_screen(&fails);
    s.shows("the bootstrap failed");
    s.shows("this is zsh");
    s.type_in("exit\r");
    s.ends();
    std::fs::write(desk.path("src/now"), "").unwrap();
    desk.good(&[&fails[..], &["-d"]].concat());
    std::fs::remove_file(desk.path("src/now")).unwrap();
    desk.good(&[&fails[..], &["-d"]].concat());
    // A directory's own settings.
    std::fs::write(desk.path("other/.torpor.toml"), "[up]\nbootstrap = 'echo theirs > ~/theirs'\n").unwrap();
    desk.good(&["up", "-d", "--name", "c", &desk.text("other")]);
    assert_eq!(desk.good(&["shell", "--name", "c", "--", "sh", "-c", "cat ~/theirs"]), "theirs\n");
    let reaching = format!("[up]\nsecrets = {{ x = 'cmd:touch {}' }}\n", desk.text("touched"));
    std::fs::write(desk.path("other/.torpor.toml"), reaching).unwrap();
    assert!(desk.bad(&["up", "-d", "--name", "d", &desk.text("other")]).contains("secrets"));
    assert!(!desk.path("touched").exists());
    assert!(desk.bad(&["up", "-d", "--profile", "nosuch"]).contains("go"));
    desk.good(&["down", "--all"]);
    assert!(client.pods().await.unwrap().is_empty());
    // A pod for each branch, in its own work tree if it has one; git works in there.
    let git = |dir: &str, line: &str| {
        let mut git = desk.command("git");
        git.args(["-c", "safe.directory=*", "-c", "user.name=a", "-c", "user.email=a@b.c"]).args(line.split(' '));
        let o = git.current_dir(desk.path(dir)).output().unwrap();
        assert!(o.status.success(), "git {line}: {o:?}");
    };
    git("src", "init -q -b trunk");
    git("src", "commit -q --allow-empty -m one");
    git("src", "worktree add -q -b feature/x ../x");
    std::fs::write(desk.path("x/only-here"), "").unwrap();
    assert_eq!(desk.good(&["up", "-d", "--branch", "feature/x"]), "devpod-feature-x\n");
    assert_eq!(desk.good(&["up", "-d", "--branch", "trunk"]), "devpod-trunk\n");
    let ls = |branch: &str, script: &str| desk.good(&["shell", "--branch", branch, "--", "sh", "-c", script]);
    assert_eq!(ls("feature/x", "ls; cat $(sed 's/gitdir: //' .git)/HEAD"), "only-here\nref: refs/heads/feature/x\n");
    assert!(ls("trunk", "ls").contains("secret"));
    let pods = client.pods_where("label=torpor.up.branch=feature/x").await.unwrap();
    assert_eq!((pods.len(), pods[0].name.as_str()), (1, "devpod-feature-x"));
    // Another branch that would be called the same is not taken for it.
    assert!(desk.bad(&["up", "-d", "--branch", "feature-x"]).contains("feature/x"));
    desk.good(&["down", "--branch", "trunk"]);
    assert_eq!(client.pods().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_make_one_pod_and_bootstrap_it_once() {
    let Some(desk) = Desk::new("[up]\nmemory = '256m'\nbootstrap = 'echo booted >> ~/boots; sleep 1'\n").await else {
        return;
    };
    let outs = std::thread::scope(|s| {
        let both = [(); 2].map(|()| s.spawn(|| desk.torpor(&["up", "-d"])));
        both.map(|b| b.join().unwrap())
    });
    for o in outs {
        assert!(o.status.success(), "{o:?}");
    }
    assert_eq!(desk.daemon.client.pods().await.unwrap().len(), 1);
    assert_eq!(desk.shell("cat ~/boots"), "booted\n");
}
