//! What may be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::attach::{Attach, Terminals};
use super::cp::Cp;
use super::events::Events;
use super::health::Health;
use super::keys::LeaveKeys;
use super::list::{Images, Inspect, Ps};
use super::port::{FORM, Port};
use super::prune::ImagePrune;
use super::secret::{Again, Secrets};
use super::ssh;
use super::stats::Usage;
use super::system::System;
use super::token::{Access, Token};
use super::trace::Timeline;
use super::up::{Down, Shell, Up};
use super::update::{ON_SHUTDOWN, Update};
use super::volume::Volume;

/// Under what help shows the options that all commands have.
pub(super) const GLOBAL: &str = "Global options";

/// How pods' commands are ended.
#[derive(Debug, Args)]
pub(super) struct Ending {
    /// Seconds until they are killed
    #[arg(short, long)]
    pub(super) time: Option<u64>,
    /// Signal to send first
    #[arg(short, long)]
    pub(super) signal: Option<String>,
}

/// gVisor sandboxes that sleep in object storage and wake in milliseconds.
#[derive(Debug, Parser)]
#[command(name = "torpor", version, propagate_version = true)]
pub struct Arguments {
    #[command(flatten)]
    pub(super) access: Access,
    /// Print JSON
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a pod and run a command in it
    Run(Run),
    /// Make a pod without starting it
    Create(Run),
    /// Make a pod that has a directory at /work, or wake it, and open a shell in it
    Up(Up),
    /// Open one more shell in a pod that `up` made
    Shell(Shell),
    /// Remove a pod that `up` made, all but its cache
    Down(Down),
    /// Speak SSH for a pod, on standard input and output: a ProxyCommand of ssh's
    SshProxy(ssh::Proxy),
    /// Tell ssh of a pod: a Host for its configuration
    SshConfig(ssh::Config),
    /// List pods
    Ps(Ps),
    /// Show all about pods
    Inspect(Inspect),
    /// Run a command in a pod
    Exec(Exec),
    /// Follow a pod's command, or one of its terminals; ctrl-p ctrl-q leaves a terminal
    Attach(Attach),
    /// Terminals of a pod
    #[command(subcommand)]
    Terminal(Terminals),
    /// Show the processes of a pod
    Top { pod: String },
    /// Show a pod's output
    Logs {
        /// Go on with what is still to come
        #[arg(short, long)]
        follow: bool,
        /// Only that many of the last lines
        #[arg(short = 'n', long)]
        tail: Option<u64>,
        /// Only lines since then (RFC 3339, or such as 10m)
        #[arg(long)]
        since: Option<String>,
        /// Show when each line came
        #[arg(short, long)]
        timestamps: bool,
        pod: String,
    },
    /// Start pods that were made or stopped
    Start {
        #[command(flatten)]
        again: Again,
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Stop pods
    Stop {
        #[command(flatten)]
        ending: Ending,
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Stop pods and start them again
    Restart {
        #[command(flatten)]
        again: Again,
        #[command(flatten)]
        ending: Ending,
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Send a signal to pods' commands
    Kill {
        /// Signal to send
        #[arg(short, long, default_value = "KILL")]
        signal: String,
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Remove pods
    Rm {
        /// Also those that run
        #[arg(short, long)]
        force: bool,
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Put pods to sleep in the object store
    Sleep {
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Wake pods that sleep
    Wake {
        /// Start their command anew instead of going on where it was
        #[arg(long)]
        cold: bool,
        #[command(flatten)]
        again: Again,
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Put a pod back to a snapshot of it
    Restore {
        #[command(flatten)]
        again: Again,
        pod: String,
        snapshot: String,
    },
    /// Let pods stand still in memory
    Pause {
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Let paused pods go on
    #[command(alias = "resume")]
    Unpause {
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Give a pod another name
    Rename { pod: String, name: String },
    /// Change labels, limits and restart policies of pods
    Update(Update),
    /// Wait for the end of pods' commands and print their exit codes
    Wait {
        #[arg(required = true)]
        pods: Vec<String>,
    },
    /// Copy files between a pod that runs and this host
    Cp(Cp),
    /// Show, add and remove the forwards of a pod
    Port(Port),
    /// Show what pods use
    Stats(Usage),
    /// Show what happens to pods, as it happens
    Events(Events),
    /// Show what creating, sleeping, waking pods took, step by step
    Trace(Timeline),
    /// Snapshots
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Images
    #[command(subcommand)]
    Image(Image),
    /// List images, as `image ls` does
    Images(Images),
    /// Remove images, as `image rm` does
    Rmi {
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Tokens for those who come by TCP
    #[command(subcommand)]
    Token(Token),
    /// Named volumes
    #[command(subcommand)]
    Volume(Volume),
    /// The host: what it has room for, what takes room, what can go
    #[command(subcommand)]
    System(System),
    /// Look for what may be wrong with the host
    Doctor(super::doctor::Asked),
    /// Write what somebody needs to know who is asked for help, without secrets
    SupportBundle(super::support::Bundle),
    /// Pass standard input on to torpord, for a torpor that runs this by ssh
    #[command(hide = true)]
    DialStdio,
    /// Show versions
    Version,
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Write man pages into a directory
    Man { directory: PathBuf },
}

impl Command {
    /// Whether its exit code is a program's in a pod, so that its own failures need codes of their own.
    pub(super) fn passes_codes(&self) -> bool {
        matches!(self, Command::Run(_) | Command::Exec(_) | Command::Attach(_) | Command::Up(_) | Command::Shell(_))
    }
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Don't wait: print the pod's id
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Give it what is on standard input
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Run it on a terminal; ctrl-p ctrl-q leaves it
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Keys that leave it
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(super) detach_keys: LeaveKeys,
    /// The pod's name
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Forward a port: HOST:POD, or POD for any free host port; IP:HOST:POD at one address of the host
    #[arg(short, long = "publish", value_name = FORM)]
    pub(super) publish: Vec<String>,
    /// A volume's name or a directory of the host, seen in the pod
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET[:ro]")]
    pub(super) volume: Vec<String>,
    /// A variable; without a value that of the caller
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// What is run in the place of the image's entry point, whose default arguments go with it; "" for none
    #[arg(long, value_name = "PROGRAM")]
    pub(super) entrypoint: Option<String>,
    #[command(flatten)]
    pub(super) secrets: Secrets,
    /// Variables from a file
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long)]
    pub(super) workdir: Option<String>,
    /// user[:group]
    #[arg(short, long)]
    pub(super) user: Option<String>,
    /// Memory, such as 512m
    #[arg(short, long)]
    pub(super) memory: Option<String>,
    /// Processors, such as 0.5
    #[arg(long)]
    pub(super) cpus: Option<f64>,
    /// Processes and threads
    #[arg(long)]
    pub(super) pids_limit: Option<u32>,
    /// Size of the writable layer, such as 8g
    #[arg(long)]
    pub(super) disk: Option<String>,
    /// Named limits, such as dev.small
    #[arg(long)]
    pub(super) tier: Option<String>,
    /// Host name
    #[arg(long)]
    pub(super) hostname: Option<String>,
    /// A label
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(super) label: Vec<String>,
    /// Start the command again when it has ended: no, on-failure[:MAX], unless-stopped or always
    #[arg(long, value_name = "POLICY")]
    pub(super) restart: Option<String>,
    /// What becomes of it when the host is shut down while it runs [default: stop]
    #[arg(long, value_name = "WHAT", value_parser = ON_SHUTDOWN)]
    pub(super) on_shutdown: Option<String>,
    /// Remove the pod when its command has ended
    #[arg(long, conflicts_with = "restart")]
    pub(super) rm: bool,
    /// Ready when GET answers: PORT[/PATH]
    #[arg(long, value_name = "PORT[/PATH]")]
    pub(super) ready_http: Option<String>,
    /// Ready when the port accepts a connection
    #[arg(long, value_name = "PORT", conflicts_with = "ready_http")]
    pub(super) ready_tcp: Option<u16>,
    /// Seconds to wait until it is ready
    #[arg(long, value_name = "SECONDS")]
    pub(super) ready_timeout: Option<u64>,
    #[command(flatten)]
    pub(super) health: Health,
    pub(super) image: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Don't wait, once it runs; with -t print its terminal
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Keys that leave its terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub(super) detach_keys: LeaveKeys,
    /// A variable; without a value that of the caller
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,
    /// Working directory
    #[arg(short, long)]
    pub(super) workdir: Option<String>,
    /// user[:group]
    #[arg(short, long)]
    pub(super) user: Option<String>,
    /// Give it what is on standard input
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Run it on a terminal, which ctrl-p ctrl-q leaves and attach finds again
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Seconds until it is killed
    #[arg(long)]
    pub(super) timeout: Option<u64>,
    pub(super) pod: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Snapshot {
    /// Take a snapshot of a running pod, which goes on
    Create { pod: String },
    /// List snapshots
    Ls,
    /// Show a snapshot
    Inspect { snapshot: String },
    /// Make a new pod of a snapshot
    Restore {
        /// Its name
        #[arg(long)]
        name: Option<String>,
        /// A directory of the host that it may have as a volume, as the snapshot's pod had (of another host: it has to be said)
        #[arg(long = "host-directory", value_name = "DIR")]
        host_directories: Vec<String>,
        #[command(flatten)]
        secrets: Secrets,
        snapshot: String,
    },
    /// Remove snapshots
    Rm {
        #[arg(required = true)]
        snapshots: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// Import a rootfs tar, an OCI layout, what `docker save` wrote, or a directory
    Import {
        /// Name of an image whose layers go below
        #[arg(long)]
        base: Option<String>,
        name: String,
        /// A file, a directory of torpord's host, or - for standard input
        source: String,
    },
    /// List images
    #[command(visible_alias = "list")]
    Ls(Images),
    /// Show an image
    Inspect { image: String },
    /// Remove images
    Rm {
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove layers that no image has; with --all images that no pod uses, too
    Prune(ImagePrune),
}
